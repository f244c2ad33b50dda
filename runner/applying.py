"""Applying: the steps, and what is true of the database afterwards. State beats cause."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alembic.config import Config
from alembic.runtime.migration import MigrationContext, MigrationStep, RevisionStep

from .database import Database, Dialect, Refusal
from .errors import (
    DatabaseReadOnly,
    DatabaseUnreachable,
    Interrupted,
    PermissionDenied,
    RevisionFailed,
    RevisionPartial,
    RunnerError,
    TargetNotReached,
)
from .events import Emit, TransactionRolledBack
from .events import RevisionFailed as RevisionFailedEvent
from .history import History, located
from .model import VersionTable
from .recording import Executed, Flight, Recording
from .seam import run_env
from .stopping import Stop

StepsFrom = Callable[[History, tuple[str, ...]], Sequence[MigrationStep]]
_READ_BACK_S = 15.0


def apply(
    config: Config,
    history: History,
    steps_from: StepsFrom,
    recording: Recording,
    *,
    target: str,
    stop: Stop,
    emit: Emit,
    read_back: Callable[[], tuple[str, ...] | None],
) -> tuple[str, ...]:
    """Run the steps through ``env.py``; the version rows that the database holds afterwards.

    Raises what the contract calls it when a revision failed, env.py did, or a signal came.
    """

    def steps(heads: tuple[str, ...], context: MigrationContext) -> Iterator[MigrationStep]:
        assert context.script is not None
        here = History(context.script)  # env.py may have changed where revisions come from
        plan = steps_from(here, heads)
        recording.attach(context)
        for position, step in enumerate(plan, 1):
            stop.raise_if_requested()
            if recording.session_lost:
                raise DatabaseUnreachable(
                    "The runner's own connection, which holds the lock, was lost; stopped before the next revision."
                )
            if isinstance(step, RevisionStep):
                recording.begin(here.describe(step.revision), step, position, len(plan))
            yield step
            recording.end()

    try:
        ended = run_env(config, history, steps, destination_rev=target)
    finally:
        recording.detach()
    rows = read_back()
    _settle(recording, rows)
    undone = [e.revision for e in recording.executed[recording.committed :]]
    if recording.flight:
        raise _failure(recording, recording.flight, ended.error, undone, rows, emit)
    if undone:
        if rows is None:
            raise DatabaseUnreachable(
                f"The connection was lost while {', '.join(undone)} was being committed; the database does not answer.",
                hint="Run again when it does: the run looks first and continues from what is there.",
            )
        emit(TransactionRolledBack(revisions=undone))
    ended.raise_if_failed(recording.dialect)
    if rows is None:
        raise DatabaseUnreachable("The database does not answer any more, so the result could not be read back.")
    return rows


def read_back(database: Database, table: VersionTable) -> tuple[str, ...] | None:
    """The committed version rows on a new connection; None when the server does not answer for a while."""
    deadline = time.monotonic() + _READ_BACK_S
    while True:
        try:
            with database.session() as session:
                return session.versions(table)
        except RunnerError as error:
            if not error.exit_code.retryable or time.monotonic() > deadline:
                return None
            time.sleep(0.5)


def _settle(recording: Recording, rows: tuple[str, ...] | None) -> None:
    """Take what the database says for what happened: a revision that turns out to be complete was applied."""
    if rows is None:
        return
    flight = recording.flight
    if flight and flight.heads and flight.heads == frozenset(rows):
        recording.executed.append(Executed(flight.revision.revision, flight.heads))
        recording.flight = None
    recording.observe(frozenset(rows))


def _failure(
    recording: Recording,
    flight: Flight,
    ended_with: BaseException | None,
    undone: list[str],
    rows: tuple[str, ...] | None,
    emit: Emit,
) -> BaseException:
    """The revision in flight did not complete: report it, and say what is true now."""
    cause = flight.error or ended_with
    revision = flight.revision.revision
    dialect = recording.dialect
    refusal = _refusal(dialect, cause)
    code = refusal.code if refusal else _code(cause)
    durable = recording.durable_statements(code)
    unknown = rows is None and dialect.DDL_COMMITS and bool(flight.changed)
    undone = undone if durable or unknown else [*undone, revision]
    statement = flight.last
    what = _described(cause, refusal)
    error = _error(cause, refusal, revision, what, statement.number if statement else None, code)
    if durable or unknown:
        left = f"statements {', '.join(str(s['statement_number']) for s in durable)}" if durable else "an unknown part"
        error = RevisionPartial(
            f"Revision {revision} failed{_at(statement.number if statement else None)}: {what}."
            f" In the database of it: {left}.",
            code=code,
            revision=revision,
        )
    elif ended_with is None and not isinstance(cause, SystemExit):
        error = TargetNotReached(
            f"env.py hid the failure of revision {revision}: {what}.",
            hint="Remove the except in env.py that hides it, and correct the revision; nothing of it remains.",
            code=code,
            revision=revision,
        )
    emit(
        RevisionFailedEvent(
            revision=revision,
            statement_number=statement.number if statement else None,
            sql=recording.shown(statement.sql) if statement else None,
            code=code,
            error=what,
            hint=error.hint if isinstance(error, RunnerError) else RunnerError.hint,
            durable_statements=durable,
            rolled_back=undone,
        )
    )
    if undone:
        emit(TransactionRolledBack(revisions=undone))
    return error


def _refusal(dialect: Dialect, cause: BaseException | None) -> Refusal | None:
    driver_error = getattr(cause, "orig", None) or cause
    return dialect.classify(driver_error) if driver_error is not None else None


def _code(cause: BaseException | None) -> str | None:
    """The server's own code: MySQL's number, PostgreSQL's SQLSTATE, SQLite's name."""
    orig: Any = getattr(cause, "orig", None)
    if orig is None:
        return None
    if orig.args and isinstance(orig.args[0], int):  # before sqlstate, which new PyMySQL has too, and says less
        return str(orig.args[0])
    names = ("sqlstate", "pgcode", "sqlite_errorname")
    return next((str(code) for name in names if (code := getattr(orig, name, None))), None)


def _described(cause: BaseException | None, refusal: Refusal | None) -> str:
    if isinstance(cause, SystemExit):
        return f"the revision called sys.exit({cause.code!r})"
    orig: Any = getattr(cause, "orig", None)
    if refusal:
        return refusal.text
    if orig is not None:
        text = orig.args[1] if len(orig.args) > 1 and isinstance(orig.args[0], int) else orig
        return " ".join(str(text).split()).rstrip(".")
    return located(cause) if cause is not None else "it did not complete"


def _at(number: int | None) -> str:
    return f" at statement {number}" if number else ""


def _error(
    cause: BaseException | None,
    refusal: Refusal | None,
    revision: str,
    what: str,
    number: int | None,
    code: str | None,
) -> RunnerError | Interrupted:
    """The cause's own code, for a revision of which nothing remains."""
    if isinstance(cause, Interrupted):
        return cause
    message = f"Revision {revision} failed{_at(number)}: {what}. Nothing of it remains."
    if refusal and (refusal.connection_lost or refusal.error in (DatabaseReadOnly, PermissionDenied)):
        return refusal.error(message, code=code, revision=revision)
    return RevisionFailed(message, code=code, revision=revision)
