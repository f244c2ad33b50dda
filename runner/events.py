"""What a run says: a closed set of frozen values.

Who emits an event knows nothing of how it is shown; ``report`` renders them. ``message`` is the one
sentence for people. A field name has one type wherever it appears; a trailing underscore is dropped.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict

from .model import Holder

Level = Literal["debug", "info", "warning", "error"]


class ProblemFields(TypedDict):
    """One setting and what is wrong with it."""

    variable: str
    problem: str
    hint: str


class PendingFields(TypedDict):
    """One revision that is still to be applied."""

    revision: str
    summary: str
    path: str


class NewerFields(TypedDict):
    """A revision that the ledger knows, and this image does not."""

    revision: str
    applied: str | None
    run: str
    image: str | None


class DurableStatement(TypedDict):
    """A statement of a failed revision whose effect is in the database."""

    statement_number: int
    sql: str


class RecordedStatement(TypedDict):
    """A statement as it was recorded, and what the revision sends now under its number, where that is known."""

    statement_number: int
    state: str
    sql: str | None
    now: str | None


class HolderFields(TypedDict):
    """Who holds a lock, as far as the server tells."""

    connection: str
    user: str | None
    hostname: str | None
    since: str | None
    run_id: str | None
    image: str | None
    pod: str | None
    end_with: str | None


@dataclass(frozen=True, kw_only=True)
class Event(ABC):
    """The base of all events."""

    name: ClassVar[str]
    level: ClassVar[Level] = "info"
    section: str | None = None  # which database, where env.py migrates several

    @property
    @abstractmethod
    def message(self) -> str:
        """One sentence for people."""

    def fields(self) -> dict[str, Any]:
        """The event's own fields, as they appear in a line."""
        own = {f.name.rstrip("_"): getattr(self, f.name) for f in dataclasses.fields(self)}
        return own if self.section is not None else {name: value for name, value in own.items() if name != "section"}


Emit = Callable[[Event], None]


def listed(items: list[str] | tuple[str, ...], nothing: str = "nothing") -> str:
    """``a, b and 3 more``: a list of revisions within a sentence."""
    shown, rest = list(items[:5]), len(items) - 5
    return (", ".join(shown) + (f" and {rest} more" if rest > 0 else "")) or nothing


def holder_fields(holder: Holder | None) -> HolderFields | None:
    """A holder as events show it."""
    if holder is None:
        return None
    return HolderFields(
        connection=holder.connection,
        user=holder.user,
        hostname=holder.hostname,
        since=holder.since,
        run_id=holder.run_id,
        image=holder.image,
        pod=holder.pod,
        end_with=holder.end_with,
    )


def waits_for(holder: HolderFields | None) -> str:
    """``, waiting for process 7 (app@10.0.0.3)``; empty without one."""
    if holder is None:
        return ""
    who = "@".join(filter(None, (holder["user"], holder["hostname"])))
    return f", waiting for {holder['connection']}" + (f" ({who})" if who else "")


def counted(count: int, noun: str = "revision") -> str:
    """``1 revision``, ``2 revisions``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def numbered(numbers: list[int]) -> str:
    """``statement 1``, ``statements 1 to 3, 5``; empty without any."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]  # noqa: PLR2004
    return f"statement{'s' if len(numbers) > 1 else ''} {', '.join(shown)}" if numbers else ""


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """The first line of every run."""

    name = "run_started"
    command: str
    target: list[str]
    database: str | None
    url_source: str | None
    version: str
    alembic: str | None
    sqlalchemy: str | None
    python: str
    hostname: str
    pod: str | None
    image: str | None

    @property
    def message(self) -> str:
        where = f" on {self.database}" if self.database else ""
        return f"alembic-job {self.version}: {' '.join([self.command, *self.target])}{where}."


@dataclass(frozen=True, kw_only=True)
class SettingsInvalid(Event):
    """Stands instead of all other events but ``run_finished``."""

    name = "settings_invalid"
    level = "error"
    problems: list[ProblemFields]

    @property
    def message(self) -> str:
        return " ".join(f"{p['variable']}: {p['problem']}. {p['hint']}" for p in self.problems)


