"""Rows of runs that are gone: who holds the lock next says of them what is true."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.test_ledger import MIDDLE, SERVERS, ends, environment, killed, name_of, rows
from tests.databases import Database
from tests.job import Job, Project, Result, Revision, creates, linear, make_project
from tests.processes import signal_tree

Run = Callable[..., Result]
Start = Callable[..., Job]
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

# env.py is still busy when its migrations are committed.
BUSY_AFTERWARDS = """
import os, time
from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
    if os.environ.get("BUSY") and connection.exec_driver_sql("SELECT count(*) FROM t2").scalar() is not None:
        print("done with it", flush=True)
        time.sleep(60)
"""


def kill(job: Job, text: str) -> None:
    job.wait_for("user_output", text=text)
    signal_tree(job.pid, signal.SIGKILL)
    job.process.wait()


def test_a_revision_in_which_a_run_was_killed_is_abandoned_and_the_row_says_what_remained(
    tmp_path: Path, database: Database, run_job: Run, start_job: Start
) -> None:
    project = make_project(tmp_path, [*linear(1), MIDDLE])
    killed(project, database, start_job, ALEMBIC_JOB_IMAGE="app:0")
    result = run_job("upgrade", cwd=project.path, env=environment(database, GO_ON="yes"))
    assert result.exit_code == 0, result.stdout
    if database.dialect == "postgresql":
        gone = [("r1", "abandoned"), ("r2", "abandoned"), ("r1", "committed")]
    else:
        gone = [("r1", "committed"), ("r2", "abandoned")]
    assert ends(database) == [*gone, ("r2", "committed")]
    told = next(row for row in rows(database) if row["status"] == "abandoned" and row["revision"] == "r2")
    assert told["ended"] is None and told["duration_s"] is None and told["image"] == "app:0"
    assert f"run {result.finished['run_id']} found the revision not applied" in told["error"]
    remained = "transaction was rolled back" if database.dialect == "postgresql" else "DDL that it had run by then"
    assert remained in told["error"]
    listed = run_job("runs", cwd=project.path, env=environment(database)).of("ledger_listed")
    assert "abandoned" in {row["state"] for row in listed}


def test_what_a_killed_run_had_committed_is_committed(
    tmp_path: Path, database: Database, run_job: Run, start_job: Start
) -> None:
    project = make_project(tmp_path, linear(2), env=BUSY_AFTERWARDS)
    job = start_job("upgrade", cwd=project.path, env=environment(database, BUSY="yes"))
    kill(job, "done with it")
    unseen = "executed" if database.dialect == "postgresql" else "committed"  # by any other connection
    assert ends(database) == [("r1", unseen), ("r2", unseen)]
    project.add(*linear(3)[2:])
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    assert ends(database) == [("r1", "committed"), ("r2", "committed"), ("r3", "committed")]
    assert {row["error"] for row in rows(database)} == {None}


def test_a_downgrade_in_which_a_run_was_killed_is_abandoned_and_the_revision_is_still_applied(
    tmp_path: Path, database: Database, run_job: Run, start_job: Start
) -> None:
    project = make_project(
        tmp_path, [*linear(1), Revision("r2", "r1", "pass", 'print("down", flush=True); time.sleep(60)')]
    )
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    job = start_job("downgrade", "r1", "--yes", cwd=project.path, env=environment(database))
    kill(job, "down")
    project.add(creates("t3", "r3", "r2"))
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    assert ends(database) == [
        ("r1", "committed"),
        ("r2", "committed"),
        ("r2", "abandoned"),
        ("r3", "committed"),
    ]
    assert "found the revision applied" in rows(database)[2]["error"]
    assert not run_job("status", cwd=project.path, env=environment(database)).of("revision_edited")


@pytest.fixture
def half(tmp_path: Path, database: Database, run_job: Run) -> Project:
    """A database at r2 of three, by one run that wrote of r2 no more than that it began."""
    project = make_project(tmp_path, linear(3))
    assert run_job("upgrade", "r2", cwd=project.path, env=environment(database)).exit_code == 0
    database.execute(f"UPDATE {name_of(database)} SET status = 'started', ended = NULL WHERE revision = 'r2'")
    return project


def test_when_it_ended_nobody_knows(half: Project, database: Database, run_job: Run) -> None:
    assert run_job("upgrade", cwd=half.path, env=environment(database)).exit_code == 0
    assert ends(database)[1] == ("r2", "committed")
    assert rows(database)[1]["ended"] is None


@SQLITE
def test_a_downgrade_that_came_to_its_end_is_committed(half: Project, database: Database, run_job: Run) -> None:
    unseen = environment(database, ALEMBIC_JOB_LEDGER="false")
    assert run_job("downgrade", "r1", "--yes", cwd=half.path, env=unseen).exit_code == 0
    database.execute(f"UPDATE {name_of(database)} SET direction = 'downgrade' WHERE revision = 'r2'")
    assert run_job("upgrade", cwd=half.path, env=environment(database)).exit_code == 0
    assert ends(database)[1] == ("r2", "committed")


@SERVERS
def test_without_a_lock_nothing_proves_a_run_gone(half: Project, database: Database, run_job: Run) -> None:
    none = environment(database, ALEMBIC_JOB_LOCK="none")
    assert run_job("upgrade", cwd=half.path, env=none).exit_code == 0
    assert ends(database) == [("r1", "committed"), ("r2", "started"), ("r3", "committed")]


def test_a_run_that_changes_nothing_settles_nothing(half: Project, database: Database, run_job: Run) -> None:
    for arguments in (("upgrade", "r2"), ("status",), ("runs",)):
        assert run_job(*arguments, cwd=half.path, env=environment(database)).exit_code == 0
    assert ends(database)[1] == ("r2", "started")


def test_what_came_later_says_what_became_of_it_before(half: Project, database: Database, run_job: Run) -> None:
    # r2 was begun again and undone since, by runs that could not settle it.
    name = name_of(database)
    assert run_job("downgrade", "r1", "--yes", cwd=half.path, env=environment(database)).exit_code == 0
    database.execute(f"UPDATE {name} SET status = 'started', ended = NULL WHERE revision = 'r2'")
    assert run_job("upgrade", cwd=half.path, env=environment(database)).exit_code == 0
    assert [(row["revision"], row["direction"], row["status"]) for row in rows(database)] == [
        ("r1", "upgrade", "committed"),
        ("r2", "upgrade", "committed"),  # else it could not have been undone
        ("r2", "downgrade", "committed"),  # else it could not have been run again
        ("r2", "upgrade", "committed"),
        ("r3", "upgrade", "committed"),
    ]
