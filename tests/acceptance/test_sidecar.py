"""SIDECAR_QUIT_URL: called once when all is over, whatever the outcome, and never in the way of it."""

from __future__ import annotations

import base64
import contextlib
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.acceptance.expect import URL, refused
from tests.databases import Database, sqlite_database
from tests.job import Job, Result, Revision, creates, linear, make_project
from tests.processes import descendants
from tests.sidecar import ACCEPTS, OK, Answer, Sidecar, says

QUIT = "ALEMBIC_JOB_SIDECAR_QUIT_URL"
PATIENCE_S = 3
SERVERS = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)

Run = Callable[..., Result]
Start = Callable[..., Job]


@pytest.fixture
def sidecar() -> Iterator[Callable[..., Sidecar]]:
    """Start a server that answers in a certain way: ``sidecar(says(OK))``."""
    started: list[Sidecar] = []

    def start(answer: Answer = ACCEPTS, **options: ssl.SSLContext) -> Sidecar:
        started.append(Sidecar(answer, **options))
        threading.Thread(target=started[-1].serve, daemon=True).start()
        return started[-1]

    yield start
    for one in started:
        one.listener.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    return sqlite_database(tmp_path / "database.sqlite")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path, linear(1)).path


def failed_with(result: Result, *facts: str) -> None:
    """The run is what it would have been, and the line before the last one says what went wrong."""
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded"), result.stdout
    assert result.names[-2:] == ["sidecar_not_stopped", "run_finished"]
    said = result.one("sidecar_not_stopped")
    assert said["level"] == "warning"
    assert said["error"].endswith(".") and said["hint"].endswith(".")
    for fact in facts:
        assert fact in said["error"], said


# --- it is called -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [b"200 OK", b"202 Accepted", b"204 No Content"])
def test_it_is_posted_to_once_and_nothing_is_said_of_a_success(
    run_job: Run, sidecar: Callable[..., Sidecar], sqlite: Database, project: Path, status: bytes
) -> None:
    one = sidecar(says(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"))
    result = run_job("upgrade", cwd=project, env={URL: sqlite.url, QUIT: f"{one.url}?now=1"})
    assert (result.exit_code, "sidecar_not_stopped" in result.names) == (0, False)
    [request] = one.requests
    lines = request.split("\r\n")
    assert lines[0] == "POST /quitquitquit?now=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{one.port}" in lines
    assert "Content-Length: 0" in lines
    assert "Authorization" not in request


@SERVERS
def test_when_it_is_called_no_session_and_no_worker_is_left(
    start_job: Start,
    request: pytest.FixtureRequest,
    sidecar: Callable[..., Sidecar],
    database: Database,
    project: Path,
) -> None:
    server = request.getfixturevalue(f"{database.dialect}_server")
    sessions = {
        "mariadb": "SELECT id FROM information_schema.processlist WHERE user = '{}'",
        "postgresql": "SELECT pid FROM pg_stat_activity WHERE usename = '{}'",
    }[database.dialect]
    assert database.login
    sessions = sessions.format(database.login.user)
    seen: list[object] = []

    def look(client: socket.socket) -> None:
        deadline = time.monotonic() + 2  # the server takes a moment to notice that a client has gone
        while (found := server.query(sessions)) and time.monotonic() < deadline:
            time.sleep(0.05)
        seen.extend([found, descendants(job.pid), [e["event"] for e in job.events][-1]])
        client.sendall(OK)

    job = start_job("upgrade", cwd=project, env={URL: database.url, QUIT: sidecar(look).url})
    result = job.finish()
    assert (result.exit_code, "sidecar_not_stopped" in result.names) == (0, False), result.stdout
    assert seen == [[], [], "lock_released"]


def test_it_is_called_when_a_revision_fails(
    run_job: Run, sidecar: Callable[..., Sidecar], sqlite: Database, tmp_path: Path
) -> None:
    project = make_project(tmp_path, [Revision("r1", upgrade='op.execute("NONSENSE")')])
    one = sidecar()
    result = run_job("upgrade", cwd=project.path, env={URL: sqlite.url, QUIT: one.url})
    assert (result.exit_code, len(one.requests)) == (40, 1)


def test_it_is_called_when_the_worker_was_killed(
    run_job: Run, sidecar: Callable[..., Sidecar], sqlite: Database, tmp_path: Path
) -> None:
    project = make_project(tmp_path, [Revision("r1", upgrade="os.kill(os.getpid(), 9)")])
    one = sidecar()
    result = run_job("upgrade", cwd=project.path, env={URL: sqlite.url, QUIT: one.url})
    assert (result.exit_code, len(one.requests)) == (1, 1)
    assert "SIGKILL" in result.finished["error"]


def test_it_is_called_after_sigterm_and_a_second_signal_does_not_end_the_call(
    start_job: Start, sidecar: Callable[..., Sidecar], tmp_path: Path
) -> None:
    def slow(client: socket.socket) -> None:
        time.sleep(1)
        client.sendall(OK)

    one = sidecar(slow)
    url = f"mysql+pymysql://u:password@127.0.0.1:{refusing_port()}/d"
    job = start_job("wait", "--for", "connection", cwd=tmp_path, env={URL: url, QUIT: one.url})
    job.wait_for("database_waiting")
    job.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 20
    while not one.requests and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    result = job.finish()
    assert (result.exit_code, len(one.requests), "sidecar_not_stopped" in result.names) == (143, 1, False)


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (["upgrade"], {URL: "nonsense"}),
        (["upgrade"], {"ALEMBIC_JOB_DATABASE_URL_FILE": "/no/such/file"}),
        (["upgrade"], {"ALEMBIC_JOB_SECRETS_DIR": "/no/such/directory"}),
        (["upgrade", "--no-such-option"], {}),
        (["no-such-command"], {}),
    ],
    ids=["a URL", "a missing secret", "a missing directory", "an option", "a command"],
)
def test_it_is_called_when_the_settings_are_wrong(
    run_job: Run, sidecar: Callable[..., Sidecar], arguments: list[str], env: dict[str, str]
) -> None:
    one = sidecar()
    result = run_job(*arguments, env={**env, QUIT: one.url})
    assert (result.exit_code, len(one.requests)) == (2, 1)
    assert result.names == ["settings_invalid", "run_finished"]


