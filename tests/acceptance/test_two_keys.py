"""The waiting key on the runner's own connection, the fence on the session that migrates."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.expect import URL, applied_nothing, refused
from tests.acceptance.test_any_project import own_engine
from tests.contract.test_session import runners
from tests.databases import Database
from tests.job import Job, Result, Revision, linear, make_project

Run = Callable[..., Result]
Start = Callable[..., Job]

ON_SERVERS = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)


def sleeping(database: Database, seconds: float) -> str:
    function = "SLEEP" if database.dialect == "mariadb" else "pg_sleep"
    return f'op.execute("SELECT {function}({seconds})")'


def slow(database: Database, seconds: float = 12) -> list[Revision]:
    """Three revisions, of which the first is one long statement after another short one."""
    first, *others = linear(3)
    return [Revision(first.id, upgrade=f"{first.upgrade}\n{sleeping(database, seconds)}"), *others]


def first_key(database: Database, server: Database) -> str:
    """The connection of the runner itself: the one of its two that does not sleep."""
    if database.dialect == "mariadb":
        sql = "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND COMMAND = 'Sleep'"
    else:
        sql = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'alembic-job/%'"
        )
    [(found,)] = server.query(sql)
    return str(found)


def end(database: Database, connection: str) -> None:
    database.execute(
        f"KILL {connection}" if database.dialect == "mariadb" else f"SELECT pg_terminate_backend({connection})"
    )


def in_its_statement(job: Job) -> None:
    job.wait_for("revision_started")
    time.sleep(0.7)


@ON_SERVERS
@pytest.mark.parametrize("own", ["one transaction", "one a revision"])
def test_who_lost_its_first_key_in_a_long_statement_is_not_joined_by_another(
    tmp_path: Path, database: Database, own: str, start_job: Start, run_job: Run
) -> None:
    project = make_project(tmp_path, slow(database))
    if own == "one a revision":
        text = project.env.read_text()
        more = "target_metadata=target_metadata, transaction_per_migration=True"
        project.env.write_text(text.replace("target_metadata=target_metadata", more))
    env = {URL: database.url, "ALEMBIC_JOB_HEARTBEAT": "1s"}
    first = start_job("upgrade", cwd=project.path, env=env)
    in_its_statement(first)
    end(database, first_key(database, database))

    second = run_job("upgrade", cwd=project.path, env={**env, "ALEMBIC_JOB_LOCK_TIMEOUT": "2s"})
    refused(second, 20, "lock_timeout", "which still migrates")
    applied_nothing(second)
    waiting = second.of("lock_waiting")[0]
    number = waiting["holder"]["connection"].rpartition(" ")[2]
    assert number in waiting["holder"]["end_with"]
    assert waiting["holder"]["end_with"] in second.finished["hint"]
    assert waiting["holder"]["user"] == (database.login.user if database.login else None)

    ended = first.finish()
    refused(ended, 21, "lock_lost", "before the next revision")
    keeps = database.dialect == "mariadb" or own == "one a revision"
    assert [e["revision"] for e in ended.of("revision_started")] == ["r1"]
    assert ended.finished["applied"] == (["r1"] if keeps else [])
    assert database.versions() == ({"r1"} if keeps else set())

    third = run_job("upgrade", cwd=project.path, env=env)
    assert (third.exit_code, third.finished["count"]) == (0, 2 if keeps else 3)


@ON_SERVERS
def test_a_first_key_that_is_lost_during_the_last_revision_undoes_nothing(
    tmp_path: Path, database: Database, start_job: Start
) -> None:
    project = make_project(tmp_path, slow(database, 3)[:1])
    job = start_job("upgrade", cwd=project.path, env={URL: database.url})
    in_its_statement(job)
    end(database, first_key(database, database))
    result = job.finish()
    assert (result.exit_code, result.finished["applied"]) == (0, ["r1"])
    assert database.versions() == {"r1"}


UNTIL_TOLD = 'while not os.path.exists("go_on"):\n    time.sleep(0.05)'


@ON_SERVERS
def test_a_waiting_run_tells_who_migrates_and_of_which_run(
    tmp_path: Path, database: Database, start_job: Start
) -> None:
    secret = 'op.execute("INSERT INTO t1 VALUES (4711)")'
    project = make_project(tmp_path, [Revision("r1", upgrade=f"{linear(1)[0].upgrade}\n{secret}\n{UNTIL_TOLD}")])
    env = {URL: database.url}
    about = {"ALEMBIC_JOB_IMAGE": "app:1", "POD_NAME": "migrate-1"}
    first = start_job("upgrade", cwd=project.path, env={**env, **about})
    first.wait_for("revision_started")
    second = start_job("upgrade", cwd=project.path, env=env)
    holder = second.wait_for("lock_waiting")["holder"]
    (project.path / "go_on").touch()
    assert first.finish().exit_code == 0
    assert second.finish().finished["outcome"] == "up_to_date"
    run_id = first.events[0]["run_id"]  # MariaDB does not tell it, but the ledger does
    assert (holder["run_id"], holder["user"]) == (run_id, database.login.user if database.login else None)
    assert (holder["image"], holder["pod"]) == ("app:1", "migrate-1")
    assert "4711" not in second.stdout


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_what_a_killed_run_left_in_the_ledger_is_not_taken_for_the_holder(
    tmp_path: Path, database: Database, start_job: Start
) -> None:
    project = make_project(tmp_path, [Revision("r1", upgrade=UNTIL_TOLD)])
    env = {URL: database.url}
    killed = start_job("upgrade", cwd=project.path, env={**env, "ALEMBIC_JOB_IMAGE": "app:dead"})
    killed.wait_for("revision_started")
    killed.kill()
    connection = database.connect()
    cursor = connection.cursor()
    with runners(database).session() as session:
        name = session.lock_name()
    deadline = time.monotonic() + 10
    while True:
        cursor.execute(f"SELECT GET_LOCK('{name}', 1)")
        if cursor.fetchone() == (1,):
            break
        assert time.monotonic() < deadline
    second = start_job("upgrade", cwd=project.path, env=env)
    holder = second.wait_for("lock_waiting")["holder"]
    connection.close()
    assert (holder["run_id"], holder["image"]) == (None, None)
    (project.path / "go_on").touch()
    assert second.finish().exit_code == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_run_that_waits_for_a_lock_file_tells_which_process_has_it(
    tmp_path: Path, database: Database, start_job: Start
) -> None:
    project = make_project(tmp_path, [Revision("r1", upgrade=UNTIL_TOLD)])
    env = {URL: database.url}
    first = start_job("upgrade", cwd=project.path, env=env)
    first.wait_for("revision_started")
    second = start_job("upgrade", cwd=project.path, env=env)
    holder = second.wait_for("lock_waiting")["holder"]
    assert holder["run_id"] == first.events[0]["run_id"]
    assert holder["end_with"].startswith("kill ")
    (project.path / "go_on").touch()
    assert first.finish().exit_code == second.finish().exit_code == 0


@ON_SERVERS
def test_a_pool_that_keeps_the_migrating_session_does_not_keep_the_fence(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    env = own_engine(f"create_engine({database.url!r})") + "import threading\nthreading.keep = engine\n"
    project = make_project(tmp_path, linear(2), env=env)
    result = run_job("upgrade", cwd=project.path, env={URL: database.url})
    assert result.exit_code == 0 and result.of("lock_released")
    project.add(*linear(3)[2:])
    again = run_job("upgrade", cwd=project.path, env={URL: database.url, "ALEMBIC_JOB_LOCK_TIMEOUT": "1s"})
    assert (again.exit_code, again.finished["applied"]) == (0, ["r3"])


@ON_SERVERS
def test_a_lock_that_was_lost_does_not_hide_why_a_revision_failed(
    tmp_path: Path, database: Database, start_job: Start
) -> None:
    failing = Revision("r1", upgrade=f'{sleeping(database, 3)}\nop.execute("this is no SQL")')
    project = make_project(tmp_path, [failing])
    job = start_job("upgrade", cwd=project.path, env={URL: database.url})
    in_its_statement(job)
    end(database, first_key(database, database))
    refused(job.finish(), 40, "revision_failed", "this is no SQL" if database.dialect == "mariadb" else "syntax error")
