"""What an earlier run left half done, and what a run makes of it: it goes on behind that, or stops."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from alembic.runtime.migration import RevisionStep

from . import diagnosis
from .applying import StepsFrom
from .errors import RevisionUnresolved
from .events import RevisionHalfDone
from .halves import Half, contradicted, forget
from .pen import Pen
from .project import Project, Turn


def require_resumable(project: Project, turn: Turn, steps_from: StepsFrom, direction: str) -> None:
    """Tell of what an earlier run left half done. Raises RevisionUnresolved where this one cannot go on behind it.

    Under the lock: before that, it may be what another run is just about to do.
    """
    read(project, turn)
    for place, held in turn.items():
        plan = steps_from(place, project.history, place.rows)
        steps = {step.revision.revision for step in plan if isinstance(step, RevisionStep)}
        if place.unreadable and steps:
            raise RevisionUnresolved(
                f"{place.unreadable}. Whether an earlier run left a revision half done cannot be told.",
                hint="Repair the table; or drop it, if all revisions are complete.",
            )
        left = project.halves(place)
        settled = place.halves.keys() - {half.revision for half in left}
        place.halves = {half.revision: half for half in left}
        if settled and place.database:
            with suppress(Exception):  # a user who may not delete; it is of no account any more
                forget(Pen(place.database, held.session), place.table, settled)
        for half in left:
            why = contradicted(held.session, half) or why_not_resumed(project, half, steps, direction)
            place.emit(told(project, half, resumed=not why))
            if why and steps:
                raise half.unresolved(why)


def why_not_resumed(project: Project, half: Half, steps: Collection[str], direction: str = "upgrade") -> str | None:
    """Why a run with these steps does not go on behind what was done of a revision; None when it does."""
    if project.job.settings.resume == "off":
        return "ALEMBIC_JOB_RESUME is off: with auto, a run goes on where that is safe."
    if trouble := next((place.ledger.trouble for place in project.places if place.ledger.trouble), None):
        return f"{trouble}."
    return diagnosis.not_resumed(project.history, half, steps, direction)


def read(project: Project, turn: Turn) -> None:
    """Read anew what is recorded of revisions, now that no other run can be within one."""
    for place, held in turn.items():
        place.read_on(held.session)
        place.tables = held.session.tables()
        project.read_halves(place, held.session)


def tell(project: Project, turn: Turn | None = None) -> None:
    """Tell of what an earlier run left half done, and this one does not mind. Without a turn: by the look."""
    if turn:
        read(project, turn)
    for place in project.places:
        for half in project.halves(place):
            place.emit(told(project, half, resumed=False))


def told(project: Project, half: Half, *, resumed: bool) -> RevisionHalfDone:
    """The event for a revision that was left half done, as ``LOG_SQL`` wants it."""
    return half.event(resumed=resumed, sql=project.job.settings.log_sql != "off")


def last_line(project: Project) -> str | None:
    """For a last line: what an earlier run left half done, and what the next upgrade makes of it."""
    said = []
    for place in project.places:
        for half in project.halves(place):
            known = not project.history.known(place.rows)[1]
            pending = {revision.revision for revision in project.pending(place)} if known else set()
            why = why_not_resumed(project, half, pending)
            then = f"stops with 42: {why}" if why else "goes on behind what is there."
            if known and not pending:
                then = f"has nothing to run here, and leaves it. {why or ''}".strip()
            said.append(f"{half.revision} is half done; the next upgrade {then}")
    return " ".join(said) or None
