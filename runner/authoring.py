"""Alembic's own commands for those who write revisions, with our settings and our capture.

``init``, ``revision``, ``merge``, ``branches`` and ``show`` take Alembic's own flags, by Alembic's own
parser, and are Alembic's own functions.
"""

from __future__ import annotations

import inspect
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from alembic.config import CommandLine, Config
from alembic.script.revision import RevisionError
from alembic.util import CommandError, asbool

from .drift import compared
from .errors import ConfigInvalid, RunnerError
from .history import History, first_line
from .job import Job, Result
from .project import Project, as_listed
from .seam import translated
from .settings import Settings

_NOTHING_WRITTEN = "Nothing was written. '--help' after the command lists its flags, 'alembic-job config' the settings."


def parsed(name: str, arguments: Sequence[str], refuse: Callable[[str], NoReturn]) -> Namespace:
    """What Alembic makes of its own flags; ``refuse`` is told of a mistake. ``--help`` exits by itself."""
    commands: Any = CommandLine(prog="alembic-job").parser._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    commands[name].error = refuse
    found: Namespace = commands[name].parse_args(list(arguments))
    return found


def run(job: Job, name: str, options: Namespace) -> Result:
    """Run Alembic's command of this name. What it prints comes as output, each file that it writes as a revision."""
    if name == "init":
        with _told(None, options):
            _call(options, _to_be_made(job.settings))
        return Result("written")
    project = Project(job)
    config = project.config()
    vars(config.cmd_opts).update(vars(options))  # an env.py may ask for the flags, as Flask-Migrate's does
    if getattr(options, "autogenerate", False) and not options.sql:
        context = compared(project, config, _arguments(options), [], creates=True)
        with _told(project.history, options), project.environment.around(config):
            written: Any = list(context.generate_scripts())
    else:
        if getattr(options, "revision", None) == "current" or _runs_env(config):
            project.wait_and_look(("heads",))
        with job.stop.at_once(), _told(project.history, options), project.environment.around(config):
            written = _call(options, config)
    scripts = [script for script in (written if isinstance(written, list) else [written]) if script]
    for script in scripts:
        job.emit(as_listed(project.history.describe(script)))
    return Result("written" if scripts else "reported")


def _arguments(options: Namespace) -> dict[str, Any]:
    _, positional, keywords = options.cmd
    return {name: getattr(options, name, None) for name in (*positional, *keywords)}


def _call(options: Namespace, config: Config) -> Any:
    function, positional, keywords = options.cmd
    given = _arguments(options)
    return function(config, *(given[name] for name in positional), **{name: given[name] for name in keywords})


def _to_be_made(settings: Settings) -> Config:
    """The configuration that ``init`` writes, where it is to be."""
    named = settings.config or ""
    toml = named.endswith(".toml")
    files: dict[str, Any] = {"file_": named if named and not toml else "alembic.ini"}
    if "toml_file" in inspect.signature(Config.__init__).parameters:  # since Alembic 1.16
        files["toml_file"] = named if toml else "pyproject.toml"
    return Config(**files, ini_section=settings.section, stdout=sys.stdout)


def _runs_env(config: Config) -> bool:
    """Whether the project wants ``env.py`` run for every new revision file."""
    option = getattr(config, "get_alembic_option", config.get_main_option)("revision_environment")
    return bool(asbool(option))


@contextmanager
def _told(history: History | None, options: Namespace) -> Iterator[None]:
    """In here Alembic's complaints come out as the contract names them."""
    try:
        yield
    except CommandError as error:
        if history and isinstance(error.__cause__, RevisionError):
            asked = _arguments(options)
            target = asked.get("revisions") or asked.get("revision") or asked.get("rev") or asked.get("head") or "head"
            raise history.explained(error, target if isinstance(target, str) else " ".join(target)) from error
        raise ConfigInvalid(f"{first_line(error)}.", hint=_NOTHING_WRITTEN) from error
    except RunnerError:
        raise
    except OSError as error:  # no script.py.mako, a read-only file system
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise ConfigInvalid(f"The files cannot be written: {said}.", hint=_NOTHING_WRITTEN) from error
    except Exception as error:
        raise translated(error) from error
