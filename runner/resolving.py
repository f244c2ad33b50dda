"""``resolve``: a person settles a revision that a run left half done, and says why."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from alembic.runtime.migration import RevisionStep

from . import unfinished
from .database import Session
from .errors import TargetInvalid
from .events import listed, numbered
from .halves import Half, forget, remains, unseen
from .history import History
from .job import Job, Result
from .model import Revision, Rows
from .pen import Pen
from .place import Place
from .project import Project
from .running import journals, my_turn, run


def resolve(job: Job, target: str, *, applied: bool, reason: str) -> Result:
    """Take a revision for complete, or for gone: the version table comes to say so, and the ledger says who did.

    Nothing of the revision is run. Raises TargetInvalid for what the version table cannot say.
    """
    job.reason = job.masked(reason)
    project = Project(job, writes=True)
    project.wait_and_look((target,))
    place = project.place
    with my_turn(project, lambda *_: False) as turn:
        assert turn is not None
        unfinished.read(project, turn)
        halves = {half.revision: half for half in project.halves(place)}
        revision = _named(project, target, halves)
        half = halves.get(revision.revision)
        there = project.contains(place.rows, revision.revision)
        state = f"{revision.revision} is {'' if applied else 'not '}applied"
        if there == applied and half is None:
            return Result("resolved", hint=f"There was nothing to settle: {state}.", revision=revision.revision)
        doubt = _doubt(turn[place].session, half, applied=applied) if half else ""
        if there == applied:
            assert half
            if journal := journals(project, turn).get(place):  # the ledger may be out of order
                journal.begins(revision, half.direction, None)
                journal.ended(revision.revision, "committed" if applied else "rolled_back")
                journal.flush()
        else:
            steps_from = functools.partial(_step, project, revision, half, applied=applied)
            place.halves = {}  # so that nothing of it is expected to be sent
            run(project, turn, steps_from, (target,))
            if project.contains(place.rows, revision.revision) != applied:
                raise project.not_reached(place, (revision.revision,))
        if half:
            assert place.database
            forget(Pen(place.database, turn[place].session), place.table, [revision.revision])
    record = " 'alembic-job runs' has the record." if journals(project, turn) else ""
    return Result("resolved", hint=f"Settled: {state}.{doubt}{record}", revision=revision.revision)


def _doubt(session: Session, half: Half, *, applied: bool) -> str:
    """What speaks against the person's word; it is taken all the same."""
    if applied:
        missing = numbered(unseen(session, half))
        return f" But nothing is to be seen of {missing}." if missing else ""
    left = remains(session, half)
    return f" But not as before it: {listed(left)}. Look whether the next run may find that." if left else ""


def _named(project: Project, target: str, halves: Mapping[str, Half]) -> Revision:
    """The revision; one that was left half done need not be in this image."""
    name = target
    if target not in halves:
        found = project.history.resolve((target,), project.place.rows)
        if len(found) != 1:
            raise TargetInvalid(f"'{target}' names {listed(found, 'no revision')}, and one is settled at a time.")
        name = found[0]
    known = project.history.known([name])[0]
    return known[0] if known else Revision(name, (), "", "")


def _step(
    project: Project, revision: Revision, half: Half | None, place: Place, here: History, heads: Rows, *, applied: bool
) -> Sequence[RevisionStep]:
    """The one step that moves the version row over this revision, and runs nothing."""
    name = revision.revision
    if applied:
        project.require_known(place)
        steps = here.upgrade_steps((name,), heads)
        before = [step.revision.revision for step in steps[:-1]]
        if before:
            raise TargetInvalid(
                f"{name} cannot be marked as applied: {listed(before)} comes before it, and is not applied.",
                hint="Settle or upgrade to that first.",
            )
    else:
        if half is None or half.direction != "downgrade" or name not in heads:
            raise TargetInvalid(
                f"{name} is applied, and no downgrade of it was left half done.",
                hint=f"To undo it: alembic-job downgrade {name}-1 --yes",
            )
        steps = [step for step in here.downgrade_steps("base", heads) if step.revision.revision == name]
    return [_still(step) for step in steps[-1:]]


def _still(step: RevisionStep) -> RevisionStep:
    @functools.wraps(step.migration_fn)
    def nothing(*_: Any, **__: Any) -> None:
        """In place of the revision's own code."""

    step.migration_fn = nothing
    return step