@dataclass(frozen=True, kw_only=True)
class SettingsDoubtful(Event):
    """Settings that are ignored, most likely misspelt."""

    name = "settings_doubtful"
    level = "warning"
    problems: list[ProblemFields]

    @property
    def message(self) -> str:
        return " ".join(f"{p['variable']}: {p['problem']}. {p['hint']}" for p in self.problems)


@dataclass(frozen=True, kw_only=True)
class DatabaseWaiting(Event):
    """An attempt to log in failed, and another one follows."""

    name = "database_waiting"
    level = "warning"
    attempt: int
    waited_s: float
    next_in_s: float
    code: str | None
    error: str

    @property
    def message(self) -> str:
        return (
            f"The database does not answer yet (attempt {self.attempt}): {self.error}."
            f" Next attempt in {self.next_in_s:.1f} s."
        )


@dataclass(frozen=True, kw_only=True)
class DatabaseReady(Event):
    """A login worked."""

    name = "database_ready"
    attempts: int
    waited_s: float
    dialect: str
    server_version: str

    @property
    def message(self) -> str:
        return f"Logged in to {self.dialect} {self.server_version} after {self.waited_s:.1f} s."


@dataclass(frozen=True, kw_only=True)
class EnvironmentConnected(Event):
    """``env.py`` opened its connection."""

    name = "environment_connected"
    database: str
    section: str
    version_table: str
    version_table_schema: str | None
    transaction: str

    @property
    def message(self) -> str:
        table = ".".join(filter(None, (self.version_table_schema, self.version_table)))
        return f"env.py connected to {self.database}; version table {table}, transaction: {self.transaction}."


@dataclass(frozen=True, kw_only=True)
class PlanReady(Event):
    """Where the database is, and what is to be done."""

    name = "plan_ready"
    state: str
    current: list[str]
    heads: list[str]
    target: list[str]
    pending: list[PendingFields]
    count: int
    digest: str | None

    @property
    def message(self) -> str:
        at = f"The database is at {listed(self.current)}"
        if not self.count:
            return f"{at}; nothing to run."
        steps = listed([p["revision"] for p in self.pending])
        return f"{at}; {counted(self.count)} to run: {steps}."


@dataclass(frozen=True, kw_only=True)
class LockWaiting(Event):
    """Another run holds the lock."""

    name = "lock_waiting"
    lock: str
    waited_s: float
    holder: HolderFields | None

    @property
    def message(self) -> str:
        who = f"{self.holder['connection']} of another run" if self.holder else "Another run"
        end = f" (to end it: {self.holder['end_with']})" if self.holder and self.holder["end_with"] else ""
        return f"{who} holds the migration lock {self.lock}{end}; waited {self.waited_s:.0f} s so far."


@dataclass(frozen=True, kw_only=True)
class LockAcquired(Event):
    """This run may migrate."""

    name = "lock_acquired"
    lock: str
    lock_kind: str
    reason: str
    waited_s: float

    @property
    def message(self) -> str:
        return f"Holding the migration lock {self.lock} ({self.lock_kind}: {self.reason})."


@dataclass(frozen=True, kw_only=True)
class LockReleased(Event):
    """The lock was given back."""

    name = "lock_released"
    lock: str
    held_s: float

    @property
    def message(self) -> str:
        return f"Released the migration lock {self.lock} after {self.held_s:.1f} s."


@dataclass(frozen=True, kw_only=True)
class RevisionStarted(Event):
    """A revision begins."""

    name = "revision_started"
    revision: str
    parents: list[str]
    summary: str
    path: str
    position: int
    count: int

    @property
    def message(self) -> str:
        return f"[{self.position}/{self.count}] {self.revision}: {self.summary or 'no description'}."


@dataclass(frozen=True, kw_only=True)
class StatementExecuted(Event):
    """A statement of a revision returned."""

    name = "statement_executed"
    level = "debug"
    revision: str
    statement_number: int
    sql: str | None
    duration_s: float

    @property
    def message(self) -> str:
        return f"Statement {self.statement_number} of {self.revision} returned after {self.duration_s:.3f} s."


