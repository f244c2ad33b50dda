"""A project in its own virtual environment: run by plain Alembic, and by the program."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import job
from tests.databases import Database
from tests.real.projects import HERE, Project

NewDatabase = Callable[[str, str], Database]

Times = tuple[float, float]  # seconds from start to end, and of the processor

LIMIT_S = 600  # for a machine that is busy


class Watch:
    """Measures a process that is started after it was made, and the only one until it is read."""

    def __init__(self) -> None:
        self._began, self._used = time.monotonic(), self._processor()

    def read(self) -> Times:
        """How long it took."""
        return time.monotonic() - self._began, self._processor() - self._used

    def _processor(self) -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


@dataclass(frozen=True)
class Checkout:
    """A project, and the directory to run it in."""

    project: Project
    cwd: Path

    @classmethod
    def of(cls, project: Project, folder: Path) -> Checkout:
        """Make the directory: empty, or the project's files in it."""
        cwd = folder / "project"
        if project.folder:
            shutil.copytree(project.folder, cwd, ignore=shutil.ignore_patterns("__pycache__"))
            checkout = cls(project, cwd)
            checkout._run("flask", "db", "init", database=Database("sqlite", "sqlite://")).check_returncode()
            for revision in (cwd / "revisions").iterdir():
                shutil.copy(revision, cwd / "migrations" / "versions")
        else:
            cwd.mkdir()
        return cls(project, cwd)

    def _run(self, script: str, *arguments: str, database: Database) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.project.venv / "bin" / script, *arguments],
            cwd=self.cwd,
            env={"PATH": os.defpath, **self._environment(database)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def _environment(self, database: Database) -> dict[str, str]:
        return {
            "HOME": str(self.cwd),
            "PYTHONPATH": str(HERE / "support"),
            **self.project.told(database),
        }

    def prepare(self, database: Database) -> None:
        """Do what the project itself does before its first migration."""
        if self.project.before:
            done = self._run("python", "-c", textwrap.dedent(self.project.before), database.url, database=database)
            assert done.returncode == 0, done.stderr

    def plain(self, database: Database) -> tuple[subprocess.CompletedProcess[str], Times]:
        """Run plain Alembic; how it ended, and how long it took."""
        one = self.project
        config = one.path(one.config) if one.config else ""
        scripts = one.path(one.scripts) if one.scripts else ""
        around = textwrap.dedent(one.plain or "")
        command = one.command or ("python", str(HERE / "plainly.py"), config, scripts, database.url, around)
        watch = Watch()
        done = self._run(*command, database=database)
        return done, watch.read()

    def upgrade(self, database: Database) -> tuple[job.Result, Times]:
        """Run the program, as a process; how it ended, and how long it took."""
        one = self.project
        environment = self._environment(database)
        if one.config:
            environment["ALEMBIC_JOB_CONFIG"] = one.path(one.config)
        if one.scripts:
            environment["ALEMBIC_JOB_SCRIPT_LOCATION"] = one.path(one.scripts)
        watch = Watch()
        running = job.start([str(one.venv / "bin" / "alembic-job"), "upgrade"], cwd=self.cwd, env=environment)
        try:
            result = running.finish(LIMIT_S)
        finally:
            running.kill()
        return result, watch.read()
