"""SIGTERM and SIGINT: a wait ends at once, a run between two revisions, and what is told is true."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.databases import Database
from tests.job import SCRIPTS, Job, Project, Result, Revision, make_project, start
from tests.processes import descendants

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
PROJECTS = Path(__file__).parents[1] / "projects"
AT_ONCE_S = 2.0

Start = Callable[..., Job]


def stopped(job: Job, number: signal.Signals = signal.SIGTERM, within_s: float = AT_ONCE_S) -> Result:
    """Send the signal, and check what the end has to look like."""
    job.send_signal(number)
    return interrupted(job, number, within_s)


def interrupted(job: Job, number: signal.Signals = signal.SIGTERM, within_s: float = AT_ONCE_S) -> Result:
    signalled = time.monotonic()
    result = job.finish(30)
    took_s = time.monotonic() - signalled
    finished = result.finished
    assert (result.exit_code, finished["exit_name"]) == (128 + number, "interrupted"), result.stdout
    assert (finished["outcome"], finished["retryable"], finished["level"]) == ("interrupted", True, "warning")
    assert result.one("stopping")["signal"] == number.name
    assert number.name in finished["error"]
    assert took_s < within_s
    return result


def url(database: Database) -> dict[str, str]:
    return {"ALEMBIC_JOB_DATABASE_URL": database.url}


# --- waiting ----------------------------------------------------------------------------------------


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        yield listening


@SIGNALS
@pytest.mark.parametrize("driver", ["mysql+pymysql", "postgresql+psycopg"])
def test_a_wait_for_a_refused_port_ends_at_once(
    driver: str, number: signal.Signals, silent_server: socket.socket, tmp_path: Path, start_job: Start
) -> None:
    port = silent_server.getsockname()[1]
    silent_server.close()
    env = {"ALEMBIC_JOB_DATABASE_URL": f"{driver}://u:password@127.0.0.1:{port}/d"}
    job = start_job("wait", "--for", "connection", cwd=tmp_path, env=env)
    job.wait_for("database_waiting", count=2)
    stopped(job, number)


@SIGNALS
@pytest.mark.parametrize("driver", ["mysql+pymysql", "postgresql+psycopg"])
def test_a_login_that_nobody_answers_ends_at_once(
    driver: str, number: signal.Signals, silent_server: socket.socket, tmp_path: Path, start_job: Start
) -> None:
    env = {
        "ALEMBIC_JOB_DATABASE_URL": f"{driver}://u:password@127.0.0.1:{silent_server.getsockname()[1]}/d",
        "ALEMBIC_JOB_CONNECT_TIMEOUT": "60s",
    }
    job = start_job("wait", "--for", "connection", cwd=tmp_path, env=env)
    with silent_server.accept()[0]:
        stopped(job, number)


@SQLITE
@SIGNALS
def test_the_wait_for_a_target_ends_at_once(
    number: signal.Signals, database: Database, tmp_path: Path, start_job: Start
) -> None:
    project = make_project(tmp_path, [Revision("r1")])
    job = start_job("wait", cwd=project.path, env=url(database))
    job.wait_for("plan_ready")
    stopped(job, number)


def test_a_run_that_queues_for_the_lock_ends_at_once(database: Database, tmp_path: Path, start_job: Start) -> None:
    project = make_project(tmp_path, [gated("r1")])
    first = start_job("upgrade", cwd=project.path, env=url(database))
    first.wait_for("user_output", text="inside r1")
    second = start_job("upgrade", cwd=project.path, env=url(database))
    second.wait_for("lock_waiting")
    result = stopped(second)
    assert "revision_started" not in result.names
    (project.path / "go r1").touch()
    assert first.finish().exit_code == 0


# --- looking ----------------------------------------------------------------------------------------


def project_that_looks_long(tmp_path: Path, code: str) -> Project:
    return make_project(tmp_path, [Revision("r1")], env=f"import ctypes, subprocess, time\n{code}")


SLEEPS = """
print("looking", flush=True)
time.sleep(60)
"""
SWALLOWS = """
try:
    print("looking", flush=True)
    time.sleep(60)
