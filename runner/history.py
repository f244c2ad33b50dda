"""The revision files: loading them, and planning over them with Alembic's own rules."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from alembic.config import Config
from alembic.runtime.migration import RevisionStep, StampStep
from alembic.script import ScriptDirectory
from alembic.script import revision as graph
from alembic.util import CommandError

from .errors import ConfigInvalid, HistoryInvalid, MultipleHeads, RunnerError, TargetInvalid
from .events import counted, listed
from .model import Revision
from .settings import Settings, url_problem

_PLACEHOLDER = "driver://"  # what "alembic init" writes
_PYPROJECT = "pyproject.toml"
_NOT_THAT_MANY = "there are not that many revisions in this direction"
_PLAINER = (
    ("Ambiguous", "more than one branch goes on from there, so name one, as in BRANCH@+1"),
    ("didn't produce", _NOT_THAT_MANY),
    ("Walked too far", _NOT_THAT_MANY),
    ("AssertionError", "nothing of this image or database fits it"),
    ("has no attribute", _NOT_THAT_MANY),
)
_CONTRADICTIONS = ("is present more than once", "is not present", "already used by")


def load_config(settings: Settings, url: str | None) -> Config:
    """The Alembic configuration, with the URL of the settings put into it. Raises ConfigInvalid."""
    path = _config_path(settings)
    arguments: dict[str, Any] = {"ini_section": settings.section}
    reads_toml = "toml_file" in inspect.signature(Config.__init__).parameters
    if path and path.suffix == ".toml":
        if not reads_toml:
            raise ConfigInvalid(
                f"{path} is the only configuration, and this Alembic does not read it.",
                hint="Install alembic>=1.16, or add an alembic.ini.",
            )
        arguments["toml_file"] = str(path)
    elif path:
        arguments["file_"] = str(path)
        if reads_toml and Path(_PYPROJECT).is_file():  # beside it, as Alembic does: its template has both
            arguments["toml_file"] = _PYPROJECT
    config = Config(**arguments)
    config.stdout = sys.stdout  # the default is what it was when Alembic was imported
    config.cmd_opts = argparse.Namespace(x=list(settings.x) or None, config=str(path or ""), name=settings.section)
    try:
        if settings.script_location:
            config.set_main_option("script_location", _escaped(settings.script_location))
        if url:
            config.set_main_option("sqlalchemy.url", _escaped(url))
        location = config.get_main_option("script_location")  # reads the file
        if not location and path and path.with_name("env.py").is_file():  # Flask-Migrate's says it elsewhere
            config.set_main_option("script_location", _escaped(str(path.parent)))
        getattr(config, "toml_alembic_config", None)  # and the other, since Alembic 1.16
    except Exception as error:
        raise ConfigInvalid(f"{path} cannot be read: {first_line(error)}.") from error
    return config


def _config_path(settings: Settings) -> Path | None:
    if settings.config:
        path = Path(settings.config)
        if not path.is_file():
            raise ConfigInvalid(
                f"There is no Alembic configuration at {path.absolute()}.",
                hint="Correct ALEMBIC_JOB_CONFIG, or mount the project there.",
            )
        return path
    for name in ("alembic.ini", _PYPROJECT, "migrations/alembic.ini"):  # the last is Flask-Migrate's
        path = Path(name)
        if path.is_file() and (path.suffix != ".toml" or "[tool.alembic" in path.read_text(errors="replace")):
            return path
    if settings.script_location:
        return None
    raise ConfigInvalid(
        f"There is no alembic.ini, migrations/alembic.ini or pyproject.toml with [tool.alembic] in {Path.cwd()}.",
        hint="Run in the project's directory, or set ALEMBIC_JOB_CONFIG or ALEMBIC_JOB_SCRIPT_LOCATION.",
    )


def _escaped(text: str) -> str:
    return text.replace("%", "%%")  # ConfigParser interpolates


def configured_url(config: Config) -> str | None:
    """``sqlalchemy.url`` of the file; None without one, and for what ``alembic init`` writes there."""
    try:
        url = config.get_main_option("sqlalchemy.url")
    except Exception:  # an interpolation, say, that env.py replaces before anything reads it
        return None
    return None if not url or url.startswith(_PLACEHOLDER) else url


@dataclass(frozen=True)
class UrlMistake:
    """What is wrong with ``sqlalchemy.url`` of the file, for when ``env.py`` failed and may have used it."""

    url: str | None
    error: ConfigInvalid


def url_mistake(config: Config) -> UrlMistake | None:
    """The mistake in ``sqlalchemy.url`` of the file; None when it can be used."""
    try:
        url = config.get_main_option("sqlalchemy.url")
    except Exception as error:
        said = f"sqlalchemy.url of the configuration cannot be read: {first_line(error)}."
        return UrlMistake(None, ConfigInvalid(said))
    if not url or url.startswith(_PLACEHOLDER):
        hint = (
            "Set ALEMBIC_JOB_DATABASE_URL, or ALEMBIC_JOB_DB_HOST and the other parts, or sqlalchemy.url in the"
            " Alembic configuration."
        )
        why = f": sqlalchemy.url is still the '{_PLACEHOLDER}' that 'alembic init' writes" if url else ""
        return UrlMistake(url, ConfigInvalid(f"No database is configured{why}.", hint=hint))
    problem = url_problem(url)
    if problem is None:
        return None
    return UrlMistake(url, ConfigInvalid(f"sqlalchemy.url of the configuration: {problem[0]}.", hint=problem[1]))


def load_script(config: Config) -> ScriptDirectory:
    """Where the project's ``env.py`` and revisions are, none of them read yet. Raises ConfigInvalid."""
    try:
        return ScriptDirectory.from_config(config)
    except Exception as error:
        said = first_line(error).partition("  Please ")[0].rstrip(".")  # … use the 'init' command
        raise ConfigInvalid(
            f"The Alembic configuration, section [{config.config_ini_section}]: {said}.",
            hint=f"Correct script_location in the Alembic configuration, section [{config.config_ini_section}],"
            " or set ALEMBIC_JOB_SCRIPT_LOCATION.",
        ) from error


