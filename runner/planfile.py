"""A plan as a file: written for review, and held against files and databases before it is applied.

It names no server, user or database, so that the two stages of a pipeline may come by different ways.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alembic.runtime.migration import RevisionStep
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import ConfigInvalid, PlanStale, RunnerError
from .events import listed
from .history import History
from .ledger import fingerprint
from .model import Plan, Revision, Rows
from .place import Place

FORMAT = 1
_AGAIN = "Plan again, review it, and apply that: "
_SHOWN = 12  # characters of a SHA-256


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedFile(_Part):
    """A file as it was."""

    path: str
    sha256: str | None


class PlannedRevision(_Part):
    """A revision that is to be run."""

    revision: str
    summary: str
    path: str
    sha256: str | None

    @classmethod
    def of(cls, revision: Revision) -> PlannedRevision:
        """With its file as it is now."""
        return cls(
            revision=revision.revision,
            summary=revision.summary,
            path=revision.path,
            sha256=fingerprint(revision.path),
        )


class PlannedDatabase(_Part):
    """Where a database is, and what is to be run there, in order. ``goal``: what the target names."""

    section: str | None
    dialect: str
    version_table: str
    version_table_schema: str | None
    state: str
    current: tuple[str, ...]
    goal: tuple[str, ...]
    pending: tuple[PlannedRevision, ...]

    @classmethod
    def of(cls, place: Place, plan: Plan) -> PlannedDatabase:
        """A plan that was just made."""
        return cls(
            section=place.section,
            dialect=place.dialect.NAME,
            version_table=place.table.name,
            version_table_schema=place.schema,
            state=plan.state,
            current=plan.current,
            goal=plan.target,
            pending=tuple(map(PlannedRevision.of, plan.pending)),
        )

    def in_order(self, steps: Sequence[RevisionStep]) -> list[RevisionStep]:
        """In the order of the plan: from half-way Alembic may choose another one."""
        order = {one.revision: position for position, one in enumerate(self.pending)}
        return sorted(steps, key=lambda step: order[step.revision.revision])

    def fits(self, history: History, rows: Rows) -> bool:
        """Whether a database at these rows is where the plan begins, where it leads to, or on the way."""
        heads = set(self.current)
        if set(rows) == heads:
            return True
        for one in self.pending:
            heads = heads - set(history.follows(one.revision)) | {one.revision}
            if set(rows) == heads:
                return True
        return history.holds(rows, self.goal)

    def changed(self, target: Sequence[str], place: Place, history: History) -> Iterator[str]:
        """What would be done otherwise with the files of this image, in words."""
        for what, planned, now in (
            ("database", self.dialect, place.dialect.NAME),
            (
                "version table",
                _table(self.version_table, self.version_table_schema),
                _table(place.table.name, place.schema),
            ),
        ):
            if planned != now:
                yield f"it is for the {what} {planned}, and this is {now}"
        if unknown := history.known(self.current)[1]:
            if self.pending:
                yield f"it begins at {listed(unknown)}, which is not among the revisions of this image"
            return
        try:
            goal = history.resolve(target, self.current)
            steps = history.upgrade_steps(goal, self.current)
        except RunnerError as error:
            yield str(error).rstrip(".")
            return
        if set(goal) != set(self.goal):
            yield f"{' '.join(target)} was {listed(self.goal)}, and is {listed(goal)} in this image"
        planned_files = {one.revision: one for one in self.pending}
        files = {step.revision.revision: PlannedRevision.of(history.describe(step.revision)) for step in steps}
        if added := [one for one in files if one not in planned_files]:
            yield f"this image would also run {listed(added)}"
        if gone := [one for one in planned_files if one not in files]:
            yield f"this image would not run {listed(gone)}"
        for revision, file in files.items():
            if revision in planned_files and file.sha256 != planned_files[revision].sha256:
                yield _edited(file.path, planned_files[revision].sha256, file.sha256)


class PlanFile(_Part):
    """The whole document. ``target``: as it was asked for."""

    target: tuple[str, ...]
    env: PlannedFile
    databases: tuple[PlannedDatabase, ...]

    @property
    def digest(self) -> str:
        """Of all that is in it, however it is laid out."""
        return _digest(self._content)

    @property
    def _content(self) -> dict[str, Any]:
        return {"format": FORMAT, **self.model_dump(mode="json")}

    @property
    def text(self) -> str:
        """As it is written: the same for the same plan."""
        content = self._content
        whole = {"format": content.pop("format"), "digest": self.digest, **content}
        return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"

    def of(self, place: Place) -> PlannedDatabase:
        """The plan of one database, of those that ``stale`` has nothing against."""
        return next(one for one in self.databases if one.section == place.section)

    def stale(self, path: str, places: Sequence[Place], place: Place, history: History, rows: Rows) -> PlanStale | None:
        """Why it may not be followed at this place, if it may not. ``path``: of its file.

        Rows that this image does not know are not judged here: the database may be ahead.
        """
        sections, planned = [place.section for place in places], [one.section for one in self.databases]
        changed = []
        if set(sections) != set(planned):
            changed = [f"it is for {_databases(planned)}, and env.py migrates {_databases(sections)}"]
        else:
            env = env_file(history)
            if env.sha256 != self.env.sha256:
                changed.append(_edited(env.path, self.env.sha256, env.sha256))
            one = self.of(place)
            changed += one.changed(self.target, place, history)
            if not changed and not history.known(rows)[1] and not one.fits(history, rows):
                way = f"from {listed(one.current, 'an empty version table')} to {listed(one.goal)}"
                changed.append(f"{place.name} is at {listed(rows)}, and it leads {way}")
        if not changed:
            return None
        more = f"; and {len(changed) - 3} more" if changed[3:] else ""
        target = "" if self.target == ("heads",) else f"{shlex.join(self.target)} "
        return PlanStale(
            f"The plan {path} does not fit any more: {'; '.join(changed[:3])}{more}.",
            hint=f"{_AGAIN}alembic-job plan {target}--out {shlex.quote(path)}",
        )


def made(places: Sequence[Place], plans: Sequence[Plan], history: History, target: Sequence[str]) -> PlanFile:
    """The document of plans that were just made."""
    databases = tuple(map(PlannedDatabase.of, places, plans))
    return PlanFile(target=tuple(target), env=env_file(history), databases=databases)


def env_file(history: History) -> PlannedFile:
    """``env.py`` as it is now."""
    path = history.script.env_py_location
    return PlannedFile(path=os.path.relpath(path), sha256=fingerprint(path))


def write(plan: PlanFile, path: str) -> None:
    """As a whole or not at all. Raises ConfigInvalid."""
    try:
        there = Path(os.path.realpath(path))  # a link stays one
        if Path(path).exists() and not Path(path).is_file():  # a rename would take the place of a device
            raise ConfigInvalid(f"The plan cannot be written to {path}: it is no file.", hint=_WRITABLE)
        beside = there.with_name(f".{there.name}.{secrets.token_hex(4)}")
        try:
            with beside.open("x", encoding="utf-8") as file:
                file.write(plan.text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(there)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigInvalid(f"The plan cannot be written to {path}: {error.strerror}.", hint=_WRITABLE) from error


def read(path: str) -> PlanFile:
    """Raises ConfigInvalid for what ``write`` did not write."""
    again = f"Make it anew: alembic-job plan --out {shlex.quote(path)}"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"The plan {path} cannot be read: {error.strerror}.", hint=again) from error
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"The plan {path} is no JSON: {error}.", hint=again) from error
    number = content.get("format") if isinstance(content, dict) else None
    if type(number) is not int or number < 1:
        raise ConfigInvalid(f"{path} is no plan of alembic-job.", hint=again)
    if number > FORMAT:
        raise ConfigInvalid(
            f"The plan {path} is of format {number}, from a newer alembic-job; this one knows {FORMAT}.",
            hint="Apply it with the alembic-job that made it; or make it anew with this one.",
        )
    said = content.pop("digest", None)
    if said != _digest(content):
        raise ConfigInvalid(
            f"The plan {path} was changed after it was written: it says {said}, and its content is {_digest(content)}.",
            hint=again,
        )
    del content["format"]
    try:
        return PlanFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigInvalid(f"{path} is no plan of alembic-job: {where}: {first['msg']}.", hint=again) from error


_WRITABLE = "Name a file in a directory that is there and may be written: alembic-job plan --out FILE"


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _edited(path: str, planned: str | None, now: str | None) -> str:
    shown = [f"{one[:_SHOWN]}…" if one else "not to be read" for one in (planned, now)]
    return f"{path} was edited: its SHA-256 was {shown[0]}, and is {shown[1]}"


def _table(name: str, schema: str | None) -> str:
    return f"{schema}.{name}" if schema else name


def _databases(sections: Sequence[str | None]) -> str:
    return listed(sorted(one or "one database" for one in sections))