@dataclass(frozen=True, kw_only=True)
class RevisionProgress(Event):
    """A statement is still running; each heartbeat."""

    name = "revision_progress"
    revision: str
    statement_number: int | None
    elapsed_s: float
    percent: float | None
    blocked_by: HolderFields | None

    @property
    def message(self) -> str:
        which = f"Statement {self.statement_number}" if self.statement_number else "A query"
        done = f", {self.percent:.0f} % done" if self.percent is not None else ""
        return f"{which} of {self.revision} runs for {self.elapsed_s:.0f} s{done}{waits_for(self.blocked_by)}."


@dataclass(frozen=True, kw_only=True)
class RevisionExecuted(Event):
    """Alembic ran a revision and moved the version."""

    name = "revision_executed"
    revision: str
    duration_s: float
    statement_count: int
    committed: bool

    @property
    def message(self) -> str:
        said = "committed" if self.committed else "not yet committed"
        return f"{self.revision} ran {counted(self.statement_count, 'statement')} in {self.duration_s:.2f} s, {said}."


@dataclass(frozen=True, kw_only=True)
class TransactionCommitted(Event):
    """Another connection now sees these revisions."""

    name = "transaction_committed"
    revisions: list[str]

    @property
    def message(self) -> str:
        return f"Committed: {listed(self.revisions)}."


@dataclass(frozen=True, kw_only=True)
class TransactionRolledBack(Event):
    """These revisions had been executed and are gone."""

    name = "transaction_rolled_back"
    level = "warning"
    revisions: list[str]

    @property
    def message(self) -> str:
        return f"Rolled back: {listed(self.revisions)}."


@dataclass(frozen=True, kw_only=True)
class RevisionRetried(Event):
    """A revision gave way and left nothing; it is tried again."""

    name = "revision_retried"
    level = "warning"
    revision: str
    code: str | None
    blocked_by: HolderFields | None
    next_in_s: float

    @property
    def message(self) -> str:
        why = f" ({self.code})" if self.code else ""
        who = waits_for(self.blocked_by)
        return f"{self.revision} gave way{why} and left nothing{who}; tried again in {self.next_in_s:.1f} s."


@dataclass(frozen=True, kw_only=True)
class RevisionFailed(Event):
    """A revision did not complete."""

    name = "revision_failed"
    level = "error"
    revision: str
    statement_number: int | None
    sql: str | None
    code: str | None
    error: str
    hint: str
    durable_statements: list[DurableStatement]
    rolled_back: list[str]

    @property
    def message(self) -> str:
        where = f" at statement {self.statement_number}" if self.statement_number else ""
        remains = numbered([s["statement_number"] for s in self.durable_statements])
        nothing = "Nothing of it remains." if self.revision in self.rolled_back else "What remains of it is not known."
        left = f"In the database of it: {remains}." if remains else nothing
        return f"{self.revision} failed{where}: {self.error}. {left}"


@dataclass(frozen=True, kw_only=True)
class UserOutput(Event):
    """What ``env.py``, a revision, or a child process of theirs printed or logged."""

    name = "user_output"
    stream: str
    logger: str | None
    text: str
    revision: str | None

    @property
    def message(self) -> str:
        return self.text


class ServerWarning(UserOutput):
    """What the server warned of; drivers keep it to themselves."""

    level = "warning"


@dataclass(frozen=True, kw_only=True)
class Stopping(Event):
    """SIGTERM or SIGINT arrived."""

    name = "stopping"
    level = "warning"
    signal: str
    grace_s: float | None

    @property
    def message(self) -> str:
        grace = f"; what still runs after {self.grace_s:g} s is cancelled" if self.grace_s is not None else ""
        return f"{self.signal} received: stopping at the next safe point{grace}."


@dataclass(frozen=True, kw_only=True)
class RevisionListed(Event):
    """One revision: the answer of ``current``, ``heads`` and ``history``."""

    name = "revision_listed"
    revision: str
    parents: list[str]
    depends_on: list[str]
    branch_labels: list[str]
    summary: str
    path: str
    is_head: bool

    @property
    def message(self) -> str:
        marks = [*self.branch_labels, *(["head"] if self.is_head else [])]
        tail = f" ({', '.join(marks)})" if marks else ""
        return f"{', '.join(self.parents) or '<base>'} -> {self.revision}{tail}: {self.summary}"


