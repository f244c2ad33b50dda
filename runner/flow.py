"""The story of a run, from top to bottom: wait, look, lock, upgrade, verify, report."""

from __future__ import annotations

import random
import time

from .errors import DatabaseUnreachable, TargetInvalid, TargetTimeout
from .events import listed
from .job import Job, Result
from .project import Project

_POLL_S = (1.0, 3.0)


def upgrade(job: Job, targets: tuple[str, ...]) -> Result:
    """Bring the database to the target, if it is not there yet."""
    project = Project(job)
    history = project.history
    job.wait_for_login(writable=True)

    current = project.look(targets, creates=True)
    history.require_known(current)
    goal = history.resolve(targets, current)
    plan = project.report_plan(current, goal, history.upgrade_steps(goal, current))
    if plan.arrived and history.holds(project.rows, goal):  # the common deploy: nothing to do, no lock taken
        return Result("up_to_date")

    with project.my_turn(arrived=lambda rows: history.holds(rows, goal)) as session:
        if session is None:  # another run did the work while we waited
            project.read()
            return Result("up_to_date")
        project.run(session, lambda here, heads: here.upgrade_steps(goal, heads), targets)
    if not history.holds(project.rows, goal):  # read back, not assumed
        raise project.not_reached(goal)
    return Result("upgraded")


def downgrade(job: Job, target: str, *, sure: bool) -> Result:
    """The same machinery, downwards."""
    if not sure:
        raise TargetInvalid(
            "A downgrade may destroy data, so it needs --yes.", hint=f"alembic-job downgrade {target} --yes"
        )
    project = Project(job)
    history = project.history
    job.wait_for_login(writable=True)

    current = project.look((target,))
    history.require_known(current)
    steps = history.downgrade_steps(target, current)
    goal = history.resolve_downgrade(target, current)
    project.report_plan(current, goal, steps)
    if not steps:
        return Result("up_to_date")

    with project.my_turn(arrived=lambda rows: set(rows) != set(current)) as session:
        if session is None:  # and a relative target would mean something else by now
            raise TargetInvalid(
                "Another run moved the database meanwhile.",
                hint="Look with 'alembic-job status', then repeat.",
            )
        recording = project.run(session, lambda here, heads: here.downgrade_steps(target, heads), (target,))
    if not recording.executed or recording.executed[-1].heads != frozenset(project.rows):
        raise project.not_reached(goal)
    return Result("downgraded")


def stamp(job: Job, targets: tuple[str, ...]) -> Result:
    """Set the version without running anything."""
    project = Project(job)
    history = project.history
    job.wait_for_login(writable=True)

    current = project.look(targets, creates=True)
    history.require_known(current)
    goal = history.resolve(targets, current)
    project.report_plan(current, goal, [])

    with project.my_turn(arrived=lambda _: False) as session:
        assert session is not None
        project.run(session, lambda here, heads: here.stamp_steps(goal or ("base",), heads), targets)
    if not (history.holds(project.rows, goal) if goal else not project.rows):
        raise project.not_reached(goal)
    return Result("stamped")


def wait_for_target(job: Job, targets: tuple[str, ...]) -> Result:
    """Return once the database holds the target, committed."""
    project = Project(job)
    history = project.history
    job.wait_for_login(writable=False)
    project.look(targets)

    started, limit_s = time.monotonic(), job.settings.target_timeout.total_seconds()
    next_report_s, heartbeat_s = 0.0, job.settings.heartbeat.total_seconds()
    while True:
        history.require_known(project.rows)
        goal = history.resolve(targets, project.rows)
        there = history.holds(project.rows, goal)
        waited_s = time.monotonic() - started
        if there or waited_s >= next_report_s:
            next_report_s = waited_s + heartbeat_s
            project.report_plan(project.rows, goal, history.upgrade_steps(goal, project.rows))
        if there:
            return Result("ready")
        if waited_s >= limit_s:
            at, missing = listed(project.rows), listed(goal)
            raise TargetTimeout(f"After {waited_s:.0f} s the database is at {at} and does not hold {missing} yet.")
        job.stop.sleep(min(random.uniform(*_POLL_S), limit_s - waited_s))  # noqa: S311
        try:
            project.look_again(targets)
        except DatabaseUnreachable:  # it may be back at the next try
            if waited_s >= limit_s:
                raise
