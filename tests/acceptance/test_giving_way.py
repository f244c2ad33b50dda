"""DDL gives way to the application, and is tried again; long statements are seen."""

from __future__ import annotations

import contextlib
import re
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.expect import URL, refused
from tests.databases import Database, Server
from tests.job import Job, Result, Revision, make_project

Start = Callable[..., Job]
Run = Callable[..., Result]
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
MARIADB = pytest.mark.parametrize("database", ["mariadb"], indirect=True)
SERVERS = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
LOCK_S = 1.0
GIVES_WAY = {"ALEMBIC_JOB_DDL_LOCK_TIMEOUT": f"{LOCK_S:g}s"}
CODE = {"mariadb": "1205", "postgresql": "55P03", "sqlite": "SQLITE_BUSY"}
BOOKS = "CREATE TABLE books (id INTEGER PRIMARY KEY)"
ALTERS = 'op.execute("ALTER TABLE books ADD COLUMN title VARCHAR(20)")'


@pytest.fixture
def books(database: Database) -> Database:
    """The database with a table that the application uses."""
    database.execute(BOOKS, "INSERT INTO books VALUES (1)")
    return database


@contextlib.contextmanager
def reading(database: Database) -> Iterator[Any]:
    """Hold the table as a dump does: a transaction that has read it. On SQLite, one that writes."""
    begin = {"sqlite": "BEGIN IMMEDIATE", "mariadb": "START TRANSACTION", "postgresql": "BEGIN"}
    with contextlib.closing(database.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute(begin[database.dialect])
        cursor.execute("SELECT * FROM books")
        cursor.fetchall()
        yield connection
        with contextlib.suppress(Exception):
            cursor.execute("ROLLBACK")


def session_of(connection: Any, dialect: str) -> int:
    cursor = connection.cursor()
    cursor.execute({"mariadb": "SELECT CONNECTION_ID()", "postgresql": "SELECT pg_backend_pid()"}[dialect])
    return int(cursor.fetchall()[0][0])


def environment(database: Database, **more: str) -> dict[str, str]:
    return {URL: database.url, **GIVES_WAY, **{f"ALEMBIC_JOB_{name}": value for name, value in more.items()}}


class Application(threading.Thread):
    """Reads the table again and again, and remembers the longest time that it took."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self.longest_s = 0.0
        self.count = 0
        self.end = threading.Event()
        self._database = database

    def run(self) -> None:
        with contextlib.closing(self._database.connect()) as connection:
            while not self.end.wait(0.02):
                began = time.monotonic()
                cursor = connection.cursor()
                cursor.execute("SELECT count(*) FROM books")
                cursor.fetchall()
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.count += 1


@SERVERS
def test_the_application_never_waits_longer_than_ddl_may_queue(
    books: Database, tmp_path: Path, start_job: Start
) -> None:
    project = make_project(tmp_path, [Revision("r1", None, ALTERS)])
    application = Application(books)
    application.start()
    with reading(books) as reader:
        job = start_job("upgrade", cwd=project.path, env=environment(books, TRANSACTION="per-revision"))
        retried = job.wait_for("revision_retried", count=2)
        job.wait_for("revision_started", count=3)
        blocking = session_of(reader, books.dialect)
    result = job.finish(60)
    application.end.set()
    application.join(10)
    assert (result.exit_code, result.finished["applied"]) == (0, ["r1"])
    assert (retried["revision"], retried["code"]) == ("r1", CODE[books.dialect])
    assert "revision_failed" not in result.names
    if books.dialect == "postgresql":
        assert books.login
        blocked_by = retried["blocked_by"]
        assert blocked_by["connection"].endswith(f" {blocking}") and blocked_by["user"] == books.login.user
        assert blocked_by["hostname"] == "127.0.0.1"
        assert blocked_by["since"].endswith("Z")
    assert application.count > 20
    assert LOCK_S / 2 < application.longest_s < LOCK_S + 1.0


def test_a_revision_that_gives_way_for_too_long_is_deferred(books: Database, tmp_path: Path, run_job: Run) -> None:
    project = make_project(tmp_path, [Revision("r0"), Revision("r1", "r0", ALTERS)])
    assert run_job("upgrade", "r0", cwd=project.path, env=environment(books)).exit_code == 0  # makes the version table
    with reading(books) as reader:
        result = run_job("upgrade", cwd=project.path, env=environment(books, DDL_RETRY_FOR="2s"))
        refused(result, 43, "revision_deferred", "r1", "Nothing of it remains", "times in 2s")
        if books.dialect != "sqlite":
            blocking = session_of(reader, books.dialect)
            assert re.search(rf"waiting for (connection|process) {blocking}\b", result.finished["error"])
            end = {"mariadb": f"KILL {blocking}", "postgresql": f"pg_terminate_backend({blocking})"}
            assert end[books.dialect] in result.finished["hint"]
    assert result.of("revision_retried")
    assert result.one("revision_failed")["rolled_back"] == ["r1"]
    assert "books" in books.tables()
    again = run_job("upgrade", cwd=project.path, env=environment(books))
    assert again.exit_code == 0


@SERVERS
def test_a_revision_that_left_something_is_not_repeated(books: Database, tmp_path: Path, run_job: Run) -> None:
    lasting = {
        "mariadb": 'op.execute("CREATE TABLE more (id INTEGER)")\n',
        "postgresql": 'with op.get_context().autocommit_block():\n    op.execute("CREATE TABLE more (id INTEGER)")\n',
    }
    project = make_project(tmp_path, [Revision("r1", None, lasting[books.dialect] + ALTERS)])
    with reading(books):
        result = run_job("upgrade", cwd=project.path, env=environment(books))
    refused(result, 41, "revision_partial", "r1", "statement 1")
    assert "revision_retried" not in result.names
    assert len(result.of("revision_started")) == 1


@POSTGRESQL
def test_what_a_whole_run_transaction_had_done_is_done_again(books: Database, tmp_path: Path, start_job: Start) -> None:
    project = make_project(
        tmp_path, [Revision("r1", None, 'op.execute("CREATE TABLE more (id INTEGER)")'), Revision("r2", "r1", ALTERS)]
    )
    with reading(books):
        job = start_job("upgrade", cwd=project.path, env=environment(books))
        job.wait_for("revision_retried")
    result = job.finish()
    assert (result.exit_code, result.finished["applied"]) == (0, ["r1", "r2"])
    assert result.of("transaction_rolled_back")[0]["revisions"] == ["r1", "r2"]
    assert [event["revision"] for event in result.of("revision_started")][:4] == ["r1", "r2", "r1", "r2"]


@SERVERS
def test_revisions_before_the_one_that_gave_way_are_not_run_again(
    books: Database, tmp_path: Path, start_job: Start
) -> None:
    project = make_project(
        tmp_path, [Revision("r1", None, 'op.execute("CREATE TABLE more (id INTEGER)")'), Revision("r2", "r1", ALTERS)]
    )
    with reading(books):
        job = start_job("upgrade", cwd=project.path, env=environment(books, TRANSACTION="per-revision"))
        job.wait_for("revision_retried")
    result = job.finish()
    assert (result.exit_code, result.finished["applied"]) == (0, ["r1", "r2"])
    assert {event["revision"] for event in result.of("revision_started")[1:]} == {"r2"}


@SERVERS
def test_a_relative_downgrade_goes_no_further_for_being_tried_again(
    books: Database, tmp_path: Path, start_job: Start, run_job: Run
) -> None:
    down = {"downgrade": 'op.execute("ALTER TABLE books DROP COLUMN title")'}
    project = make_project(
        tmp_path,
        [Revision("r1"), Revision("r2", "r1"), Revision("r3", "r2", ALTERS, **down), Revision("r4", "r3")],
    )
    env = environment(books, TRANSACTION="per-revision")
    assert run_job("upgrade", cwd=project.path, env=env).exit_code == 0
    with reading(books):
        job = start_job("downgrade", "--yes", "--", "-2", cwd=project.path, env=env)
        job.wait_for("revision_retried", revision="r3")
    result = job.finish()
    assert (result.exit_code, result.finished["to"]) == (0, ["r2"]), result.stdout


def test_a_signal_ends_the_pause_between_two_tries(
    books: Database, tmp_path: Path, start_job: Start, run_job: Run
) -> None:
    project = make_project(tmp_path, [Revision("r0"), Revision("r1", "r0", ALTERS)])
    assert run_job("upgrade", "r0", cwd=project.path, env=environment(books)).exit_code == 0
    with reading(books):
        job = start_job("upgrade", cwd=project.path, env=environment(books))
        job.wait_for("revision_retried")
        job.process.terminate()
        result = job.finish()
    assert (result.exit_code, result.finished["applied"]) == (143, [])


# --- other reasons to try again -----------------------------------------------------------------------

_OTHER = """
import threading
def other(sql):
    with sa.create_engine(op.get_bind().engine.url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text(sql))
"""
ONCE = "once = not os.path.exists('tried')\nopen('tried', 'w').close()\n"
KILLS_ITSELF = {
    "mariadb": """
me = op.get_bind().execute(sa.text("SELECT CONNECTION_ID()")).scalar()
if once:
    threading.Timer(0.3, other, [f"KILL {me}"]).start()
    op.execute("UPDATE books SET id = id + SLEEP(30)")
""",
    "postgresql": """
me = op.get_bind().execute(sa.text("SELECT pg_backend_pid()")).scalar()
if once:
    threading.Timer(0.3, other, [f"SELECT pg_terminate_backend({me})"]).start()
    op.execute("SELECT pg_sleep(30)")
""",
}


@SERVERS
def test_a_lost_connection_is_tried_again_when_nothing_is_left(books: Database, tmp_path: Path, run_job: Run) -> None:
    body = ONCE + _OTHER + 'op.execute("INSERT INTO books VALUES (2)")\n' + KILLS_ITSELF[books.dialect]
    result = run_job("upgrade", cwd=make_project(tmp_path, [Revision("r1", None, body)]).path, env=environment(books))
    assert (result.exit_code, result.finished["applied"]) == (0, ["r1"]), result.stdout
    # psycopg2 tells no code of a connection that is gone.
    assert (
        result.one("revision_retried")["code"] in {"mariadb": ("2013",), "postgresql": ("57P01", None)}[books.dialect]
    )
    assert sorted(books.query("SELECT id FROM books")) == [(1,), (2,)]


@SERVERS
def test_a_deadlock_is_tried_again(books: Database, tmp_path: Path, run_job: Run) -> None:
    books.execute("INSERT INTO books VALUES (2)")
    body = (
        ONCE
        + """
def other():
    with sa.create_engine(url).connect() as connection, connection.begin():
        connection.execute(sa.text("UPDATE books SET id = id WHERE id = 2"))
        there.set()
        time.sleep(0.5)
        for n in range(20):  # the heavier one is not the victim
            connection.execute(sa.text(f"INSERT INTO books VALUES ({n} + 100)"))
        connection.execute(sa.text("UPDATE books SET id = id WHERE id = 1"))

import threading
url, there = op.get_bind().engine.url, threading.Event()
if once:
    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    there.wait(10)
    op.execute("UPDATE books SET id = id WHERE id = 1")
    time.sleep(0.2)
    op.execute("UPDATE books SET id = id WHERE id = 2")
"""
    )
    result = run_job("upgrade", cwd=make_project(tmp_path, [Revision("r1", None, body)]).path, env={URL: books.url})
    assert (result.exit_code, result.finished["applied"]) == (0, ["r1"]), result.stdout
    assert result.one("revision_retried")["code"] == {"mariadb": "1213", "postgresql": "40P01"}[books.dialect]


# --- what is set, and what is left alone --------------------------------------------------------------

ASK = {
    "sqlite": "PRAGMA busy_timeout",
    "mariadb": "SELECT @@lock_wait_timeout",
    "postgresql": "SHOW lock_timeout",
}
SHOWS = "print('timeout', op.get_bind().exec_driver_sql('{}').scalar(), flush=True)\n"


def shown(result: Result) -> list[str]:
    assert result.exit_code == 0, result.stdout
    return [event["text"].removeprefix("timeout ") for event in result.of("user_output") if "timeout" in event["text"]]


def test_how_long_ddl_queues_is_set_for_the_migrating_session(database: Database, tmp_path: Path, run_job: Run) -> None:
    show = SHOWS.format(ASK[database.dialect])
    project = make_project(tmp_path, [Revision("r1", None, show), Revision("r2", "r1", show)])
    env = environment(database, DDL_LOCK_TIMEOUT="2500ms", TRANSACTION="per-revision")
    expected = {"sqlite": "2500", "mariadb": "3", "postgresql": "2500ms"}[database.dialect]
    assert shown(run_job("upgrade", cwd=project.path, env=env)) == [expected] * 2


@MARIADB
def test_row_locks_are_left_alone(database: Database, tmp_path: Path, run_job: Run) -> None:
    show = SHOWS.format("SELECT @@innodb_lock_wait_timeout = @@GLOBAL.innodb_lock_wait_timeout")
    project = make_project(tmp_path, [Revision("r1", None, show)])
    assert shown(run_job("upgrade", cwd=project.path, env=environment(database))) == ["1"]


ENV_PY = """
from alembic import context
from sqlalchemy import create_engine, pool

url = context.config.get_main_option("sqlalchemy.url")
with create_engine(url, poolclass=pool.NullPool{arguments}).connect() as connection:
    {before}
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
OWN = {
    "sqlite": [("env.py", ', connect_args={"timeout": 9}', "9000")],
    "mariadb": [("env.py", ", connect_args={'init_command': 'SET lock_wait_timeout = 9'}", "9")],
    "postgresql": [("env.py", ", connect_args={'options': '-c lock_timeout=9s'}", "9s")],
}


def test_what_env_py_set_is_left_alone(database: Database, tmp_path: Path, run_job: Run) -> None:
    for _, arguments, expected in OWN[database.dialect]:
        show = SHOWS.format(ASK[database.dialect])
        text = ENV_PY.format(arguments=arguments, before="pass")
        project = make_project(tmp_path, [Revision("r1", None, show)], env=text)
        assert shown(run_job("upgrade", cwd=project.path, env=environment(database))) == [expected]


def test_what_a_revision_sets_is_left_alone(database: Database, tmp_path: Path, run_job: Run) -> None:
    sets = {
        "sqlite": "PRAGMA busy_timeout = 9000",
        "mariadb": "SET lock_wait_timeout = 9",
        "postgresql": "SET lock_timeout = '9s'",
    }[database.dialect]
    body = f'op.execute("{sets}")\n' + SHOWS.format(ASK[database.dialect])
    expected = OWN[database.dialect][0][2]
    project = make_project(tmp_path, [Revision("r1", None, body)])
    assert shown(run_job("upgrade", cwd=project.path, env=environment(database))) == [expected]


@POSTGRESQL
@pytest.mark.parametrize("how", ["role", "url"])
def test_what_role_or_url_set_is_left_alone(
    how: str, database: Database, tmp_path: Path, run_job: Run, postgresql_server: Server
) -> None:
    assert database.login
    if how == "role":
        postgresql_server.admin(f"ALTER ROLE {database.login.user} SET lock_timeout = '9s'")
    else:
        database = replace(database, url=database.url + "?options=-c%20lock_timeout%3D9s")
    project = make_project(tmp_path, [Revision("r1", None, SHOWS.format(ASK["postgresql"]))])
    assert shown(run_job("upgrade", cwd=project.path, env=environment(database))) == ["9s"]


@POSTGRESQL
def test_the_session_is_given_back_as_it_was(database: Database, tmp_path: Path, run_job: Run) -> None:
    # A pooler hands it to the application next.
    show = SHOWS.format(ASK["postgresql"])
    after = show.replace("op.get_bind()", "connection").rstrip()
    text = ENV_PY.format(arguments="", before="pass").rstrip() + f"\n    {after}\n"
    project = make_project(tmp_path, [Revision("r1", None, show)], env=text)
    assert shown(run_job("upgrade", cwd=project.path, env=environment(database)))[-2:] == ["1s", "0"]


@POSTGRESQL
def test_inside_an_autocommit_block_nothing_gives_way(database: Database, tmp_path: Path, run_job: Run) -> None:
    show = SHOWS.format(ASK["postgresql"])
    body = f"{show}with op.get_context().autocommit_block():\n    {show}{show}"
    project = make_project(tmp_path, [Revision("r1", None, body), Revision("r2", "r1", show)])
    assert shown(run_job("upgrade", cwd=project.path, env=environment(database))) == ["1s", "0", "1s", "1s"]


@POSTGRESQL
def test_an_index_is_built_concurrently_however_long_others_read(
    books: Database, tmp_path: Path, start_job: Start
) -> None:
    body = 'with op.get_context().autocommit_block():\n    op.execute("CREATE INDEX CONCURRENTLY ix ON books (id)")'
    project = make_project(tmp_path, [Revision("r1", None, body)])
    with contextlib.closing(books.connect()) as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO books VALUES (5)")
        job = start_job("upgrade", cwd=project.path, env=environment(books))
        job.wait_for("revision_started")
        time.sleep(3 * LOCK_S)
        writer.execute("COMMIT")
        result = job.finish()
    assert result.exit_code == 0
    assert books.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix'::regclass") == [(True,)]


@POSTGRESQL
def test_an_invalid_index_is_reported_and_counts_as_left(books: Database, tmp_path: Path, run_job: Run) -> None:
    books.execute("ALTER TABLE books ADD COLUMN genre INTEGER", "INSERT INTO books VALUES (2, 7), (3, 7)")
    body = """with op.get_context().autocommit_block():
    op.execute("CREATE UNIQUE INDEX CONCURRENTLY ix_genre ON books (genre)")"""
    project = make_project(tmp_path, [Revision("r1", None, body)])
    result = run_job("upgrade", cwd=project.path, env=environment(books))
    refused(result, 41, "revision_partial", "r1", "ix_genre", "statement 1")
    assert "DROP INDEX CONCURRENTLY ix_genre" in result.finished["hint"]
    again = run_job("upgrade", cwd=project.path, env=environment(books))
    refused(again, 42, "revision_unresolved", "the index ix_genre, which is invalid: drop it, and run again")
    books.execute("DELETE FROM books WHERE genre = 7", "DROP INDEX ix_genre")
    assert run_job("upgrade", cwd=project.path, env=environment(books)).exit_code == 0


# --- TRANSACTION --------------------------------------------------------------------------------------


@POSTGRESQL
def test_a_transaction_for_each_revision_keeps_what_came_before_a_failure(
    database: Database, tmp_path: Path, run_job: Run
) -> None:
    project = make_project(
        tmp_path,
        [Revision("r1", None, f'op.execute("{BOOKS}")'), Revision("r2", "r1", 'op.execute("SELECT 1/0")')],
    )
    env = environment(database, TRANSACTION="per-revision")
    result = run_job("upgrade", cwd=project.path, env=env)
    assert (result.exit_code, result.finished["applied"]) == (40, ["r1"])
    assert result.one("environment_connected")["transaction"] == "per-revision"
    assert database.versions() == {"r1"}


def test_an_env_py_that_begins_the_transaction_itself_cannot_be_overruled(
    database: Database, tmp_path: Path, run_job: Run
) -> None:
    text = ENV_PY.format(arguments="", before="pass").replace(".connect()", ".begin()")
    project = make_project(tmp_path, [Revision("r1", None, f'op.execute("{BOOKS}")')], env=text)
    result = run_job("upgrade", cwd=project.path, env=environment(database, TRANSACTION="per-revision"))
    refused(result, 2, "config_invalid", "ALEMBIC_JOB_TRANSACTION")
    assert database.tables() == set()


# --- progress -----------------------------------------------------------------------------------------


def progress(result: Result) -> list[dict[str, Any]]:
    return result.of("revision_progress")


def test_a_long_statement_reports_each_heartbeat(database: Database, tmp_path: Path, run_job: Run) -> None:
    slow = {
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000000) "
        "INSERT INTO books SELECT max(i) FROM n",
        "mariadb": "INSERT INTO books SELECT 5 + SLEEP(2)",
        "postgresql": "INSERT INTO books SELECT 5 FROM pg_sleep(2)",
    }[database.dialect]
    project = make_project(tmp_path, [Revision("r1", None, f'op.execute("{BOOKS}")\nop.execute("{slow}")')])
    result = run_job("upgrade", cwd=project.path, env=environment(database, HEARTBEAT="500ms"))
    assert result.exit_code == 0
    seen = progress(result)
    assert len(seen) >= 2
    assert {(event["revision"], event["statement_number"]) for event in seen} == {("r1", 2)}
    elapsed = [event["elapsed_s"] for event in seen]
    assert elapsed == sorted(elapsed)
    assert elapsed[0] >= 0.5
    assert {event["blocked_by"] for event in seen} == {None}


