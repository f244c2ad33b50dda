"""While revisions run: one thread that sees what takes too long, says so, and ends it.

It is told which statement is in flight, and has short-lived connections of its own. A statement is
cancelled *on the server*: closing its connection would leave it running there. Code of a revision is
cut short by an exception. Both are repeated until the revision is over, because user code may swallow
either, and neither ever hits our own clean-up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from signal import Signals
from typing import Any

from .database import Database, Dialect
from .errors import DeadlineExceeded, Interrupted, RevisionFailed, RunnerError
from .events import Emit, RevisionProgress, holder_fields
from .model import Holder
from .settings import Settings, shown
from .stopping import Cut, Stop

_TICK_S = 0.1
_AGAIN_S = 0.25
_CONNECT_S = 2.0
_UNREACHABLE_S = 3.0  # for so long the server is asked again before the connection is given up instead
_BLOCKERS_S = 0.5  # for so long a statement runs before somebody is looked for who is in its way; then ever less often


@dataclass(frozen=True)
class Reason:
    """Why something was cancelled, and what the run ends with if nothing of the revision remains."""

    said: str
    error: Callable[[str, str | None, str | None], RunnerError | Interrupted]


@dataclass
class InFlight:
    """A statement that the server has not answered yet."""

    revision: str
    number: int | None
    dialect: Dialect
    database: Database | None  # how the runner connects itself
    session_id: int | None  # the server's number of the session, where it is known
    ours: Collection[int]  # sessions of this run, which nobody waits for
    connection: Any  # of the driver
    emit: Emit
    started: float = field(default_factory=time.monotonic)
    cut: Reason | None = None
    blocked_by: Holder | None = None  # now
    was_blocked_by: Holder | None = None  # when last anybody was in the way
    reported: int = 0  # heartbeats
    looked_at: float = field(default_factory=time.monotonic)
    failing_since: float | None = None

    @property
    def reachable(self) -> bool:
        """Whether the server can be asked about it from another connection."""
        return self.database is not None and self.session_id is not None


class Watch:
    """Watches over one run, from ``with`` to its end. ``over``: why the run has to end now."""

    def __init__(self, settings: Settings, stop: Stop) -> None:
        self.over: Reason | None = None
        self.has_cut = False
        self._stop = stop
        self._grace_s = settings.stop_grace.total_seconds()
        self._timeout = settings.timeout
        self._statement_timeout = settings.statement_timeout
        self._heartbeat_s = settings.heartbeat.total_seconds()
        self._blockers_s = min(_BLOCKERS_S, settings.ddl_lock_timeout.total_seconds() / 4)
        self._started = time.monotonic()
        self._now: InFlight | None = None
        self._cutting = threading.Lock()  # while held, the statement in flight stays there
        self._next_cut = 0.0
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="alembic-job-watch", daemon=True)

    def __enter__(self) -> Watch:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        self._finished.set()
        self._thread.join()

    # --- what the main thread tells ---------------------------------------------------------------

    @contextmanager
    def their_code(self) -> Iterator[None]:
        """In here a revision's code runs, and may be cut short."""
        try:
            self._stop.inside = "their code"
            yield
        finally:
            self.came_back()

    @contextmanager
    def our_code(self) -> Iterator[None]:
        """In here nothing is cut short, though it is called by a revision's code."""
        with self._stop.in_our_code():
            yield

    def sent(self, statement: InFlight) -> InFlight:
        """A statement goes to the server; to be called in our code, which ends with it."""
        self._now = statement
        self._stop.inside = "a statement"
        return statement

    def came_back(self) -> None:
        """It was answered. A cancel on its way is waited for, else it would hit what comes next."""
        self._stop.inside = "our code"
        with self._cutting:
            self._now = None

    def back_in_their_code(self) -> None:
        """What the statement meant is noted, and the revision goes on."""
        self._stop.inside = "their code"

    def raise_if_over(self) -> None:
        """A safe point. Raises Interrupted, DeadlineExceeded."""
        self._stop.raise_if_requested()
        if self.left_s <= 0:
            raise self._deadline().error(f"ALEMBIC_JOB_TIMEOUT ({shown(self._timeout)}) was over.", None, None)

    def begin_again(self) -> None:
        """Nothing was applied so far, but waited for."""
        self._started = time.monotonic()

    @property
    def left_s(self) -> float:
        """Until ``TIMEOUT``."""
        if self._timeout is None:
            return float("inf")
        return self._started + self._timeout.total_seconds() - time.monotonic()

    # --- the thread -------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._finished.wait(_TICK_S):
            with suppress(Exception):  # the server may not answer; the run goes on all the same
                self._look()

    def _look(self) -> None:
        self._stop.hear(early=True)
        now, statement = time.monotonic(), self._now
        self.over = self.over or self._why_over(now)
        reason = self.over or self._why_cancel(statement, now)
        if reason:
            if now >= self._next_cut:
                self._next_cut = now + _AGAIN_S
                self._cut(statement, reason)
        elif statement:
            self._report(statement, now)

    def _why_over(self, now: float) -> Reason | None:
        stop = self._stop
        if stop.requested and (stop.insisted or now - stop.requested_at >= self._grace_s):
            number = stop.requested
            name = Signals(number).name
            why = "came twice" if stop.insisted else f"came, and the grace of {self._grace_s:g} s was over"
            return Reason(f"cancelled, because {name} {why}", lambda said, *_: Interrupted(number, said))
        return self._deadline() if self.left_s <= 0 else None

    def _deadline(self) -> Reason:
        return Reason(
            f"cancelled, because ALEMBIC_JOB_TIMEOUT ({shown(self._timeout)}) was over",
            lambda said, code, revision: DeadlineExceeded(said, code=code, revision=revision),
        )

    def _why_cancel(self, statement: InFlight | None, now: float) -> Reason | None:
        limit: timedelta | None = self._statement_timeout
        if statement is None or limit is None or now - statement.started < limit.total_seconds():
            return None
        return Reason(
            f"cancelled, because it took longer than ALEMBIC_JOB_STATEMENT_TIMEOUT ({shown(limit)})",
            lambda said, code, revision: RevisionFailed(
                said,
                hint="Raise ALEMBIC_JOB_STATEMENT_TIMEOUT, or make the statement faster; nothing of the revision is in"
                " the database.",
                code=code,
                revision=revision,
            ),
        )

    def _cut(self, statement: InFlight | None, reason: Reason) -> None:
        with self._cutting:
            if statement is not self._now:  # it came back meanwhile
                return
            if statement is None:
                if self._stop.inside == "their code":
                    self.has_cut = True
                    self._stop.cut_short(Cut(reason.said), statements=False)
                return
            statement.cut = reason
            self.has_cut = self.has_cut or reason is self.over
            if not _cancelled(statement):
                self._stop.cut_short(Cut(reason.said), statements=True)

    def _report(self, statement: InFlight, now: float) -> None:
        beat = int((now - statement.started) / self._heartbeat_s) > statement.reported
        percent = None
        look_s = max(self._blockers_s, (now - statement.started) / 4)
        if statement.reachable and (beat or now - statement.looked_at >= look_s):
            statement.looked_at = now
            with suppress(Exception):
                percent = _ask(statement)
        if beat and statement is self._now:
            statement.reported += 1
            statement.emit(
                RevisionProgress(
                    revision=statement.revision,
                    statement_number=statement.number,
                    elapsed_s=round(now - statement.started, 3),
                    percent=percent,
                    blocked_by=holder_fields(statement.blocked_by),
                )
            )


def _ask(statement: InFlight) -> float | None:
    """Look on the server who is in the way, and how far the statement is."""
    assert statement.database and statement.session_id is not None
    with statement.database.session(_CONNECT_S) as session:
        dialect, ask = statement.dialect, session.ask
        ours = (*statement.ours, statement.session_id, dialect.session_id(ask) or 0)
        statement.blocked_by = dialect.blocker(ask, statement.session_id, ours)
        statement.was_blocked_by = statement.blocked_by or statement.was_blocked_by
        return dialect.progress(ask, statement.session_id)


def _cancelled(statement: InFlight) -> bool:
    """Cancel on the server, or in the driver where it can. False when the connection has to be given up instead."""
    if not statement.reachable:
        return statement.dialect.interrupt(statement.connection)
    assert statement.database and statement.session_id is not None
    try:
        with statement.database.session(_CONNECT_S) as session:
            statement.dialect.cancel(session.ask, statement.session_id)
    except Exception:
        if statement.dialect.interrupt(statement.connection):
            return True
        now = time.monotonic()
        statement.failing_since = statement.failing_since or now
        return now - statement.failing_since < _UNREACHABLE_S
    statement.failing_since = None
    return True
