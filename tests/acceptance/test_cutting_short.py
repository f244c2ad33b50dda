"""What takes too long is ended on the server, and what is told of the database afterwards is true."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.expect import URL, refused
from tests.databases import Database, Server
from tests.integration.test_truth import ASYNC_ENV
from tests.job import SCRIPTS, Job, Project, Result, Revision, make_project, start
from tests.processes import descendants

Start = Callable[..., Job]
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
SERVERS = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
OLD = version("sqlalchemy").startswith("1.")  # without the asynchronous drivers
AT_ONCE_S = 4.0  # with the start of a process on a busy machine
GRACE = {"ALEMBIC_JOB_STOP_GRACE": "500ms"}
ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "mariadb": "UPDATE kept SET id = id + SLEEP(120)",
    "postgresql": "SELECT pg_sleep(120)",
}
# What is undone with the revision: DDL on PostgreSQL alone.
UNDONE = {
    "sqlite": 'op.execute("INSERT INTO kept VALUES (2)")',
    "mariadb": 'op.execute("INSERT INTO kept VALUES (2)")',
    "postgresql": 'op.execute("INSERT INTO kept VALUES (2)")\nop.execute("CREATE TABLE more (id INTEGER)")',
}
LASTING = {
    "sqlite": 'op.execute("CREATE TABLE more (id INTEGER)")',
    "mariadb": 'op.execute("CREATE TABLE more (id INTEGER)")',
    "postgresql": 'with op.get_context().autocommit_block():\n    op.execute("CREATE TABLE more (id INTEGER)")',
}
SAYS = 'print("inside", flush=True)\n'
FIRST = Revision("r1", None, 'op.execute("CREATE TABLE kept (id INTEGER)")\nop.execute("INSERT INTO kept VALUES (1)")')
PER_REVISION = {"ALEMBIC_JOB_TRANSACTION": "per-revision"}


def runs(sql: str) -> str:
    return f'{SAYS}op.execute("{sql}")\n'


def project_with(tmp_path: Path, *bodies: str, env: str | None = None) -> Project:
    """Write r1, which makes the table kept, and a revision for each body."""
    later = [Revision(f"r{n}", f"r{n - 1}", body) for n, body in enumerate(bodies, 2)]
    return make_project(tmp_path, [FIRST, *later], env=env)


@pytest.fixture
def run(database: Database, start_job: Start) -> Callable[..., Job]:
    """Start an upgrade; with ``inside``, return once the second revision says that it runs."""

    def start(project: Project, *, inside: bool = True, **env: str) -> Job:
        job = start_job("upgrade", cwd=project.path, env={URL: database.url, **PER_REVISION, **env})
        if inside:
            job.wait_for("user_output", text="inside")
            time.sleep(0.2)
        return job

    return start


def ended(job: Job, within_s: float = AT_ONCE_S) -> Result:
    began = time.monotonic()
    job.process.wait(60)  # to look at every line of a flood takes longer than the end itself
    assert time.monotonic() - began < within_s, job.stdout
    return job.finish(60)


def interrupted(result: Result, database: Database, number: signal.Signals = signal.SIGTERM) -> None:
    """Nothing of r2 remains, and the run says so."""
    finished = result.finished
    assert (result.exit_code, finished["exit_name"]) == (128 + number, "interrupted"), result.stdout
    assert (finished["retryable"], finished["to"]) == (True, ["r1"])
    assert number.name in finished["error"]
    assert result.one("revision_failed")["rolled_back"] == ["r2"]
    unharmed(database)


def unharmed(database: Database) -> None:
    assert database.versions() == {"r1"}
    assert database.query("SELECT id FROM kept") == [(1,)]
    assert "more" not in database.tables()
    nothing_runs(database)


def nothing_runs(database: Database) -> None:
    """No session, statement or lock of the run is left."""
    deadline = time.monotonic() + 3
    while left := sessions(database):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def sessions(database: Database) -> Any:
    if database.dialect == "sqlite":
        assert database.path
        with Path(f"{database.path}.alembic-job.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        database.execute("BEGIN IMMEDIATE", "ROLLBACK")
        return []
    if database.dialect == "mariadb":
        return database.query(
            "SELECT id, command, info FROM information_schema.processlist"
            " WHERE user = SUBSTRING_INDEX(USER(), '@', 1) AND id <> CONNECTION_ID()"
        )
    return database.query(
        "SELECT pid, state, query FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"
    )


# --- a signal ---------------------------------------------------------------------------------------


@SIGNALS
def test_a_statement_that_outlasts_the_grace_is_cancelled_on_the_server(
    number: signal.Signals, database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    job = run(project_with(tmp_path, UNDONE[database.dialect] + "\n" + runs(ENDLESS[database.dialect])), **GRACE)
    job.send_signal(number)
    result = ended(job)
    interrupted(result, database, number)
    assert result.one("stopping")["grace_s"] == 0.5
    failed = result.one("revision_failed")
    assert failed["code"] == {"sqlite": failed["code"], "mariadb": "1317", "postgresql": "57014"}[database.dialect]
    assert failed["statement_number"] or database.dialect != "mariadb"
    assert "the grace of 0.5 s was over" in failed["error"]


def test_a_statement_that_ends_within_the_grace_is_not_cancelled(
    database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    wait = f"{SAYS}time.sleep(1.5)\n"
    job = run(project_with(tmp_path, wait), ALEMBIC_JOB_STOP_GRACE="30s")
    job.send_signal(signal.SIGTERM)
    result = ended(job)
    assert (result.exit_code, result.finished["to"]) == (0, ["r2"])


def test_what_lasts_of_a_cancelled_revision_is_told(
    database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    job = run(project_with(tmp_path, LASTING[database.dialect] + "\n" + runs(ENDLESS[database.dialect])), **GRACE)
    job.send_signal(signal.SIGTERM)
    result = ended(job)
    refused(result, 41, "revision_partial", "r2", "SIGTERM", "statement 1")
    assert [s["statement_number"] for s in result.one("revision_failed")["durable_statements"]] == [1]
    assert "more" in database.tables()
    nothing_runs(database)


def test_a_second_signal_does_not_wait_for_the_grace(
    database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    job = run(project_with(tmp_path, runs(ENDLESS[database.dialect])), ALEMBIC_JOB_STOP_GRACE="100s")
    job.send_signal(signal.SIGTERM)
    job.wait_for("stopping")
    time.sleep(0.5)
    assert job.process.poll() is None
    job.send_signal(signal.SIGTERM)
    result = ended(job)
    interrupted(result, database)
    assert "came twice" in result.one("revision_failed")["error"]


# As MySQL's SLEEP does, which returns 1.
RETURNS = "DO $$ BEGIN PERFORM pg_sleep(120); EXCEPTION WHEN query_canceled THEN NULL; END $$"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("limit", ["signal", "ALEMBIC_JOB_STATEMENT_TIMEOUT", "ALEMBIC_JOB_TIMEOUT"])
def test_a_statement_that_returns_when_it_is_cancelled_counts_as_cancelled(
    limit: str, database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    project = project_with(tmp_path, UNDONE["postgresql"] + "\n" + runs(RETURNS))
    job = run(project, **(GRACE if limit == "signal" else {limit: "1500ms"}))
    if limit == "signal":
        job.send_signal(signal.SIGTERM)
    result = ended(job)
    expected = {"signal": 143, "ALEMBIC_JOB_STATEMENT_TIMEOUT": 40, "ALEMBIC_JOB_TIMEOUT": 44}
    assert result.exit_code == expected[limit], result.stdout
    assert result.one("revision_failed")["statement_number"] == 3
    unharmed(database)


PYTHON = {
    "sleeps": "time.sleep(120)",
    "spins": "while True: pass",
    "swallows": """