FILL = {
    "mariadb": "INSERT INTO books SELECT seq, REPEAT('x', 100) FROM seq_1_to_700000",
    "postgresql": "INSERT INTO books SELECT n, repeat(md5(n::text), 3) FROM generate_series(1, 1500000) AS n",
}
REBUILD = {
    "mariadb": "ALTER TABLE books ADD COLUMN genre INTEGER, ALGORITHM=COPY",
    "postgresql": "CREATE INDEX ix ON books (title, id)",
}


@SERVERS
def test_the_servers_percentage_is_told_where_there_is_one(database: Database, tmp_path: Path, run_job: Run) -> None:
    database.execute("CREATE TABLE books (id INTEGER, title VARCHAR(100))", FILL[database.dialect])
    project = make_project(tmp_path, [Revision("r1", None, f'op.execute("{REBUILD[database.dialect]}")')])
    result = run_job("upgrade", cwd=project.path, env=environment(database, HEARTBEAT="100ms"), timeout_s=120)
    assert result.exit_code == 0
    percent = [event["percent"] for event in progress(result) if event["percent"] is not None]
    assert len(percent) >= 2, result.stdout
    assert all(0 <= one <= 100 for one in percent)
    assert len(set(percent)) > 1


@SERVERS
def test_a_statement_that_waits_says_for_whom(books: Database, tmp_path: Path, start_job: Start) -> None:
    project = make_project(tmp_path, [Revision("r1", None, ALTERS)])
    env = environment(books, DDL_LOCK_TIMEOUT="20s", HEARTBEAT="1s")
    with reading(books) as reader:
        job = start_job("upgrade", cwd=project.path, env=env)
        blocked_by = job.wait_for("revision_progress")["blocked_by"]
        assert blocked_by["connection"].endswith(f" {session_of(reader, books.dialect)}")
    result = job.finish()
    assert result.exit_code == 0
    assert "SELECT * FROM books" not in result.stdout  # what the other session runs is none of ours


