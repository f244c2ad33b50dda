"""The ledger: what it holds after runs that ended well, badly, or not at all."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import plain
from tests.acceptance.expect import URL
from tests.databases import Database, Server
from tests.job import Job, Project, Result, Revision, creates, linear, make_project
from tests.processes import signal_tree

Run = Callable[..., Result]
Start = Callable[..., Job]
Row = dict[str, Any]
SERVERS = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)


def environment(database: Database, image: str = "app:1", **more: str) -> dict[str, str]:
    return {URL: database.url, "ALEMBIC_JOB_IMAGE": image, "POD_NAME": "migrate-1", **more}


def name_of(database: Database) -> str:
    return "alembic_job.alembic_job_ledger" if database.dialect == "postgresql" else "alembic_job_ledger"


def there(database: Database) -> bool:
    if database.dialect == "postgresql":
        return bool(database.query("SELECT to_regclass('alembic_job.alembic_job_ledger')")[0][0])
    listing = "SELECT name FROM sqlite_master" if database.path else "SHOW TABLES"
    return ("alembic_job_ledger",) in database.query(listing)


COLUMNS = (
    *("revision", "status", "direction", "command", "parents", "path", "sha256", "image", "pod", "hostname"),
    *("code", "error", "started", "ended", "duration_s", "run_id", "version_table", "session"),
)


def rows(database: Database) -> list[Row]:
    found = database.query(f"SELECT {', '.join(COLUMNS)} FROM {name_of(database)} ORDER BY started, number")
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def ends(database: Database) -> list[tuple[str, str]]:
    return [(row["revision"], row["status"]) for row in rows(database)]


def test_after_success_each_revision_has_a_row_that_says_who_when_and_from_what(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    project = make_project(tmp_path, linear(3))
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert result.exit_code == 0
    assert not result.of("ledger_unavailable")
    found = rows(database)
    assert ends(database) == [("r1", "committed"), ("r2", "committed"), ("r3", "committed")]
    for number, row in enumerate(found, 1):
        assert row["run_id"] == result.finished["run_id"]
        assert (row["direction"], row["command"], row["image"], row["pod"]) == (
            "upgrade",
            "upgrade",
            "app:1",
            "migrate-1",
        )
        assert json.loads(row["parents"]) == ([f"r{number - 1}"] if number > 1 else [])
        assert row["sha256"] == hashlib.sha256((project.path / row["path"]).read_bytes()).hexdigest()
        assert row["hostname"] == result.one("run_started")["hostname"]
        assert row["ended"] >= row["started"] > 1.6e9 and row["duration_s"] is not None
        assert (row["code"], row["error"], row["version_table"]) == (None, None, "alembic_version")
        assert bool(row["session"]) == (database.path is None)


def test_a_downgrade_and_what_follows_are_rows_of_their_own(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(2))
    for arguments in (("upgrade",), ("downgrade", "r1", "--yes"), ("upgrade",)):
        assert run_job(*arguments, cwd=project.path, env=environment(database)).exit_code == 0
    told = [(row["revision"], row["direction"], row["status"]) for row in rows(database)]
    up = [("r1", "upgrade", "committed"), ("r2", "upgrade", "committed")]
    assert told == [*up, ("r2", "downgrade", "committed"), ("r2", "upgrade", "committed")]


def test_a_run_with_nothing_to_do_leaves_no_row(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(1))
    for _ in range(2):
        assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    assert len(rows(database)) == 1


def test_after_a_failure_the_row_says_why_and_what_went_with_it_is_rolled_back(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    bad = Revision(
        "r3",
        "r2",
        'op.execute("CREATE TABLE once (id INTEGER PRIMARY KEY)"); op.execute("INSERT INTO once VALUES (4711)");'
        'op.execute("INSERT INTO once VALUES (4711)")',
    )
    project = make_project(tmp_path, [*linear(2), bad])
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert result.exit_code == (40 if database.dialect == "postgresql" else 41)
    before = "rolled_back" if database.dialect == "postgresql" else "committed"
    assert ends(database) == [("r1", before), ("r2", before), ("r3", "failed")]
    last = rows(database)[-1]
    assert last["code"] == result.finished["code"]
    assert last["error"] == result.finished["error"]
    assert "4711" not in last["error"]


@SERVERS
def test_a_password_that_user_code_puts_into_an_error_is_not_written(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    assert database.login
    password = database.login.password
    project = make_project(tmp_path, [Revision("r1", None, f"raise ValueError({password!r})")])
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 40
    error = rows(database)[0]["error"]
    assert "***" in error and password not in error


def killed(project: Project, database: Database, start_job: Start, **more: str) -> None:
    """A run that is gone in the middle of its second revision."""
    job = start_job("upgrade", cwd=project.path, env=environment(database, **more))
    job.wait_for("user_output", text="in the middle")
    signal_tree(job.pid, signal.SIGKILL)
    job.process.wait()


MIDDLE = Revision(
    "r2", "r1", 'op.create_table("t2", sa.Column("id", sa.Integer)); print("in the middle", flush=True); time.sleep(60)'
)


def test_after_kill_9_the_row_of_the_revision_in_flight_is_there(
    tmp_path: Path, database: Database, start_job: Start
) -> None:
    project = make_project(tmp_path, [*linear(1), MIDDLE])
    killed(project, database, start_job)
    assert ends(database) == [
        ("r1", "executed" if database.dialect == "postgresql" else "committed"),
        ("r2", "started"),
    ]


def test_a_revision_that_gave_way_and_was_tried_again_has_one_row(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    marker = tmp_path / "tried"
    code = {"mariadb": 1205, "postgresql": "55P03"}.get(database.dialect)
    busy = {
        "mariadb": f"__import__('pymysql').err.OperationalError({code}, 'Lock wait timeout exceeded')",
        "postgresql": "__import__('psycopg').errors.LockNotAvailable('canceling statement due to lock timeout')",
        "sqlite": "__import__('sqlite3').OperationalError('database is locked')",
    }[database.dialect]
    body = f"""
