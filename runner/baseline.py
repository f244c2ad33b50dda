"""Marking a database that has tables and no version: at a revision that is named, or at the one that is found.

``baseline`` verifies that the tables of the revision are there. ``detect`` runs the history in a scratch
database, and compares what each revision makes with what is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from alembic.runtime.migration import MigrationStep

from . import diagnosis, scratch, shape
from .applying import described
from .errors import ConfigInvalid, DatabaseUnreachable, Findings, TargetInvalid, TargetNotReached
from .events import BaselineFound, RevisionReplayed, TablesVerified, counted, listed
from .history import History, load_config
from .job import Job, Result
from .model import Revision, Rows
from .place import Place
from .project import Project, Turn
from .running import mark, my_turn
from .scratch import Scratch
from .seam import Ended, Reached
from .shape import Shape
from .states import State, possible
from .tables import created_by

T = TypeVar("T")


# --- at a revision that is named ----------------------------------------------------------------------


def baseline(job: Job, targets: tuple[str, ...]) -> Result:
    """Set the version of a database that has none, if the tables of that revision are there."""
    project = Project(job, writes=True)
    project.wait_and_look(targets)
    place, history = project.place, project.history
    project.require_known(place)
    goal = history.resolve(targets, ())
    if not goal:
        raise TargetInvalid(f"'{' '.join(targets)}' is no revision, and a baseline needs one.")
    if rows := _rows(place):
        if history.holds(rows, goal) and history.holds(goal, rows):
            return Result("up_to_date")
        raise _versioned(place, rows, goal)
    _require_something(place)
    project.report_plan(place, (), goal, [])

    with _turn(project, place) as turn:
        before = [history.describe(step.revision) for step in history.upgrade_steps(goal, ())]
        after = [history.describe(step.revision) for step in history.upgrade_steps(history.stored_heads(), goal)]
        schemas = {table.rpartition(".")[0] for one in (*before, *after) for table in created_by(one.path).mentioned}
        tables = _on_env(project, place, lambda reached: shape.names(_connection(reached), schemas - {""}))
        _require_something(place, tables)
        verified = diagnosis.baseline(history, goal, before, after, tables)
        place.emit(TablesVerified(revisions=list(goal), tables=list(verified), count=len(verified)))
        _stamp(project, turn, place, goal)
    made = counted(len(verified), "table")
    return Result("stamped", hint=f"{made} of {listed(goal)} verified by name; '{diagnosis.DETECT}' compares more.")


# --- at the one that is found -------------------------------------------------------------------------


@dataclass
class Replay:
    """The schemas that the history went through, and where it ended before its end, and why."""

    shapes: list[tuple[str, Shape]] = field(default_factory=list)
    failed: str | None = None
    why: str = ""

    @property
    def told(self) -> str:
        """What to add to the result when not everything was compared."""
        if not self.failed:
            return ""
        return f" The replay ended at {self.failed} ({self.why}); it and what follows it were not compared."


def detect(job: Job, *, sure: bool) -> Result:
    """Find the revision whose schema a database without a version has; ``sure``: and set it."""
    project = Project(job, writes=sure)
    project.wait_and_look(("heads",))
    place, history = project.place, project.history
    project.require_known(place)
    if rows := _rows(place):
        raise _versioned(place, rows, ())
    _require_something(place)
    _require_own_schemas(place, history)

    with scratch.opened(job, place) as tried:
        _on_env(project, place, lambda reached: tried.must_not_be_live(reached.ask))
        tried.must_be_empty()
        replay = _replay(project, place, tried)
        left = "" if tried.temporary else f" Before the next --detect: {tried.emptying}"

    def look() -> Shape:
        schemas = {name.rpartition(".")[0] for _, made in replay.shapes for name in made}
        version = place.table.name
        return _on_env(project, place, lambda on: shape.read(_connection(on), schemas - {""}, without=version))

    live = look()
    found = _matched(place, history, live, replay, left)
    said = f"The schema is that of {listed(found)}, of {counted(len(replay.shapes))} compared.{replay.told}"
    if not sure:
        return Result("reported", hint=f"{said} Mark it: alembic-job baseline {' '.join(found)}.{left}")
    project.report_plan(place, (), found, [])
    with _turn(project, place) as turn:
        if look() != live:
            raise TargetInvalid("The schema changed while it was compared.", hint="Run again when nobody changes it.")
        _stamp(project, turn, place, found)
    return Result("stamped", hint=said + left)


def _replay(project: Project, place: Place, tried: Scratch) -> Replay:
    """Run the whole history in the scratch database, and read what is there after each revision."""
    replay, job = Replay(), project.job
    version = place.table.name

    def steps(reached: Reached) -> Iterator[MigrationStep]:
        connection = _connection(reached)
        connection.engine.hide_parameters = True
        history = reached.history
        plan = history.upgrade_steps(history.stored_heads(), ())
        for position, step in enumerate(plan, 1):
            replay.failed, started = step.revision.revision, time.monotonic()
            yield step
            schemas = tried.session.dialect.other_schemas(reached.ask)
            replay.shapes.append((replay.failed, shape.read(connection, schemas, without=version)))
            job.emit(
                RevisionReplayed(
                    revision=replay.failed,
                    position=position,
                    count=len(plan),
                    duration_s=round(time.monotonic() - started, 3),
                )
            )
            replay.failed = None

    config = load_config(job.settings, tried.database.url.render())
    with job.stop.at_once():
        ended = project.environment.run(steps, config=config, arriving=tried.must_hold, destination_rev="heads")
    if replay.failed is None or ended.own:
        try:
            ended.raise_if_failed()
        except ConfigInvalid as error:
            raise ConfigInvalid(f"In the scratch database: {error}", hint=error.hint, code=error.code) from error
    if not ended.reached:
        raise TargetNotReached("env.py ended without an error and without running any migrations.")
    if replay.failed:
        replay.why = _reason(tried, ended)
    return replay


def _reason(tried: Scratch, ended: Ended) -> str:
    cause = ended.error
    refusal = tried.session.dialect.classify(getattr(cause, "orig", None) or cause) if cause else None
    if refusal and refusal.connection_lost:
        raise DatabaseUnreachable(
            f"The connection to the scratch database was lost: {refusal.text}.", code=refusal.code
        )
    return described(cause, refusal)


def _matched(place: Place, history: History, live: Shape, replay: Replay, left: str) -> Rows:
    """The one revision whose schema this is. Raises Findings when none is, or several are."""
    if not live:
        raise _nothing_there(place)
    states = possible(replay.shapes, history.follows)
    apart = [shape.distance(live, state.shape) for state in states]
    best = [state for state, far in zip(states, apart, strict=True) if far == min(apart)]
    near = [state for state in best if state.applied]  # else the empty database is nearest
    near = _without_idle(near, {one.revision for one in history.all() if created_by(one.path).idle})
    differ = shape.differences(live, (near or best)[0].shape)
    rows = [history.without_implied([one for one, _ in replay.shapes if one in state.applied]) for state in near]
    candidates = list(map(" ".join, rows))
    for difference in differ:
        place.emit(difference)
    place.emit(
        BaselineFound(
            revisions=list(rows[0]) if rows else [],
            candidates=candidates,
            exact=not differ,
            count=len(differ),
            compared=len(replay.shapes),
        )
    )
    if differ:
        raise _no_match(candidates, [difference.message for difference in differ], replay, left)
    if len(near) > 1:
        first, last = candidates[0], candidates[-1]
        raise Findings(
            f"The schema is that of {_named(candidates)}, which make the same tables: what sets them apart, data"
            f" mostly, cannot be seen in it.{replay.told}",
            hint=f"If what follows {first} has not been done here, so that the next upgrade is to do it:"
            f" alembic-job baseline {first}. If all of it has: alembic-job baseline {last}.{left}",
        )
    if replay.failed and near[0].applied.issuperset(history.follows(replay.failed)):
        here = candidates[0]
        raise Findings(
            f"The schema is that of {here}, and may be that of the next one, too.{replay.told}",
            hint=f"If {replay.failed} has not been done here: alembic-job baseline {here}. Else: alembic-job baseline"
            f" {replay.failed}.{left}",
        )
    return rows[0]


def _without_idle(states: Sequence[State], idle: set[str]) -> list[State]:
    """Of states that are apart by revisions which do nothing, the last: it makes no difference."""
    return list({state.applied - idle: state for state in states}.values())


def _named(candidates: Sequence[str]) -> str:
    """For people, who would not see where one ends: each may be several revisions."""
    return listed([one.replace(" ", " with ") for one in candidates])


def _no_match(candidates: Sequence[str], said: Sequence[str], replay: Replay, left: str) -> Findings:
    count = counted(len(said), "difference")
    shown = " ".join(said[:_SHOWN]) + (f" (and {len(said) - _SHOWN} more)" if len(said) > _SHOWN else "")
    if not candidates:
        return Findings(
            f"The database has nothing of what this history makes: {shown}{replay.told}",
            hint=f"Check that the database URL leads to this project's database.{left}",
        )
    return Findings(
        f"No revision makes the schema of this database. Nearest is {_named(candidates)}, with {count}:"
        f" {shown}{replay.told}",
        hint="Correct what the events 'difference_found' list, and run again; or, if it does not matter, mark it all"
        f" the same: alembic-job stamp {candidates[0]}.{left}",
    )


_SHOWN = 3


# --- for both -----------------------------------------------------------------------------------------


def _rows(place: Place) -> Rows:
    return place.rows or place.current


def _versioned(place: Place, rows: Rows, goal: Sequence[str]) -> TargetInvalid:
    wanted = f", not at {listed(tuple(goal))}" if goal else ""
    return TargetInvalid(
        f"{place.name} has a version, and a baseline is for a database without one: it is at {listed(rows)}{wanted}.",
        hint=f"To move the version without running anything: alembic-job stamp {' '.join(goal) or 'REVISION'}",
    )


def _nothing_there(place: Place) -> Findings:
    return Findings(
        f"{place.name} has no tables, so there is nothing to mark.", hint="Create them all: alembic-job upgrade"
    )


def _require_something(place: Place, tables: frozenset[str] | None = None) -> None:
    """Raises Findings for an empty database; what only ``env.py`` can connect to is looked at later."""
    if tables is not None:
        place.tables = tables
    if not place.others and (place.database or tables is not None):
        raise _nothing_there(place)


def _require_own_schemas(place: Place, history: History) -> None:
    """Raises ConfigInvalid when a replay would write outside of the scratch database, into the live one say."""
    named = [(schema, revision) for revision in history.all() for schema in created_by(revision.path).schemas]
    for schema, revision in (*named, (place.seen.schema if place.seen else None, None)):
        if schema and place.dialect.leaves(schema):
            raise ConfigInvalid(
                f"{_whose(revision)} names the schema {schema}, which is a database of its own: the replay would write"
                " outside of the scratch database.",
                hint="Name the revision yourself: alembic-job baseline REVISION",
            )


def _whose(revision: Revision | None) -> str:
    return f"Revision {revision.revision}" if revision else "env.py"


@contextmanager
def _turn(project: Project, place: Place) -> Iterator[Turn]:
    with my_turn(project, lambda *_: False) as turn:
        assert turn is not None
        if place.rows:  # read again under the lock
            raise _versioned(place, place.rows, ())
        yield turn


def _stamp(project: Project, turn: Turn, place: Place, goal: Rows) -> None:
    def steps(_: Place, here: History, heads: Rows) -> Sequence[MigrationStep]:
        if heads:
            raise _versioned(place, heads, ())
        return here.stamp_steps(goal, heads)

    mark(project, turn, steps, goal, goal)


def _on_env(project: Project, place: Place, reading: Callable[[Reached], T]) -> T:
    """What is read on ``env.py``'s own connection to the live database, without changing anything."""
    answers: list[T] = []

    def steps(reached: Reached) -> Sequence[MigrationStep]:
        seen = place.seen
        if seen and reached.where == seen.where and place.dialect.identity(reached.ask) == seen.identity:
            answers.append(reading(reached))
        return ()

    with project.job.stop.at_once():
        ended = project.environment.run(steps, dont_mutate=True, destination_rev="heads")
    ended.raise_if_failed()
    if not answers:
        raise TargetNotReached(f"env.py connected to {place.name} when it was looked at, and does not now.")
    return answers[-1]


def _connection(reached: Reached) -> Any:
    return reached.context.connection
