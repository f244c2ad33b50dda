"""``doctor``: every check on demand. Nothing is changed, and one finding does not hide the others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType

from . import diagnosis, guards, unfinished
from .errors import ConfigInvalid, Findings, RevisionPartial, RunnerError
from .events import CheckPassed, Emit, Finding, counted, listed
from .job import Job, Result
from .place import Place
from .project import Project


def examine(job: Job, targets: Sequence[str]) -> Result:
    """Look at settings, configuration, database and ``env.py``, revision files, version table and tables.

    Raises Findings when anything is wrong; each has come as an event by then.
    """
    found: list[str] = []
    with _Check("settings", job.emit, found) as settings:
        for doubt in job.loaded.doubts:
            settings.finds(ConfigInvalid(f"{doubt.variable}: {doubt.problem}.", hint=doubt.hint))
        settings.found = f"{counted(len(job.loaded.origin), 'setting')} given"
    with _Check("configuration", job.emit, found) as configuration:
        project = Project(_impatient(job), writes=True)
        configuration.found = f"migrations in {project.environment.script.dir}"
    if configuration.passed:
        _examine(project, targets, found)
    if found:
        raise Findings(f"{counted(len(found), 'finding')}: {' '.join(found)}", hint="Each 'finding' has its remedy.")
    return Result("reported")


def _examine(project: Project, targets: Sequence[str], found: list[str]) -> None:
    emit = project.job.emit
    with _Check("environment", emit, found) as environment:
        project.wait_and_look(targets)
        environment.found = listed([f"env.py connected to {place.name}" for place in project.places])
    with _Check("revisions", emit, found) as revisions:
        revisions.found = f"{counted(project.history.count)}, head {listed(project.history.stored_heads(), 'none')}"
        if error := project.history.parted():
            revisions.finds(error)
        for place in project.places:
            for _, changed in guards.edited(project, place):
                revisions.finds(changed)
    for place in project.places if revisions.passed and environment.passed else ():
        with _Check("version", place.emit, found) as version:
            version.found = f"at {listed(place.rows)}"
            project.locate(place, targets, at=place.rows)
            guards.require_room(place, [revision.revision for revision in project.pending(place)])
        if version.passed:
            with _Check("tables", place.emit, found) as tables:
                tables.found = _tables(project, place)


def _tables(project: Project, place: Place) -> str:
    pending = project.pending(place)
    error: RunnerError | None = guards.unmanaged(project, place)
    for half in project.halves(place):
        steps = {revision.revision for revision in pending}
        why = unfinished.why_not_resumed(project, half, steps)
        if why and steps:
            raise half.unresolved(why)
        raise RevisionPartial(
            half.event(resumed=False).message,
            hint=f"This image has nothing to run, and leaves it. {why}"
            if why
            else "Run 'alembic-job upgrade': it goes on behind them.",
            revision=half.revision,
        )
    if place.rows:
        error = diagnosis.half_done(pending, place.tables)
    if error:
        raise error
    return f"{counted(len(place.others), 'table')}, none of them in the way of {counted(len(pending))} pending"


def _impatient(job: Job) -> Job:
    """A server that is down is a finding; who asks for it does not want to wait for its end."""
    settings = job.settings
    shortest = min(settings.wait_timeout, settings.connect_timeout)
    return Job(
        replace(job.loaded, settings=settings.model_copy(update={"wait_timeout": shortest})), job.channel, job.stop
    )


class _Check(AbstractContextManager["_Check"]):
    """One check: an error of ours within it is a finding, and no error means that it passed."""

    def __init__(self, name: str, emit: Emit, findings: list[str]) -> None:
        self.found = "nothing to complain of"
        self.passed = True
        self._name = name
        self._emit = emit
        self._findings = findings

    def finds(self, error: RunnerError) -> None:
        """Tell of something wrong; the same thing once only, though several checks may meet it."""
        self.passed = False
        if str(error) in self._findings:
            return
        self._findings.append(str(error))
        self._emit(
            Finding(
                check=self._name,
                exit_name=error.exit_code.title,
                error=str(error),
                hint=error.hint,
                code=error.code,
                revision=error.revision,
            )
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Nothing but a stop request and a mistake of our own goes on from here."""
        if isinstance(error, RunnerError):
            self.finds(error)
        elif error is None and self.passed:
            self._emit(CheckPassed(check=self._name, found=self.found))
        return isinstance(error, RunnerError)