except BaseException as error:
    print("swallowed", repr(error))
"""


@SQLITE
@SIGNALS
@pytest.mark.parametrize("code", [SLEEPS, SWALLOWS], ids=["sleeps", "swallows"])
def test_a_look_ends_at_once(
    code: str, number: signal.Signals, database: Database, tmp_path: Path, start_job: Start
) -> None:
    job = start_job("upgrade", cwd=project_that_looks_long(tmp_path, code).path, env=url(database))
    job.wait_for("user_output", text="looking")
    stopped(job, number)
    assert database.tables() == set()


# As a name look-up can: it does not come back for a signal.
DEAF = """
mutex = ctypes.create_string_buffer(64)
lock = ctypes.CDLL(None).pthread_mutex_lock
lock(mutex)
subprocess.Popen(["sh", "-c", "sleep 0.3; echo looking"])
lock(mutex)
"""
STUBBORN = """
subprocess.Popen(["sh", "-c", "sleep 0.3; echo looking"])
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""


@SQLITE
@pytest.mark.parametrize("code", [DEAF, STUBBORN], ids=["deaf", "stubborn"])
def test_a_look_that_hears_no_signal_is_ended_all_the_same(
    code: str, database: Database, tmp_path: Path, start_job: Start
) -> None:
    job = start_job("upgrade", cwd=project_that_looks_long(tmp_path, code).path, env=url(database))
    job.wait_for("user_output", text="looking")
    result = stopped(job, within_s=6)
    assert "before anything was changed" in result.finished["error"]


# --- running ----------------------------------------------------------------------------------------


def gated(id: str, down: str | None = None) -> Revision:
    """A revision that stays inside until the file "go <id>" is there."""
    return Revision(
        id,
        down,
        f"""
        op.create_table("t_{id}", sa.Column("id", sa.Integer, primary_key=True))
        print("inside {id}", flush=True)
        while not os.path.exists("go {id}"):
            time.sleep(0.01)
        op.execute("INSERT INTO t_{id} (id) VALUES (1)")
        """,
    )


