"""What a run holds while it migrates, so that no other does.

Two keys, because the connection that holds the first may be lost while the session that migrates
lives on, in the middle of a long statement. The *waiting key* is held by the runner's own
connection, so waiting runs no user code. The *fence* is held by the very session that migrates, and
ends with it, after its last commit. Who holds the first key still waits for the fence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from .database import Ask, Session
from .model import Holder

# A session that migrates and has been idle for so long, while its own first key is gone, is of a node that
# vanished. One that executes is never ended.
_GHOST_S = 30.0


class Lock(Protocol):
    """One way to exclude others."""

    kind: str
    reason: str

    @property
    def name(self) -> str:
        """As events call it."""

    def take(self) -> bool:
        """Take it without waiting; False when another run holds it, or still migrates."""

    def holder(self) -> Holder | None:
        """Who has it, for people: the session that migrates, rather than the one that waits for its end."""

    def is_ours(self) -> bool:
        """Whether it is still held by this run. Raises the driver's errors when that cannot be asked."""

    def keep(self) -> None:
        """Show a sign of life. Raises the driver's errors."""

    def release(self) -> bool:
        """Give it back; whether it was still ours."""

    def is_seen_by(self, ask: Ask) -> bool:
        """Whether a session sees that it is held: if not, it is in another database."""

    def fence(self, ask: Ask) -> bool:
        """Take the second key on the session that migrates; False when another session holds it."""

    def begins(self, ask: Ask, change: Callable[[str], int], revision: str) -> bool:
        """A revision begins on the session that migrates; False when another run has the lock by now."""

    def moves(self, change: Callable[[str], int]) -> bool:
        """Whether it is still ours, proven in the transaction that moves the version."""

    def fence_left(self) -> Holder | None:
        """The session of this run that migrated, as long as it is there."""

    def end_fence(self) -> None:
        """End that session."""

    def forget_fence(self) -> None:
        """What is left of it now is to be waited for, like anybody's."""


@dataclass
class SessionLock:
    """Locks of the server's sessions: GET_LOCK, an advisory lock; on SQLite a lock file."""

    session: Session
    name: str
    kind: str
    reason: str
    fences: bool = True  # not on a session that is a pooler's: it would stay there
    _release: Callable[[], bool] | None = field(default=None, repr=False)
    _fenced: set[str] = field(default_factory=set, repr=False)  # the connections of this run that migrate

    @classmethod
    def of(cls, session: Session) -> SessionLock:
        """The lock of the database that this session is in."""
        return cls(session, session.lock_name(), session.dialect.LOCK_KIND, session.dialect.LOCK_REASON)

    @property
    def _fence(self) -> str | None:
        return self.session.dialect.fence_name(self.name) if self.fences else None

    def take(self) -> bool:
        """Take the first key, and give it back where a session still migrates."""
        self._release = self.session.try_lock(self.name)
        if self._release is None:
            return False
        migrating = self._migrating()
        if migrating and migrating.idle_s is not None and migrating.idle_s >= _GHOST_S:
            self.session.dialect.end_session(self.session.ask, migrating.connection)
            migrating = self._migrating()
        if migrating:
            self.release()
            return False
        self.session.dialect.dies_with_its_client(self.session.ask)
        return True

    def _migrating(self) -> Holder | None:
        fence = self._fence
        found = self.session.dialect.holder(self.session.ask, fence) if fence else None
        return replace(found, migrates=True) if found else None

    def holder(self) -> Holder | None:
        """Who has it. The run's id is known of its first session only."""
        first = self.session.dialect.holder(self.session.ask, self.name)
        migrating = self._migrating()
        if migrating and first:
            return replace(migrating, run_id=first.run_id, key=first.connection)
        return migrating or (replace(first, key=first.connection) if first else None)

    def is_ours(self) -> bool:
        """Asked of the server."""
        return self.session.dialect.holds(self.session.ask, self.name)

    def keep(self) -> None:
        """The server ends a session that is idle for too long."""
        self.session.ask("SELECT 1")

    def release(self) -> bool:
        """Free at the server, or gone with its session anyway."""
        release, self._release = self._release, None
        return bool(release and release())

    def is_seen_by(self, ask: Ask) -> bool:
        """By asking the server who holds it."""
        return self.session.dialect.sees_lock(ask, self.name)

    def begins(self, ask: Ask, change: Callable[[str], int], revision: str) -> bool:
        """The session that holds the fence is the one that migrates, so nothing need be written down."""
        return True

    def moves(self, change: Callable[[str], int]) -> bool:
        """It cannot change hands while that session lives."""
        return True

    def fence(self, ask: Ask) -> bool:
        """One run may migrate on several sessions, one after the other; the first of them has it for all."""
        fence = self._fence
        if fence is None:
            return True
        taken = self.session.dialect.try_lock(ask, fence, self.session.owner)
        migrating = self._migrating()
        if taken and migrating:
            self._fenced.add(migrating.connection)
        return bool(migrating and migrating.connection in self._fenced)

    def fence_left(self) -> Holder | None:
        """Seen from the runner's own connection."""
        migrating = self._migrating()
        return migrating if migrating and migrating.connection in self._fenced else None

    def end_fence(self) -> None:
        """A session that is gone by now is ended enough."""
        if left := self.fence_left():
            self.session.dialect.end_session(self.session.ask, left.connection)

    def forget_fence(self) -> None:
        """A new try has sessions of its own."""
        self._fenced.clear()
