"""The ledger: what it holds after runs that ended well, badly, or not at all."""

from __future__ import annotations

import dataclasses
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
    "r2",
    "r1",
    """
op.create_table("t2", sa.Column("id", sa.Integer))
print("in the middle", flush=True)
if "GO_ON" not in os.environ:
    time.sleep(60)
""",
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
    admin = dataclasses.replace(postgresql_server.login, name=name)
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


# --- a table of an older layout -----------------------------------------------------------------------

OLDER = (
    "run_id VARCHAR(64) NOT NULL, number INTEGER NOT NULL, layout INTEGER NOT NULL,"
    " version_table VARCHAR(255) NOT NULL, version_schema VARCHAR(255), direction VARCHAR(16) NOT NULL,"
    " revision VARCHAR(255) NOT NULL, parents TEXT, status VARCHAR(16) NOT NULL, started NUMERIC(20, 6),"
    " PRIMARY KEY (run_id, number)"
)
LATER = {"command", "depends_on", "summary", "path", "sha256", "code", "error", "ended", "duration_s", "image", "pod"}
LATER |= {"hostname", "db_user", "runner_version", "session"}


def schema_of(database: Database) -> str:
    """Of the version table, as the ledger names it."""
    if database.login and database.dialect == "mariadb":
        return database.login.name
    return "public" if database.login else "main"


def make_older(database: Database) -> None:
    """The table as an earlier version of alembic-job might have made it, with a row of a run."""
    if database.dialect == "postgresql":
        database.execute("CREATE SCHEMA alembic_job")
    database.execute(
        f"CREATE TABLE {name_of(database)} ({OLDER})",
        f"INSERT INTO {name_of(database)} VALUES ('run0', 1, 1, 'alembic_version', '{schema_of(database)}',"
        " 'upgrade', 'r1', '[]', 'committed', 1600000000)",
    )


def columns_of(database: Database) -> set[str]:
    connection = database.connect()
    try:
        cursor = connection.cursor()
        cursor.execute(f"SELECT * FROM {name_of(database)}")
        return {column[0] for column in cursor.description}
    finally:
        connection.close()


@pytest.fixture
def at_r1(tmp_path: Path, database: Database) -> Project:
    """A database at the first revision, with a ledger of an older layout that says so."""
    project = make_project(tmp_path, linear(3))
    assert plain.upgrade(database, project.ini, project.path / "migrations", "r1").returncode == 0
    make_older(database)
    return project


def test_a_table_of_an_older_layout_is_read_as_it_is(at_r1: Project, database: Database, run_job: Run) -> None:
    before = columns_of(database)
    for command in ("runs", "status"):
        result = run_job(command, cwd=at_r1.path, env=environment(database))
        assert result.exit_code == 0 and not result.of("ledger_unavailable"), result.stdout
        row = result.one("ledger_listed")
        assert (row["run"], row["revision"], row["state"], row["started"]) == (
            "run0",
            "r1",
            "committed",
            "2020-09-13T12:26:40Z",
        )
        assert {row[name] for name in ("image", "sha256", "duration_s", "ended", "command", "user")} == {None}
    assert columns_of(database) == before


def test_a_table_of_an_older_layout_is_brought_up_to_date_in_place(
    at_r1: Project, database: Database, run_job: Run
) -> None:
    result = run_job("upgrade", cwd=at_r1.path, env=environment(database))
    assert (result.exit_code, result.finished["count"]) == (0, 2), result.stdout
    assert not result.of("ledger_unavailable")
    assert columns_of(database) >= LATER
    first, second, third = rows(database)
    assert (first["run_id"], first["revision"], first["status"], first["image"]) == ("run0", "r1", "committed", None)
    assert (second["image"], third["status"], third["path"]) == ("app:1", "committed", "migrations/versions/r3_r3.py")
    again = run_job("runs", cwd=at_r1.path, env=environment(database))
    assert [row["image"] for row in again.of("ledger_listed")] == [None, "app:1", "app:1"]


def test_rows_of_an_older_layout_prove_what_they_say_and_no_more(
    at_r1: Project, database: Database, run_job: Run
) -> None:
    # What it depends on is not told there, so nothing proves that this image holds it.
    at_r1.remove("r1", "r2", "r3")
    at_r1.add(Revision("r0"))
    database.execute(f"UPDATE {name_of(database)} SET parents = '[\"r0\"]'")
    assert run_job("upgrade", cwd=at_r1.path, env=environment(database)).exit_code == 30


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_who_may_not_alter_an_older_table_is_warned_once_and_goes_on(
    at_r1: Project, database: Database, mariadb_server: Server, run_job: Run
) -> None:
    assert database.login
    name = database.login.name
    mariadb_server.admin(
        f"REVOKE ALL PRIVILEGES ON {name}.* FROM {name}@'%'",
        f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON {name}.* TO {name}@'%'",
    )
    result = run_job("upgrade", cwd=at_r1.path, env=environment(database))
    assert (result.exit_code, result.finished["count"]) == (0, 2), result.stdout
    warning = result.one("ledger_unavailable")
    assert "ALTER command denied" in warning["error"] and "alter" in warning["hint"]
    assert database.versions() == {"r3"}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_who_does_not_own_an_older_table_is_warned_once_and_goes_on(
    at_r1: Project, database: Database, postgresql_server: Server, run_job: Run
) -> None:
    assert database.login
    name = database.login.name
    with dataclasses.replace(postgresql_server.login, name=name).connect("postgresql") as connection:
        connection.execute(f"ALTER TABLE alembic_job.alembic_job_ledger OWNER TO {postgresql_server.user}")
        connection.execute(f"GRANT SELECT, INSERT, UPDATE ON alembic_job.alembic_job_ledger TO {name}")
    result = run_job("upgrade", cwd=at_r1.path, env=environment(database))
    assert (result.exit_code, result.finished["count"]) == (0, 2), result.stdout
    assert "must be owner" in result.one("ledger_unavailable")["error"]


@SERVERS
def test_an_older_table_that_somebody_has_open_does_not_hold_up_the_run(
    at_r1: Project, database: Database, run_job: Run
) -> None:
    connection = database.connect()
    try:
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        cursor.execute(f"SELECT * FROM {name_of(database)}")
        result = run_job("upgrade", cwd=at_r1.path, env=environment(database))
    finally:
        connection.close()
    assert (result.exit_code, result.finished["count"]) == (0, 2)
    assert result.one("ledger_unavailable")
    assert result.finished["duration_s"] < 15