PER_REVISION = """
from alembic import context
from sqlalchemy import create_engine, pool

with create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.fixture
def run_until(database: Database, tmp_path: Path, start_job: Start) -> Callable[..., Job]:
    """Start three revisions, send the signal inside one of them, and let this one go on."""

    def run(inside: str, *numbers: signal.Signals, env: str | None = None) -> Job:
        project = make_project(tmp_path, [gated("r1"), gated("r2", "r1"), gated("r3", "r2")], env=env)
        for id in ("r1", "r2", "r3"):
            if id < inside:
                (project.path / f"go {id}").touch()
        job = start_job("upgrade", cwd=project.path, env=url(database))
        job.wait_for("user_output", text=f"inside {inside}")
        for count, number in enumerate(numbers, 1):
            job.send_signal(number)
            job.wait_for("stopping")
            time.sleep(0.05 * count)
        (project.path / f"go {inside}").touch()
        return job

    return run


@SIGNALS
def test_a_signal_inside_a_revision_stops_the_run_behind_it(
    number: signal.Signals, database: Database, run_until: Callable[..., Job]
) -> None:
    result = interrupted(run_until("r2", number), number)
    assert [event["revision"] for event in result.of("revision_started")] == ["r1", "r2"]
    if database.dialect == "postgresql":  # one transaction around all of them
        assert result.one("transaction_rolled_back")["revisions"] == ["r1", "r2"]
        assert (result.finished["applied"], result.finished["to"], database.tables()) == ([], [], set())
    else:
        assert "transaction_rolled_back" not in result.names
        assert (result.finished["applied"], result.finished["to"]) == (["r1", "r2"], ["r2"])
        assert database.versions() == {"r2"}
        assert database.query("SELECT id FROM t_r2") == [(1,)]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_revisions_with_a_transaction_of_their_own_stay(database: Database, run_until: Callable[..., Job]) -> None:
    result = interrupted(run_until("r2", signal.SIGTERM, env=PER_REVISION))
    assert (result.finished["applied"], result.finished["to"]) == (["r1", "r2"], ["r2"])
    assert database.versions() == {"r2"}


def test_a_signal_inside_the_last_revision_is_no_reason_to_fail(
    database: Database, run_until: Callable[..., Job]
) -> None:
    result = run_until("r3", signal.SIGTERM).finish()
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded")
    assert result.finished["applied"] == ["r1", "r2", "r3"]
    assert result.one("stopping")["signal"] == "SIGTERM"
    assert database.versions() == {"r3"}


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_a_statement_that_runs_is_finished(database: Database, start_job: Start) -> None:
    job = start_job("upgrade", cwd=PROJECTS / "slow_revisions", env={**url(database), "SECONDS": "1.5"})
    job.wait_for("user_output", text="sleeping")
    result = stopped(job, within_s=1.5 + AT_ONCE_S)
    assert [event["revision"] for event in result.of("revision_executed")] == ["0001"]
    assert database.versions() == (set() if database.dialect == "postgresql" else {"0001"})


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_the_next_run_goes_on_where_the_signal_stopped(
    database: Database, tmp_path: Path, run_until: Callable[..., Job], start_job: Start
) -> None:
    interrupted(run_until("r1", signal.SIGTERM))
    for id in ("r2", "r3"):
        (tmp_path / "project" / f"go {id}").touch()
    result = start_job("upgrade", cwd=tmp_path / "project", env=url(database)).finish()
    left = ["r1", "r2", "r3"] if database.dialect == "postgresql" else ["r2", "r3"]
    assert (result.exit_code, result.finished["applied"]) == (0, left)


@SQLITE
def test_a_slow_reader_does_not_keep_the_signal_from_the_worker(
    database: Database, tmp_path: Path, start_job: Start
) -> None:
    code = "print('looking')\nwhile True: print('x' * 1000)"
    project = project_that_looks_long(tmp_path, code)
    job = start_job("upgrade", cwd=project.path, env=url(database))
    job.wait_for("user_output", text="looking")
    stopped(job, within_s=10)


# --- PID 1 ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def as_pid_1(project: Project, database: Database) -> Iterator[tuple[Job, int]]:
    """Run the job as the first process of a PID namespace; its number out here comes with it."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *as_root, "--pid", "--fork", "--kill-child", str(SCRIPTS / "alembic-job"), "upgrade"]
    job = start(command, cwd=project.path, env=url(database))
    try:
        job.wait_for("run_started")
        yield job, descendants(job.pid)[0]
    finally:
        job.kill()


@SQLITE
@SIGNALS
def test_as_pid_1_it_stops_like_any_process(number: signal.Signals, database: Database, tmp_path: Path) -> None:
    project = make_project(tmp_path, [gated("r1"), gated("r2", "r1")])
    with as_pid_1(project, database) as (job, pid):
        job.wait_for("user_output", text="inside r1")
        os.kill(pid, number)
        job.wait_for("stopping")
        (project.path / "go r1").touch()
        assert interrupted(job, number).finished["applied"] == ["r1"]


@SQLITE
def test_as_pid_1_it_leaves_no_zombies(database: Database, tmp_path: Path) -> None:
    orphans = """
    for _ in range(5):
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.1)
            os._exit(0)
        os.wait()
    """
    project = make_project(tmp_path, [Revision("r1", None, orphans), gated("r2", "r1")])
    with as_pid_1(project, database) as (job, pid):
        job.wait_for("user_output", text="inside r2")
        deadline = time.monotonic() + 10
        while len(descendants(pid)) > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(descendants(pid)) == 1  # the worker
        (project.path / "go r2").touch()
        assert job.finish().exit_code == 0
