"""What is held and checked on the migrating connection itself, before the first revision and between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from .errors import LockLost, RunnerError, WrongDatabase
from .events import LockAcquired, LockReleased, listed
from .keys import Lock
from .lock import Held
from .model import Holder, Rows
from .place import Place
from .seam import Reached
from .settings import Settings

_GONE_WITHIN_S = 5.0
_SEEN_WITHIN_S = 3.0


class Busy(RunnerError):
    """Another run migrates there; ``env.py`` has to be run again later."""

    def __init__(self, lock: str, place: Place, holder: Holder | None) -> None:
        super().__init__(f"Another run holds the migration lock {lock}.")
        self.lock = lock
        self.place = place
        self.holder = holder


class Fence:
    """Proves that ``env.py`` is in the database that is locked, and holds the second key there.

    Where only ``env.py`` can connect, it holds both keys.
    """

    def __init__(self, turn: Mapping[Place, Held], settings: Settings, since: float, owner: str) -> None:
        self._turn = turn
        self._settings = settings
        self._since = since
        self._owner = owner
        self._connections: dict[Place, Any] = {}  # of the driver, as they were when the fence was taken
        self._engines: list[Any] = []
        self._taken: list[tuple[Place, str, float, Callable[[], bool]]] = []

    def check(self, place: Place, reached: Reached, *, ours: bool) -> None:
        """Raises WrongDatabase, LockLost, Busy.

        ``ours``: some of what is there is this run's own, and not committed yet.
        """
        connection: Any = reached.context.connection
        self._connections[place] = _driver_connection(connection)
        self._engines.append(connection.engine)
        held = self._turn.get(place)
        if held is None:
            self._take(place, reached)
            return
        if held.lock:
            if not _seen(held.lock, reached):
                if not _answers_yes(held.lock.is_ours):
                    raise _lost(place, "the runner's own connection was lost")
                raise WrongDatabase(
                    f"The migration lock is held at {place.name}, and env.py's connection does not see it there:"
                    " it is on another server."
                )
            if not held.lock.fence(reached.ask):
                raise Busy(held.lock.name, place, held.lock.holder())
            reached.context.on_version_apply_callbacks += (self._moving(place, reached, held.lock),)
        self.still(place, reached)
        rows = place.read_on(held.session)
        if not ours and set(rows) != set(reached.heads):
            raise WrongDatabase(
                f"env.py reads the version {listed(sorted(reached.heads))}, and {place.name} holds {listed(rows)}:"
                " it is another database, or somebody migrates it without the lock."
            )

    def still(self, place: Place, reached: Reached) -> None:
        """Both keys are held, before a revision begins. Raises LockLost."""
        held = self._turn.get(place)
        if held is None or held.lock is None:
            return
        if _driver_connection(reached.context.connection) is not self._connections[place]:
            raise _lost(place, "env.py's connection was replaced by another one")
        if not _answers_yes(held.lock.is_ours):
            raise _lost(place, "the runner's own connection was lost")

    def begins(self, place: Place, reached: Reached, revision: str) -> None:
        """A revision is about to begin. Raises LockLost."""
        self.still(place, reached)
        held = self._turn.get(place)
        if held and held.lock and not held.lock.begins(reached.ask, reached.change, revision):
            raise _lost(place, "another run has taken it over")

    def _moving(self, place: Place, reached: Reached, lock: Lock) -> Callable[..., None]:
        def moving(**_: Any) -> None:
            if not lock.moves(reached.change):
                raise _lost(place, "another run has taken it over")

        return moving

    def _take(self, place: Place, reached: Reached) -> None:
        if self._settings.lock == "none" or any(place is held for held, *_ in self._taken):
            return
        dialect = place.dialect
        name = dialect.lock_name(reached.ask)
        taken: list[Callable[[], bool]] = []
        for key in filter(None, (name, dialect.fence_name(name))):
            release = dialect.try_lock(reached.ask, key, self._owner)
            if release is None:
                holder = dialect.holder(reached.ask, key)
                for give_back in taken:
                    give_back()
                raise Busy(name, place, holder)
            taken.append(release)
        if set(_read_again(reached, dialect.LOCKING_READ)) != set(reached.heads):  # another run finished in between
            for give_back in taken:
                give_back()
            raise Busy(name, place, None)
        now = time.monotonic()
        self._taken += [(place, name, now, release) for release in taken]
        reason = f"{dialect.LOCK_REASON}, on env.py's own connection: with creator= only env.py can connect"
        waited_s = round(now - self._since, 3)
        place.emit(LockAcquired(lock=name, lock_kind=dialect.LOCK_KIND, reason=reason, waited_s=waited_s))

    def open(self) -> None:
        """See to it that no session of this run migrates any more. Never raises: it would hide the cause."""
        for place, held in self._turn.items():
            if held.lock and place in self._connections:
                with suppress(Exception):
                    self._gone(held)
                held.lock.forget_fence()
        told = set()
        for place, name, since, release in self._taken:
            with suppress(Exception):  # closed with its connection, most of the time
                release()
            if place not in told:
                told.add(place)
                place.emit(LockReleased(lock=name, held_s=round(time.monotonic() - since, 3)))

    def _gone(self, held: Held) -> None:
        """env.py has committed and closed by now; but a pool may keep the session, and with it the fence."""
        lock = held.lock
        assert lock
        if not lock.fence_left():
            return
        for engine in self._engines:
            with suppress(Exception):  # an asynchronous one, outside of its event loop
                engine.dispose()
        deadline = time.monotonic() + _GONE_WITHIN_S
        while lock.fence_left() and time.monotonic() < deadline:
            lock.end_fence()
            time.sleep(0.05)


def _seen(lock: Lock, reached: Reached) -> bool:
    """A row needs a moment to reach the other nodes of a cluster."""
    deadline = time.monotonic() + _SEEN_WITHIN_S
    while not lock.is_seen_by(reached.ask):
        if lock.kind != "lease" or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _lost(place: Place, how: str) -> LockLost:
    return LockLost(f"The migration lock of {place.name} went away, as {how}; stopped before the next revision.")


def _answers_yes(question: Callable[[], bool]) -> bool:
    """Whoever cannot ask does not know."""
    try:
        return question()
    except Exception:
        return False


def _driver_connection(connection: Any) -> Any:
    pooled = connection.connection
    return getattr(pooled, "dbapi_connection", None) or pooled.connection


def _read_again(reached: Reached, locking: str) -> Rows:
    """Under the lock. MariaDB's snapshot may be older than the lock, so there with a locking read."""
    connection: Any = reached.context.connection
    if reached.heads and locking:
        quoted = connection.dialect.identifier_preparer.format_table(reached.context._version)
        return tuple(str(row[0]) for row in reached.ask(f"SELECT version_num FROM {quoted} {locking}"))  # noqa: S608
    return tuple(reached.context.get_current_heads())
