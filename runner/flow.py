"""The story of a run, from top to bottom: wait, look, lock, upgrade, verify, report."""

from __future__ import annotations

import random
import time

from . import guards, unfinished
from .errors import DatabaseMissing, DatabaseUnreachable, LoginRefused, TargetInvalid, TargetTimeout
from .events import listed
from .job import Job, Result
from .planfile import PlanFile
from .project import Project
from .running import free, mark, my_turn, run
from .wait import Refused

_POLL_S = (1.0, 3.0)


def upgrade(job: Job, targets: tuple[str, ...], planned: PlanFile | None = None) -> Result:
    """Bring the databases to the target, where they are not there yet; as it was ``planned``, or not at all."""
    project = Project(job, writes=True, planned=planned)
    project.wait_and_look(targets, creates=True)
    plans = project.aim(targets)
    guards.require_unedited(project)
    guards.require_own_tables_kept(project)
    if all(plan.arrived for plan in plans) and all(project.arrived(place, place.rows) for place in project.places):
        unfinished.tell(project)
        return Result(project.at_rest)  # the common deploy: nothing to do, no lock taken
    for place, plan in zip(project.places, plans, strict=True):
        guards.require_room(place, [revision.revision for revision in plan.pending])

    with my_turn(project, project.sound_and_arrived) as turn:
        if turn is None:  # another run did the work while we waited
            return Result(project.at_rest)
        unfinished.require_resumable(project, turn, project.steps_from, "upgrade")
        guards.require_managed(project, turn)
        run(project, turn, project.steps_from, targets)
    for place in project.places:
        if not project.arrived(place, place.rows):  # read back, not assumed
            raise project.not_reached(place, place.goal)
    return Result("upgraded")


def downgrade(job: Job, target: str, *, sure: bool) -> Result:
    """The same machinery, downwards."""
    if not sure:
        raise TargetInvalid(
            "A downgrade may destroy data, so it needs --yes.", hint=f"alembic-job downgrade {target} --yes"
        )
    project = Project(job, writes=True)
    project.wait_and_look((target,))
    place, history = project.place, project.history
    project.require_sound(place)
    steps = history.downgrade_steps(target, place.current)
    goal = history.resolve_downgrade(target, place.current)
    project.report_plan(place, place.current, goal, steps)
    if not steps:
        return Result("up_to_date")

    with my_turn(project, lambda place, rows: set(rows) != set(place.current)) as turn:
        if turn is None:  # and a relative target would mean something else by now
            raise TargetInvalid(
                "Another run moved the database meanwhile.",
                hint="Look with 'alembic-job status', then repeat.",
            )
        # A second try begins where the first one came to, and -2 would mean something else there.
        downwards = project.downwards(target, history.fixed(target, goal))
        unfinished.require_resumable(project, turn, downwards, "downgrade")
        ran = run(project, turn, downwards, (target,))
    executed = ran[place].executed
    if not executed or executed[-1].heads != frozenset(place.rows):
        raise project.not_reached(place, goal)
    return Result("downgraded")


def stamp(job: Job, targets: tuple[str, ...]) -> Result:
    """Set the version without running anything."""
    project = Project(job, writes=True)
    project.wait_and_look(targets, creates=True)
    place, history = project.place, project.history
    project.require_known(place)
    goal = history.resolve(targets, place.current)
    project.report_plan(place, place.current, goal, [])
    guards.require_room(place, goal)

    with my_turn(project, lambda *_: False) as turn:
        assert turn is not None
        unfinished.tell(project, turn)
        mark(project, turn, lambda _, here, heads: here.stamp_steps(goal or ("base",), heads), goal, targets)
    return Result("stamped")


def unlock(job: Job, *, sure: bool) -> Result:
    """Free a lock whose holder is proven to be gone; refuse a live one."""
    project = Project(job, writes=True)
    project.wait_and_look(("heads",))
    free(project, sure=sure)
    return Result("unlocked")


def wait_for_connection(job: Job) -> Result:
    """Return once ``env.py`` can log in, which is the only one that knows where."""
    Project(job).wait_and_look(("heads",))
    return Result("ready")


def wait_for_target(job: Job, targets: tuple[str, ...]) -> Result:
    """Return once the databases hold the target, committed."""
    project = Project(job)
    project.wait_and_look(targets)

    started, limit_s = time.monotonic(), job.settings.target_timeout.total_seconds()
    next_report_s, heartbeat_s = 0.0, job.settings.heartbeat.total_seconds()
    refused = Refused(job.patience.refused_s)
    while True:
        waited_s = time.monotonic() - started
        there = True
        for place in project.places:
            project.locate(place, targets, at=place.rows)
            there = there and project.arrived(place, place.rows)
        if there or waited_s >= next_report_s:
            next_report_s = waited_s + heartbeat_s
            for place in project.places:
                project.report_plan(place, place.rows, place.goal, project.steps(place, place.rows))
        if there:
            unfinished.tell(project)
            return Result("ahead" if project.at_rest == "ahead" else "ready")
        if waited_s >= limit_s:
            late = next(place for place in project.places if not project.arrived(place, place.rows))
            at, missing = listed(late.rows), listed(late.goal)
            which = f"the database of {late.section}" if late.section else "the database"
            raise TargetTimeout(f"After {waited_s:.0f} s {which} is at {at} and does not hold {missing} yet.")
        job.stop.sleep(min(random.uniform(*_POLL_S), limit_s - waited_s))  # noqa: S311
        try:
            project.look_again(targets)
            refused.no_more()
        except DatabaseUnreachable:  # it may be back at the next try
            if waited_s >= limit_s:
                raise
        except (LoginRefused, DatabaseMissing):
            if waited_s >= limit_s or not refused.bearable():
                raise