while True:
    try:
        time.sleep(120)
    except BaseException:
        print("swallowed", flush=True)
        if os.path.exists("enough"):
            raise
        open("enough", "w").close()
""",
    "prints": "while True: print('x' * 200)",
    "queries": "while True: op.execute('SELECT 1')",
    "waits for a child": "__import__('subprocess').run(['sleep', '5'])",
}


@pytest.mark.parametrize("what", PYTHON)
@SQLITE
def test_code_that_outlasts_the_grace_is_interrupted(
    what: str, database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    body = UNDONE[database.dialect] + "\n" + SAYS + PYTHON[what]
    job = run(project_with(tmp_path, body), **GRACE)
    job.send_signal(signal.SIGTERM)
    interrupted(ended(job, AT_ONCE_S + 4), database)


SWALLOWS_SQL = """
while True:
    try:
        op.execute("{}")
    except BaseException:
        print("swallowed", flush=True)
        if os.path.exists("enough"):
            raise
        open("enough", "w").close()
        op.get_bind().rollback()
"""


@SERVERS
def test_a_revision_that_swallows_the_cancel_is_cancelled_again(
    database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    body = SAYS + SWALLOWS_SQL.format(ENDLESS[database.dialect])
    job = run(project_with(tmp_path, body), **GRACE)
    job.send_signal(signal.SIGTERM)
    interrupted(ended(job, AT_ONCE_S + 4), database)


if not OLD:

    @pytest.mark.parametrize("what", ["statement", "code"])
    def test_an_asynchronous_env_py_is_cut_short_like_any(
        what: str, database: Database, start_job: Start, tmp_path: Path
    ) -> None:
        driver = {"sqlite": "sqlite+aiosqlite", "mariadb": "mysql+aiomysql", "postgresql": "postgresql+psycopg"}
        url = driver[database.dialect] + database.url[database.url.index(":") :]
        body = runs(ENDLESS[database.dialect]) if what == "statement" else SAYS + PYTHON["sleeps"]
        project = project_with(tmp_path, UNDONE[database.dialect] + "\n" + body, env=ASYNC_ENV)
        job = start_job("upgrade", cwd=project.path, env={URL: url, **PER_REVISION, **GRACE})
        job.wait_for("user_output", text="inside")
        time.sleep(0.2)
        job.send_signal(signal.SIGTERM)
        interrupted(ended(job), database)


CREATOR = """
from alembic import context
from sqlalchemy import create_engine, pool
from sqlalchemy.engine import make_url

