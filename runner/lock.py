"""One run at a time: taking the lock, or leaving when another run has done the work."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .database import Database, Session
from .errors import DatabaseUnreachable, LockTimeout
from .events import Emit, LockAcquired, LockReleased, LockWaiting
from .settings import Settings
from .stopping import Stop

# Drawn uniformly: with 300 waiters the last one leaves 2.9 s after the end, at 145 connects a second.
_PAUSE_S = (1.0, 3.0)

K = TypeVar("K")


@dataclass(frozen=True)
class Contender:
    """A database whose lock is wanted. ``arrived`` says, of a session, whether nothing is left to do there."""

    database: Database
    arrived: Callable[[Session], bool]
    emit: Emit


@dataclass(frozen=True)
class _Try(Generic[K]):
    """One try: ``sessions`` are kept open when all locks were taken. ``missing`` has one that was not."""

    arrived: bool = False
    sessions: Mapping[K, Session] | None = None
    locks: Mapping[K, tuple[str, Callable[[], None]]] = field(default_factory=dict)
    closing: ExitStack = field(default_factory=ExitStack)
    missing: tuple[K, str] | None = None


@contextmanager
def my_turn(
    contenders: Mapping[K, Contender], settings: Settings, *, stop: Stop
) -> Iterator[Mapping[K, Session] | None]:
    """The runner's own sessions, holding the locks; or None when all of them arrived while it waited.

    All locks or none, so that two runs never wait for each other; a waiting run keeps no connection
    between two tries. Databases that are one and the same have one lock. Raises LockTimeout.
    """
    if settings.lock == "none":
        with ExitStack() as closing:
            sessions = {key: closing.enter_context(one.database.session()) for key, one in contenders.items()}
            for one in contenders.values():
                one.emit(LockAcquired(lock="none", lock_kind="none", reason="ALEMBIC_JOB_LOCK=none", waited_s=0.0))
            yield sessions
        return
    taken = _wait_for_turn(contenders, settings, stop)
    if taken.sessions is None:
        yield None
        return
    since = time.monotonic()
    with taken.closing:
        try:
            yield taken.sessions
        finally:
            for key, (name, release) in taken.locks.items():
                with suppress(Exception):  # the lock ends with its session anyway; the cause must not be hidden
                    release()
                    contenders[key].emit(LockReleased(lock=name, held_s=round(time.monotonic() - since, 3)))


def _wait_for_turn(contenders: Mapping[K, Contender], settings: Settings, stop: Stop) -> _Try[K]:
    started = time.monotonic()
    limit_s, heartbeat_s = settings.lock_timeout.total_seconds(), settings.heartbeat.total_seconds()
    next_report_s = 0.0
    name, emit = "of the database", next((one.emit for one in contenders.values()), None)
    while True:
        waited_s = time.monotonic() - started
        try:
            with stop.at_once():
                tried = _try(contenders)
        except DatabaseUnreachable:  # too many connections, say: it may be back at the next try
            if waited_s >= limit_s:
                raise
        else:
            for key, (taken, _) in tried.locks.items():
                dialect = contenders[key].database.dialect
                contenders[key].emit(
                    LockAcquired(
                        lock=taken,
                        lock_kind=dialect.LOCK_KIND,
                        reason=dialect.LOCK_REASON,
                        waited_s=round(waited_s, 3),
                    )
                )
            if tried.missing is None:
                return tried
            name, emit = tried.missing[1], contenders[tried.missing[0]].emit
        if waited_s >= limit_s:
            raise LockTimeout(f"Another run still holds the migration lock {name} after {waited_s:.0f} s.")
        if waited_s >= next_report_s and emit:
            next_report_s = waited_s + heartbeat_s
            emit(LockWaiting(lock=name, waited_s=round(waited_s, 3)))
        pause(stop, limit_s - waited_s)


def pause(stop: Stop, left_s: float) -> None:
    """Between two tries for a lock."""
    stop.sleep(min(random.uniform(*_PAUSE_S), left_s))  # noqa: S311


def _try(contenders: Mapping[K, Contender]) -> _Try[K]:
    with ExitStack() as closing, ExitStack() as releasing:
        sessions = {key: closing.enter_context(one.database.session()) for key, one in contenders.items()}
        named = sorted(((session.lock_name(), key) for key, session in sessions.items()), key=lambda pair: pair[0])
        locks: dict[K, tuple[str, Callable[[], None]]] = {}
        missing: tuple[K, str] | None = None
        held: set[tuple[str | int | None, ...]] = set()
        for name, key in named:
            url = sessions[key].url  # the name alone may be the same on another server
            where = (name, url.host, url.port, sessions[key].identity())
            if where in held:  # the same database, with another version table
                continue
            release = sessions[key].try_lock(name)
            if release is None:
                missing = (key, name)
                break
            held.add(where)
            locks[key] = (name, release)
            releasing.callback(release)
        # Looked at again after the lock: another run may have finished in between.
        arrived = [one.arrived(sessions[key]) for key, one in contenders.items()]  # asked of every one
        if arrived and all(arrived):
            return _Try(arrived=True)
        if missing:
            return _Try(missing=missing)
        releasing.pop_all()  # not now
        return _Try(sessions=sessions, locks=locks, closing=closing.pop_all())
