"""A Galera cluster, and PostgreSQL behind a pooler: what the program does where session locks exclude nobody."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.expect import URL, refused
from tests.clusters import Galera, Pooler
from tests.databases import Database, Server
from tests.job import Job, Project, Result, Revision, linear, make_project
from tests.processes import signal_tree

Run = Callable[..., Result]
Start = Callable[..., Job]
DIRECT = "ALEMBIC_JOB_LOCK_DATABASE_URL"


@pytest.fixture
def nodes(galera: Galera) -> tuple[Database, ...]:
    return galera.new_database()


@pytest.fixture
def direct(postgresql_server: Server) -> Database:
    return postgresql_server.new_database()


@pytest.fixture
def pooled(pgbouncer: Pooler, direct: Database) -> Database:
    return pgbouncer.through(direct)


def slow(tmp_path: Path) -> Project:
    return make_project(tmp_path, [Revision(r.id, r.down, f"{r.upgrade}\ntime.sleep(0.7)") for r in linear(3)])


def one_did_the_work(jobs: list[Job]) -> list[Result]:
    results = [job.finish(90) for job in jobs]
    assert [result.exit_code for result in results] == [0] * len(jobs), [result.finished for result in results]
    assert sorted(result.finished["count"] for result in results) == [0] * (len(jobs) - 1) + [3]
    return results


def test_runs_on_two_nodes_of_a_cluster_exclude_each_other(
    tmp_path: Path, nodes: tuple[Database, ...], start_job: Start, run_job: Run
) -> None:
    project = slow(tmp_path)
    results = one_did_the_work([start_job("upgrade", cwd=project.path, env={URL: node.url}) for node in nodes])
    [acquired] = [result.one("lock_acquired") for result in results if result.finished["count"]]
    assert acquired["lock_kind"] == "lease" and "Galera" in acquired["reason"]
    for node in nodes:
        again = run_job("upgrade", cwd=project.path, env={URL: node.url})
        assert again.finished["outcome"] == "up_to_date"


def test_runs_through_a_pooler_exclude_each_other(
    tmp_path: Path, pooled: Database, direct: Database, start_job: Start
) -> None:
    project = slow(tmp_path)
    results = one_did_the_work([start_job("upgrade", cwd=project.path, env={URL: pooled.url}) for _ in range(2)])
    [acquired] = [result.one("lock_acquired") for result in results if result.finished["count"]]
    assert acquired["lock_kind"] == "lease" and "pooler" in acquired["reason"]
    assert direct.versions() == {"r3"}


def test_with_a_direct_connection_for_the_lock_it_is_a_session_lock_again(
    tmp_path: Path, pooled: Database, direct: Database, start_job: Start
) -> None:
    project = slow(tmp_path)
    env = {URL: pooled.url, DIRECT: direct.url}
    results = one_did_the_work([start_job("upgrade", cwd=project.path, env=env) for _ in range(2)])
    [acquired] = [result.one("lock_acquired") for result in results if result.finished["count"]]
    assert acquired["lock_kind"] == "pg_advisory_lock" and DIRECT in acquired["reason"]
    here = "SELECT oid FROM pg_database WHERE datname = current_database()"  # the server is shared
    assert direct.query(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = ({here})") == [(0,)]
    assert direct.login and direct.login.password and direct.login.password not in results[0].stdout


def test_a_direct_connection_to_another_database_is_refused(
    tmp_path: Path, pooled: Database, postgresql_server: Server, run_job: Run
) -> None:
    project = make_project(tmp_path, linear(1))
    elsewhere = postgresql_server.new_database()
    result = run_job("upgrade", cwd=project.path, env={URL: pooled.url, DIRECT: elsewhere.url})
    refused(result, 35, "wrong_database", DIRECT)
    assert pooled.versions() == set()


def killed_in_a_revision(project: Project, database: Database, start_job: Start) -> None:
    """A run that is gone in the middle of its first revision, after the table was made there."""
    first = start_job("upgrade", cwd=project.path, env={URL: database.url})
    first.wait_for("revision_started")
    time.sleep(1)
    signal_tree(first.pid, signal.SIGKILL)
    first.finish(complete=False)
    (project.path / "again").touch()


def stops_halfway(tmp_path: Path) -> Project:
    body = (
        'op.execute("CREATE TABLE IF NOT EXISTS t1 (id INTEGER)")\nif not os.path.exists("again"):\n    time.sleep(600)'
    )
    return make_project(tmp_path, [Revision("r1", upgrade=body), *linear(2)[1:]])


@pytest.mark.parametrize("where", ["nodes", "pooled"])
def test_a_lease_frees_itself_after_a_crash(
    tmp_path: Path, where: str, start_job: Start, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(where)
    database: Database = found[0] if where == "nodes" else found
    project = stops_halfway(tmp_path)
    killed_in_a_revision(project, database, start_job)
    since = time.monotonic()
    env = {URL: database.url, "ALEMBIC_JOB_HEARTBEAT": "5s"}
    result = start_job("upgrade", cwd=project.path, env=env).finish(120)
    assert (result.exit_code, result.finished["applied"]) == (0, ["r1", "r2"]), result.stdout
    waiting = result.of("lock_waiting")[0]["holder"]
    assert waiting["connection"].startswith("a lease") and waiting["run_id"]
    assert 10 < time.monotonic() - since < 90


def test_a_session_on_another_node_is_not_proven_to_be_gone_and_somebody_may_say_so(
    tmp_path: Path, nodes: tuple[Database, ...], start_job: Start, run_job: Run
) -> None:
    project = stops_halfway(tmp_path)
    killed_in_a_revision(project, nodes[0], start_job)
    env = {URL: nodes[1].url}
    live = run_job("unlock", "--yes", cwd=project.path, env=env)
    refused(live, 20, "lock_timeout", "is held by a lease")
    waited = run_job("upgrade", cwd=project.path, env={**env, "ALEMBIC_JOB_LOCK_TIMEOUT": "35s"}, timeout_s=90)
    refused(waited, 20, "lock_timeout", "a lease that has expired")
    assert "alembic-job unlock" in waited.finished["hint"]
    refused(run_job("unlock", cwd=project.path, env=env), 20, "lock_timeout", "has expired")
    assert run_job("unlock", "--yes", cwd=project.path, env=env).finished["outcome"] == "unlocked"
    assert run_job("upgrade", cwd=project.path, env=env).exit_code == 0


def test_unlock_of_what_nobody_holds_and_of_what_somebody_does(
    tmp_path: Path, database: Database, start_job: Start, run_job: Run
) -> None:
    project = make_project(tmp_path, [Revision("r1", upgrade='while not os.path.exists("go"):\n    time.sleep(0.05)')])
    env = {URL: database.url}
    if database.path:
        database.execute("PRAGMA user_version = 1")
    assert run_job("unlock", cwd=project.path, env=env).finished["outcome"] == "unlocked"
    job = start_job("upgrade", cwd=project.path, env=env)
    job.wait_for("revision_started")
    result = run_job("unlock", cwd=project.path, env=env)
    refused(result, 20, "lock_timeout", "is held by")
    (project.path / "go").touch()
    assert job.finish().exit_code == 0