url = make_url("{url}")
engine = create_engine(url)

def creator():
    arguments, keywords = engine.dialect.create_connect_args(url)
    return engine.dialect.dbapi.connect(*arguments, **keywords)

with create_engine(url, creator=creator, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


def test_where_only_env_py_can_connect_the_connection_is_given_up(
    database: Database, start_job: Start, tmp_path: Path
) -> None:
    env = CREATOR.format(url=database.url)
    body = UNDONE[database.dialect] + "\n" + runs(ENDLESS[database.dialect])
    project = project_with(tmp_path, body, env=env)
    job = start_job("upgrade", cwd=project.path, env={**PER_REVISION, **GRACE})
    job.wait_for("user_output", text="inside")
    job.send_signal(signal.SIGTERM)
    result = ended(job)
    assert (result.exit_code, result.finished["to"]) == (143, ["r1"]), result.stdout
    assert "SIGTERM" in result.finished["error"]


@contextlib.contextmanager
def as_pid_1(project: Project, database: Database) -> Iterator[tuple[Job, int]]:
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *as_root, "--pid", "--fork", "--kill-child", str(SCRIPTS / "alembic-job"), "upgrade"]
    job = start(command, cwd=project.path, env={URL: database.url, **PER_REVISION, **GRACE})
    try:
        job.wait_for("user_output", text="inside")
        yield job, descendants(job.pid)[0]
    finally:
        job.kill()


def test_as_pid_1_it_cancels_like_any_process(database: Database, tmp_path: Path) -> None:
    project = project_with(tmp_path, UNDONE[database.dialect] + "\n" + runs(ENDLESS[database.dialect]))
    with as_pid_1(project, database) as (job, pid):
        time.sleep(0.2)
        os.kill(pid, signal.SIGTERM)
        interrupted(ended(job), database)


# --- TIMEOUT ----------------------------------------------------------------------------------------


