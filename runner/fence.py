"""What is checked on the migrating connection itself, with the lock held and before the first revision."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from .database import Session
from .errors import RunnerError, WrongDatabase
from .events import LockAcquired, LockReleased, listed
from .model import Rows
from .place import Place
from .seam import Reached
from .settings import Settings


class Busy(RunnerError):
    """The lock could only be tried on ``env.py``'s own connection, and was not to be had; run it again later."""

    def __init__(self, lock: str, place: Place) -> None:
        super().__init__(f"Another run holds the migration lock {lock}.")
        self.lock = lock
        self.place = place


class Fence:
    """Proves that ``env.py`` is in the database that is locked; or takes the lock there, where nothing else can."""

    def __init__(self, turn: Mapping[Place, Session], settings: Settings, since: float) -> None:
        self._turn = turn
        self._settings = settings
        self._since = since
        self._taken: list[tuple[Place, str, float, Callable[[], None]]] = []

    def check(self, place: Place, reached: Reached, *, ours: bool) -> None:
        """Raises WrongDatabase, Busy. ``ours``: some of what is there is this run's own, and not committed yet."""
        session = self._turn.get(place)
        if session is None:
            self._take(place, reached)
            return
        if self._settings.lock != "none" and not session.dialect.sees_lock(reached.ask, session.lock_name()):
            raise WrongDatabase(
                f"The migration lock is held at {place.name}, and env.py's connection does not see it there:"
                " it is on another server."
            )
        rows = place.read_on(session)
        if not ours and set(rows) != set(reached.heads):
            raise WrongDatabase(
                f"env.py reads the version {listed(sorted(reached.heads))}, and {place.name} holds {listed(rows)}:"
                " it is another database, or somebody migrates it without the lock."
            )

    def _take(self, place: Place, reached: Reached) -> None:
        if self._settings.lock == "none" or any(place is held for held, *_ in self._taken):
            return
        dialect = place.dialect
        name = dialect.lock_name(reached.ask)
        release = dialect.try_lock(reached.ask, name)
        if release is None:
            raise Busy(name, place)
        if set(_read_again(reached, dialect.LOCKING_READ)) != set(reached.heads):  # another run finished in between
            release()
            raise Busy(name, place)
        now = time.monotonic()
        self._taken.append((place, name, now, release))
        reason = f"{dialect.LOCK_REASON}, on env.py's own connection: with creator= only env.py can connect"
        waited_s = round(now - self._since, 3)
        place.emit(LockAcquired(lock=name, lock_kind=dialect.LOCK_KIND, reason=reason, waited_s=waited_s))

    def open(self) -> None:
        """Give back what was taken here."""
        for place, name, since, release in self._taken:
            with suppress(Exception):  # closed with its connection, most of the time
                release()
            place.emit(LockReleased(lock=name, held_s=round(time.monotonic() - since, 3)))


def _read_again(reached: Reached, locking: str) -> Rows:
    """Under the lock. MariaDB's snapshot may be older than the lock, so there with a locking read."""
    connection: Any = reached.context.connection
    if reached.heads and locking:
        quoted = connection.dialect.identifier_preparer.format_table(reached.context._version)
        return tuple(str(row[0]) for row in reached.ask(f"SELECT version_num FROM {quoted} {locking}"))  # noqa: S608
    return tuple(reached.context.get_current_heads())
