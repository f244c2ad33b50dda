"""What a server says when it refuses, and what the contract calls it: provoked, never made up.

Each time by the runner's own connection, and by the driver that env.py uses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import sqlalchemy as sa

from runner import url as urls
from runner.database import Database as Runners
from runner.database import Refusal
from runner.errors import (
    ConfigInvalid,
    DatabaseMissing,
    DatabaseReadOnly,
    DatabaseUnreachable,
    LoginRefused,
    PermissionDenied,
    RunnerError,
)
from runner.model import VersionTable
from tests import servers
from tests.databases import DRIVERS, PASSWORD
from tests.servers import PrivateServer

PYMYSQL = tuple(int(part) for part in version("pymysql").split(".")[:2])

ENV_DRIVER = DRIVERS["postgresql"]


def refusal(url: str, sql: str | None = None) -> Refusal:
    """What the runner makes of the error that this URL, or this statement there, ends in."""
    runner = Runners(lambda: urls.parse(url), connect_timeout_s=3.0)
    try:
        session = runner.connect()
    except Exception as error:
        return runner.refusal(error)
    with contextlib.closing(session), pytest.raises(Exception) as caught:
        cursor = session.connection.cursor()
        cursor.execute(sql)
    found = runner.dialect.classify(caught.value)
    assert found, repr(caught.value)
    return found


def refusal_in_env(url: str, sql: str | None = None) -> Refusal:
    """The same as env.py meets it: through SQLAlchemy and its driver."""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with pytest.raises(sa.exc.DBAPIError) as caught, engine.connect() as connection:
        connection.execute(sa.text(sql or "SELECT 1"))
    dialect = Runners(lambda: urls.parse(url), connect_timeout_s=3.0).dialect
    found = dialect.classify(caught.value.orig)  # type: ignore[arg-type]
    assert found, repr(caught.value.orig)
    return found


def both(url: str, sql: str | None = None) -> list[tuple[type[RunnerError], bool, str | None]]:
    """What is found in both ways, once where they agree."""
    env = url.replace("postgresql://", f"{ENV_DRIVER}://").replace("mysql://", "mysql+pymysql://")
    found = [(r.error, r.transient, r.code) for r in (refusal(url, sql), refusal_in_env(env, sql))]
    return found[:1] if found[0] == found[1] else found


def kinds(url: str, sql: str | None = None) -> set[tuple[type[RunnerError], bool]]:
    return {(error, transient) for error, transient, _ in both(url, sql)}


# --- MariaDB --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mariadb() -> Iterator[PrivateServer]:
    server = servers.private_server("mariadb", max_connections=10, max_user_connections=50)
    yield server
    server.discard()


def maria(server: PrivateServer, user: str, *, name: str = "app", password: str = PASSWORD) -> str:
    return dataclasses.replace(server.login, user=user, password=password, name=name).url("mysql")


@pytest.fixture(scope="module")
def accounts(mariadb: PrivateServer) -> PrivateServer:
    mariadb.admin(
        "CREATE DATABASE app",
        "CREATE DATABASE other",
        "CREATE TABLE app.t (id INTEGER)",
        f"CREATE USER plain@'%' IDENTIFIED BY '{PASSWORD}'",
        "GRANT SELECT ON app.* TO plain@'%'",
        f"CREATE USER locked@'%' IDENTIFIED BY '{PASSWORD}' ACCOUNT LOCK",
        "CREATE USER socket@'%' IDENTIFIED VIA unix_socket",
        f"CREATE USER elsewhere@'10.1.2.3' IDENTIFIED BY '{PASSWORD}'",
        f"CREATE USER one@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_USER_CONNECTIONS 1",
        f"CREATE USER hourly@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_CONNECTIONS_PER_HOUR 1",
        f"CREATE USER expired@'%' IDENTIFIED BY '{PASSWORD}' PASSWORD EXPIRE",
        f"CREATE USER tls@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL",
        "GRANT SELECT ON app.* TO one@'%'",
        "GRANT SELECT ON app.* TO expired@'%'",
        "GRANT SELECT ON app.* TO hourly@'%'",
    )
    return mariadb


@pytest.mark.parametrize(
    ("user", "expected", "code"),
    [
        ("nobody", LoginRefused, "1045"),
        ("locked", LoginRefused, "4151"),
        ("socket", LoginRefused, "1698"),
        ("elsewhere", LoginRefused, "1045"),
        ("tls", LoginRefused, "1045"),
    ],
)
def test_mariadb_refuses_a_login(accounts: PrivateServer, user: str, expected: type[RunnerError], code: str) -> None:
    assert both(maria(accounts, user)) == [(expected, False, code)]


def test_mariadb_refuses_a_wrong_password(accounts: PrivateServer) -> None:
    assert both(maria(accounts, "plain", password="wrong")) == [(LoginRefused, False, "1045")]
    assert both(maria(accounts, "plain", password="")) == [(LoginRefused, False, "1045")]


def test_mariadb_wants_an_expired_password_changed(accounts: PrivateServer) -> None:
    assert kinds(maria(accounts, "expired", name="app"), "SELECT 1") == {(LoginRefused, False)}


def test_mariadb_has_no_such_database(accounts: PrivateServer) -> None:
    assert both(maria(accounts, "root", password=accounts.login.password, name="nowhere")) == [
        (DatabaseMissing, False, "1049")
    ]


def test_mariadb_does_not_let_a_user_into_the_database_of_another(accounts: PrivateServer) -> None:
    assert both(maria(accounts, "plain", name="other")) == [(PermissionDenied, False, "1044")]


def test_mariadb_does_not_let_a_user_write_who_may_only_read(accounts: PrivateServer) -> None:
    url = maria(accounts, "plain")
    assert both(url, "CREATE TABLE u (id INTEGER)") == [(PermissionDenied, False, "1142")]
    assert both(url, "SET GLOBAL max_connections = 100") == [(PermissionDenied, False, "1227")]


def test_mariadb_takes_no_writes_while_it_is_read_only(accounts: PrivateServer) -> None:
    accounts.admin("GRANT ALL ON app.* TO plain@'%'", "SET GLOBAL read_only = 1")
    try:
        url = maria(accounts, "plain")
        assert both(url, "CREATE TABLE u (id INTEGER)") == [(DatabaseReadOnly, True, "1290")]
        assert both(url, "INSERT INTO t VALUES (1)") == [(DatabaseReadOnly, True, "1290")]
    finally:
        accounts.admin(
            "SET GLOBAL read_only = 0", "REVOKE ALL ON app.* FROM plain@'%'", "GRANT SELECT ON app.* TO plain@'%'"
        )


def test_mariadb_has_too_many_connections(accounts: PrivateServer) -> None:
    url = maria(accounts, "plain")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(Exception):
            while True:
                runner = Runners(lambda: urls.parse(url), connect_timeout_s=3.0)
                stack.callback(runner.connect().close)
        assert both(url) == [(DatabaseUnreachable, True, "1040")]


def test_mariadb_gives_a_user_no_more_connections(accounts: PrivateServer) -> None:
    url = maria(accounts, "one")
    session = Runners(lambda: urls.parse(url), connect_timeout_s=3.0).connect()
    try:
        # 1203 is for a limit of the server, 1226 for one of the account.
        assert both(url) == [(DatabaseUnreachable, True, "1226")]
        accounts.admin("SET GLOBAL max_user_connections = 1")
        plain = maria(accounts, "plain")
        with contextlib.closing(Runners(lambda: urls.parse(plain), connect_timeout_s=3.0).connect()):
            assert both(plain) == [(DatabaseUnreachable, True, "1203")]
    finally:
        accounts.admin("SET GLOBAL max_user_connections = 50")
        session.close()


def test_mariadb_gives_a_user_no_more_connections_this_hour(accounts: PrivateServer) -> None:
    url = maria(accounts, "hourly")
    Runners(lambda: urls.parse(url), connect_timeout_s=3.0).connect().close()
    assert both(url) == [(DatabaseUnreachable, True, "1226")]


def test_mariadb_lets_in_no_host_that_no_account_has(
    private_server: Callable[..., PrivateServer],
) -> None:
    server = private_server("mariadb")
    with server.connected() as admin:
        cursor = admin.cursor()
        cursor.execute("CREATE USER keeper@'10.1.2.3' IDENTIFIED BY 'x'")
        # This session goes on; new ones come from a host that has no account any more.
        cursor.execute("UPDATE mysql.global_priv SET Host = '10.9.9.9' WHERE Host = '%'")
        cursor.execute("FLUSH PRIVILEGES")
        assert both(server.login.url("mysql") + "mysql") == [(PermissionDenied, False, "1130")]


def test_mariadb_kills_a_session(accounts: PrivateServer) -> None:
    url = maria(accounts, "plain")
    runner = Runners(lambda: urls.parse(url), connect_timeout_s=10.0)
    session = runner.connect()
    threading.Timer(0.2, accounts.admin, [f"KILL {session.connection.thread_id()}"]).start()
    with pytest.raises(Exception) as caught:
        session.connection.cursor().execute("SELECT SLEEP(5)")
    found = runner.refusal(caught.value)
    assert (found.error, found.code, found.connection_lost) == (DatabaseUnreachable, "2013", True)
    with pytest.raises(Exception) as caught:
        session.versions(VersionTable())
    assert runner.refusal(caught.value).error is DatabaseUnreachable


# --- nobody, whatever the dialect -----------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("dialect", ["mysql", "postgresql"])
def test_nobody_listens(dialect: str, closed_port: int) -> None:
    assert kinds(f"{dialect}://u:p@127.0.0.1:{closed_port}/d") == {(DatabaseUnreachable, True)}


@pytest.mark.parametrize("dialect", ["mysql", "postgresql"])
def test_the_host_has_no_address_yet(dialect: str) -> None:
    assert kinds(f"{dialect}://u:p@no-such-host.invalid/d") == {(DatabaseUnreachable, True)}


@pytest.mark.parametrize("dialect", ["mysql", "postgresql"])
def test_somebody_listens_and_hangs_up(dialect: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        assert kinds(f"{dialect}://u:p@127.0.0.1:{server.getsockname()[1]}/d") == {(DatabaseUnreachable, True)}
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("dialect", ["mysql", "postgresql"])
def test_somebody_listens_and_says_nothing(dialect: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"{dialect}://u:p@127.0.0.1:{server.getsockname()[1]}/d"
        runner = Runners(lambda: urls.parse(url), connect_timeout_s=1.0)
        since = time.monotonic()
        with pytest.raises(Exception) as caught:
            runner.connect()
        assert time.monotonic() - since < 4  # libpq waits for two seconds at least
        found = runner.refusal(caught.value)
        assert (found.error, found.transient) == (DatabaseUnreachable, True)


@pytest.mark.parametrize("dialect", ["mysql", "postgresql"])
def test_somebody_listens_and_speaks_another_protocol(dialect: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as client:
                        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100)
                        time.sleep(0.1)

        threading.Thread(target=answer, daemon=True).start()
        found = refusal(f"{dialect}://u:p@127.0.0.1:{server.getsockname()[1]}/d")
        assert (found.error, found.transient) == (DatabaseUnreachable, True)
        server.shutdown(socket.SHUT_RDWR)


# --- PostgreSQL -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PrivateServer]:
    server = servers.private_server("postgresql", max_connections=8, superuser_reserved_connections=3)
    [[rules]] = server.query("SHOW hba_file")
    server.admin(
        "CREATE DATABASE app",
        "CREATE DATABASE closed ALLOW_CONNECTIONS false",
        "CREATE DATABASE private",
        "REVOKE CONNECT ON DATABASE private FROM PUBLIC",
        f"CREATE ROLE plain LOGIN PASSWORD '{PASSWORD}'",
        f"CREATE ROLE nologin PASSWORD '{PASSWORD}'",
        f"CREATE ROLE expired LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2001-01-01'",
        f"CREATE ROLE rejected LOGIN PASSWORD '{PASSWORD}'",
        f"CREATE ROLE unlisted LOGIN PASSWORD '{PASSWORD}'",
        f"CREATE ROLE limited LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 0",
        "COPY (VALUES ('host all rejected all reject'), ('host postgres unlisted all scram-sha-256'),"
        " ('host all postgres,plain,nologin,expired,limited,nobody all scram-sha-256'))"
        f" TO '{rules}'",
        "SELECT pg_reload_conf()",
    )
    time.sleep(0.2)  # the reload comes by signal
    yield server
    server.discard()


def pg(server: PrivateServer, user: str = "plain", *, name: str = "app", password: str = PASSWORD) -> str:
    return dataclasses.replace(server.login, user=user, password=password, name=name).url("postgresql")


@pytest.mark.parametrize(
    ("changes", "expected", "transient"),
    [
        ({"user": "nobody"}, LoginRefused, False),
        ({"password": "wrong"}, LoginRefused, False),
        ({"password": ""}, LoginRefused, False),
        ({"user": "nologin"}, LoginRefused, False),
        ({"user": "expired"}, LoginRefused, False),
        ({"user": "rejected"}, PermissionDenied, False),
        ({"user": "unlisted"}, PermissionDenied, False),
        ({"user": "limited"}, DatabaseUnreachable, True),
        ({"name": "nowhere"}, DatabaseMissing, False),
        ({"name": "private"}, PermissionDenied, False),
        ({"name": "closed"}, PermissionDenied, False),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_postgresql_refuses_a_login(
    postgresql: PrivateServer, changes: dict[str, str], expected: type[RunnerError], transient: bool
) -> None:
    assert kinds(pg(postgresql, **changes)) == {(expected, transient)}


def test_postgresql_has_no_tls_to_offer(postgresql: PrivateServer) -> None:
    assert kinds(pg(postgresql) + "?sslmode=require") == {(PermissionDenied, False)}


@pytest.mark.parametrize("query", ["sslmode=nonsense", "connect_timeout=soon"])
def test_postgresql_options_that_make_no_sense_are_the_users_mistake(postgresql: PrivateServer, query: str) -> None:
    assert kinds(f"{pg(postgresql)}?{query}") == {(ConfigInvalid, False)}


def test_postgresql_does_not_let_a_user_do_what_is_not_granted(postgresql: PrivateServer) -> None:
    assert both(pg(postgresql), "CREATE TABLE public.t (id INTEGER)") == [(PermissionDenied, False, "42501")]


def test_postgresql_takes_no_writes_in_a_read_only_transaction(postgresql: PrivateServer) -> None:
    url = pg(postgresql) + "?options=-c%20default_transaction_read_only%3Don"
    assert both(url, "CREATE TABLE t (id INTEGER)") == [(DatabaseReadOnly, True, "25006")]


def test_postgresql_has_too_many_connections(postgresql: PrivateServer) -> None:
    runner = Runners(lambda: urls.parse(pg(postgresql)), connect_timeout_s=3.0)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(Exception):
            while True:
                stack.callback(runner.connect().close)
        assert kinds(pg(postgresql)) == {(DatabaseUnreachable, True)}


def test_postgresql_ends_a_session(postgresql: PrivateServer) -> None:
    runner = Runners(lambda: urls.parse(pg(postgresql)), connect_timeout_s=3.0)
    session = runner.connect()
    pid = session.connection.info.backend_pid
    threading.Timer(0.2, postgresql.admin, [f"SELECT pg_terminate_backend({pid})"]).start()
    with pytest.raises(Exception) as caught:
        session.connection.execute("SELECT pg_sleep(5)")
    found = runner.refusal(caught.value)
    assert (found.error, found.connection_lost) == (DatabaseUnreachable, True)
    assert found.code in ("57P01", None)  # before psycopg 3.2 there is only the message
    with pytest.raises(Exception) as caught:
        session.versions(VersionTable())
    found = runner.refusal(caught.value)
    assert (found.error, found.connection_lost) == (DatabaseUnreachable, True)


def test_postgresql_is_still_starting(postgresql: PrivateServer) -> None:
    """Right after a crash it replays its log, and answers 57P03 meanwhile, or not at all."""
    postgresql.kill()
    seen: list[Refusal] = []
    starting = threading.Thread(target=postgresql.start)
    starting.start()
    while starting.is_alive():
        with contextlib.suppress(AssertionError, TypeError):
            seen.append(refusal(pg(postgresql)))
    assert {(found.error, found.transient) for found in seen} == {(DatabaseUnreachable, True)}


def test_of_several_hosts_the_one_that_answers_is_found(postgresql: PrivateServer, closed_port: int) -> None:
    there = f"{postgresql.host}:{postgresql.port}"
    url = f"postgresql://plain:{PASSWORD}@/app?host=127.0.0.1:{closed_port}&host={there}"
    Runners(lambda: urls.parse(url), connect_timeout_s=3.0).connect().close()


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    """A certificate that a server made for itself, for a name that is not 127.0.0.1; the key beside it."""
    folder = Path(tempfile.mkdtemp(prefix="alembic-job-test-tls-", dir="/tmp"))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=db.example"),
            *("-addext", "subjectAltName=DNS:db.example"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the server is another user of the system
    yield folder / "cert.pem"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def tls(certificate: Path) -> Iterator[PrivateServer]:
    server = servers.private_server(
        "mariadb", ssl_cert=certificate, ssl_key=certificate.with_name("key.pem"), require_secure_transport="OFF"
    )
    yield server
    server.discard()


@pytest.mark.parametrize(
    ("options", "encrypted"),
    [
        ("", PYMYSQL >= (1, 2)),  # since then preferred, where offered
        ("ssl_ca={ca}", True),
        ("ssl_ca={ca}&ssl_verify_cert=true", True),
        ("ssl_mode=VERIFY_CA&ssl_ca={ca}", True),
        ("ssl_mode=REQUIRED", True),
        ("ssl=true", True),
        ("ssl_mode=DISABLED", False),
        ("ssl_disabled=true", False),
    ],
)
def test_mysql_options_for_tls_are_understood(
    tls: PrivateServer, certificate: Path, options: str, encrypted: bool
) -> None:
    url = tls.login.url("mysql") + "mysql?" + options.format(ca=certificate)
    with contextlib.closing(Runners(lambda: urls.parse(url), connect_timeout_s=3.0).connect()) as session:
        cursor = session.connection.cursor()
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        assert bool(cursor.fetchone()[1]) == encrypted


@pytest.mark.parametrize(
    "options",
    [
        "ssl_ca={ca}&ssl_check_hostname=true",
        "ssl_ca={ca}&ssl_verify_identity=true",
        "ssl_mode=VERIFY_IDENTITY&ssl_ca={ca}",
        "ssl_mode=VERIFY_CA",  # by the authorities of the system, which do not know it
        "ssl_verify_cert=true",
        "ssl_ca=/nowhere/ca.pem",
        "ssl_ca={key}",
    ],
)
def test_mysql_certificates_that_do_not_hold_are_refused(tls: PrivateServer, certificate: Path, options: str) -> None:
    said = options.format(ca=certificate, key=certificate.with_name("key.pem"))
    found: Refusal | RunnerError
    url = tls.login.url("mysql") + "mysql?" + said
    runner = Runners(lambda: urls.parse(url), connect_timeout_s=3.0)
    with pytest.raises(Exception) as caught:
        runner.connect()
    found = caught.value if isinstance(caught.value, RunnerError) else runner.refusal(caught.value)
    kind = type(found) if isinstance(found, RunnerError) else found.error
    assert kind is PermissionDenied, repr(caught.value)
