"""Who ran what includes who marked what: ``stamp`` and ``baseline`` leave rows, which prove nothing."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.expect import refused
from tests.acceptance.test_ledger import Row, environment, rows, there
from tests.acceptance.test_ledger_told import edit
from tests.databases import Database
from tests.job import Job, Project, Result, creates, linear, make_project
from tests.processes import signal_tree

Run = Callable[..., Result]
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, linear(3))


def ran(run_job: Run, project: Project, database: Database, *arguments: str, **more: str) -> Result:
    result = run_job(*arguments, cwd=project.path, env=environment(database, **more))
    assert result.exit_code == 0, result.stdout
    assert not result.of("ledger_unavailable")
    return result


def marks(database: Database) -> list[tuple[Any, ...]]:
    return [(row["command"], row["revision"], row["status"]) for row in rows(database) if row["direction"] == "stamp"]


def test_a_stamp_leaves_a_row_that_says_who_set_what_and_when(
    project: Project, database: Database, run_job: Run
) -> None:
    result = ran(run_job, project, database, "stamp", "r2")
    row: Row
    [row] = rows(database)
    assert (row["run_id"], row["command"], row["direction"]) == (result.finished["run_id"], "stamp", "stamp")
    assert (row["revision"], row["status"], row["error"]) == ("r2", "committed", None)
    assert (row["image"], row["pod"]) == ("app:1", "migrate-1")
    assert row["ended"] >= row["started"] > 1.6e9 and row["duration_s"] is None
    assert row["sha256"] == hashlib.sha256((project.path / row["path"]).read_bytes()).hexdigest()
    [told] = ran(run_job, project, database, "runs").of("ledger_listed")
    assert (told["direction"], told["revision"], told["state"]) == ("stamp", "r2", "committed")
    assert "stamp r2: committed (by" not in told["message"] and "stamp r2: committed" in told["message"]


def test_each_of_several_heads_has_a_row_and_the_base_has_one(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, [creates("root", "root"), creates("a", "a1", "root"), creates("b", "b1", "root")])
    ran(run_job, project, database, "stamp", "heads")
    ran(run_job, project, database, "stamp", "base")
    assert sorted(marks(database)[:2]) == [("stamp", "a1", "committed"), ("stamp", "b1", "committed")]
    assert marks(database)[2:] == [("stamp", "base", "committed")]
    assert rows(database)[2]["path"] is None


def test_a_baseline_leaves_a_row(project: Project, database: Database, run_job: Run) -> None:
    database.execute("CREATE TABLE t1 (id INTEGER PRIMARY KEY)", "CREATE TABLE t2 (id INTEGER PRIMARY KEY)")
    ran(run_job, project, database, "baseline", "r2")
    assert marks(database) == [("baseline", "r2", "committed")]


@SQLITE
def test_a_baseline_that_is_found_leaves_a_row(project: Project, database: Database, run_job: Run) -> None:
    database.execute("CREATE TABLE t1 (id INTEGER NOT NULL PRIMARY KEY)")
    ran(run_job, project, database, "baseline", "--detect", "--yes")
    assert marks(database) == [("baseline", "r1", "committed")]


def test_a_baseline_that_is_refused_leaves_none(project: Project, database: Database, run_job: Run) -> None:
    database.execute("CREATE TABLE t1 (id INTEGER PRIMARY KEY)")
    assert run_job("baseline", "r2", cwd=project.path, env=environment(database)).exit_code == 37
    assert not there(database)


REFUSES = """
from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None, {option})
    with context.begin_transaction():
        context.run_migrations()
"""


def test_a_stamp_that_failed_has_a_row_that_says_so(tmp_path: Path, database: Database, run_job: Run) -> None:
    # As an env.py does that audits each move of the version, and may not write there.
    option = "on_version_apply=lambda **_: 1 / 0"
    project = make_project(tmp_path, linear(2), env=REFUSES.format(option=option))
    database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    assert run_job("stamp", "r2", cwd=project.path, env=environment(database)).exit_code != 0
    assert database.versions() == set()
    assert marks(database) == [("stamp", "r2", "failed")]
    assert "division" in rows(database)[0]["error"]


def test_a_stamp_that_was_killed_is_settled_by_the_next_run(
    tmp_path: Path, database: Database, run_job: Run, start_job: Callable[..., Job]
) -> None:
    option = "on_version_apply=lambda **_: (print('marking', flush=True), __import__('time').sleep(60))"
    stuck = make_project(tmp_path, linear(2), env=REFUSES.format(option=option))
    database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    job = start_job("stamp", "r2", cwd=stuck.path, env=environment(database))
    job.wait_for("user_output", text="marking")
    signal_tree(job.pid, signal.SIGKILL)
    job.process.wait()
    assert marks(database) == [("stamp", "r2", "started")]
    (tmp_path / "sound").mkdir()
    sound = make_project(tmp_path / "sound", linear(2))
    ran(run_job, sound, database, "upgrade", "r1")
    assert marks(database) == [("stamp", "r2", "abandoned")]


def test_without_a_ledger_a_stamp_keeps_no_table(project: Project, database: Database, run_job: Run) -> None:
    ran(run_job, project, database, "stamp", "r2", ALEMBIC_JOB_LEDGER="false")
    assert not there(database)


# --- what a mark does not prove -----------------------------------------------------------------------


def test_a_revision_that_was_marked_does_not_prove_a_database_ahead(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    project = make_project(tmp_path, linear(6))
    ran(run_job, project, database, "upgrade", "r4")
    ran(run_job, project, database, "stamp", "r5")
    ran(run_job, project, database, "upgrade", "r6")
    project.remove("r5", "r6")
    refused(run_job("upgrade", cwd=project.path, env=environment(database)), 30, "revision_unknown", "r6")


def test_a_revision_that_was_applied_and_marked_since_is_no_proof_either(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    # Nobody knows what was done to the schema between the two marks.
    project = make_project(tmp_path, linear(6))
    ran(run_job, project, database, "upgrade")
    ran(run_job, project, database, "stamp", "r5")
    ran(run_job, project, database, "stamp", "r6")
    project.remove("r6")
    refused(run_job("upgrade", cwd=project.path, env=environment(database)), 30, "revision_unknown", "r6")


def test_the_file_of_a_revision_that_was_marked_is_not_compared(
    project: Project, database: Database, run_job: Run
) -> None:
    ran(run_job, project, database, "upgrade", "r1")
    ran(run_job, project, database, "stamp", "r2")
    edit(project, "r2")
    assert not ran(run_job, project, database, "status").of("revision_edited")
    edit(project, "r1")  # which was run
    assert ran(run_job, project, database, "status").one("revision_edited")["revision"] == "r1"


def test_a_revision_that_was_marked_as_gone_may_be_corrected(
    project: Project, database: Database, run_job: Run
) -> None:
    ran(run_job, project, database, "upgrade", "r2")
    ran(run_job, project, database, "stamp", "r1")
    database.execute("DROP TABLE t2")
    edit(project, "r2")
    ran(run_job, project, database, "upgrade", "r2", ALEMBIC_JOB_ON_EDITED="fail")
    assert database.versions() == {"r2"}
