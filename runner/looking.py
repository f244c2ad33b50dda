"""The commands that only look."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from alembic.runtime.migration import MigrationContext, MigrationStep

from . import seam
from .errors import ConfigInvalid, ExitCode
from .events import SqlPlanned
from .history import History, located
from .job import Job, Result
from .project import Project, as_listed

_PIECE = 12 * 1024  # of a line's 15 KiB


def status(job: Job, targets: tuple[str, ...], *, exit_code: bool) -> Result:
    """Current, heads, pending and state; also of a database that this image does not know."""
    project = Project(job)
    job.wait_for_login(writable=False)
    current = project.look(targets)
    if exit_code:
        project.history.require_known(current)
    return _planned(project, targets, current, exit_code=exit_code)


def plan(job: Job, targets: tuple[str, ...], *, exit_code: bool) -> Result:
    """What ``upgrade`` would do, in order."""
    project = Project(job)
    job.wait_for_login(writable=False)
    current = project.look(targets)
    project.history.require_known(current)
    return _planned(project, targets, current, exit_code=exit_code)


def _planned(project: Project, targets: tuple[str, ...], current: tuple[str, ...], *, exit_code: bool) -> Result:
    history = project.history
    known = not history.known(current)[1]
    goal = history.resolve(targets, current) if known else ()
    made = project.report_plan(current, goal, history.upgrade_steps(goal, current))
    return Result("reported", ExitCode.PENDING if exit_code and made.pending else ExitCode.OK)


def current(job: Job) -> Result:
    """The revisions that the database is at."""
    project = Project(job)
    job.wait_for_login(writable=False)
    rows = project.look(("heads",))
    for revision in project.history.known(rows)[0]:
        job.emit(as_listed(revision))
    return _planned(project, ("heads",), rows, exit_code=False)


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
        job.wait_for_login(writable=False)
        at = project.look(targets)
        project.history.require_known(at)
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

    def steps(heads: tuple[str, ...], context: MigrationContext) -> Iterator[MigrationStep]:
        nonlocal writing
        assert context.script is not None
        for step in History(context.script).upgrade_steps(goal, heads):
            say(None)
            writing = step.revision.revision
            yield step
            say(writing)
            writing = None

    if project.history.upgrade_steps(goal, at):
        ended = seam.offline_sql(config, project.history, steps, starting=at, target=goal)
        if writing and ended.error:
            raise ConfigInvalid(
                f"Revision {writing} cannot be written as SQL: {located(ended.error)}.",
                hint="It needs a database to look at, so it has to be run: alembic-job upgrade.",
                revision=writing,
            ) from ended.error
        ended.raise_if_failed(job.database.dialect)
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