class History:
    """The revisions of this image, and what they mean for a database at given heads."""

    def __init__(self, script: ScriptDirectory) -> None:
        self.script = script

    @classmethod
    def load(cls, script: ScriptDirectory) -> History:
        """Read all revision files. Raises ConfigInvalid, HistoryInvalid.

        ``env.py`` may say where they are, and prepare what they import; so, as Alembic does, in there.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            try:
                script.get_bases()
            except graph.RevisionError as error:
                raise HistoryInvalid(f"{first_line(error)}.") from error
            except KeyError as error:
                missing = f"Revision {error.args[0]} is referred to and has no file"
                told = (str(w.message) for w in caught if _CONTRADICTIONS[1] in str(w.message))
                raise HistoryInvalid(f"{next(told, missing)}.") from error
            except CommandError as error:
                cause = error.__cause__
                kind = HistoryInvalid if isinstance(cause, graph.RevisionError) else ConfigInvalid
                raise kind(f"{first_line(error)}.") from error
            except Exception as error:
                raise ConfigInvalid(
                    f"A revision file cannot be loaded: {located(error)}.",
                    hint="Correct the file.",
                ) from error
        for warning in caught:
            if any(words in str(warning.message) for words in _CONTRADICTIONS):
                raise HistoryInvalid(f"{warning.message}{_files(script, str(warning.message))}.")
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return cls(script)

    @property
    def count(self) -> int:
        """How many revisions this image holds."""
        return sum(1 for _ in self.script.walk_revisions())

    def all(self) -> list[Revision]:
        """Every revision, parents first."""
        return [self.describe(script) for script in reversed(list(self.script.walk_revisions()))]

    def heads(self) -> list[Revision]:
        """The revisions that no other follows."""
        return [self.describe(self.script.get_revision(head)) for head in sorted(self.script.get_heads())]

    def stored_heads(self) -> tuple[str, ...]:
        """The rows of the version table when everything is applied: a head that another depends on is implied."""
        return tuple(sorted(self.script.revision_map._real_heads))

    def describe(self, script: Any) -> Revision:
        """A revision file as a value."""
        try:
            path = os.path.relpath(script.path)
        except ValueError:  # another drive
            path = script.path
        return Revision(
            revision=script.revision,
            parents=_tuple(script.down_revision),
            summary=" ".join((script.doc or "").split()),
            path=path,
            depends_on=_tuple(script.dependencies),
            branch_labels=tuple(sorted(script.branch_labels or ())),
            is_head=script.is_head,
        )

    def known(self, revisions: Sequence[str]) -> tuple[list[Revision], list[str]]:
        """The revisions that this image holds, and those that it does not."""
        held, missing = [], []
        for revision in revisions:
            script = self.script.revision_map._revision_map.get(revision)
            if script is None:
                missing.append(revision)
            else:
                held.append(self.describe(script))
        return held, missing

    def resolve(self, targets: Sequence[str], current: Sequence[str]) -> tuple[str, ...]:
        """The revisions that a target names, in Alembic's whole syntax, seen from ``current``."""
        found: list[str] = []
        for target in targets:
            with self.errors(target):
                parsed: Any = self.script.revision_map._parse_upgrade_target(
                    current_revisions=tuple(current), target=target, assert_relative_length=True
                )
                if None in parsed:  # a walk over the end, which would otherwise mean the base
                    raise graph.RevisionError("Walked too far")
                found += sorted({script.revision for script in parsed} - set(found))
        return self.without_implied(found)

    def without_implied(self, revisions: Sequence[str]) -> tuple[str, ...]:
        """Leave out what another of these revisions contains: Alembic refuses such targets, or stamps them all."""
        revision_map = self.script.revision_map
        contained = {
            ancestor.revision
            for revision in (revisions if len(revisions) > 1 else ())
            for ancestor in revision_map._get_ancestor_nodes([revision_map.get_revision(revision)])
            if ancestor.revision != revision
        }
        return tuple(revision for revision in revisions if revision not in contained)

    def contained(self, rows: Sequence[str]) -> frozenset[str]:
        """The revisions of this image that a database at these rows has applied."""
        left, found = list(rows), set[str]()
        while left:
            one = left.pop()
            if one not in found and not self.known((one,))[1]:
                found.add(one)
                left += self.follows(one)
        return frozenset(found)

    def follows(self, revision: str) -> tuple[str, ...]:
        """What has to be applied before this revision: its parents, and what it depends on."""
        return tuple(self.script.revision_map._revision_map[revision]._all_down_revisions)  # type: ignore[union-attr]

    def upgrade_steps(self, resolved: Sequence[str], current: Sequence[str]) -> list[RevisionStep]:
        """Alembic's own plan from ``current`` to revisions that ``resolve`` named."""
        if not resolved:
            return []
        with self.errors(" ".join(resolved)):
            return list(self.script._upgrade_revs(tuple(resolved), self.without_implied(current)))  # type: ignore[arg-type]

    def holds(self, current: Sequence[str], resolved: Sequence[str]) -> bool:
        """Whether a database at ``current`` has these revisions applied."""
        if self.known(current)[1]:
            return False
        with self.errors(" ".join(resolved)):  # without making steps of them, which need functions to run
            missing = self.script.iterate_revisions(tuple(resolved), self.without_implied(current), implicit_base=True)
            return not resolved or next(iter(missing), None) is None

    def resolve_downgrade(self, target: str, current: Sequence[str]) -> tuple[str, ...]:
        """The revision that a downgrade leads to; none for the base."""
        with self.errors(target):
            _, found = self.script.revision_map._parse_downgrade_target(
                current_revisions=tuple(current), target=target, assert_relative_length=True
            )
        return (found.revision,) if isinstance(found, graph.Revision) else ()

    @staticmethod
    def fixed(target: str, goal: Sequence[str]) -> str:
        """A target of a downgrade that means the same wherever the database is: ``-2`` as the revision it leads to."""
        relative = re.fullmatch(r"(?:(.+)@)?-\d+", target)
        if not relative:
            return target
        return goal[0] if goal else f"{relative[1]}@base" if relative[1] else "base"

    def downgrade_steps(self, target: str, current: Sequence[str]) -> list[RevisionStep]:
        """Alembic's own plan downwards. It would choose a head by chance for -1; a downgrade is no place for that."""
        if len(current) > 1 and re.fullmatch(r"-\d+", target):
            raise TargetInvalid(
                f"The target '{target}' is ambiguous: the database is at {listed(tuple(current))}.",
                hint=f"Name the revision to go down to, or the branch: BRANCH@{target}.",
            )
        with self.errors(target):
            return list(self.script._downgrade_revs(target, tuple(current)))  # type: ignore[arg-type]

    def stamp_steps(self, targets: Sequence[str], current: Sequence[str]) -> list[StampStep]:
        """Alembic's own plan to move the version without running anything."""
        kept = self.without_implied(current)
        with self.errors(" ".join(targets)):
            stamped = list(self.script._stamp_revs(tuple(targets), kept))
        # What another row contains should not be there, and Alembic would leave it.
        too_many = [StampStep(row, None, False, True, self.script.revision_map) for row in self.implied(current)]
        return [*too_many, *stamped]

    def implied(self, current: Sequence[str]) -> tuple[str, ...]:
        """The rows of a version table that others of them contain: Alembic writes none."""
        return tuple(sorted(set(current) - set(self.without_implied(current))))

    def _branch_point(self, heads: Sequence[str]) -> str | None:
        """The newest revision that all of these contain."""
        revision_map = self.script.revision_map
        contained = [
            {one.revision for one in revision_map._get_ancestor_nodes([revision_map.get_revision(head)])}
            for head in heads
        ]
        common = set.intersection(*contained)
        return next((one.revision for one in self.script.walk_revisions() if one.revision in common), None)

    def parted(self) -> MultipleHeads | None:
        """The error for branches that nobody named, which most likely nobody wanted either."""
        unnamed = [head.revision for head in self.heads() if not head.branch_labels]
        return self._ambiguous("head", unnamed) if len(unnamed) > 1 and self._branch_point(unnamed) else None

    def _ambiguous(self, target: str, heads: Sequence[str]) -> MultipleHeads:
        fork = self._branch_point(heads)
        parted = f" They parted at {fork}." if fork else " They have nothing in common."
        return MultipleHeads(
            f"'{target}' is ambiguous: it names {len(heads)} heads, {listed(tuple(heads))}.{parted}",
            hint="Use the target 'heads' to go to all of them, or join them:"
            f" alembic-job merge -m merge {' '.join(heads)}",
        )

    @contextmanager
    def errors(self, target: str) -> Iterator[None]:
        """In here Alembic's complaints about a target come out as the contract names them."""
        try:
            yield
        except (CommandError, graph.RevisionError, AssertionError, AttributeError) as error:
            # The last two are how Alembic's parser fails at "", "branch@-1" without that branch, "rev-9".
            raise self.explained(error, target) from error

    def explained(self, error: Exception, target: str) -> RunnerError:
        """What Alembic said of a target, with the facts of this image."""
        if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
            return ConfigInvalid(
                f"{_shown(error.obj.__file__ or '?')} has no function {error.name}().",
                hint=f"Add it to the file, 'def {error.name}(): pass' if there is nothing to do.",
                revision=getattr(error.obj, "revision", None),
            )
        cause = error.__cause__ if isinstance(error, CommandError) else error
        heads = [head.revision for head in self.heads()]
        if isinstance(cause, graph.MultipleHeads):
            return self._ambiguous(target, sorted(cause.heads))  # all of the image, or those of a branch
        if isinstance(cause, graph.ResolutionError) and "Multiple" not in str(cause):
            ids = [script.revision for script in self.script.walk_revisions()]
            labels = {label for script in self.script.walk_revisions() for label in script.branch_labels}
            near = difflib.get_close_matches(target, [*ids, *labels], 1, 0.5)
            meant = f" Did you mean {near[0]}?" if near else ""
            return TargetInvalid(
                f"The target '{target}' is not among the {counted(len(ids))} of this image (head:"
                f" {listed(heads, 'none')}).{meant}"
            )
        text = first_line(error)
        said = next((plain for words, plain in _PLAINER if words in text), text)
        return TargetInvalid(f"The target '{target}' cannot be used: {said}.")


def _files(script: ScriptDirectory, said: str) -> str:
    """The files of a revision that is there twice: Alembic names the revision alone."""
    twice = re.match(r"Revision (\S+) is present more than once", said)
    paths = [_shown(one.path) for one in script._load_revisions() if one.revision == twice[1]] if twice else []
    return f": {', '.join(sorted(paths))}" if paths else ""


def located(error: BaseException) -> str:
    """``ValueError: text (migrations/env.py, line 12)``: the last place in files that are not a library's."""
    said = f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({_shown(error.filename or '?')}, line {error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename
        and "<" not in frame.filename
        and Path(frame.filename).parent != Path(__file__).parent
        and not frame.filename.startswith(_STANDARD_LIBRARY)
    ]
    return f"{said} ({_shown(frames[-1].filename)}, line {frames[-1].lineno})" if frames else said


_STANDARD_LIBRARY = os.path.dirname(traceback.__file__) + os.sep  # noqa: PTH120


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def first_line(error: BaseException) -> str:
    """What an error says, without what follows for developers."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _tuple(value: Any) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