@MARIADB
def test_one_of_several_sessions_is_not_guessed(books: Database, tmp_path: Path, start_job: Start) -> None:
    project = make_project(tmp_path, [Revision("r1", None, ALTERS)])
    env = environment(books, DDL_LOCK_TIMEOUT="20s", HEARTBEAT="1s")
    with reading(books), contextlib.closing(books.connect()):
        job = start_job("upgrade", cwd=project.path, env=env)
        assert job.wait_for("revision_progress")["blocked_by"] is None
    assert job.finish().exit_code == 0


def test_with_the_plugin_mariadb_tells_which_one(
    tmp_path: Path, start_job: Start, private_server: Callable[..., Any]
) -> None:
    server = private_server("mariadb")
    server.admin("INSTALL SONAME 'metadata_lock_info'")
    database = server.new_database()
    database.execute(BOOKS)
    project = make_project(tmp_path, [Revision("r1", None, ALTERS)])
    env = environment(database, DDL_LOCK_TIMEOUT="20s", HEARTBEAT="1s")
    with contextlib.closing(database.connect()), reading(database) as reader, contextlib.closing(database.connect()):
        job = start_job("upgrade", cwd=project.path, env=env)
        assert job.wait_for("revision_progress")["blocked_by"]["connection"].endswith(
            f" {session_of(reader, 'mariadb')}"
        )
    assert job.finish().exit_code == 0


