"""Waiting: for the database, for a login, for the lock, for the target."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.acceptance.expect import PROJECTS, URL, applied_nothing, refused
from tests.databases import PASSWORD, Database, Login, Server, sqlite_database
from tests.job import Job, Result, linear, make_project

Run = Callable[..., Result]
Start = Callable[..., Job]
PROJECT = PROJECTS / "two_heads"
NOBODY = {"mysql": "mysql+pymysql://user:word@{}/name", "postgresql": "postgresql+psycopg://user:word@{}/name"}


def login_of(database: Database) -> Login:
    assert database.login is not None
    return database.login


def url_at(database: Database, port: int) -> str:
    return database.url.replace(f":{login_of(database).port}/", f":{port}/")


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    return sqlite_database(tmp_path / "database.sqlite")


# --- for the database -------------------------------------------------------------------------------


@contextlib.contextmanager
def silent_port(*, accepts: bool) -> Iterator[int]:
    """A port that accepts and says nothing; or one that does not even accept, as a firewall that drops."""
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(64 if accepts else 0)
        port: int = listener.getsockname()[1]
        for _ in range(0 if accepts else 4):  # fill the queue: Linux drops what comes then
            filler = closing.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


@pytest.mark.parametrize("dialect", sorted(NOBODY))
@pytest.mark.parametrize("accepts", [False, True], ids=["drops", "accepts"])
def test_a_host_that_says_nothing_is_given_up_after_the_wait(run_job: Run, dialect: str, accepts: bool) -> None:
    with silent_port(accepts=accepts) as port:
        url = NOBODY[dialect].format(f"127.0.0.1:{port}")
        env = {URL: url, "ALEMBIC_JOB_WAIT_TIMEOUT": "1.5s", "ALEMBIC_JOB_CONNECT_TIMEOUT": "1s"}
        result = run_job("wait", "--for", "connection", env=env)
    refused(result, 10, "database_unreachable", f"127.0.0.1:{port}", "attempt", "within")
    assert 1 <= result.finished["duration_s"] < 8  # libpq waits two seconds at least
    assert "word" not in result.stdout


@pytest.mark.parametrize("dialect", sorted(NOBODY))
def test_a_name_that_does_not_resolve_may_come_and_is_waited_for(run_job: Run, dialect: str) -> None:
    env = {URL: NOBODY[dialect].format("no-such-host.invalid"), "ALEMBIC_JOB_WAIT_TIMEOUT": "1s"}
    result = run_job("wait", "--for", "connection", env=env)
    refused(result, 10, "database_unreachable", "no-such-host.invalid")
    waiting = result.of("database_waiting")
    assert [event["attempt"] for event in waiting] == list(range(1, len(waiting) + 1))
    assert waiting and f"{len(waiting) + 1} attempts" in result.finished["error"]


@contextlib.contextmanager
def proxy(port: int, to: Login) -> Iterator[None]:
    """A server that arrives: pass connections to ``port`` on to another one."""
    listener = socket.create_server(("127.0.0.1", port))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((to.host, to.port))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_a_server_that_comes_later_is_waited_for(start_job: Start, database: Database) -> None:
    port = free_port()
    job = start_job("upgrade", cwd=PROJECT, env={URL: url_at(database, port)})
    job.wait_for("database_waiting", count=2)
    with proxy(port, login_of(database)):
        result = job.finish()
    assert (result.exit_code, result.finished["outcome"], database.versions()) == (0, "upgraded", {"0002", "0003"})
    waiting = result.of("database_waiting")
    assert [event["attempt"] for event in waiting] == list(range(1, len(waiting) + 1))
    for before, after in itertools.pairwise(waiting):
        assert after["waited_s"] >= before["waited_s"] + before["next_in_s"]
    assert all(0 <= event["next_in_s"] <= 5 and "refused" in event["error"] for event in waiting)
    ready = result.one("database_ready")
    assert ready["attempts"] == len(waiting) + 1
    assert ready["waited_s"] >= waiting[-1]["waited_s"] + waiting[-1]["next_in_s"]
    assert ready["server_version"]


# --- for a login ------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_a_refusal_is_retried_for_as_long_as_it_is_told(
    start_job: Start, run_job: Run, database: Database, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(f"{database.dialect}_server")
    login = login_of(database)
    user = f"{login.user}_n"
    url = database.url.replace(f"{login.user}:", f"{user}:")
    refusal = run_job("wait", "--for", "connection", env={URL: url, "ALEMBIC_JOB_RETRY_REFUSED_FOR": "1s"})
    refused(refusal, 11, "login_refused", user)
    assert refusal.of("database_waiting") and refusal.finished["duration_s"] >= 0.5

    job = start_job("wait", "--for", "connection", env={URL: url, "ALEMBIC_JOB_RETRY_REFUSED_FOR": "30s"})
    job.wait_for("database_waiting")
    if database.dialect == "mariadb":
        server.admin(f"CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'", f"GRANT ALL ON {login.name}.* TO {user}@'%'")
    else:
        server.admin(
            f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'", f"GRANT CONNECT ON DATABASE {login.name} TO {user}"
        )
    result = job.finish()
    assert (result.exit_code, result.finished["outcome"]) == (0, "ready")


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_password_that_is_rotated_while_waiting_for_the_login_is_used(
    start_job: Start, database: Database, tmp_path: Path
) -> None:
    login = login_of(database)
    secret = tmp_path / "password"
    secret.write_text("yesterdays-word")
    env = {
        "ALEMBIC_JOB_DB_DRIVER": "mysql+pymysql",
        "ALEMBIC_JOB_DB_HOST": login.host,
        "ALEMBIC_JOB_DB_PORT": str(login.port),
        "ALEMBIC_JOB_DB_USER": login.user,
        "ALEMBIC_JOB_DB_NAME": login.name,
        "ALEMBIC_JOB_DB_PASSWORD_FILE": str(secret),
        "ALEMBIC_JOB_RETRY_REFUSED_FOR": "30s",
    }
    job = start_job("upgrade", cwd=PROJECT, env=env)
    assert job.wait_for("database_waiting")["code"] == "1045"
    secret.write_text(login.password)
    result = job.finish()
    assert (result.exit_code, database.versions()) == (0, {"0002", "0003"})


@pytest.mark.parametrize("module", ["alembic", "sqlalchemy"])
def test_waiting_for_a_connection_needs_neither_alembic_nor_a_project(
    run_job: Run, sqlite: Database, tmp_path: Path, module: str
) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / f"{module}.py").write_text(f"raise AssertionError('{module} is imported')\n")
    result = run_job("wait", "--for", "connection", env={URL: sqlite.url, "PYTHONPATH": str(shadow)})
    assert (result.exit_code, result.finished["outcome"]) == (0, "ready")
    assert result.names == ["run_started", "database_ready", "run_finished"]
    assert sqlite.path and not sqlite.path.exists()


# --- for the target ---------------------------------------------------------------------------------


def test_wait_ends_when_another_run_has_brought_the_target(start_job: Start, run_job: Run, sqlite: Database) -> None:
    project = PROJECTS / "custom_version_table"
    waiting = start_job("wait", "0002", cwd=project, env={URL: sqlite.url})
    plan = waiting.wait_for("plan_ready")
    assert (plan["state"], plan["current"], plan["target"], plan["count"]) == ("empty", [], ["0002"], 2)
    assert run_job("upgrade", cwd=project, env={URL: sqlite.url}).exit_code == 0
    result = waiting.finish()
    assert (result.exit_code, result.finished["outcome"], result.finished["to"]) == (0, "ready", ["0002"])
    assert not result.of("lock_acquired")
    applied_nothing(result)


@pytest.mark.parametrize("arguments", [("--timeout", "500ms"), ("--target-timeout", "500ms"), ()])
def test_wait_gives_up_when_the_target_does_not_come(
    run_job: Run, sqlite: Database, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    project = make_project(tmp_path, linear(2))
    run_job("upgrade", "r1", cwd=project.path, env={URL: sqlite.url})
    env = {URL: sqlite.url} if arguments else {URL: sqlite.url, "ALEMBIC_JOB_TARGET_TIMEOUT": "500ms"}
    result = run_job("wait", *arguments, cwd=project.path, env=env)
    refused(result, 22, "target_timeout", "r1", "r2")
    assert result.finished["to"] == ["r1"]
    assert sqlite.versions() == {"r1"}


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_wait_survives_a_server_that_goes_away_for_a_while(start_job: Start, database: Database) -> None:
    port = free_port()
    with proxy(port, login_of(database)):
        waiting = start_job("wait", cwd=PROJECT, env={URL: url_at(database, port), "ALEMBIC_JOB_HEARTBEAT": "100ms"})
        waiting.wait_for("plan_ready", count=2)
    time.sleep(3)  # longer than the longest pause between two looks
    assert waiting.process.poll() is None
    database.execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('0002'), ('0003')",
    )
    with proxy(port, login_of(database)):
        result = waiting.finish()
    assert (result.exit_code, result.finished["to"]) == (0, ["0002", "0003"])


class Rotated(NamedTuple):
    """A file with the URL. The password becomes another one at the server, and later in the file."""

    env: dict[str, str]
    at_the_server: Callable[[], object]
    in_the_file: Callable[[], object]


@pytest.fixture
def rotated(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Rotated:
    login, file = login_of(database), tmp_path / "url"
    file.write_text(database.url)
    user = f"USER {login.user}@'%' IDENTIFIED BY" if database.dialect == "mariadb" else f"ROLE {login.user} PASSWORD"
    server: Server = request.getfixturevalue(f"{database.dialect}_server")
    return Rotated(
        {f"{URL}_FILE": str(file)},
        lambda: server.admin(f"ALTER {user} 'todays-word'"),
        lambda: file.write_text(database.url.replace(login.password, "todays-word")),
    )


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
@pytest.mark.parametrize("retried", [True, False])
def test_wait_outlives_a_rotation_for_as_long_as_a_refusal_is_to_be_retried(
    start_job: Start, run_job: Run, rotated: Rotated, retried: bool
) -> None:
    env = {**rotated.env, "ALEMBIC_JOB_RETRY_REFUSED_FOR": "60s" if retried else "2s"}
    job = start_job("wait", cwd=PROJECT, env=env)
    job.wait_for("plan_ready")
    rotated.at_the_server()
    if not retried:
        refused(job.finish(), 11, "login_refused")
        return
    time.sleep(4)  # at least one try meets the old password
    rotated.in_the_file()
    assert run_job("upgrade", cwd=PROJECT, env=rotated.env).exit_code == 0
    assert (job.finish().exit_code, job.finish().finished["outcome"]) == (0, "ready")


# --- for the lock -----------------------------------------------------------------------------------


@contextlib.contextmanager
def lock_held(database: Database, name: str) -> Iterator[None]:
    """Hold the migration lock as another run does, through the raw driver."""
    if database.dialect == "sqlite":
        with Path(name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    take = f"SELECT GET_LOCK('{name}', 0)" if database.dialect == "mariadb" else f"SELECT pg_advisory_lock({name})"
    with contextlib.closing(database.connect()) as connection, contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(take)
        yield


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
@pytest.mark.parametrize("retried", [True, False])
def test_who_waits_for_the_lock_outlives_a_rotation_too(
    start_job: Start, run_job: Run, database: Database, rotated: Rotated, retried: bool
) -> None:
    name = run_job("upgrade", "0001", cwd=PROJECT, env=rotated.env).one("lock_acquired")["lock"]
    env = {**rotated.env, "ALEMBIC_JOB_RETRY_REFUSED_FOR": "60s" if retried else "2s"}
    with lock_held(database, name):
        job = start_job("upgrade", cwd=PROJECT, env=env)
        job.wait_for("lock_waiting")
        rotated.at_the_server()
        if not retried:
            refused(job.finish(), 11, "login_refused", "No revision was run.")
            return
        time.sleep(4)  # at least one try meets the old password
        rotated.in_the_file()
    assert (job.finish().exit_code, job.finish().finished["outcome"]) == (0, "upgraded")


def test_a_run_waits_for_the_lock_and_leaves_when_there_is_nothing_left_to_do(
    start_job: Start, run_job: Run, database: Database
) -> None:
    env = {URL: database.url, "ALEMBIC_JOB_HEARTBEAT": "200ms"}
    name = run_job("upgrade", "0001", cwd=PROJECT, env=env).one("lock_acquired")["lock"]
    with lock_held(database, name):
        late = run_job("upgrade", "--lock-timeout", "1.2s", cwd=PROJECT, env=env)
        refused(late, 20, "lock_timeout", name)
        applied_nothing(late)
        assert (late.finished["to"], database.versions()) == (["0001"], {"0001"})

        waiting = start_job("upgrade", cwd=PROJECT, env=env)
        beats = [waiting.wait_for("lock_waiting", count=count) for count in (1, 2)]
        assert beats[0]["lock"] == name and beats[1]["waited_s"] >= beats[0]["waited_s"] + 0.2
        database.execute(
            "UPDATE alembic_version SET version_num = '0002'", "INSERT INTO alembic_version VALUES ('0003')"
        )
        result = waiting.finish()
    assert (result.exit_code, result.finished["outcome"]) == (0, "up_to_date")
    assert (result.finished["from"], result.finished["to"]) == (["0001"], ["0002", "0003"])
    assert not result.of("lock_acquired")
    applied_nothing(result)


def test_without_a_lock_a_held_one_is_no_obstacle(run_job: Run, sqlite: Database) -> None:
    env = {URL: sqlite.url, "ALEMBIC_JOB_LOCK": "none"}
    with lock_held(sqlite, f"{sqlite.path}.alembic-job.lock"):
        result = run_job("upgrade", cwd=PROJECT, env=env)
    assert result.exit_code == 0
    assert result.one("lock_acquired")["lock_kind"] == "none"


def test_of_two_runs_at_the_same_time_one_migrates(start_job: Start, database: Database, tmp_path: Path) -> None:
    shutil.copytree(PROJECTS / "slow_revisions", tmp_path / "project")
    env = {URL: database.url, "SECONDS": "0.4"}
    both = [start_job("upgrade", cwd=tmp_path / "project", env=env) for _ in range(2)]
    results = [job.finish() for job in both]
    assert [result.exit_code for result in results] == [0, 0]
    assert sorted(len(result.of("revision_started")) for result in results) == [0, 3]
    assert {result.finished["outcome"] for result in results} == {"upgraded", "up_to_date"}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_password_that_is_rotated_while_waiting_for_the_lock_is_used(
    start_job: Start, run_job: Run, database: Database, postgresql_server: Server, tmp_path: Path
) -> None:
    login = login_of(database)
    file = tmp_path / "url"
    file.write_text(database.url)
    env = {f"{URL}_FILE": str(file)}
    name = run_job("upgrade", "0001", cwd=PROJECT, env=env).one("lock_acquired")["lock"]
    with lock_held(database, name):
        job = start_job("upgrade", cwd=PROJECT, env=env)
        job.wait_for("lock_waiting")
        postgresql_server.admin(f"ALTER ROLE {login.user} PASSWORD 'todays-word'")
        file.write_text(database.url.replace(login.password, "todays-word"))
    result = job.finish()
    assert (result.exit_code, result.finished["to"]) == (0, ["0002", "0003"]), result.finished
    assert "todays-word" not in result.stdout
