"""docs/kubernetes.md: its termination messages are those of real runs, its codes and sums those of the program."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.errors import ExitCode
from runner.settings import FIELDS
from tests.acceptance.expect import PROJECTS, URL
from tests.databases import Database
from tests.job import Job, Project, Result, Revision, make_project
from tests.kubernetes.failure_policy import CODES, RUNTIME
from tests.processes import signal_tree

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text(encoding="utf-8")
MARIADB = pytest.mark.parametrize("database", ["mariadb"], indirect=True)
Run = Callable[..., Result]


def shown(which: str) -> str:
    [message] = re.findall(rf"^<!-- {which} -->\n```json\n(.*)\n```$", PAGE, re.MULTILINE)
    return message


def of_one_revision(tmp_path: Path, body: str) -> Project:
    return make_project(tmp_path, [Revision("7c1e5a90d2b4", None, body)])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file as the kubelet mounts it."""
    path = tmp_path / "termination-log"
    path.touch()
    return path


@MARIADB
def test_a_revision_that_failed_half_way(tmp_path: Path, database: Database, log: Path, run_job: Run) -> None:
    body = 'op.create_table("books", sa.Column("id", sa.Integer, primary_key=True))\n'
    body += 'op.create_index("ix_books_isbn", "books", ["isbn"])\n'
    env = {URL: database.url, "ALEMBIC_JOB_TERMINATION_LOG": str(log)}
    result = run_job(cwd=of_one_revision(tmp_path, body).path, env=env)
    assert (result.exit_code, log.read_text()) == (41, shown("half done"))


def test_a_secret_that_is_missing(log: Path, run_job: Run) -> None:
    env = {f"{URL}_FILE": "/run/secrets/database/url", "ALEMBIC_JOB_TERMINATION_LOG": str(log)}
    result = run_job(cwd=PROJECTS / "two_heads", env=env)
    assert (result.exit_code, log.read_text()) == (2, shown("no secret"))


@MARIADB
def test_a_run_that_was_killed_within_a_revision(
    tmp_path: Path, database: Database, log: Path, start_job: Callable[..., Job]
) -> None:
    project = of_one_revision(tmp_path, 'print("within", flush=True); time.sleep(60)')
    job = start_job(cwd=project.path, env={URL: database.url, "ALEMBIC_JOB_TERMINATION_LOG": str(log)})
    job.wait_for("user_output", text="within")
    signal_tree(job.pid, signal.SIGKILL)
    job.process.wait()
    assert log.read_text() == shown("killed")


def test_the_codes_are_told_as_they_are() -> None:
    def row(end: str) -> list[int]:
        [codes] = re.findall(rf"^\| ([\d, ]+)(?: \|)? {end}", PAGE, re.MULTILINE)
        return [int(code) for code in codes.split(", ")]

    assert row("fails at once") == CODES
    assert row("tries again, after") == sorted(int(code) for code in ExitCode if code.retryable)
    assert row(r"\(the runtime's") == list(RUNTIME)


def test_the_deadline_is_computed_with_the_defaults() -> None:
    [(wait, lock, sum_)] = re.findall(r"4 \S \((\d+) \+ (\d+) \+ 1800\) \+ 70 = (\d+) s", PAGE)
    assert int(wait) == FIELDS["wait_timeout"].default.total_seconds()
    assert int(lock) == FIELDS["lock_timeout"].default.total_seconds()
    assert int(sum_) == 4 * (int(wait) + int(lock) + 30 * 60) + 10 + 20 + 40
