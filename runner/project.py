"""The user's Alembic project against its database: look, plan, run, read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from alembic.config import Config
from alembic.runtime.migration import RevisionStep

from . import seam
from .applying import Rows, StepsFrom, apply, read_back
from .database import Session
from .errors import RunnerError, TargetNotReached
from .events import PendingFields, PlanReady, RevisionListed, listed
from .history import History, load_config
from .job import Job
from .lock import my_turn
from .model import Plan, Revision, State, VersionTable
from .recording import Recording


class Project:
    """One project and one database. ``rows`` is the version as the runner's own connection read it last."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.history = History.load(load_config(job.settings, None))
        self.table = VersionTable()
        self._looked = False
        self._state_if_empty: State = "empty"

    @property
    def rows(self) -> tuple[str, ...]:
        """The committed version rows."""
        return self.job.rows

    def config(self) -> Config:
        """A fresh Alembic configuration, with the database URL as it is now."""
        return load_config(self.job.settings, self.job.find_url().value)

    def look(self, targets: Sequence[str], *, creates: bool = False) -> tuple[str, ...]:
        """The version rows as ``env.py`` sees them, without a lock and without changing anything.

        ``creates``: a SQLite file that does not exist may be created. Otherwise it is an empty
        database, and stays away.
        """
        job = self.job
        if not creates and not job.database.dialect.is_there(job.database.url):
            return ()
        with job.stop.at_once():
            seen = seam.look(
                self.config(),
                self.history,
                " ".join(targets),
                job.database.dialect,
                add_secret=job.channel.add_secret,
                emit=job.emit,
            )
            self.table, self._looked = seen.table, True
            with job.database.session() as session:
                job.rows = session.versions(self.table)
                self._state_if_empty = "unmanaged" if session.has_tables(self.table) else "empty"
        return seen.current

    def look_again(self, targets: Sequence[str]) -> None:
        """Read the version, without ``env.py`` if it has told the version table already."""
        if not self._looked:
            self.look(targets)
            return
        with self.job.stop.at_once():
            self.read()

    def report_plan(self, current: Sequence[str], goal: Sequence[str], steps: Sequence[RevisionStep]) -> Plan:
        """Say what is to be done from here."""
        pending = tuple(self.history.describe(step.revision) for step in steps)
        plan = Plan(self._state(current, goal), tuple(current), self.history.stored_heads(), tuple(goal), pending)
        self.job.emit(
            PlanReady(
                state=plan.state,
                current=list(plan.current),
                heads=list(plan.heads),
                target=list(plan.target),
                pending=[PendingFields(revision=r.revision, summary=r.summary, path=r.path) for r in pending],
                count=len(pending),
            )
        )
        return plan

    def _state(self, current: Sequence[str], goal: Sequence[str]) -> State:
        if not current:
            return self._state_if_empty
        if self.history.known(current)[1]:
            return "unknown"
        return "current" if self.history.holds(current, goal) else "behind"

    def read(self) -> tuple[str, ...]:
        """Read the version again, on a connection of our own."""
        with self.job.database.session() as session:
            self.job.rows = session.versions(self.table)
        return self.rows

    def my_turn(self, arrived: Callable[[tuple[str, ...]], bool]) -> AbstractContextManager[Session | None]:
        """Hold the lock; see ``lock.my_turn``."""
        return my_turn(
            self.job.database,
            self.job.settings,
            lambda session: arrived(session.versions(self.table)),
            stop=self.job.stop,
            emit=self.job.emit,
        )

    def run(self, session: Session, steps_from: StepsFrom, targets: Sequence[str]) -> Recording:
        """Run steps through ``env.py``, under the lock that ``session`` holds, and read the version back."""
        job = self.job
        recording = Recording(
            session,
            self.table,
            log_sql=job.settings.log_sql,
            statement_sent=job.channel.statement_sent,
            saw=self._saw,
            emit=job.emit,
        )
        apply(
            self.config(),
            self.history,
            steps_from,
            recording,
            target=" ".join(targets),
            stop=job.stop,
            emit=job.emit,
            read_back=self._read_back,
        )
        return recording

    def _read_back(self) -> Rows | RunnerError:
        rows = read_back(self.job.database, self.table)
        if not isinstance(rows, RunnerError):
            self._saw(rows)
        return rows

    def _saw(self, rows: Iterable[str]) -> None:
        self.job.rows = tuple(rows)

    def not_reached(self, goal: Sequence[str]) -> TargetNotReached:
        """The error for an ``env.py`` that ended well without leading to the goal."""
        where = self.job.database.url.masked()
        return TargetNotReached(
            f"env.py ended without an error, but {where} is at {listed(self.rows)} and does not hold"
            f" {listed(tuple(goal), 'the base')}."
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