# Its own session and every other one go, and nobody gets a new one: as when a server has just been started again.
_NO_ROOM = """
    import pymysql
    bind = op.get_bind()
    url, mine = bind.engine.url, bind.exec_driver_sql("SELECT CONNECTION_ID()").scalar()
    for (other,) in bind.exec_driver_sql("SELECT id FROM information_schema.processlist").fetchall():
        if other != mine:
            bind.exec_driver_sql(f"KILL {other}")
    held = globals().setdefault("held", [])
    while True:
        try:
            held.append(pymysql.connect(host=url.host, port=url.port, user=url.username, password=url.password))
        except pymysql.err.OperationalError as error:
            if error.args[0] == 1040:
                break
"""


@pytest.mark.parametrize("statement", ["INSERT INTO books VALUES (2)", "ALTER TABLE books ADD COLUMN title INTEGER"])
def test_a_run_that_cannot_record_a_statement_for_want_of_a_connection_may_be_tried_again(
    private_server: Callable[..., Any], tmp_path: Path, run_job: Run, statement: str
) -> None:
    database = private_server("mariadb", max_connections=10).new_database()
    database.execute(BOOKS)
    body = f"{textwrap.dedent(_NO_ROOM)}\nop.execute({statement!r})\n"
    project = make_project(tmp_path, [Revision("r0", None, 'op.create_table("first", sa.Column("id", sa.Integer))')])
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert result.exit_code == 0
    project.add(Revision("r1", "r0", body))
    result = run_job("upgrade", cwd=project.path, env=environment(database, DDL_RETRY_FOR="0s"))
    refused(result, 43, "revision_deferred", "Nothing of it remains")
    assert result.finished["code"] == "1040"
    assert database.query("SELECT * FROM books") == []
