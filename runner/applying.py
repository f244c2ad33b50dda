"""Applying: the steps, and what is true of the database afterwards. State beats cause."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from alembic.runtime.migration import MigrationStep, RevisionStep

from .database import Dialect, Refusal, words_of
from .errors import (
    ConfigInvalid,
    DatabaseReadOnly,
    DatabaseUnreachable,
    Interrupted,
    LockLost,
    PermissionDenied,
    RevisionDeferred,
    RevisionFailed,
    RevisionPartial,
    RevisionUnresolved,
    RunnerError,
    TargetNotReached,
    WrongDatabase,
)
from .events import Emit, TransactionRolledBack, holder_fields, listed, numbered, waits_for
from .events import RevisionFailed as RevisionFailedEvent
from .fence import Fence
from .flight import Flight, Statement
from .history import History, located
from .model import Holder, Rows
from .place import Place
from .recording import Recording
from .resuming import Unrecorded
from .seam import Ended, Environment, Reached
from .watching import Watch

StepsFrom = Callable[[Place, History, Rows], Sequence[MigrationStep]]


class GaveWay(RevisionDeferred):
    """A revision that may be tried again, with the event for when it is not. ``lost``: its connection was."""

    def __init__(
        self, message: str, event: RevisionFailedEvent, blocked_by: Holder | None, emit: Emit, *, lost: bool
    ) -> None:
        super().__init__(message, hint=event.hint, code=event.code, revision=event.revision)
        self.event = event
        self.blocked_by = blocked_by
        self.emit = emit
        self.lost = lost


def apply(
    environment: Environment,
    recordings: Mapping[Place, Recording],
    steps_from: StepsFrom,
    fence: Fence,
    *,
    target: str,
    watch: Watch,
    connecting: Callable[[Callable[[], Ended]], Ended],
) -> None:
    """Run the steps through ``env.py``, and read back what the databases hold afterwards.

    ``connecting`` calls again while ``env.py`` cannot connect, because others have all connections, say.
    Raises what the contract calls it when a revision failed, env.py did, or a signal came.
    """
    known = {place.seen.where: place for place in recordings if place.seen}

    def arriving(reached: Reached) -> None:
        place = known.get(reached.where)
        if place is None:
            raise WrongDatabase(f"env.py connected to {reached.where.url} now, which it did not when it was looked at.")
        fence.check(place, reached, ours=bool(recordings[place].uncommitted))

    def steps(reached: Reached) -> Iterator[MigrationStep]:
        place = known[reached.where]
        recording, here = recordings[place], reached.history
        plan = steps_from(place, here, reached.heads)
        recording.attach(reached.context)
        for position, step in enumerate(plan, 1):
            watch.raise_if_over()
            fence.begins(place, reached, getattr(getattr(step, "revision", None), "revision", ""))
            if isinstance(step, RevisionStep):
                recording.begin(here.describe(step.revision), step, position, len(plan))
            yield step
            recording.end()

    def run() -> Ended:
        ended = environment.run(steps, arriving=arriving, destination_rev=target)
        begun = ended.reached or ended.own is not None
        if not begun and not (ended.error and _without_schema(recordings, ended.error)):
            ended.raise_if_failed()
        return ended

    try:
        ended = connecting(run)
    finally:
        for recording in recordings.values():
            recording.detach()
    backs = {place: place.read_back() for place in recordings}
    failed = [_concluded(recordings[place], ended.error, back) for place, back in backs.items()]
    # What may be tried again must not hide what may not.
    for failure in sorted(filter(None, failed), key=lambda failure: isinstance(failure, GaveWay)):
        raise failure
    if ended.error and (unplaced := _without_schema(recordings, ended.error)):
        raise unplaced from ended.error
    ended.raise_if_failed()
    for back in backs.values():
        if isinstance(back, RunnerError):
            raise _unread("The version could not be read back", back)


def _concluded(
    recording: Recording, ended_with: BaseException | None, back: Rows | RunnerError
) -> BaseException | None:
    """What became of the revisions of one database; None when all that was begun is there."""
    emit = recording.emit
    rows = None if isinstance(back, RunnerError) else back
    _settle(recording, rows)
    flight, left = recording.flight, [f for f in recording.uncommitted if f.durable]
    undone = [f.id for f in recording.uncommitted if not f.durable]
    if flight:
        return _failure(recording, flight, ended_with, undone, rows, emit)
    if recording.uncommitted and isinstance(back, RunnerError):
        lost = listed([f.id for f in recording.uncommitted])
        return _unread(f"Whether {lost} was committed could not be read back", back)
    partial = [_without_version(recording, f, undone, emit) for f in left]
    if undone:
        emit(TransactionRolledBack(revisions=undone))
    return partial[0] if partial else None


def _without_schema(places: Iterable[Place], error: BaseException) -> ConfigInvalid | None:
    """The error for a version table in a schema that is not there; plain Alembic does not create it either."""
    for place in places:
        if place.seen and place.seen.schema and _code(place.dialect, error) in place.dialect.NO_SCHEMA:
            return ConfigInvalid(
                f"env.py has its version table {place.table.name} in the schema {place.seen.schema}, which is not in"
                f" {place.name}.",
                hint=f"Create it: CREATE SCHEMA {place.seen.schema}; or let env.py do that before it migrates.",
            )
    return None


def _unread(what: str, why: RunnerError) -> RunnerError:
    hint = "Run again when it can be: the run looks first and goes on from what is there."
    return type(why)(f"{what}: {why}", hint=hint, code=why.code)


def _settle(recording: Recording, rows: tuple[str, ...] | None) -> None:
    """Take what the database says for what happened: a revision that turns out to be complete was applied."""
    if rows is None:
        return
    recording.read_back = True
    flight = recording.flight
    if flight and flight.heads == frozenset(rows):
        recording.executed.append(flight)
        recording.flight = None
    recording.observe(frozenset(rows))
    recording.learn()


def _failure(
    recording: Recording,
    flight: Flight,
    ended_with: BaseException | None,
    undone: list[str],
    rows: tuple[str, ...] | None,
    emit: Emit,
) -> BaseException:
    """The revision in flight did not complete: report it, and say what is true now."""
    if isinstance(flight.stopped, RevisionUnresolved):
        emit(flight.stopped.event)
        return flight.stopped
    cause = flight.stopped or flight.error or ended_with
    dialect = recording.dialect
    refusal = _refusal(dialect, cause)
    code = refusal.code if refusal else _code(dialect, cause)
    statement = flight.ended_at(cause)
    reason = recording.why_cancelled(statement)
    what = reason.said if reason else described(cause, refusal)
    said = f"Revision {flight.id} failed{_at(statement)}: {what}."
    invalid = recording.left_invalid(flight)
    if invalid:
        said += f" Invalid index: {listed(list(invalid))}."
    unknown = flight.doubtful or (rows is None and dialect.DDL_COMMITS and bool(flight.changed))
    blocked_by = statement.sent.was_blocked_by if statement and statement.sent else None
    error: RunnerError | Interrupted
    if flight.durable or unknown:
        left = _numbers(flight) or "an unknown part"
        doubt = ", and perhaps the last one" if flight.durable and unknown else ""
        said += f" In the database of it: {left}{doubt}."
        hint = _going_on(flight) if flight.resumable else RevisionPartial.hint
        error = RevisionPartial(said, hint=_dropping(invalid, hint), code=code, revision=flight.id)
    else:
        undone = [*undone, flight.id]
        said += " Nothing of it remains."
        if reason:
            error = reason.error(said, code, flight.id)
        elif _may_pass(dialect, cause, refusal):
            error = RevisionDeferred(said, hint=_making_way(blocked_by), code=code, revision=flight.id)
        else:
            error = _nothing_left(cause, refusal, flight, said, code, hidden=ended_with is None)
        if invalid and isinstance(error, RunnerError):
            error.hint = _dropping(invalid, error.hint)
    event = RevisionFailedEvent(
        revision=flight.id,
        statement_number=statement.number if statement else None,
        sql=recording.shown(statement.sql) if statement else None,
        code=code,
        error=what,
        hint=error.hint if isinstance(error, RunnerError) else "Run again to go on.",
        durable_statements=recording.durable_statements(flight),
        rolled_back=undone,
    )
    left_before = [f for f in recording.uncommitted if f.durable]
    if isinstance(error, RevisionDeferred) and not left_before:
        said_of = f"{said[:-1]}{waits_for(holder_fields(blocked_by))}."
        error = GaveWay(said_of, event, blocked_by, emit, lost=_lost(refusal, cause))
    else:
        emit(event)
    # Its own transaction went with this one's failure, while its DDL had committed as it went.
    partial = [_without_version(recording, f, [], emit, said) for f in left_before]
    if undone:
        emit(TransactionRolledBack(revisions=undone))
    return partial[0] if partial and not isinstance(error, RevisionPartial) else error


def _may_pass(dialect: Dialect, cause: BaseException | None, refusal: Refusal | None) -> bool:
    """Whether the same revision may work when it is tried again."""
    if _lost(refusal, cause):
        return True
    driver_error = getattr(cause, "orig", None) or cause
    return driver_error is not None and dialect.gave_way(driver_error)


def _lost(refusal: Refusal | None, cause: BaseException | None) -> bool:
    """Whether a connection was: the revision's, or the run's own, in place of which no other one could be had."""
    if refusal is None:
        return False
    return refusal.connection_lost or (isinstance(cause, Unrecorded) and refusal.error is DatabaseUnreachable)


def _making_way(blocked_by: Holder | None) -> str | None:
    if blocked_by is None or blocked_by.end_with is None:
        return None
    return f"End the session that is in the way, if it may be: {blocked_by.end_with}; or run again."


def _dropping(invalid: Mapping[str, bool], hint: str) -> str:
    """What to do about invalid indexes comes first."""
    drops = "; ".join(f"DROP INDEX CONCURRENTLY {index}" for index in invalid)
    return f"{drops}. {hint}" if drops else hint


def _going_on(flight: Flight) -> str:
    return (
        "Remove the cause and run again: the run goes on behind what is in the database. If the file has to change:"
        f" undo that first, then: alembic-job resolve {flight.id} --rolled-back --reason TEXT."
    )


def _without_version(
    recording: Recording, flight: Flight, undone: list[str], emit: Emit, cause: str = ""
) -> RevisionPartial:
    """A revision that ran to its end, whose version row was rolled back, and whose DDL was not."""
    what = "its version row was rolled back, while some of its statements had been committed"
    error = RevisionPartial(
        f"{cause} Revision {flight.id} was executed, and {what}: {_numbers(flight)}.".lstrip(),
        hint=_going_on(flight) if flight.resumable else None,
        revision=flight.id,
    )
    emit(
        RevisionFailedEvent(
            revision=flight.id,
            statement_number=None,
            sql=None,
            code=None,
            error=what,
            hint=error.hint,
            durable_statements=recording.durable_statements(flight),
            rolled_back=undone,
        )
    )
    return error


def _nothing_left(
    cause: BaseException | None, refusal: Refusal | None, flight: Flight, said: str, code: str | None, *, hidden: bool
) -> RunnerError | Interrupted:
    """The cause's own code, for a revision of which nothing remains."""
    if isinstance(cause, (Interrupted, LockLost)):
        return cause
    if hidden and not isinstance(cause, SystemExit):
        return TargetNotReached(
            f"env.py hid a failure. {said}",
            hint="Remove the except in env.py that hides it, and correct the revision; nothing of it remains.",
            code=code,
            revision=flight.id,
        )
    if refusal and refusal.error in (DatabaseReadOnly, PermissionDenied):
        return refusal.error(said, code=code, revision=flight.id)
    return RevisionFailed(said, code=code, revision=flight.id)


def _refusal(dialect: Dialect, cause: BaseException | None) -> Refusal | None:
    driver_error = getattr(cause, "orig", None) or cause
    return dialect.classify(driver_error) if driver_error is not None else None


def _code(dialect: Dialect, cause: BaseException | None) -> str | None:
    driver_error = getattr(cause, "orig", None) or cause
    return dialect.code_of(driver_error) if driver_error is not None else None


def described(cause: BaseException | None, refusal: Refusal | None) -> str:
    """Why a revision failed, in words."""
    if isinstance(cause, SystemExit):
        return f"the revision called sys.exit({cause.code!r})"
    if isinstance(cause, Unrecorded):
        return str(cause)
    orig: Any = getattr(cause, "orig", None)
    if refusal:
        return refusal.text
    if orig is not None:
        return words_of(orig)
    return located(cause) if cause is not None else "it did not complete"


def _numbers(flight: Flight) -> str:
    return numbered([s.number for s in flight.durable if s.number])


def _at(statement: Statement | None) -> str:
    return f" at statement {statement.number}" if statement and statement.number else ""