def test_a_failed_call_is_told_when_the_settings_are_wrong_too(run_job: Run) -> None:
    result = run_job("upgrade", env={URL: "nonsense", QUIT: f"http://127.0.0.1:{refusing_port()}/"})
    assert result.exit_code == 2
    assert result.names == ["settings_invalid", "sidecar_not_stopped", "run_finished"]


def test_it_may_come_from_the_secrets_directory(run_job: Run, sidecar: Callable[..., Sidecar], tmp_path: Path) -> None:
    one = sidecar()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "SIDECAR_QUIT_URL").write_text(f"{one.url}\n")
    for url in ("nonsense", sqlite_database(tmp_path / "new.sqlite").url):
        run_job("wait", "--for", "connection", env={URL: url, "ALEMBIC_JOB_SECRETS_DIR": str(tmp_path / "secrets")})
    assert len(one.requests) == 2


def test_commands_that_only_look_call_it_too(
    run_job: Run, sidecar: Callable[..., Sidecar], sqlite: Database, project: Path
) -> None:
    one = sidecar()
    for count, command in enumerate(("status", "heads", "config"), 1):
        assert run_job(command, cwd=project, env={URL: sqlite.url, QUIT: one.url}).exit_code == 0
        assert len(one.requests) == count


def test_who_asks_for_help_stops_nothing(run_job: Run, sidecar: Callable[..., Sidecar]) -> None:
    one = sidecar()
    result = run_job("--help", env={QUIT: one.url}, plain=True)
    assert (result.exit_code, one.requests) == (0, [])
    assert "upgrade" in result.stdout


# --- it fails ---------------------------------------------------------------------------------------


