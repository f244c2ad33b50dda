"""The user's Alembic project against its databases: what is there, and what is to be done."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from alembic.config import Config
from alembic.runtime.migration import RevisionStep

from . import diagnosis
from .ahead import Ahead, goes_on, proven
from .applying import StepsFrom
from .database import Session
from .discovery import Discovery
from .errors import (
    ConfigInvalid,
    TargetNotReached,
)
from .events import (
    DatabaseAhead,
    NewerFields,
    PendingFields,
    PlanReady,
    RevisionListed,
    listed,
)
from .halves import Half, Unreadable
from .halves import read as read_halves
from .history import History, load_config, load_script
from .host import host
from .job import Job
from .ledger import Entry, Ledger, told, unavailable
from .ledger import read as read_ledger
from .lock import Held
from .model import Plan, Revision, Rows, State
from .place import Place
from .planfile import PlanFile
from .seam import Environment

Turn = Mapping[Place, Held]


class Project:
    """One project and the databases that its ``env.py`` migrates."""

    def __init__(self, job: Job, *, writes: bool = False, planned: PlanFile | None = None) -> None:
        self.job = job
        self.planned = planned  # and to be followed
        self._writes = writes
        config = self.config()
        script = load_script(config)
        self.environment = Environment(
            self.config,
            script,
            host(job.settings, script),
            per_revision=job.settings.transaction == "per-revision",
        )
        self._discovery = Discovery(job, self.environment)

    def config(self) -> Config:
        """A fresh Alembic configuration, with the database URL of the settings as it is now, if they have one."""
        given = self.job.given()
        return load_config(self.job.settings, given.value if given else None)

    @property
    def places(self) -> tuple[Place, ...]:
        """The databases, as soon as they were looked at."""
        return self._discovery.places

    @property
    def history(self) -> History:
        """The revisions, as ``env.py`` set them up when it was looked at; without a look, as they lie there."""
        return self._discovery.history or self._as_it_lies

    @functools.cached_property
    def _as_it_lies(self) -> History:
        # Not the script that env.py had: one that failed to load once says less the second time.
        return History.load(load_script(self.config()))

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
        """Wait for the databases, and see what is there; without a lock and without changing anything.

        ``creates``: a SQLite file that does not exist may be created.
        """
        self._discovery.look(" ".join(targets), writes=self._writes, creates=creates)
        for place in self.places:
            if place.seen:
                self.job.patiently(functools.partial(self._read, place))

    def _read(self, place: Place) -> None:
        if place.database is None:
            place.saw(place.current)
            return
        with place.database.session() as session:
            place.read_on(session)
            place.tables = session.tables()
            place.ledger = self.ledger_of(session, place.tables)
            self.read_halves(place, session)
            if place.halves and session.dialect.holder(session.ask, session.lock_name()):
                place.halves = {}  # what another run is just about to do is not half done
        for trouble in filter(None, (place.ledger.trouble, place.unreadable)):
            place.emit(unavailable(trouble, place.ledger.remedy))

    def read_halves(self, place: Place, session: Session) -> None:
        """Read what is recorded of revisions that are not complete."""
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

    def halves(self, place: Place) -> list[Half]:
        """The revisions that an earlier run left half done, and nobody has settled since."""
        return [
            half
            for half in place.halves.values()
            if half.is_left and self.contains(place.rows, half.revision) == (half.direction == "downgrade")
        ]

    def contains(self, rows: Rows, revision: str) -> bool:
        """Whether a database at these rows has this revision applied, as far as this image knows."""
        known = not self.history.known([revision])[1]
        return revision in rows or (known and self.history.holds(rows, (revision,)))

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