@dataclass(frozen=True, kw_only=True)
class SqlPlanned(Event):
    """A piece of the SQL that ``plan --sql`` would run; ``revision`` is null for what frames it."""

    name = "sql_planned"
    revision: str | None
    sql: str

    @property
    def message(self) -> str:
        return self.sql


@dataclass(frozen=True, kw_only=True)
class CheckPassed(Event):
    """``doctor`` looked, and all is well there."""

    name = "check_passed"
    check: str
    found: str

    @property
    def message(self) -> str:
        return f"{self.check}: {self.found}."


@dataclass(frozen=True, kw_only=True)
class Finding(Event):
    """``doctor`` found something: what it is, and what to do."""

    name = "finding"
    level = "warning"
    check: str
    exit_name: str
    error: str
    hint: str
    code: str | None
    revision: str | None

    @property
    def message(self) -> str:
        return f"{self.check}: {self.error} {self.hint}"


@dataclass(frozen=True, kw_only=True)
class LedgerUnavailable(Event):
    """The ledger cannot be read or written; the run goes on without it."""

    name = "ledger_unavailable"
    level = "warning"
    error: str
    hint: str

    @property
    def message(self) -> str:
        return f"The ledger is left alone: {self.error} {self.hint}"


@dataclass(frozen=True, kw_only=True)
class SidecarNotStopped(Event):
    """The sidecar could not be told that the run is over; the exit code stays what it is."""

    name = "sidecar_not_stopped"
    level = "warning"
    error: str
    hint: str

    @property
    def message(self) -> str:
        return f"The sidecar was not stopped: {self.error} {self.hint}"


@dataclass(frozen=True, kw_only=True)
class DatabaseAhead(Event):
    """The database holds the target, and revisions that this image does not hold."""

    name = "database_ahead"
    level = "warning"
    revisions: list[NewerFields]
    unknown: list[str]
    target: list[str]
    proven: bool
    count: int

    @property
    def message(self) -> str:
        at = f"The database is at {listed(self.unknown)}, ahead of this image"
        if not self.proven:
            return f"{at}; nothing proves that it holds {listed(self.target)}, and ALEMBIC_JOB_ON_AHEAD is ok."
        told = [
            f"{one['revision']} ({one['applied'] or 'when, is not known'}, run {one['run']}"
            + (f", image {one['image']})" if one["image"] else ")")
            for one in self.revisions
        ]
        return f"{at}, and holds {listed(self.target)}, as the ledger proves. Applied since: {listed(told)}."


@dataclass(frozen=True, kw_only=True)
class RevisionEdited(Event):
    """A revision file is another one than when it was applied."""

    name = "revision_edited"
    level = "warning"
    revision: str
    path: str
    applied: str | None
    run: str
    image: str | None

    @property
    def message(self) -> str:
        by = f"run {self.run}" + (f", image {self.image}" if self.image else "")
        return (
            f"{self.path} was changed after {self.revision} was applied, {self.applied or 'nobody knows when'} by {by}:"
            " what is in the database may not be what it says."
        )


@dataclass(frozen=True, kw_only=True)
class RevisionHalfDone(Event):
    """An earlier run left a revision half done. ``resumed``: this one goes on behind what is there."""

    name = "revision_half_done"
    level = "warning"
    revision: str
    direction: str
    run: str
    statements: list[RecordedStatement]
    count: int
    resumed: bool

    @property
    def message(self) -> str:
        done = numbered([one["statement_number"] for one in self.statements if one["state"] == "done"])
        doubtful = numbered([one["statement_number"] for one in self.statements if one["state"] == "started"])
        parts = [
            f"in the database of it: {done}" if done else "",
            f"begun, perhaps there: {doubtful}" if doubtful else "",
        ]
        going_on = " This run goes on behind them." if self.resumed else ""
        return f"{self.revision} was left half done by run {self.run}; {', '.join(filter(None, parts))}.{going_on}"