def refusing_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def resets(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def hangs(client: socket.socket) -> None:
    time.sleep(30)


def trickles(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        client.sendall(b"x")
        time.sleep(0.2)


def test_a_port_that_refuses_is_a_warning(run_job: Run, sqlite: Database, project: Path) -> None:
    url = f"http://127.0.0.1:{refusing_port()}/quitquitquit"
    failed_with(run_job("upgrade", cwd=project, env={URL: sqlite.url, QUIT: url}), url, "Connection refused")


def test_a_name_that_does_not_resolve_is_a_warning(run_job: Run, sqlite: Database, project: Path) -> None:
    url = "http://no-such-host.invalid/quit"
    failed_with(run_job("upgrade", cwd=project, env={URL: sqlite.url, QUIT: url}), url)


@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        (says(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"), "answered 500"),
        (says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), "answered 403"),
        (says(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"), "answered 302"),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "something else than HTTP"),
        (says(b""), "without an answer"),
        (resets, "without an answer"),
    ],
    ids=["500", "403", "302", "no HTTP", "closes", "resets"],
)
def test_any_other_answer_is_a_warning(
    run_job: Run, sidecar: Callable[..., Sidecar], sqlite: Database, project: Path, answer: Answer, fact: str
) -> None:
    one = sidecar(answer)
    failed_with(run_job("upgrade", cwd=project, env={URL: sqlite.url, QUIT: one.url}), one.url, fact)
    assert len(one.requests) == 1


def left_after_three_seconds(result: Result, *facts: str) -> None:
    """By the clock of the run; the bound is far below what the other side would take."""
    failed_with(result, f"within {PATIENCE_S} s", *facts)
    released, told = (
        datetime.fromisoformat(result.one(event)["time"].replace("Z", "+00:00"))
        for event in ("lock_released", "sidecar_not_stopped")
    )
    assert PATIENCE_S - 0.1 < (told - released).total_seconds() < 15


@pytest.mark.parametrize("answer", [hangs, trickles])
def test_a_server_that_takes_for_ever_is_left_after_three_seconds(
    run_job: Run, sidecar: Callable[..., Sidecar], sqlite: Database, project: Path, answer: Answer
) -> None:
    one = sidecar(answer)
    left_after_three_seconds(run_job("upgrade", cwd=project, env={URL: sqlite.url, QUIT: one.url}), one.url)
    assert len(one.requests) == 1


def test_a_host_that_drops_packets_is_left_after_three_seconds(run_job: Run, sqlite: Database, project: Path) -> None:
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # fill the queue: Linux drops what comes then
            filler = closing.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        left_after_three_seconds(run_job("upgrade", cwd=project, env={URL: sqlite.url, QUIT: url}))


def test_a_failure_while_rows_are_written_as_csv_is_told_on_stderr(
    run_job: Run, sqlite: Database, project: Path
) -> None:
    env = {URL: sqlite.url, QUIT: f"http://127.0.0.1:{refusing_port()}/"}
    run_job("upgrade", cwd=project, env={URL: sqlite.url})
    result = run_job("runs", "--csv", cwd=project, env=env, plain=True, stderr=True)
    assert result.exit_code == 0
    assert result.stdout.startswith("section,run,") and "sidecar" not in result.stdout
    assert "Connection refused" in result.stderr


# --- what the URL may be ----------------------------------------------------------------------------


def test_a_login_in_the_url_is_sent_and_never_shown(
    run_job: Run, sidecar: Callable[..., Sidecar], sqlite: Database, tmp_path: Path
) -> None:
    printing = Revision("r1", upgrade=f'print(os.environ["{QUIT}"])')
    project = make_project(tmp_path, [printing, creates("t", "r2", "r1")]).path
    one = sidecar(says(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"))
    for login, plain in (("me:s3cret%2Fword", "me:s3cret/word"), ("only%2Ftoken", "only/token:")):
        url = one.url.replace("//", f"//{login}@") + "?key=in-the-query"
        result = run_job("upgrade", cwd=project, env={URL: sqlite.url, QUIT: url})
        assert f"Authorization: Basic {base64.b64encode(plain.encode()).decode()}" in one.requests[-1].split("\r\n")
        config = run_job("config", env={QUIT: url})
        for secret in ("s3cret", "token"):
            assert secret not in result.stdout + config.stdout
        assert "in-the-query" not in config.stdout + result.one("sidecar_not_stopped")["message"]
        [shown] = [e["value"] for e in config.of("setting_listed") if e["variable"] == QUIT]
        assert shown == one.url


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:15020/quitquitquit",
        "ftp://127.0.0.1/hidden",
        "http:///hidden",
        "http://me:hidden@127.0.0.1:port/",
        "http://127.0.0.1:0/hidden",
        "http://127.0.0.1:99999/hidden",
        "http://[::1/hidden",
        "http://127.0.0.1/hidden here",
        "http://127.0.0.1/hidden\r\nX: y",
        "http://127.0.0.1/hiddén",
    ],
)
def test_what_is_no_url_of_the_web_is_refused_and_not_shown(run_job: Run, url: str) -> None:
    result = run_job("upgrade", env={URL: "sqlite://", QUIT: url})
    refused(result, 2, "config_invalid", QUIT)
    assert "hidden" not in result.stdout
    assert result.names == ["settings_invalid", "run_finished"]


def test_no_proxy_of_the_environment_is_used(
    run_job: Run, sidecar: Callable[..., Sidecar], sqlite: Database, project: Path
) -> None:
    one, proxy = sidecar(), sidecar()
    env = {URL: sqlite.url, QUIT: one.url, "http_proxy": f"http://127.0.0.1:{proxy.port}"}
    assert run_job("upgrade", cwd=project, env=env).exit_code == 0
    assert (len(one.requests), len(proxy.requests)) == (1, 0)


def test_https_is_verified(run_job: Run, sidecar: Callable[..., Sidecar], sqlite: Database, tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    one = sidecar(says(OK), tls=context)
    project = make_project(tmp_path, linear(1)).path
    env = {URL: sqlite.url, QUIT: one.url.replace("http:", "https:")}
    failed_with(run_job("upgrade", cwd=project, env=env), "certificate")
    assert one.requests == []
    result = run_job("upgrade", cwd=project, env={**env, "SSL_CERT_FILE": str(cert)})
    assert ("sidecar_not_stopped" in result.names, len(one.requests)) == (False, 1), result.stdout


def test_without_it_nothing_is_loaded_to_call_it(tmp_path: Path, run_job: Run) -> None:
    env = {URL: sqlite_database(tmp_path / "new.sqlite").url, "PYTHONPROFILEIMPORTTIME": "1"}
    loaded = run_job("wait", "--for", "connection", env=env, stderr=True, plain=True).stderr
    assert "pydantic_settings" in loaded
    assert "http.client" not in loaded
    env[QUIT] = f"http://127.0.0.1:{refusing_port()}/"
    assert "http.client" in run_job("wait", "--for", "connection", env=env, stderr=True, plain=True).stderr