if not os.path.exists({str(marker)!r}):
    open({str(marker)!r}, "w").close()
    raise {busy}
"""
    project = make_project(tmp_path, [Revision("r1", None, body)])
    result = run_job("upgrade", cwd=project.path, env=environment(database, ALEMBIC_JOB_DDL_LOCK_TIMEOUT="200ms"))
    assert result.exit_code == 0, result.stdout
    assert result.of("revision_retried")
    assert ends(database) == [("r1", "committed")]


# --- where it cannot be kept --------------------------------------------------------------------------


def test_ledger_false_keeps_no_table(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(2))
    result = run_job("upgrade", cwd=project.path, env=environment(database, ALEMBIC_JOB_LEDGER="false"))
    assert result.exit_code == 0
    assert not there(database)
    assert not result.of("ledger_unavailable")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_without_the_right_to_create_a_schema_the_run_warns_once_and_goes_on(
    tmp_path: Path, database: Database, postgresql_server: Server, run_job: Run
) -> None:
    assert database.login
    name = database.login.name
    postgresql_server.admin(f"ALTER DATABASE {name} OWNER TO {postgresql_server.user}")
    postgresql_server.admin(f"GRANT CONNECT ON DATABASE {name} TO {name}")
    from dataclasses import replace

    admin = replace(postgresql_server.login, name=name)
    with admin.connect("postgresql") as connection:
        connection.execute(f"GRANT CREATE ON SCHEMA public TO {name}")
    project = make_project(tmp_path, linear(3))
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["count"]) == (0, 3), result.stdout
    warning = result.one("ledger_unavailable")
    assert "permission denied" in warning["error"]
    assert database.versions() == {"r3"}


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_without_the_right_to_create_a_table_the_run_warns_once_and_goes_on(
    tmp_path: Path, database: Database, mariadb_server: Server, run_job: Run
) -> None:
    assert database.login
    name = database.login.name
    database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    mariadb_server.admin(
        f"REVOKE ALL PRIVILEGES ON {name}.* FROM {name}@'%'",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {name}@'%'",
    )
    project = make_project(tmp_path, [Revision("r1"), Revision("r2", "r1")])
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["count"]) == (0, 2), result.stdout
    assert "CREATE command denied" in result.one("ledger_unavailable")["error"]


def test_a_ledger_that_a_newer_version_keeps_is_left_alone(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(1))
    run_job("upgrade", cwd=project.path, env=environment(database))
    database.execute(f"UPDATE {name_of(database)} SET layout = 2")
    project.add(*linear(2)[1:])
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["count"]) == (0, 1)
    assert "layout 2" in result.one("ledger_unavailable")["error"]
    assert len(rows(database)) == 1


def test_a_ledger_that_was_changed_by_hand_is_a_warning(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(1))
    run_job("upgrade", cwd=project.path, env=environment(database))
    database.execute(f"ALTER TABLE {name_of(database)} RENAME COLUMN status TO state")
    project.add(*linear(2)[1:])
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["count"]) == (0, 1)
    assert result.one("ledger_unavailable")["hint"]


@SERVERS
def test_a_ledger_that_somebody_has_locked_does_not_hold_up_the_run_for_long(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    project = make_project(tmp_path, linear(1))
    run_job("upgrade", cwd=project.path, env=environment(database))
    project.add(*linear(3)[1:])
    connection = database.connect()
    try:
        cursor = connection.cursor()
        if database.dialect == "mariadb":
            cursor.execute("LOCK TABLES alembic_job_ledger READ")
        else:
            cursor.execute("BEGIN")
            cursor.execute(f"LOCK TABLE {name_of(database)} IN SHARE MODE")
        result = run_job("upgrade", cwd=project.path, env=environment(database))
    finally:
        connection.close()
    assert (result.exit_code, result.finished["count"]) == (0, 2)
    assert result.one("ledger_unavailable")
    assert result.finished["duration_s"] < 15


# --- in company ---------------------------------------------------------------------------------------


def test_plain_alembic_and_this_program_may_take_turns(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(4))
    scripts = project.path / "migrations"
    assert plain.upgrade(database, project.ini, scripts, "r1").returncode == 0
    assert run_job("upgrade", "r2", cwd=project.path, env=environment(database)).exit_code == 0
    assert plain.upgrade(database, project.ini, scripts, "r3").returncode == 0
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    assert ends(database) == [("r2", "committed"), ("r4", "committed")]
    assert database.versions() == {"r4"}


ENV_OF_ITS_OWN = """
from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None, version_table="{table}")
    with context.begin_transaction():
        context.run_migrations()
"""


def test_two_applications_with_two_version_tables_share_the_table_and_no_rows(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = make_project(tmp_path / "one", [creates("a", "r1")], env=ENV_OF_ITS_OWN.format(table="one_version"))
    two = make_project(tmp_path / "two", [creates("b", "r1")], env=ENV_OF_ITS_OWN.format(table="two_version"))
    for project in (one, two):
        result = run_job("upgrade", cwd=project.path, env=environment(database, ALEMBIC_JOB_ON_UNMANAGED="upgrade"))
        assert result.exit_code == 0, result.stdout
    assert [(row["version_table"], row["revision"]) for row in rows(database)] == [
        ("one_version", "r1"),
        ("two_version", "r1"),
    ]
