"""The user's Alembic project against its databases: look, plan, run, read back."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from alembic.config import Config
from alembic.runtime.migration import RevisionStep

from . import diagnosis, engines
from .ahead import Ahead, goes_on, proven
from .applying import StepsFrom
from .database import DIALECTS, Database, Refusal, Session
from .errors import (
    ConfigInvalid,
    DatabaseMissing,
    DatabaseReadOnly,
    DatabaseUnreachable,
    HistoryInvalid,
    LoginRefused,
    PermissionDenied,
    RevisionUnresolved,
    RunnerError,
    SchemaUnmanaged,
    TargetNotReached,
    WrongDatabase,
)
from .events import (
    DatabaseAhead,
    EnvironmentConnected,
    NewerFields,
    PendingFields,
    PlanReady,
    RevisionEdited,
    RevisionHalfDone,
    RevisionListed,
    counted,
    listed,
)
from .halves import Half, Unreadable, contradicted, forget
from .halves import read as read_halves
from .history import History, load_config, load_script, url_mistake
from .host import host
from .job import Job
from .ledger import Entry, Ledger, told, unavailable
from .ledger import edited as edited_files
from .ledger import read as read_ledger
from .lock import Held
from .model import Plan, Revision, Rows, State
from .pen import Pen
from .place import Place
from .planfile import PlanFile
from .seam import Environment, Seen
from .settings import url_problem
from .wait import patiently

Turn = Mapping[Place, Held]
T = TypeVar("T")


class Project:
    """One project and the databases that its ``env.py`` migrates."""

    def __init__(self, job: Job, *, writes: bool = False, planned: PlanFile | None = None) -> None:
        self.job = job
        self.planned = planned  # and to be followed
        self.places: tuple[Place, ...] = ()
        self._writes = writes
        self._history: History | None = None
        config = self.config()
        script = load_script(config)
        self.environment = Environment(
            self.config,
            script,
            host(job.settings, script),
            per_revision=job.settings.transaction == "per-revision",
        )

    def config(self) -> Config:
        """A fresh Alembic configuration, with the database URL of the settings as it is now, if they have one."""
        given = self.job.given()
        return load_config(self.job.settings, given.value if given else None)

    @property
    def history(self) -> History:
        """The revisions, as ``env.py`` set them up when it was looked at; without a look, as they lie there."""
        if self._history is None:
            # Not the script that env.py had: one that failed to load once says less the second time.
            self._history = History.load(load_script(self.config()))
        return self._history

    @property
    def place(self) -> Place:
        """The only database. Raises ConfigInvalid when there are several."""
        if len(self.places) > 1:
            sections = listed([place.section or "" for place in self.places])
            raise ConfigInvalid(
                f"This command is for one database, and env.py migrates {len(self.places)}: {sections}.",
                hint="'upgrade', 'status' and 'plan' work on all of them.",
            )
        return self.places[0]

    # --- looking ----------------------------------------------------------------------------------

    def wait_and_look(self, targets: Sequence[str], *, creates: bool = False) -> None:
        """Wait for the databases, and see what ``env.py`` sees there; without a lock and without changing anything.

        Where the settings name no database, ``env.py`` is what knows how to connect, and is tried
        until it can. ``creates``: a SQLite file that does not exist may be created; otherwise it is an
        empty database, and stays away.
        """
        job, given = self.job, self.job.given()
        if given:
            job.wait_for(job.database, writable=self._writes)
            if not creates and not job.database.dialect.is_there(job.database.url):
                self.places = self._look_at_nothing(" ".join(targets))
                return
        seen = self._look(" ".join(targets))
        databases = self._databases(seen, bool(given))
        sections = _sections(seen)
        self.places = tuple(map(self._place, seen, databases, sections))
        for place in self.places:
            assert place.seen
            job.keep_secret(place.seen.url)
            place.emit(
                EnvironmentConnected(
                    database=place.seen.url.masked(),
                    section=place.section or place.seen.where.section,
                    version_table=place.table.name,
                    version_table_schema=place.seen.schema,
                    transaction=place.seen.transaction,
                )
            )
            if self.environment.per_revision and place.seen.transaction == "external":
                raise ConfigInvalid(
                    "ALEMBIC_JOB_TRANSACTION=per-revision cannot be done: env.py begins the transaction itself.",
                    hint="In env.py, connect with engine.connect() instead of engine.begin(); or set"
                    " ALEMBIC_JOB_TRANSACTION=env.",
                )
        for place in self.places:
            if place.database and place.database is not job.database:
                job.wait_for(place.database, writable=self._writes)
        for place in self.places:
            self._patiently(functools.partial(self._read, place))

    def _patiently(self, look: Callable[[], T]) -> T:
        """A look, tried as long as a login is: others may have taken all connections since the last one."""

        def attempt() -> T:
            with self.job.stop.at_once():
                return look()

        return self.connecting(attempt)

    def connecting(self, attempt: Callable[[], T]) -> T:
        """Try as long as a login is tried."""
        job = self.job
        return patiently(lambda _: attempt(), _may_pass, job.patience, stop=job.stop, emit=job.emit)

    def _place(self, seen: Seen | None, database: Database | None, section: str | None) -> Place:
        def look() -> Rows:
            assert seen
            again = {one.where: one for one in self.environment.look("heads").seen}
            return again[seen.where].current

        return Place(seen, database, section=section, look=look, emit=self.job.emit, saw=self.job.channel.saw)

    def _look(self, target: str) -> Sequence[Seen]:
        try:
            looked = self._patiently(lambda: self.environment.look(target))
        except ConfigInvalid as error:
            mistake = None if self.job.given() else url_mistake(self.config())
            if mistake and _speaks_of(mistake.url, error.__cause__):
                raise mistake.error from error.__cause__
            raise
        if looked.late:
            self.job.channel.output("warning", __name__, f"In a look, which runs no revision: {looked.late}")
        self._history = looked.history
        return looked.seen

    def _look_at_nothing(self, target: str) -> tuple[Place, ...]:
        """See the revisions as ``env.py`` sets them up, in an empty file that stands in for the one to stay away."""
        url, settings = self.job.database.url, self.job.settings
        scheme, _, path = (url.database or "").rpartition(":")  # file:, or nothing
        with tempfile.TemporaryDirectory() as directory, self.job.stop.at_once():
            file = Path(directory, Path(path).name)
            instead = replace(url, database=f"{scheme}:{file}" if scheme else str(file)).render()
            environment = replace(self.environment, config=lambda: load_config(settings, instead))
            looked = environment.look(target)
        self._history = looked.history
        places = []
        for seen, section in zip(looked.seen, _sections(looked.seen), strict=True):
            if (seen.url.database or "").endswith(str(file)):
                places.append(self._place(None, self.job.database, section))
                places[-1].table, places[-1].schema = seen.where.table, seen.schema
        return tuple(places) or (self._place(None, self.job.database, None),)

    def _databases(self, seen: Sequence[Seen], given: bool) -> list[Database | None]:
        """How the runner connects to each. Raises WrongDatabase when none of them is the given one."""
        for one in seen:
            supported = one.url.dialect in DIALECTS
            if (not supported or engines.is_repeatable(one.engine)) and (problem := url_problem(one.url.render())):
                raise ConfigInvalid(f"env.py connected to {one.url.masked()}: {problem[0]}.", hint=problem[1])
        found: list[Database | None] = [
            self.job.connecting(functools.partial(engines.url_now, one.engine))
            if engines.is_repeatable(one.engine)
            else None
            for one in seen
        ]
        if not given:
            return found
        database = self.job.database
        identity = ""
        if database.dialect.is_there(database.url):
            identity = self._patiently(functools.partial(_identity, database))
        same = [
            identity == one.identity and database.dialect is DIALECTS[one.url.dialect] and bool(identity)
            for one in seen
        ]
        if not any(same):
            there = listed(sorted({one.url.masked() for one in seen}))
            raise WrongDatabase(f"The settings name {database.url.masked()}, and env.py connected to {there}.")
        return [database if fits else own for fits, own in zip(same, found, strict=True)]

    def _read(self, place: Place) -> None:
        if place.database is None:
            place.saw(place.current)
            return
        with place.database.session() as session:
            place.read_on(session)
            place.tables = session.tables()
            place.ledger = self.ledger_of(session, place.tables)
            self._read_halves(place, session)
            if place.halves and session.dialect.holder(session.ask, session.lock_name()):
                place.halves = {}  # what another run is just about to do is not half done
        for trouble in filter(None, (place.ledger.trouble, place.unreadable)):
            place.emit(unavailable(trouble, place.ledger.remedy))

    def _read_halves(self, place: Place, session: Session) -> None:
        place.halves, place.unreadable = {}, None
        try:
            if self.job.settings.ledger:
                place.halves = read_halves(session, place.tables, place.table)
        except Unreadable as error:
            place.unreadable = str(error)

    def ledger_of(self, session: Session, tables: frozenset[str]) -> Ledger:
        """The ledger as this session reads it; an empty one where none is kept."""
        return read_ledger(session, tables) if self.job.settings.ledger else Ledger()

    def look_again(self, targets: Sequence[str]) -> None:
        """Read the versions, without ``env.py`` if it has told the version tables already."""
        if any(place.seen is None for place in self.places):
            self.wait_and_look(targets)
            return
        with self.job.stop.at_once():
            for place in self.places:
                place.read()

    # --- planning ---------------------------------------------------------------------------------

    def report_plan(self, place: Place, current: Rows, goal: Rows, steps: Sequence[RevisionStep]) -> Plan:
        """Say what is to be done from here."""
        plan = self.plan(place, current, goal, steps)
        self.report(place, plan, self.planned.digest if self.planned else None)
        return plan

    def plan(self, place: Place, current: Rows, goal: Rows, steps: Sequence[RevisionStep]) -> Plan:
        """What is to be done from here."""
        pending = tuple(self.history.describe(step.revision) for step in steps)
        state = self._state(place, current, goal)
        return Plan(state, tuple(current), self.history.stored_heads(), tuple(goal), pending)

    def report(self, place: Place, plan: Plan, digest: str | None) -> None:
        """Say it. ``digest``: of the file that it comes from, or went to."""
        place.emit(
            PlanReady(
                state=plan.state,
                current=list(plan.current),
                heads=list(plan.heads),
                target=list(plan.target),
                pending=[PendingFields(revision=r.revision, summary=r.summary, path=r.path) for r in plan.pending],
                count=len(plan.pending),
                digest=digest,
            )
        )

    def _state(self, place: Place, current: Rows, goal: Rows) -> State:
        if self.halves(place):
            return "partial"
        if not current:
            return place.state_if_empty
        if self.history.known(current)[1]:
            return "ahead" if place.ahead else "unknown"
        return "current" if self.history.holds(current, goal) else "behind"

    def aim(self, targets: Sequence[str]) -> list[Plan]:
        """Set each database's goal, and say what is to be done to reach it."""
        plans = []
        for place in self.places:
            self.locate(place, targets)
            plans.append(self.report_plan(place, place.current, place.goal, self.steps(place, place.current)))
        return plans

    def locate(self, place: Place, targets: Sequence[str], *, at: Rows | None = None) -> None:
        """Set the goal of a database, seen from its rows as ``env.py`` read them (or ``at``), and whether it is ahead.

        Raises RevisionUnknown for a database at revisions that are not here, unless it is ahead of this image
        and that will do; TargetInvalid; PlanStale.
        """
        self._require_as_planned(place, self.history, place.rows)
        self._measure(place, lambda floor: self._goal(place, targets, floor))
        if place.ahead is None:
            self.require_sound(place)
            place.goal = self._goal(place, targets, place.current if at is None else at)

    def _goal(self, place: Place, targets: Sequence[str], rows: Rows) -> Rows:
        return self.planned.of(place).goal if self.planned else self.history.resolve(targets, rows)

    def steps(self, place: Place, rows: Rows) -> Sequence[RevisionStep]:
        """What is to be run from these rows; nothing where the database is ahead."""
        return self.steps_from(place, self.history, rows)

    def steps_from(self, place: Place, history: History, rows: Rows) -> Sequence[RevisionStep]:
        """The same with the revisions as ``env.py`` has them now. Raises PlanStale."""
        self._require_as_planned(place, history, rows)
        if place.ahead:
            return []
        steps = history.upgrade_steps(place.goal, rows)
        return self.planned.of(place).in_order(steps) if self.planned else steps

    def _require_as_planned(self, place: Place, history: History, rows: Rows) -> None:
        """Raises PlanStale when a plan is followed, and files or rows are not those that it was made with."""
        path = self.job.settings.plan or ""
        if self.planned and (error := self.planned.stale(path, self.places, place, history, rows)):
            raise error

    def _measure(self, place: Place, goal_from: Callable[[Rows], Rows]) -> None:
        """Find out whether the database is ahead of this image, and whether that will do. Raises RevisionUnknown."""
        before, place.ahead = place.ahead, None
        rows = place.rows or place.current
        missing = self.history.known(rows)[1]
        if not missing:
            return
        on_ahead, history = self.job.settings.on_ahead, self.history
        found = proven(history, self._entries(place), rows)
        if found:
            place.goal = goal_from(found.floor)
            behind = not history.holds(found.floor, place.goal)
        elif on_ahead == "ok":
            found = Ahead((), tuple(revision.revision for revision in history.known(rows)[0]))
            place.goal = goal_from(found.floor)
            behind = goes_on(history, place.goal, rows)
        else:
            raise diagnosis.unknown_revision(history, missing, place.tables)
        if behind or on_ahead == "fail":
            raise diagnosis.ahead(place.name, rows, told(found.newer), place.goal, behind=behind)
        place.ahead = found
        if found != before:
            place.emit(_database_ahead(found, missing, place.goal))

    def edited(self, place: Place) -> list[tuple[RevisionEdited, HistoryInvalid]]:
        """The revision files that were changed after they were applied, as events and as errors."""
        if self.job.settings.on_edited == "ignore":
            return []
        return [
            (
                RevisionEdited(
                    revision=revision.revision,
                    path=revision.path,
                    applied=entry.ended or entry.started,
                    run=entry.run_id,
                    image=entry.image,
                ),
                diagnosis.edited(revision, entry.said),
            )
            for revision, entry in edited_files(place.ledger.of(place.table), self._applied(place))
        ]

    def _applied(self, place: Place) -> list[Revision]:
        """The revisions of this image that the database holds, as far as is proven; parents first."""
        history, rows = self.history, place.rows
        ahead = proven(history, place.ledger.of(place.table), rows) if history.known(rows)[1] else None
        held = history.contained(ahead.floor if ahead else rows)
        return [revision for revision in self.history.all() if revision.revision in held]

    def require_unedited(self) -> None:
        """Tell of the files that were changed after they were applied. Raises HistoryInvalid where that will not do."""
        found = [(place, *both) for place in self.places for both in self.edited(place)]
        for place, event, _ in found:
            place.emit(event)
        if found and self.job.settings.on_edited == "fail":
            raise found[0][2]

    def require_own_tables_kept(self) -> None:
        """Raises ConfigInvalid for a pending revision that drops the tables that this program keeps."""
        for place in self.places:
            if error := diagnosis.drops_own_tables(self.pending(place)):
                raise error

    def _entries(self, place: Place) -> Sequence[Entry]:
        """The ledger as it is now: a newer image may have gone on since it was read last."""
        if place.database and self.job.settings.ledger:
            with place.database.session() as session:
                place.ledger = read_ledger(session, session.tables())
        return place.ledger.of(place.table)

    def require_known(self, place: Place) -> None:
        """Raises RevisionUnknown when a database is at a revision that is not here."""
        if missing := self.history.known(place.rows)[1] or self.history.known(place.current)[1]:
            raise diagnosis.unknown_revision(self.history, missing, place.tables)

    def require_sound(self, place: Place) -> None:
        """Raises RevisionUnknown, and TargetInvalid for version rows that nothing can be planned from."""
        self.require_known(place)
        if self.history.implied(place.rows):
            raise diagnosis.contradicting_rows(self.history, place.rows, place.name)

    def require_room(self, place: Place, revisions: Sequence[str]) -> None:
        """Raises ConfigInvalid when the version table has no room for one of these identifiers."""
        if place.seen is None:
            return
        name = ".".join(filter(None, (place.seen.schema, place.table.name)))
        if error := diagnosis.without_room(
            revisions, place.table, place.seen.room, place.dialect, name=name, where=place.name
        ):
            raise error

    def require_managed(self, turn: Turn) -> None:
        """Raises SchemaUnmanaged when tables that are there without a version would be in the way.

        Under the lock: what another run has created so far, while its version is not there yet, is no such table.
        """
        for place, held in turn.items():
            place.tables = held.session.tables()
            if error := self.unmanaged(place):
                raise error

    def halves(self, place: Place) -> list[Half]:
        """The revisions that an earlier run left half done, and nobody has settled since."""
        return [
            half
            for half in place.halves.values()
            if half.is_left and self.contains(place.rows, half.revision) == (half.direction == "downgrade")
        ]

    def half_done(self) -> str | None:
        """For a last line: what an earlier run left half done, and what the next upgrade makes of it."""
        said = []
        for place in self.places:
            for half in self.halves(place):
                known = not self.history.known(place.rows)[1]
                pending = {revision.revision for revision in self.pending(place)} if known else set()
                why = self.why_not_resumed(half, pending)
                then = f"stops with 42: {why}" if why else "goes on behind what is there."
                if known and not pending:
                    then = f"has nothing to run here, and leaves it. {why or ''}".strip()
                said.append(f"{half.revision} is half done; the next upgrade {then}")
        return " ".join(said) or None

    def told(self, half: Half, *, resumed: bool) -> RevisionHalfDone:
        """The event for a revision that was left half done, as ``LOG_SQL`` wants it."""
        return half.event(resumed=resumed, sql=self.job.settings.log_sql != "off")

    def contains(self, rows: Rows, revision: str) -> bool:
        """Whether a database at these rows has this revision applied, as far as this image knows."""
        known = not self.history.known([revision])[1]
        return revision in rows or (known and self.history.holds(rows, (revision,)))

    def require_resumable(self, turn: Turn, steps_from: StepsFrom, direction: str) -> None:
        """Tell of what an earlier run left half done. Raises RevisionUnresolved where this one cannot go on behind it.

        Under the lock: before that, it may be what another run is just about to do.
        """
        self.read_halves(turn)
        for place, held in turn.items():
            plan = steps_from(place, self.history, place.rows)
            steps = {step.revision.revision for step in plan if isinstance(step, RevisionStep)}
            if place.unreadable and steps:
                raise RevisionUnresolved(
                    f"{place.unreadable}. Whether an earlier run left a revision half done cannot be told.",
                    hint="Repair the table; or drop it, if all revisions are complete.",
                )
            left = self.halves(place)
            settled = place.halves.keys() - {half.revision for half in left}
            place.halves = {half.revision: half for half in left}
            if settled and place.database:
                with suppress(Exception):  # a user who may not delete; it is of no account any more
                    forget(Pen(place.database, held.session), place.table, settled)
            for half in left:
                why = contradicted(held.session, half) or self.why_not_resumed(half, steps, direction)
                place.emit(self.told(half, resumed=not why))
                if why and steps:
                    raise half.unresolved(why)

    def why_not_resumed(self, half: Half, steps: Collection[str], direction: str = "upgrade") -> str | None:
        """Why a run with these steps does not go on behind what was done of a revision; None when it does."""
        if self.job.settings.resume == "off":
            return "ALEMBIC_JOB_RESUME is off: with auto, a run goes on where that is safe."
        if trouble := next((place.ledger.trouble for place in self.places if place.ledger.trouble), None):
            return f"{trouble}."
        return diagnosis.not_resumed(self.history, half, steps, direction)

    def read_halves(self, turn: Turn) -> None:
        """Read anew what is recorded of revisions, now that no other run can be within one."""
        for place, held in turn.items():
            place.read_on(held.session)
            place.tables = held.session.tables()
            self._read_halves(place, held.session)

    def tell_halves(self, turn: Turn | None = None) -> None:
        """Tell of what an earlier run left half done, and this one does not mind. Without a turn: by the look."""
        if turn:
            self.read_halves(turn)
        for place in self.places:
            for half in self.halves(place):
                place.emit(self.told(half, resumed=False))

    def unmanaged(self, place: Place) -> SchemaUnmanaged | None:
        """The error for tables without a version, as far as ``ON_UNMANAGED`` minds them."""
        on_unmanaged = self.job.settings.on_unmanaged
        if place.rows or not place.others or on_unmanaged == "upgrade":
            return None
        half_done = place.dialect.DDL_COMMITS and place.others != place.tables
        pending = [revision for revision in self.pending(place) if revision.revision not in place.halves]
        if error := diagnosis.unmanaged(self.history, pending, place.tables, half_done=half_done):
            return error
        if on_unmanaged == "fail":
            count, names = counted(len(place.others), "table"), listed(sorted(place.others))
            return SchemaUnmanaged(f"The database has no version, and {count}: {names}.")
        return None

    @staticmethod
    def downwards(target: str, fixed: str) -> StepsFrom:
        """The steps down to a target, which is called ``fixed`` once anything was done."""
        return lambda place, here, heads: here.downgrade_steps(
            target if set(heads) == set(place.current) else fixed, heads
        )

    def pending(self, place: Place) -> list[Revision]:
        """The revisions from the committed rows to the goal, in order."""
        return [self.history.describe(step.revision) for step in self.steps(place, place.rows)]

    def arrived(self, place: Place, rows: Rows) -> bool:
        """Whether a database at these rows holds its goal."""
        return place.ahead is not None or self.history.holds(rows, place.goal)

    @property
    def at_rest(self) -> str:
        """The outcome of a run that has nothing to do."""
        return "ahead" if any(place.ahead for place in self.places) else "up_to_date"

    def sound_and_arrived(self, place: Place, rows: Rows) -> bool:
        """The same while waiting, where a newer image may take the database beyond this one. As ``locate``."""
        self._require_as_planned(place, self.history, rows)
        self._measure(place, lambda _: place.goal)
        if place.ahead is None:
            self.require_sound(place)
        return self.arrived(place, rows)

    def not_reached(self, place: Place, goal: Rows) -> TargetNotReached:
        """The error for an ``env.py`` that ended well without leading to the goal."""
        return TargetNotReached(
            f"env.py ended without an error, but {place.name} is at {listed(place.rows)} and does not hold"
            f" {listed(tuple(goal), 'the base')}."
        )


