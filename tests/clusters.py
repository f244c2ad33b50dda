"""Where session locks do not hold: a Galera cluster, and PostgreSQL behind PgBouncer.

Both are real, on loopback, with throw-away data, and are installed by root on Debian as the servers are.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pymysql

from tests.databases import Database, Login, Server
from tests.servers import (
    FIRST_SQL,
    KINDS,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Guard,
    Local,
    PrivateServer,
    Unavailable,
    find,
    free_port,
    install,
)

SIZE = 3
_SMALL = {
    "innodb-buffer-pool-size": "24M",
    "innodb-log-file-size": "8M",
    "key-buffer-size": "1M",
    "performance-schema": "OFF",
}


class Node(Local):
    """One MariaDB of a Galera cluster. All but the first get their files from another, by rsync."""

    def __init__(self, folder: Path, cluster: str, group: Sequence[int], number: int, password: str) -> None:
        self._first = number == 0
        self._password = password
        addresses = ",".join(f"127.0.0.1:{port}" for port in group)
        provider = [
            "evs.join_retrans_period=PT0.3S",  # joins 3 s sooner
            f"gmcast.listen_addr=tcp://127.0.0.1:{group[number]}",
            f"ist.recv_addr=127.0.0.1:{free_port()}",
            "gcache.size=16M",
            "gcache.page_size=16M",
        ]
        self._options = [
            "--wsrep-on=ON",
            f"--wsrep-provider={_provider()}",
            f"--wsrep-provider-options={';'.join(provider)}",
            f"--wsrep-cluster-name={cluster}",
            f"--wsrep-cluster-address=gcomm://{addresses}",
            f"--wsrep-node-name=node{number + 1}",
            "--wsrep-node-address=127.0.0.1",
            "--wsrep-sst-method=rsync",
            f"--wsrep-sst-receive-address=127.0.0.1:{free_port()}",
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
        ]
        super().__init__(KINDS["mariadb"], folder)

    def _initialise(self) -> None:
        self.login = replace(self.login, password=self._password)
        if self._first:
            super()._initialise()
            return
        data, secret = self._home / "data", self._home / "secret"
        data.mkdir()
        if self._user:
            shutil.chown(data, self._user, pwd.getpwnam(self._user).pw_gid)
        secret.write_text(FIRST_SQL.format(password=self._password))

    def launch(self, options: list[str]) -> None:
        # The first one founds the cluster once; when it comes back, it joins like the others.
        found = ["--wsrep-new-cluster"] if self._first else []
        self._first = False
        super().launch([*options, *self._options, *found])

    def start(self, settings: dict[str, object]) -> None:
        """Start it, and return once it has everything that the others have."""
        super().start(settings)
        deadline = time.monotonic() + START_TIMEOUT_S
        while (state := self._state()) != _IN_STEP:
            if not self.alive() or time.monotonic() > deadline:
                raise Unavailable(f"A Galera node did not join: {state}\n{self.log()}")
            time.sleep(0.05)

    def _state(self) -> dict[str, str]:
        """How far it has come; nothing while it lets nobody in, or ends a login as one in 300 did."""
        try:
            with contextlib.closing(self.login.connect("mariadb")) as connection, connection.cursor() as cursor:
                cursor.execute("SHOW GLOBAL STATUS LIKE 'wsrep_%'")
                return {name: value for name, value in cursor.fetchall() if name in _IN_STEP}
        except pymysql.MySQLError:
            return {}


_IN_STEP = {"wsrep_ready": "ON", "wsrep_cluster_status": "Primary", "wsrep_local_state_comment": "Synced"}


def _provider() -> str:
    places = ("usr/lib/galera", "usr/lib", "usr/lib64/galera-4", "usr/lib64/galera")
    found = [path for place in places for path in Path("/").glob(f"{place}/libgalera_smm.so")]
    return str(found[0]) if found else ""


@dataclass(frozen=True)
class Galera:
    """Three nodes, each of which takes writes."""

    nodes: tuple[Server, ...]

    def new_database(self) -> tuple[Database, ...]:
        """Create one empty database and its user, and return it as each node gives it."""
        made = self.nodes[0].new_database()
        assert made.login is not None
        logins = [replace(made.login, host=node.host, port=node.port) for node in self.nodes]
        driver = made.url.partition(":")[0]
        for node in self.nodes:
            node.query("SET STATEMENT wsrep_sync_wait = 1 FOR SELECT 1")
        return tuple(Database("mariadb", login.url(driver), login) for login in logins)


@dataclass(frozen=True)
class PrivateGalera(Galera):
    """Three nodes for one test, to kill and to cut off."""

    nodes: tuple[PrivateServer, ...]

    @property
    def logins(self) -> tuple[Login, ...]:
        """How the administrator gets in, for each node."""
        return tuple(node.login for node in self.nodes)

    def cut_off(self, number: int) -> None:
        """Let this node reach no other one: without a majority it refuses to work."""
        self.nodes[number].admin("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")

    def reconnect(self, number: int) -> None:
        """Undo ``cut_off``."""
        self.nodes[number].admin("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")

    def discard(self) -> None:
        """Stop all nodes and remove their files."""
        for node in self.nodes:
            node.discard()


def start_galera() -> PrivateGalera:
    """Start three nodes. The caller discards them."""
    kind = KINDS["mariadb"]

    def there() -> bool:
        return bool(find(kind) and _provider() and shutil.which("rsync") and shutil.which("wsrep_sst_rsync"))

    if not there():
        install(there, kind.package, "galera-4", "rsync")
    folder = find(kind)
    if not folder or not there():
        raise Unavailable(
            "No Galera cluster for the tests. Install the Debian packages mariadb-server, galera-4 and rsync"
            " (as root the tests do that themselves)."
        )
    try:
        return _founded(folder)
    except Unavailable:  # a port was taken before the node took it, say
        return _founded(folder)


def _founded(folder: Path) -> PrivateGalera:
    cluster, password = f"t{secrets.token_hex(6)}", secrets.token_hex(8)
    group = [free_port() for _ in range(SIZE)]
    nodes: list[PrivateServer] = []
    try:
        for number in range(SIZE):
            runtime = Node(folder, cluster, group, number, password)
            nodes.append(PrivateServer("mariadb", runtime.login, runtime=runtime))
        nodes[0].start(**_SMALL)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.start(**_SMALL), nodes[1:]))
    except BaseException:
        for node in nodes:
            node.discard()
        raise
    return PrivateGalera(tuple(nodes))


class Pooler:
    """PgBouncer in front of a PostgreSQL server, for all of its databases and roles.

    Every database has a pool of its own, of ``pool_size`` sessions. ``settings`` are added to its section
    ``[pgbouncer]``; as it comes, it refuses a login with ``options``, as libpq sends them from a URL.
    """

    def __init__(self, server: Server, pool_mode: str, pool_size: int = 2, **settings: object) -> None:
        self._server = server
        self.port = free_port()
        root = os.geteuid() == 0
        self._user = KINDS["postgresql"].os_user if root else None  # it refuses root
        self._home = Path(tempfile.mkdtemp(prefix="alembic-job-test-", dir="/tmp" if root else None))
        end = '[ -f "$1/pid" ] && kill -s KILL "$(cat "$1/pid")" && sleep 0.2'
        self._guard = Guard(f'{end}; rm -rf "$1"', str(self._home))
        self._process: subprocess.Popen[bytes] | None = None
        # Roles come and go with the tests: it looks their secrets up in the server.
        every = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": self._home / "users",
            "auth_user": server.user,
            "auth_query": "SELECT usename, passwd FROM pg_shadow WHERE usename = $1",
            "admin_users": server.user,
            "pool_mode": pool_mode,
            "default_pool_size": pool_size,
            "max_client_conn": 1000,
            "server_idle_timeout": 20,  # every test has a pool of its own, the server has room for a hundred
            **settings,
        }
        lines = ["[databases]", f"* = host={server.host} port={server.port}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in every.items()]
        (self._home / "ini").write_text("\n".join(lines) + "\n")
        (self._home / "users").write_text(f'"{server.user}" "{server.login.password}"\n')
        if self._user:
            for path in (self._home, *self._home.iterdir()):
                shutil.chown(path, self._user, pwd.getpwnam(self._user).pw_gid)
        try:
            self._start()
        except BaseException:
            self.discard()
            raise

    def _start(self) -> None:
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_pgbouncer(), str(self._home / "ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._user,
                group=pwd.getpwnam(self._user).pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
            )
        (self._home / "pid").write_text(str(self._process.pid))
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.admin("SHOW VERSION")
            except Exception as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"PgBouncer did not start: {error}\n{self.log()}") from error
                time.sleep(0.02)
            else:
                return

    def through(self, database: Database) -> Database:
        """Return the same database as it is reached through the pooler."""
        assert database.login is not None
        login = _Pooled(**{**vars(database.login), "host": "127.0.0.1", "port": self.port})
        return Database("postgresql", login.url(database.url.partition(":")[0]), login)

    def admin(self, command: str) -> list[tuple[Any, ...]]:
        """Run a command of PgBouncer's own console, such as ``SHOW POOLS``."""
        login = _Pooled("127.0.0.1", self.port, self._server.user, self._server.login.password, "pgbouncer")
        with contextlib.closing(login.connect("postgresql")) as connection:
            # The console knows only the simple protocol.
            result = connection.pgconn.exec_(command.encode())
            if result.error_message:
                raise RuntimeError(result.error_message.decode())
            columns = range(result.nfields)
            return [
                tuple((result.get_value(row, column) or b"").decode() for column in columns)
                for row in range(result.ntuples)
            ]

    def log(self) -> str:
        """Return what it wrote."""
        return "\n".join((self._home / "log").read_text(errors="replace").splitlines()[-30:])

    def discard(self) -> None:
        """End it, with all connections through it, and remove its files."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(STOP_TIMEOUT_S)
        (self._home / "pid").unlink(missing_ok=True)
        self._guard.release()


class _Pooled(Login):
    """A login through PgBouncer."""

    def connect(self, dialect: str, **options: Any) -> Any:
        """Open a connection without the start-up parameter that PgBouncer refuses."""
        return super().connect(dialect, **{"options": None, **options})


def _pgbouncer() -> str:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") or ""


def start_pooler(server: Server, pool_mode: str = "transaction", **settings: Any) -> Pooler:
    """Start PgBouncer in front of ``server``. The caller discards it."""
    if not _pgbouncer():
        install(_pgbouncer, "pgbouncer")
    if not _pgbouncer():
        raise Unavailable(
            "No PgBouncer for the tests. Install the Debian package pgbouncer (as root the tests do that themselves)."
        )
    return Pooler(server, pool_mode, **settings)
