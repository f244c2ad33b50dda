"""One run at a time: taking the lock, or leaving when another run has done the work."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .database import Database, Session
from .errors import (
    ConfigInvalid,
    DatabaseMissing,
    DatabaseUnreachable,
    LockTimeout,
    LoginRefused,
    WrongDatabase,
)
from .events import Emit, LockAcquired, LockReleased, LockWaiting, holder_fields
from .keys import Lock, SessionLock
from .lease import Lease
from .ledger import named
from .model import Holder
from .settings import Settings
from .stopping import Stop
from .wait import Refused

# Drawn uniformly: with 300 waiters the last one leaves 2.9 s after the end, at 145 connects a second.
_PAUSE_S = (1.0, 3.0)
_SIGN_OF_LIFE_S = 10.0  # well inside the minute after which a silent session is ended

K = TypeVar("K")


@dataclass(frozen=True)
class Contender:
    """A database whose lock is wanted. ``arrived`` says, of a session, whether nothing is left to do there."""

    database: Database
    arrived: Callable[[Session], bool]
    emit: Emit
    direct: Database | None = None  # another way to it for the lock, where the first leads through a pooler


@dataclass(frozen=True)
class Held:
    """What a run has while it is its turn: a session of its own, and the lock; none with ``LOCK=none``."""

    session: Session
    lock: Lock | None


@dataclass(frozen=True)
class _Try(Generic[K]):
    """One try: ``held`` is kept open when all locks were taken. ``missing`` is one that was not."""

    arrived: bool = False
    held: Mapping[K, Held] | None = None
    closing: ExitStack = field(default_factory=ExitStack)
    missing: tuple[K, str, Holder | None] | None = None


@contextmanager
def my_turn(contenders: Mapping[K, Contender], settings: Settings, *, stop: Stop) -> Iterator[Mapping[K, Held] | None]:
    """The runner's own sessions, holding the locks; or None when all databases arrived while it waited.

    All locks or none, so that two runs never wait for each other; a waiting run keeps no connection
    between two tries. Databases that are one and the same have one lock. Raises LockTimeout.
    """
    if settings.lock == "none":
        with ExitStack() as closing:
            held = {key: Held(closing.enter_context(one.database.session()), None) for key, one in contenders.items()}
            for one in contenders.values():
                one.emit(LockAcquired(lock="none", lock_kind="none", reason="ALEMBIC_JOB_LOCK=none", waited_s=0.0))
            yield held
        return
    started = time.monotonic()
    taken = _wait_for_turn(contenders, settings, stop)
    if taken.held is None:
        yield None
        return
    since = time.monotonic()
    with taken.closing:
        locks = {id(one.lock): (key, one.lock) for key, one in reversed(list(taken.held.items())) if one.lock}.values()
        for key, lock in locks:
            waited_s = round(since - started, 3)
            contenders[key].emit(
                LockAcquired(lock=lock.name, lock_kind=lock.kind, reason=lock.reason, waited_s=waited_s)
            )
        try:
            with _signs_of_life([lock for _, lock in locks]):
                yield taken.held
        finally:
            for key, lock in locks:
                with suppress(Exception):  # it ends with its session anyway; the cause must not be hidden
                    if lock.release():
                        held_s = round(time.monotonic() - since, 3)
                        contenders[key].emit(LockReleased(lock=lock.name, held_s=held_s))


@contextmanager
def _signs_of_life(locks: list[Lock]) -> Iterator[None]:
    """A thread keeps the sessions of the locks from looking dead, while a long statement runs in another one."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(_SIGN_OF_LIFE_S):
            for lock in locks:
                with suppress(Exception):  # whether it is lost is asked before each revision
                    lock.keep()

    thread = threading.Thread(target=keep, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wait_for_turn(contenders: Mapping[K, Contender], settings: Settings, stop: Stop) -> _Try[K]:
    started = time.monotonic()
    limit_s, heartbeat_s = settings.lock_timeout.total_seconds(), settings.heartbeat.total_seconds()
    next_report_s = 0.0
    missing: tuple[K, str, Holder | None] | None = None
    refused = Refused(settings.retry_refused_for.total_seconds())
    while True:
        waited_s = time.monotonic() - started
        try:
            with stop.at_once():
                tried = _try(contenders, settings)
        except DatabaseUnreachable:  # too many connections, say: it may be back at the next try
            if waited_s >= limit_s:
                raise
        except (LoginRefused, DatabaseMissing):
            if waited_s >= limit_s or not refused.bearable():
                raise
        else:
            refused.no_more()
            if tried.missing is None:
                return tried
            missing = tried.missing
        if missing:
            key, name, holder = missing
            if waited_s >= limit_s:
                raise still_held(name, holder, waited_s)
            if waited_s >= next_report_s:
                next_report_s = waited_s + heartbeat_s
                contenders[key].emit(waiting(name, holder, waited_s))
        pause(stop, limit_s - waited_s)


def unlock(contenders: Mapping[K, Contender], settings: Settings, *, sure: bool) -> None:
    """Free each lock whose holder is proven to be gone. ``sure``: somebody knows more of an expired lease than we do.

    Raises LockTimeout for a holder that is alive.
    """
    for one in contenders.values():
        with ExitStack() as closing:
            lock = _lock(one, closing.enter_context(one.database.session()), settings, closing)
            if lock.take():
                lock.release()
            elif not (sure and isinstance(lock, Lease) and lock.seize()):
                holder = lock.holder()
                end = f" If it is dead all the same: {holder.end_with}." if holder and holder.end_with else ""
                raise LockTimeout(
                    f"The migration lock {lock.name} is held by {holder or 'another session'}.",
                    hint=f"Wait for that run to finish.{end}",
                )


def waiting(name: str, holder: Holder | None, waited_s: float) -> LockWaiting:
    """The event for a lock that another run has."""
    return LockWaiting(lock=name, waited_s=round(waited_s, 3), holder=holder_fields(holder))


def still_held(name: str, holder: Holder | None, waited_s: float) -> LockTimeout:
    """The error for a lock that another run had for the whole of the allowed wait."""
    end = f" If that run is dead, end it on the server: {holder.end_with}." if holder and holder.end_with else ""
    return LockTimeout(
        f"Another run still holds the migration lock {name} after {waited_s:.0f} s: {holder or 'who, is not told'}.",
        hint=f"{LockTimeout.hint}{end}",
    )


def pause(stop: Stop, left_s: float) -> None:
    """Between two tries for a lock."""
    stop.sleep(min(random.uniform(*_PAUSE_S), left_s))  # noqa: S311


def _lock(one: Contender, session: Session, settings: Settings, closing: ExitStack) -> Lock:
    """The lock that excludes others there. Raises ConfigInvalid, WrongDatabase."""
    if one.direct:
        direct = closing.enter_context(one.direct.session())
        if direct.dialect is not session.dialect or direct.identity() != session.identity():
            raise WrongDatabase(
                f"ALEMBIC_JOB_LOCK_DATABASE_URL leads to {direct.url.masked()}, and the database is"
                f" {session.url.masked()}: another one.",
                hint="Give a direct URL of the same database.",
            )
        if settings.lock != "lease":
            lock = SessionLock.of(direct)
            lock.fences = session.dialect.no_session_locks(session.connection) is None
            lock.reason = "ALEMBIC_JOB_LOCK_DATABASE_URL" + ("" if lock.fences else "; no fence behind a pooler")
            return lock
    if settings.lock == "lease":
        if not session.dialect.LEASES:
            raise ConfigInvalid(
                "ALEMBIC_JOB_LOCK=lease is for servers: the row could not be renewed while the migration writes.",
                hint="Leave ALEMBIC_JOB_LOCK at auto: a lock file beside the database.",
            )
        return Lease(session, one.direct or one.database, "ALEMBIC_JOB_LOCK=lease")
    reason = session.dialect.no_session_locks(session.connection) if settings.lock == "auto" else None
    return Lease(session, one.direct or one.database, reason) if reason else SessionLock.of(session)


def _try(contenders: Mapping[K, Contender], settings: Settings) -> _Try[K]:
    with ExitStack() as closing, ExitStack() as releasing:
        sessions = {key: closing.enter_context(one.database.session()) for key, one in contenders.items()}
        locks = {key: _lock(one, sessions[key], settings, closing) for key, one in contenders.items()}
        held: dict[tuple[str | int | None, ...], Lock] = {}
        mine: dict[K, Held] = {}
        missing: tuple[K, str, Holder | None] | None = None
        for key, lock in sorted(locks.items(), key=lambda item: item[1].name):
            url = sessions[key].url  # the name alone may be the same on another server
            where = (lock.name, url.host, url.port, sessions[key].identity())
            if where not in held:  # else the same database, with another version table
                if not lock.take():
                    holder = lock.holder()
                    if holder and settings.ledger:
                        holder = named(sessions[key], holder)
                    missing = (key, lock.name, holder)
                    break
                held[where] = lock
                releasing.callback(lock.release)
            mine[key] = Held(sessions[key], held[where])
        # Looked at again after the lock: another run may have finished in between.
        arrived = [one.arrived(sessions[key]) for key, one in contenders.items()]  # asked of every one
        if arrived and all(arrived):
            return _Try(arrived=True)
        if missing:
            return _Try(missing=missing)
        releasing.pop_all()  # not now
        return _Try(held=mine, closing=closing.pop_all())