def test_a_statement_that_outlasts_the_timeout_is_cancelled(
    database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    project = project_with(tmp_path, UNDONE[database.dialect] + "\n" + runs(ENDLESS[database.dialect]))
    result = ended(run(project, ALEMBIC_JOB_TIMEOUT="1500ms"))
    refused(result, 44, "deadline_exceeded", "r2", "ALEMBIC_JOB_TIMEOUT (1.5s)", "Nothing of it remains")
    unharmed(database)


@SQLITE
def test_after_the_timeout_no_further_revision_starts(
    database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    slow = "time.sleep(0.5)\nwhile not os.path.exists('go'): pass\n"
    project = project_with(tmp_path, slow, "pass")
    (project.path / "go").touch()
    result = ended(run(project, inside=False, ALEMBIC_JOB_TIMEOUT="400ms"))
    # Either inside r2, of which nothing remains, or behind it.
    refused(result, 44, "deadline_exceeded", "ALEMBIC_JOB_TIMEOUT")
    assert "r3" not in [event["revision"] for event in result.of("revision_started")]


def test_a_timeout_with_a_revision_half_done_is_a_revision_half_done(
    database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    project = project_with(tmp_path, LASTING[database.dialect] + "\n" + runs(ENDLESS[database.dialect]))
    result = ended(run(project, ALEMBIC_JOB_TIMEOUT="1500ms"))
    refused(result, 41, "revision_partial", "r2", "ALEMBIC_JOB_TIMEOUT")
    nothing_runs(database)


# --- STATEMENT_TIMEOUT ------------------------------------------------------------------------------

BRIEF = {"ALEMBIC_JOB_STATEMENT_TIMEOUT": "700ms"}


def test_a_statement_that_takes_too_long_is_cancelled(
    database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    project = project_with(tmp_path, UNDONE[database.dialect] + "\n" + runs(ENDLESS[database.dialect]))
    result = ended(run(project, **BRIEF))
    refused(result, 40, "revision_failed", "r2", "ALEMBIC_JOB_STATEMENT_TIMEOUT (0.7s)", "Nothing of it remains")
    unharmed(database)


def test_a_statement_that_takes_too_long_after_others_that_last_leaves_them(
    database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    project = project_with(tmp_path, LASTING[database.dialect] + "\n" + runs(ENDLESS[database.dialect]))
    result = ended(run(project, **BRIEF))
    refused(result, 41, "revision_partial", "r2", "ALEMBIC_JOB_STATEMENT_TIMEOUT", "statement 1")
    nothing_runs(database)


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_revision_may_survive_a_statement_that_was_cancelled(
    database: Database, run: Callable[..., Job], tmp_path: Path
) -> None:
    body = f"try:\n    op.execute('{ENDLESS['mariadb']}')\nexcept Exception:\n    print('survived', flush=True)\n"
    result = ended(run(project_with(tmp_path, SAYS + body), **BRIEF))
    assert (result.exit_code, result.finished["to"]) == (0, ["r2"]), result.stdout
    assert result.of("user_output")[-1]["text"] == "survived"


@SQLITE
def test_code_between_statements_is_no_statement(database: Database, run: Callable[..., Job], tmp_path: Path) -> None:
    result = ended(run(project_with(tmp_path, SAYS + "time.sleep(1.5)"), **BRIEF))
    assert result.exit_code == 0


@SERVERS
def test_a_server_that_cannot_be_asked_is_given_up(
    database: Database, run: Callable[..., Job], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Once the migrating session is there, nobody else gets in."""
    server: Server = request.getfixturevalue(f"{database.dialect}_server")
    assert database.login
    name = database.login.name
    project = project_with(tmp_path, UNDONE[database.dialect] + "\n" + runs(ENDLESS[database.dialect]))
    job = run(project, **GRACE)
    lock = {"mariadb": f"ALTER USER {name}@'%' ACCOUNT LOCK", "postgresql": f"ALTER ROLE {name} NOLOGIN"}
    unlock = {"mariadb": f"ALTER USER {name}@'%' ACCOUNT UNLOCK", "postgresql": f"ALTER ROLE {name} LOGIN"}
    server.admin(lock[database.dialect])
    try:
        job.send_signal(signal.SIGTERM)
        time.sleep(6)
    finally:
        server.admin(unlock[database.dialect])
    result = ended(job, 20)
    # It could not be read back either, so where DDL commits as it goes nobody knows.
    assert result.exit_code == {"mariadb": 41, "postgresql": 143}[database.dialect], result.stdout
