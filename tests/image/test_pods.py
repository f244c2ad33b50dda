"""The pods of k8s/ and the chart in a real engine: with the rights, memory, variables and volumes that stand there."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import job
from tests.databases import Database, Server
from tests.image import pods
from tests.image.containers import BOOKSHOP, HEAD, built, docker
from tests.image.pods import Manifest, Pod
from tests.job import Revision, creates, linear, make_project
from tests.sidecar import Sidecar

MANIFESTS = {"job": pods.manifest, "chart": pods.chart}
BOTH = pytest.mark.parametrize("manifest", list(MANIFESTS), indirect=True)
SERVERS = ["mariadb", "postgresql"]
# PostgreSQL's lock_timeout counts locks on rows, too, and by default a statement gives way after five seconds.
PATIENT = {"ALEMBIC_JOB_TRANSACTION": "per-revision", "ALEMBIC_JOB_DDL_LOCK_TIMEOUT": "2m"}
WAITS = "UPDATE gate SET id = 1 WHERE id = 1"

Run = Callable[..., Pod]


@pytest.fixture(params=SERVERS)
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database on both servers, one after the other."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server.new_database()


@pytest.fixture
def server(request: pytest.FixtureRequest, database: Database) -> Server:
    """Its server."""
    found: Server = request.getfixturevalue(f"{database.dialect}_server")
    return found


@pytest.fixture
def manifest(request: pytest.FixtureRequest) -> Manifest:
    """What the pods are made of: k8s/job.yaml, unless a test asks for another."""
    return MANIFESTS[getattr(request, "param", "job")]()


@pytest.fixture
def start(image: str, tmp_path: Path, manifest: Manifest) -> Iterator[Run]:
    """Start a pod of the manifest; removed at the end. A database in place of a secret: its URL."""
    started: list[Pod] = []

    def start(
        database: Database | None,
        *arguments: str,
        manifest: Manifest = manifest,
        project: Path | None = BOOKSHOP,
        image: str = image,
        url: str | None = None,
        env: dict[str, str] | None = None,
        options: tuple[str, ...] = (),
    ) -> Pod:
        secret = {"url": url or database.url} if url or database else None
        pod = pods.start(
            manifest, tmp_path, image, *arguments, secret=secret, project=project, env=env, options=options
        )
        started.append(pod)
        return pod

    yield start
    for pod in started:
        pod.container.remove()


@pytest.fixture
def gate(database: Database) -> Iterator[Callable[[], None]]:
    """A row that a statement of a revision waits for, on the server, until the gate is opened."""
    database.execute("CREATE TABLE gate (id INTEGER PRIMARY KEY)", "INSERT INTO gate VALUES (1)")
    with contextlib.ExitStack() as opening:
        cursor = opening.enter_context(contextlib.closing(database.connect())).cursor()
        cursor.execute("BEGIN")
        cursor.execute("SELECT id FROM gate FOR UPDATE")
        yield opening.close


def gated(down: str | None = None) -> Revision:
    """One statement, which the server has not done until the gate is opened."""
    return Revision("slow", down, f'op.execute("{WAITS}")')


def inside(pod: Pod, server: Server, database: Database) -> None:
    """Until that statement runs on the server."""
    pod.job.wait_for("revision_started", revision="slow")
    deadline = time.monotonic() + 30
    while not runs(server, database):
        assert time.monotonic() < deadline, sessions(server, database)
        time.sleep(0.05)


def runs(server: Server, database: Database) -> bool:
    return any(WAITS in (sql or "") for _, sql in sessions(server, database))


def sessions(server: Server, database: Database) -> list[Any]:
    """What the user of this database has open on the server."""
    assert database.login
    sql = {
        "mariadb": "SELECT id, info FROM information_schema.processlist WHERE user = '{}'",
        "postgresql": "SELECT pid, query FROM pg_stat_activity WHERE usename = '{}'",
    }[database.dialect]
    return server.query(sql.format(database.login.user))


def nothing_runs(server: Server, database: Database) -> None:
    deadline = time.monotonic() + 15
    while left := sessions(server, database):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def ended(pod: Pod, exit_code: int, outcome: str, timeout_s: float = 60) -> job.Result:
    result: job.Result = pod.job.finish(timeout_s)
    assert (result.exit_code, result.finished["outcome"]) == (exit_code, outcome), result.stdout
    said = pod.message()
    assert list(said) == ["error", "hint", "exit_name", "exit_code", "revision"]
    assert (said["exit_code"], said["error"]) == (exit_code, result.finished["error"])
    return result


# --- what the manifest grants -----------------------------------------------------------------------

LOOKS = r"""
import json
def writes(path):
    try:
        with open(path, "w") as file:
            return file.write("x") == 1
    except OSError as error:
        return error.strerror
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
print("found " + json.dumps({
    "status": {name: status[name].strip() for name in os.environ["NAMES"].split()},
    "writes": {path: writes(path) for path in os.environ["PATHS"].split()},
    "secret": oct(os.stat("/run/secrets/database/url").st_mode & 0o777),
}))
"""


@BOTH
def test_it_migrates_with_no_more_rights_than_the_manifest_gives(
    start: Run, database: Database, tmp_path: Path, manifest: Manifest
) -> None:
    project = make_project(tmp_path, [Revision("r1", upgrade=LOOKS), creates("t", "r2", "r1")])
    asks = {
        "NAMES": "Uid Gid Groups CapEff CapPrm CapBnd NoNewPrivs Seccomp",
        "PATHS": "/x /app/x /run/secrets/database/x /etc/passwd /tmp/x",
    }
    pod = start(database, project=project.path, env=asks)
    result = ended(pod, 0, "upgraded")
    [found] = [json.loads(e["text"][6:]) for e in result.of("user_output") if e["text"].startswith("found ")]
    assert found["status"] == {
        "Uid": "10001\t10001\t10001\t10001",
        "Gid": "10001\t10001\t10001\t10001",
        "Groups": "10001",
        "CapEff": "0" * 16,
        "CapPrm": "0" * 16,
        "CapBnd": "0" * 16,
        "NoNewPrivs": "1",
        "Seccomp": "2",  # a filter: the engine's own profile
    }
    readonly = "Read-only file system"
    assert found["writes"] == {
        "/x": readonly,
        "/app/x": readonly,
        "/run/secrets/database/x": readonly,
        "/etc/passwd": readonly,
        "/tmp/x": True,
    }
    assert found["secret"] == "0o440"
    assert database.versions() == {"r2"}
    assert pod.message()["revision"] is None and pod.message()["error"] is None

    started = result.one("run_started")
    assert started["pod"] == f"{pods.NAMESPACE}/{pod.name}"
    assert (started["hostname"], started["image"]) == (pods.NODE, manifest.image)
    assert started["url_source"] == "ALEMBIC_JOB_DATABASE_URL_FILE"
    limits = json.loads(docker("inspect", "--format", "{{json .HostConfig}}", pod.container.name))
    assert (limits["Memory"], limits["MemorySwap"]) == (manifest.memory, manifest.memory)


@BOTH
def test_the_bookshop_goes_up_in_it_and_a_second_pod_has_nothing_to_do(start: Run, database: Database) -> None:
    ended(start(database), 0, "upgraded")
    assert database.versions() == {HEAD}
    ended(start(database), 0, "up_to_date")


# --- the secret -------------------------------------------------------------------------------------


@BOTH
def test_a_secret_that_is_missing_ends_the_pod_within_seconds_and_names_the_file(start: Run) -> None:
    began = time.monotonic()
    pod = start(None)
    result = ended(pod, 2, "failed")
    assert time.monotonic() - began < 15
    assert "/run/secrets/database/url" in pod.message()["error"]
    assert pod.message()["exit_name"] == "config_invalid"
    assert result.one("settings_invalid")["problems"][0]["variable"] == "ALEMBIC_JOB_DATABASE_URL_FILE"


@BOTH
def test_a_secret_without_the_key_does_the_same(image: str, tmp_path: Path, manifest: Manifest) -> None:
    pod = pods.start(manifest, tmp_path, image, secret={"dsn": "mysql://x/y"}, project=BOOKSHOP)
    try:
        ended(pod, 2, "failed")
        assert "/run/secrets/database/url" in pod.message()["error"]
    finally:
        pod.container.remove()


def with_password(server: Server, database: Database, password: str) -> str:
    """Change it on the server; the URL with it."""
    assert database.login
    user = database.login.user
    server.admin(
        f"ALTER USER {user}@'%' IDENTIFIED BY '{password}'"
        if database.dialect == "mariadb"
        else f"ALTER ROLE {user} PASSWORD '{password}'"
    )
    return replace(database.login, password=password).url(database.url.partition(":")[0])


def test_a_secret_that_is_rotated_while_it_waits_for_the_lock_is_used_from_then_on(
    start: Run, server: Server, database: Database, tmp_path: Path, gate: Callable[[], None]
) -> None:
    project = make_project(tmp_path, [gated(), creates("t", "r2", "slow")])
    first = start(database, project=project.path, env=PATIENT)
    inside(first, server, database)
    project.add(creates("u", "r3", "r2"))
    second = start(database, project=project.path, env=PATIENT)
    second.job.wait_for("lock_waiting")
    url = with_password(server, database, "rotated-horse-staple")
    for pod in (first, second):
        pod.secret.write(url=url)
    gate()
    ended(first, 0, "upgraded")
    result = ended(second, 0, "upgraded")
    assert result.finished["applied"] == ["r3"]
    assert "rotated-horse" not in result.stdout


def test_a_wait_survives_a_rotation_that_reaches_the_server_first(
    start: Run, server: Server, database: Database, tmp_path: Path
) -> None:
    project = make_project(tmp_path, linear(1))
    waiting = start(database, "wait", project=project.path, env={"ALEMBIC_JOB_RETRY_REFUSED_FOR": "2m"})
    waiting.job.wait_for("plan_ready")
    url = with_password(server, database, "rotated-horse-staple")
    time.sleep(3)  # kubelet takes a minute
    waiting.secret.write(url=url)
    ended(start(database, project=project.path, url=url), 0, "upgraded")
    ended(waiting, 0, "ready")


# --- stopping ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def deleted(pod: Pod) -> Iterator[None]:
    """While kubelet ends it."""
    deleting = threading.Thread(target=pod.delete)
    deleting.start()
    pod.job.wait_for("stopping")
    yield
    deleting.join()


def test_a_statement_that_ends_within_the_grace_is_finished_and_no_other_begun(
    start: Run, server: Server, database: Database, tmp_path: Path, gate: Callable[[], None]
) -> None:
    project = make_project(tmp_path, [gated(), creates("t", "r2", "slow")])
    pod = start(database, project=project.path, env=PATIENT)
    inside(pod, server, database)
    with deleted(pod):
        time.sleep(2)
        gate()
    result = ended(pod, 143, "interrupted")
    assert result.finished["applied"] == ["slow"]
    assert result.one("stopping")["grace_s"] == pods.stop_grace_s(pod.manifest)
    assert database.versions() == {"slow"}
    nothing_runs(server, database)


def test_a_statement_that_outlives_the_grace_is_cancelled_on_the_server(
    start: Run, server: Server, database: Database, tmp_path: Path, gate: Callable[[], None]
) -> None:
    project = make_project(tmp_path, [creates("t", "r1"), gated("r1")])
    pod = start(database, project=project.path, env={**PATIENT, "ALEMBIC_JOB_STOP_GRACE": "2s"})
    inside(pod, server, database)
    assert 2 < pod.delete() < 20
    assert "slow" in ended(pod, 143, "interrupted").finished["error"]
    assert not runs(server, database)
    gate()
    assert database.versions() == {"r1"}
    nothing_runs(server, database)


def test_what_kubelet_kills_says_where_it_was_and_the_next_pod_waits_for_what_still_runs(
    start: Run, server: Server, database: Database, tmp_path: Path, gate: Callable[[], None]
) -> None:
    project = make_project(tmp_path, [creates("t", "r1"), gated("r1"), creates("u", "r3", "slow")])
    pod = start(database, project=project.path, env=PATIENT)
    inside(pod, server, database)
    docker("kill", pod.container.name)
    assert pod.job.finish(complete=False).exit_code == 137
    said = pod.message()
    assert (said["exit_code"], said["exit_name"], said["revision"]) == (None, None, "slow")
    assert "slow (2 of 3)" in said["error"] and "run again" in said["hint"]

    following = start(database, project=project.path, env=PATIENT)
    following.job.wait_for("lock_waiting")
    assert runs(server, database)
    gate()
    result = ended(following, 0, "upgraded")
    assert result.finished["applied"] == ["slow", "r3"]
    nothing_runs(server, database)


# --- memory -----------------------------------------------------------------------------------------

EATS = """
op.execute("CREATE TABLE half (id INTEGER)")
print("eating", flush=True)
eaten = [bytearray(b"x" * (8 << 20)) for _ in range(75)]
"""
ENOUGH = ("--memory=1g", "--memory-swap=1g")
# The kernel takes the largest process, the worker. Where kubelet sets memory.oom.group (cgroup v2, Kubernetes 1.28;
# https://github.com/kubernetes/kubernetes/pull/117793) it takes all of the container: here because PID 1 is made its
# first choice, with which the container ends.
ALL_OF_IT = 'open("/proc/1/oom_score_adj", "w").write("1000")\n'


def test_a_worker_that_runs_out_of_memory_is_reported_by_its_parent(
    start: Run, server: Server, database: Database, tmp_path: Path
) -> None:
    project = make_project(tmp_path, [creates("t", "r1"), Revision("eats", "r1", EATS), creates("u", "r3", "eats")])
    pod = start(database, project=project.path, env=PATIENT)
    code = {"mariadb": 41, "postgresql": 1}[database.dialect]  # DDL on MariaDB has committed
    result = ended(pod, code, "failed")
    assert "SIGKILL (out of memory?)" in result.finished["error"]
    assert pod.message()["revision"] == "eats"
    assert pod.state()["OOMKilled"] is True
    assert database.versions() == {"r1"}
    assert ("half" in database.tables()) == (database.dialect == "mariadb")
    nothing_runs(server, database)


def test_a_container_that_runs_out_of_memory_as_a_whole_is_137_and_its_last_message_says_where(
    start: Run, server: Server, database: Database, tmp_path: Path
) -> None:
    project = make_project(tmp_path, [creates("t", "r1"), Revision("eats", "r1", ALL_OF_IT + EATS)])
    pod = start(database, project=project.path, env=PATIENT)
    result = pod.job.finish(complete=False)
    assert (result.exit_code, pod.state()["OOMKilled"]) == (137, True)
    assert result.events[-1]["event"] != "run_finished"
    said = pod.message()
    assert (said["exit_code"], said["revision"]) == (None, "eats")
    assert "eats (2 of 2)" in said["error"] and "OOMKilled, raise the memory limit" in said["hint"]
    assert database.versions() == {"r1"}

    following = start(database, project=project.path, env=PATIENT, options=ENOUGH)
    ended(following, 0, "upgraded")
    assert database.versions() == {"eats"}


# --- several pods -----------------------------------------------------------------------------------


def test_of_two_pods_that_race_one_migrates_and_the_other_finds_it_done(
    start: Run, database: Database, tmp_path: Path
) -> None:
    project = make_project(tmp_path, linear(3))
    both = [start(database, project=project.path) for _ in range(2)]
    results = [pod.job.finish() for pod in both]
    assert [result.exit_code for result in results] == [0, 0], [result.stdout for result in results]
    assert sorted(result.finished["outcome"] for result in results) == ["up_to_date", "upgraded"]
    assert [e["revision"] for result in results for e in result.of("revision_executed")] == ["r1", "r2", "r3"]
    assert database.versions() == {"r3"}


def test_the_init_container_that_waits_ends_once_the_job_beside_it_has_migrated(start: Run, database: Database) -> None:
    path = "k8s/deployment-init.yaml"
    waits = pods.waiting(path)
    before = start(database, manifest=waits)
    before.job.wait_for("plan_ready")
    upgraded = ended(start(database, manifest=pods.manifest(path)), 0, "upgraded")
    for pod in (before, start(database, manifest=waits)):
        result = ended(pod, 0, "ready")
        assert result.one("run_started")["command"] == "wait"
        assert "lock_acquired" not in result.names
        assert result.finished["to"] == upgraded.finished["to"]
    assert database.versions() == {HEAD}


def test_an_old_image_after_a_new_one_is_content_and_says_what_is_newer(
    start: Run, image: str, database: Database, tmp_path: Path
) -> None:
    project = make_project(tmp_path, linear(1))
    copies = f"FROM {image}\nCOPY . /app\n"
    old = built("old", copies, project.path)
    project.add(creates("t2", "r2", "r1"))
    new = built("new", copies, project.path)
    ended(start(database, project=None, image=new, env={"ALEMBIC_JOB_IMAGE": new}), 0, "upgraded")
    for command in ("upgrade", "wait"):
        pod = start(database, command, project=None, image=old, env={"ALEMBIC_JOB_IMAGE": old})
        ahead = ended(pod, 0, "ahead").one("database_ahead")
        assert [(one["revision"], one["image"]) for one in ahead["revisions"]] == [("r2", new)]
    assert database.versions() == {"r2"}


@pytest.mark.parametrize(
    ("grace", "first", "then"),
    # Long enough for the new container to come up meanwhile; MariaDB's own patience with a row ends after 50 s.
    [(None, ["r1", "slow"], ["r3"]), (35, ["r1"], ["slow", "r3"])],
    ids=["finishes", "cancelled"],
)
@pytest.mark.parametrize("manifest", ["chart"], indirect=True)
def test_the_pod_of_the_next_helm_hook_waits_for_the_deleted_one_which_is_inside_a_statement(
    start: Run,
    server: Server,
    database: Database,
    tmp_path: Path,
    gate: Callable[[], None],
    grace: int | None,
    first: list[str],
    then: list[str],
) -> None:
    """Helm deletes the old Job in the background, and makes the new one at once."""
    project = make_project(tmp_path, [creates("t", "r1"), gated("r1"), creates("u", "r3", "slow")])
    shorter = {"ALEMBIC_JOB_STOP_GRACE": f"{grace}s"} if grace else {}
    old = start(database, project=project.path, env={**PATIENT, **shorter})
    inside(old, server, database)
    with deleted(old):
        new = start(database, project=project.path, env=PATIENT)
        waits = new.job.wait_for("lock_waiting", 35)
        assert waits["holder"]["pod"] == f"{pods.NAMESPACE}/{old.name}"
        if not grace:
            gate()
    if grace:
        gate()
    stopped = ended(old, 143, "interrupted")
    result = ended(new, 0, "upgraded")
    assert stopped.one("stopping")["grace_s"] == (grace or pods.stop_grace_s(old.manifest))
    assert (stopped.finished["applied"], result.finished["applied"]) == (first, then)
    assert stopped.one("lock_released")["time"] <= result.one("lock_acquired")["time"]
    assert database.versions() == {"r3"}
    nothing_runs(server, database)


# --- a sidecar --------------------------------------------------------------------------------------


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    """What an older mesh has in the pod, on the loopback that its containers share."""
    one = Sidecar()
    threading.Thread(target=one.serve, daemon=True).start()
    yield one
    one.listener.close()


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_command_that_is_brought_into_the_pod_leaves_its_sidecar_alone(
    start: Run, server: Server, database: Database, tmp_path: Path, sidecar: Sidecar, gate: Callable[[], None]
) -> None:
    project = make_project(tmp_path, [gated()])
    pod = start(database, project=project.path, env={**PATIENT, "ALEMBIC_JOB_SIDECAR_QUIT_URL": sidecar.url})
    inside(pod, server, database)
    direct = docker("exec", pod.container.name, "alembic-job", "status")
    by_shell = docker("exec", pod.container.name, "sh", "-c", "alembic-job status; true")
    for said in (direct, by_shell):
        assert json.loads(said.splitlines()[-1])["outcome"] == "reported"
    assert sidecar.requests == []
    gate()
    ended(pod, 0, "upgraded")
    assert len(sidecar.requests) == 1


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("wraps", ["init", "shell"])
def test_where_another_program_is_pid_1_the_sidecar_is_called_all_the_same(
    start: Run, database: Database, sidecar: Sidecar, wraps: str
) -> None:
    env = {"ALEMBIC_JOB_SIDECAR_QUIT_URL": sidecar.url}
    if wraps == "init":
        pod = start(database, env=env, options=("--init",))
    else:
        pod = start(database, "-c", "alembic-job upgrade; exit $?", env=env, options=("--entrypoint=sh",))
    ended(pod, 0, "upgraded")
    assert len(sidecar.requests) == 1


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_the_sidecar_is_called_when_the_worker_ran_out_of_memory_and_after_sigterm(
    start: Run, server: Server, database: Database, tmp_path: Path, sidecar: Sidecar, gate: Callable[[], None]
) -> None:
    env = {**PATIENT, "ALEMBIC_JOB_SIDECAR_QUIT_URL": sidecar.url}
    project = make_project(tmp_path, [gated(), Revision("eats", "slow", EATS.partition("flush=True)\n")[2])])
    stopping = start(database, project=project.path, env=env)
    inside(stopping, server, database)
    with deleted(stopping):
        assert sidecar.requests == []
        gate()
    ended(stopping, 143, "interrupted")
    assert len(sidecar.requests) == 1
    eating = start(database, project=project.path, env=env)
    assert eating.job.finish().exit_code == 1
    assert len(sidecar.requests) == 2
