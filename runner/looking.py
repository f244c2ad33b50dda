"""The commands that only look."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress

from alembic.runtime.migration import MigrationStep

from . import guards, planfile, unfinished
from .errors import ConfigInvalid, ExitCode, RevisionUnknown, TargetInvalid
from .events import LedgerListed, SqlPlanned
from .history import located
from .job import Job, Result
from .ledger import Entry
from .place import Place
from .project import Project, as_listed
from .seam import Reached

_LAST = 5  # rows of the ledger, of which status tells
_PIECE = 12 * 1024  # of a line's 15 KiB


def status(job: Job, targets: tuple[str, ...], *, exit_code: bool) -> Result:
    """Current, heads, pending and state; also of a database that this image does not know."""
    project = Project(job)
    project.wait_and_look(targets)
    for place in project.places:
        for half in project.halves(place):
            place.emit(unfinished.told(project, half, resumed=False))
        for event, _ in guards.edited(project, place):
            place.emit(event)
        for entry in place.ledger.of(place.table)[-_LAST:]:
            place.emit(_listed(entry))
    return _planned(project, targets, exit_code=exit_code, strict=exit_code)


def runs(job: Job, limit: int | None) -> Result:
    """The ledger: who ran what, when, how long, from which image and file; the last ``limit`` rows, oldest first."""
    project = Project(job)
    project.wait_and_look(("heads",))
    for place in project.places:
        entries = place.ledger.of(place.table)
        for entry in entries if limit is None else entries[max(0, len(entries) - limit) :]:
            place.emit(_listed(entry))
    nothing = not any(place.ledger.of(place.table) for place in project.places)
    return Result("reported", hint="The ledger has nothing on this database yet." if nothing else None)


def _listed(entry: Entry) -> LedgerListed:
    return LedgerListed(
        run=entry.run_id,
        command=entry.command,
        direction=entry.direction,
        revision=entry.revision,
        parents=list(entry.parents or ()),
        summary=entry.summary,
        path=entry.path,
        sha256=entry.sha256,
        state=entry.status,
        code=entry.code,
        error=entry.error,
        reason=entry.reason,
        started=entry.started,
        ended=entry.ended,
        duration_s=entry.duration_s,
        image=entry.image,
        pod=entry.pod,
        hostname=entry.hostname,
        user=entry.db_user,
        version=entry.runner_version,
    )


def plan(job: Job, targets: tuple[str, ...], *, exit_code: bool, out: str | None = None) -> Result:
    """What ``upgrade`` would do, in order; also as a file that ``upgrade --plan`` follows."""
    project = Project(job)
    project.wait_and_look(targets)
    return _planned(project, targets, exit_code=exit_code, strict=True, out=out)


def _planned(
    project: Project, targets: tuple[str, ...], *, exit_code: bool, strict: bool = False, out: str | None = None
) -> Result:
    """``strict``: a database that this image does not know is an error, and not something to report."""
    plans = []
    for place in project.places:
        known = strict or not project.history.known(place.current)[1] or _is_ahead(project, place, targets)
        if strict:
            project.locate(place, targets)
        elif known and not place.ahead:
            place.goal = project.history.resolve(targets, place.current)
        goal = place.goal if known else ()
        steps = project.steps(place, place.current) if known else ()
        plans.append(project.plan(place, place.current, goal, steps))
    written = planfile.made(project.places, plans, project.history, targets) if out else None
    if written and out:
        planfile.write(written, out)
    for place, made in zip(project.places, plans, strict=True):
        project.report(place, made, written.digest if written else None)
    pending = any(made.pending for made in plans)
    to_apply = f"To apply this plan, and nothing else: alembic-job upgrade --plan {shlex.quote(out)}" if out else None
    return Result(
        "reported",
        ExitCode.PENDING if exit_code and pending else ExitCode.OK,
        hint=" ".join(filter(None, (unfinished.last_line(project), to_apply))) or None,
    )


def _is_ahead(project: Project, place: Place, targets: tuple[str, ...]) -> bool:
    with suppress(RevisionUnknown, TargetInvalid):
        project.locate(place, targets)
    return place.ahead is not None


def current(job: Job) -> Result:
    """The revisions that the databases are at."""
    project = Project(job)
    project.wait_and_look(("heads",))
    for place in project.places:
        for revision in project.history.known(place.current)[0]:
            place.emit(as_listed(revision))
    return _planned(project, ("heads",), exit_code=False)


def heads(job: Job) -> Result:
    """The revisions that no other follows."""
    for revision in Project(job).history.heads():
        job.emit(as_listed(revision))
    return Result("reported")


def history(job: Job) -> Result:
    """All revisions of this image, parents first."""
    for revision in Project(job).history.all():
        job.emit(as_listed(revision))
    return Result("reported")


def plan_sql(job: Job, targets: tuple[str, ...], start: str | None) -> Result:
    """The SQL that ``upgrade`` would run: from where the database is, or from ``start`` without a database."""
    project = Project(job)
    if start is None:
        project.wait_and_look(targets)
        at = project.place.current
        project.require_sound(project.place)
    else:
        at = project.history.resolve((start,), ())
    goal = project.history.resolve(targets, at)
    config = project.config()
    config.output_buffer = buffer = io.StringIO()

    def say(revision: str | None) -> None:
        for piece in pieces(buffer.getvalue()):
            job.emit(SqlPlanned(revision=revision, sql=piece))
        buffer.seek(0)
        buffer.truncate()

    writing: str | None = None

    def steps(reached: Reached) -> Iterator[MigrationStep]:
        nonlocal writing
        for step in reached.history.upgrade_steps(goal, reached.heads):
            say(None)
            writing = step.revision.revision
            yield step
            say(writing)
            writing = None

    if project.history.upgrade_steps(goal, at):
        ended = project.environment.offline_sql(config, steps, starting=at, target=goal)
        if writing and ended.error:
            raise ConfigInvalid(
                f"Revision {writing} cannot be written as SQL: {located(ended.error)}.",
                hint="It needs a database to look at, so it has to be run: alembic-job upgrade.",
                revision=writing,
            ) from ended.error
        ended.raise_if_failed()
        say(None)
    return Result("reported")


def pieces(sql: str) -> Sequence[str]:
    """The SQL in pieces that fit a line, cut between statements where that is possible."""
    found: list[str] = []
    for part in sql.strip("\n").split("\n\n"):
        if found and len((found[-1] + part).encode()) < _PIECE:
            found[-1] += "\n\n" + part
        else:
            found += [part[start : start + _PIECE // 4] for start in range(0, len(part), _PIECE // 4)]
    return [piece for piece in found if piece.strip()]
