"""Waiting for the database: tenacity around one real login."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from .database import Database, Refusal, explained
from .errors import (
    DatabaseMissing,
    DatabaseReadOnly,
    DatabaseUnreachable,
    LoginRefused,
    PermissionDenied,
    RunnerError,
)
from .events import DatabaseReady, DatabaseWaiting, Emit, counted
from .stopping import Stop

T = TypeVar("T")
_LONGEST_PAUSE_S = 5.0
_OF_A_LOGIN = (DatabaseUnreachable, DatabaseReadOnly, LoginRefused, DatabaseMissing, PermissionDenied)


@dataclass(frozen=True)
class Patience:
    """How long to go on trying."""

    wait_s: float
    refused_s: float


class Refused:
    """A login that is refused in the middle of a wait: a password was rotated, and its file is yet to come."""

    def __init__(self, bearable_s: float) -> None:
        self._bearable_s = bearable_s
        self._since: float | None = None

    def no_more(self) -> None:
        """A login worked."""
        self._since = None

    def bearable(self) -> bool:
        """One was refused: whether it is to be tried again."""
        self._since = time.monotonic() if self._since is None else self._since
        return time.monotonic() - self._since < self._bearable_s


def patiently(
    attempt: Callable[[float], T],
    means: Callable[[BaseException], Refusal | None],
    patience: Patience,
    *,
    stop: Stop,
    emit: Emit,
) -> T:
    """What ``attempt`` gives as soon as it does; it is told how many seconds are left.

    Raises its last error: at the end of the wait for what may pass by itself, at once for a refusal
    that stays and for what ``means`` does not know.
    """
    started = time.monotonic()
    full_jitter = wait_random_exponential(multiplier=0.25, max=_LONGEST_PAUSE_S)

    def left() -> float:
        return max(0.0, patience.wait_s - (time.monotonic() - started))

    def may_pass(error: BaseException) -> bool:
        refusal = means(error)
        return refusal is not None and (refusal.transient or time.monotonic() - started < patience.refused_s)

    def report(state: RetryCallState) -> None:
        refusal = means(state.outcome.exception() or TimeoutError()) if state.outcome else None
        emit(
            DatabaseWaiting(
                attempt=state.attempt_number,
                waited_s=round(time.monotonic() - started, 3),
                next_in_s=round(state.next_action.sleep if state.next_action else 0.0, 3),
                code=refusal.code if refusal else None,
                error=refusal.text if refusal else "no answer",
            )
        )

    retrying = Retrying(
        retry=retry_if_exception(may_pass),
        wait=lambda retry_state: min(full_jitter(retry_state), left()),  # tenacity 8.0 passes it by this name
        stop=stop_after_delay(max(patience.wait_s, patience.refused_s)),
        before_sleep=report,
        sleep=stop.sleep,
        reraise=True,
    )
    return retrying(lambda: attempt(left()))


def of_a_login(error: BaseException) -> Refusal | None:
    """What an error of ours means for ``patiently``, when it says that a connection could not be had."""
    kind = type(error)
    if not isinstance(error, RunnerError) or kind not in _OF_A_LOGIN:
        return None
    return Refusal(kind, error.code, str(error).rstrip("."), kind in (DatabaseUnreachable, DatabaseReadOnly))


def wait_for_login(database: Database, patience: Patience, *, writable: bool, stop: Stop, emit: Emit) -> None:
    """Return once a login worked, on a server that takes writes where ``writable`` says so.

    Raises the error of the last attempt, as ``patiently`` does.
    """
    started, attempts = time.monotonic(), 0

    def means(error: BaseException) -> Refusal | None:
        if isinstance(error, DatabaseReadOnly):
            return Refusal(DatabaseReadOnly, None, str(error).rstrip("."), transient=True)
        return database.refusal(error) if database.explains(error) else None

    def attempt(left_s: float) -> None:
        nonlocal attempts
        attempts += 1
        _attempt(database, min(database.connect_timeout_s, max(left_s, 0.5)), writable, stop, emit, attempts, started)

    try:
        patiently(attempt, means, patience, stop=stop, emit=emit)
    except RunnerError:
        raise
    except Exception as error:
        refusal = means(error)
        if refusal is None:
            raise
        raise _final(database, refusal, attempts, time.monotonic() - started) from error


def _attempt(
    database: Database,
    timeout_s: float,
    writable: bool,
    stop: Stop,
    emit: Emit,
    attempts: int,
    started: float,
) -> None:
    with stop.at_once():
        session = database.connect(timeout_s)
        try:
            version = session.server_version()
            reason = session.read_only() if writable else None
        finally:
            session.close()
    if reason:
        raise DatabaseReadOnly(f"The database takes no writes: {reason}.")
    emit(
        DatabaseReady(
            attempts=attempts,
            waited_s=round(time.monotonic() - started, 3),
            dialect=session.dialect.NAME,
            server_version=version,
        )
    )


def _final(database: Database, refusal: Refusal, attempts: int, waited_s: float) -> RunnerError:
    if refusal.error is not DatabaseUnreachable:
        return explained(refusal)
    place = database.dialect.place(database.url)
    return DatabaseUnreachable(
        f"{place} gave no working login within {waited_s:.0f} s ({counted(attempts, 'attempt')}): {refusal.text}.",
        code=refusal.code,
    )