@dataclass(frozen=True, kw_only=True)
class LedgerListed(Event):
    """A row of the ledger: a revision that a run took on. The answer of ``runs``."""

    name = "ledger_listed"
    run: str
    command: str | None
    direction: str
    revision: str
    parents: list[str]
    summary: str | None
    path: str | None
    sha256: str | None
    state: str
    code: str | None
    error: str | None
    reason: str | None
    started: str | None
    ended: str | None
    duration_s: float | None
    image: str | None
    pod: str | None
    hostname: str | None
    user: str | None
    version: str | None

    @property
    def message(self) -> str:
        took = f" in {self.duration_s:.2f} s" if self.duration_s is not None else ""
        by = ", ".join(
            filter(None, (f"run {self.run}", f"image {self.image}" if self.image else "", self.pod or self.hostname))
        )
        why = f": {self.error or self.reason}" if self.error or self.reason else "."
        when = self.started or "at an unknown time"
        return f"{when} {self.direction} {self.revision}: {self.state}{took} ({by}){why}"


@dataclass(frozen=True, kw_only=True)
class SettingListed(Event):
    """One effective setting: the answer of ``config``."""

    name = "setting_listed"
    variable: str
    value: str | None
    source: str

    @property
    def message(self) -> str:
        return f"{self.variable}={'' if self.value is None else self.value} ({self.source})"


@dataclass(frozen=True, kw_only=True)
class SettingsSchema(Event):
    """The settings as JSON Schema: the answer of ``config --schema``."""

    name = "settings_schema"
    schema: dict[str, Any]

    @property
    def message(self) -> str:
        return "The settings as JSON Schema."


@dataclass(frozen=True, kw_only=True)
class TablesVerified(Event):
    """``baseline``: the tables that the revisions certainly make are all there."""

    name = "tables_verified"
    revisions: list[str]
    tables: list[str]
    count: int

    @property
    def message(self) -> str:
        made = f"{counted(self.count, 'table')} of {listed(self.revisions)}"
        return f"The {made} {'is' if self.count == 1 else 'are all'} there: {listed(self.tables)}."


@dataclass(frozen=True, kw_only=True)
class RevisionReplayed(Event):
    """``baseline --detect``: a revision was run in the scratch database, and its schema was read there."""

    name = "revision_replayed"
    revision: str
    position: int
    count: int
    duration_s: float

    @property
    def message(self) -> str:
        return f"{self.revision} was run in the scratch database ({self.position} of {self.count})."


@dataclass(frozen=True, kw_only=True)
class DifferenceFound(Event):
    """What would have to be done to the database, and what is there and should be."""

    name = "difference_found"
    level = "warning"
    operation: str
    table: str | None
    object: str | None
    database: str | None
    models: str | None

    @property
    def message(self) -> str:
        what = ": ".join(filter(None, (self.table, self.object)))
        there, wanted = self.database or "nothing", self.models or "nothing"
        return f"{self.operation} {what}: the database has {there}, and should have {wanted}."


@dataclass(frozen=True, kw_only=True)
class BaselineFound(Event):
    """``baseline --detect``: the revision whose schema the database has, or is nearest to."""

    name = "baseline_found"
    revisions: list[str]
    candidates: list[str]
    exact: bool
    count: int
    compared: int

    @property
    def message(self) -> str:
        which = listed(self.candidates, "no revision")
        if self.exact:
            return f"Of {counted(self.compared)} compared, this is the schema of {which}."
        return f"Of {counted(self.compared)} compared, {which} is nearest, with {counted(self.count, 'difference')}."


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The last line, always."""

    name = "run_finished"
    outcome: str
    exit_code: int
    exit_name: str
    retryable: bool
    from_: list[str]
    to: list[str]
    applied: list[str]
    count: int
    duration_s: float
    error: str | None
    code: str | None
    revision: str | None
    hint: str | None

    @property
    def level(self) -> Level:  # type: ignore[override]
        """An error, unless it ended well or only had something to tell."""
        return "error" if self.outcome == "failed" else "warning" if self.outcome == "interrupted" else "info"

    @property
    def message(self) -> str:
        if self.error:
            return f"{self.exit_name} (exit {self.exit_code}): {self.error} {self.hint or ''}".rstrip()
        said = self.outcome.replace("_", " ")
        if self.applied:
            said += f": {counted(self.count)} {'undone' if self.outcome == 'downgraded' else 'applied'}"
        at = f"; the database is at {listed(self.to)}" if self.to else ""
        return f"{said}{at} (exit {self.exit_code}, {self.duration_s:.1f} s). {self.hint or ''}".rstrip()


ALL: tuple[type[Event], ...] = tuple(Event.__subclasses__())
