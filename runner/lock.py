"""One run at a time: taking the lock, or leaving when another run has done the work."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from .database import Database, Session
from .errors import DatabaseUnreachable, LockTimeout
from .events import Emit, LockAcquired, LockReleased, LockWaiting
from .settings import Settings
from .stopping import Stop

# Drawn uniformly: with 300 waiters the last one leaves 2.9 s after the end, at 145 connects a second.
_PAUSE_S = (1.0, 3.0)


@dataclass(frozen=True)
class _Try:
    """One try: ``release`` is there when the lock was taken, and then ``session`` is kept open."""

    name: str
    arrived: bool
    session: Session | None = None
    release: Callable[[], None] | None = None
    closing: ExitStack | None = None


@contextmanager
def my_turn(
    database: Database, settings: Settings, arrived: Callable[[Session], bool], *, stop: Stop, emit: Emit
) -> Iterator[Session | None]:
    """The runner's own session, holding the lock; or None when the target arrived while it waited.

    A waiting run keeps no connection between two tries. Raises LockTimeout.
    """
    if settings.lock == "none":
        with database.session() as session:
            emit(LockAcquired(lock="none", lock_kind="none", reason="ALEMBIC_JOB_LOCK=none", waited_s=0.0))
            yield session
        return
    taken = _wait_for_turn(database, settings, arrived, stop, emit)
    if taken.release is None or taken.closing is None:
        yield None
        return
    since = time.monotonic()
    with taken.closing:
        try:
            yield taken.session
        finally:
            with suppress(Exception):  # the lock ends with its session anyway; the cause must not be hidden
                taken.release()
                emit(LockReleased(lock=taken.name, held_s=round(time.monotonic() - since, 3)))


def _wait_for_turn(
    database: Database, settings: Settings, arrived: Callable[[Session], bool], stop: Stop, emit: Emit
) -> _Try:
    started = time.monotonic()
    limit_s, heartbeat_s = settings.lock_timeout.total_seconds(), settings.heartbeat.total_seconds()
    next_report_s = 0.0
    name = "of the database"
    while True:
        waited_s = time.monotonic() - started
        try:
            with stop.at_once():
                tried = _try(database, arrived)
        except DatabaseUnreachable:  # too many connections, say: it may be back at the next try
            if waited_s >= limit_s:
                raise
        else:
            name = tried.name
            if tried.release:
                kind, reason = database.dialect.LOCK_KIND, database.dialect.LOCK_REASON
                emit(LockAcquired(lock=name, lock_kind=kind, reason=reason, waited_s=round(waited_s, 3)))
            if tried.release or tried.arrived:
                return tried
        if waited_s >= limit_s:
            raise LockTimeout(f"Another run still holds the migration lock {name} after {waited_s:.0f} s.")
        if waited_s >= next_report_s:
            next_report_s = waited_s + heartbeat_s
            emit(LockWaiting(lock=name, waited_s=round(waited_s, 3)))
        stop.sleep(min(random.uniform(*_PAUSE_S), limit_s - waited_s))  # noqa: S311


def _try(database: Database, arrived: Callable[[Session], bool]) -> _Try:
    with ExitStack() as closing:
        session = closing.enter_context(database.session())
        name = session.lock_name()
        release = session.try_lock(name)
        if arrived(session):  # looked at again after the lock: another run may have finished in between
            if release:
                release()
            return _Try(name, arrived=True)
        if release:
            return _Try(name, False, session, release, closing.pop_all())
        return _Try(name, arrived=False)