def _database_ahead(found: Ahead, missing: Sequence[str], goal: Rows) -> DatabaseAhead:
    return DatabaseAhead(
        revisions=[
            NewerFields(revision=one.revision, applied=one.ended or one.started, run=one.run_id, image=one.image)
            for one in found.newer
        ],
        unknown=list(missing),
        target=list(goal),
        proven=bool(found.newer),
        count=len(found.newer),
    )


def _identity(database: Database) -> str:
    with database.session() as session:
        return session.identity()


def _sections(seen: Sequence[Seen]) -> list[str | None]:
    """What to call each database; nothing when there is only one."""
    if len(seen) == 1:
        return [None]
    names = Counter(one.where.section for one in seen)
    return [
        one.where.section
        if names[one.where.section] == 1
        else f"{one.where.section}/{one.where.table.schema or one.url.database}.{one.where.table.name}"
        for one in seen
    ]


def _speaks_of(url: str | None, error: BaseException | None) -> bool:
    """Whether this is how ``engine_from_config`` fails with this URL, or without one."""
    kind = type(error)
    if kind.__name__ == "NoSuchModuleError":
        return bool(url) and f"dialects:{str(url).partition('://')[0].replace('+', '.')}" in str(error)
    return kind.__name__ == "ArgumentError" or kind.__module__ == "configparser" or repr(error) == "KeyError('url')"


def _may_pass(error: BaseException) -> Refusal | None:
    """What ``env.py``'s failure to connect means for the wait."""
    kind = type(error)
    if not isinstance(error, RunnerError) or kind not in _OF_THE_CONNECTION:
        return None
    return Refusal(kind, error.code, str(error).rstrip("."), kind in (DatabaseUnreachable, DatabaseReadOnly))


_OF_THE_CONNECTION = (DatabaseUnreachable, DatabaseReadOnly, LoginRefused, DatabaseMissing, PermissionDenied)


def as_listed(revision: Revision) -> RevisionListed:
    """A revision as the answer of a command."""
    return RevisionListed(
        revision=revision.revision,
        parents=list(revision.parents),
        depends_on=list(revision.depends_on),
        branch_labels=list(revision.branch_labels),
        summary=revision.summary,
        path=revision.path,
        is_head=revision.is_head,
    )
