"""MariaDB and PostgreSQL servers for the tests: given by URL, started from binaries, or in a container.

``TEST_MARIADB_URL`` and ``TEST_POSTGRESQL_URL`` name servers to use, as an administrator who may
create databases and users. Else a throw-away server is started from the installed binaries on a
free loopback port (on Debian, root installs them first), else in a container. A server that
cannot be had fails the tests; it never skips them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from tests.databases import Login, Server
from tests.processes import signal_tree

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
INITIALISE_TRIES = 3


class Unavailable(Exception):
    """No server can be had; the message tells what to do."""


@dataclass(frozen=True)
class Kind:
    """What differs between the two servers, as far as it is data."""

    dialect: str
    variable: str
    package: str
    os_user: str
    admin: str
    binary: str
    folders: tuple[str, ...]
    settings: dict[str, object]
    image: str
    image_port: int
    image_data: str
    image_password: str

    @property
    def given(self) -> str | None:
        """The URL of a server that somebody else runs, and that outlives the tests."""
        return os.environ.get(self.variable)


KINDS = {
    "mariadb": Kind(
        dialect="mariadb",
        variable="TEST_MARIADB_URL",
        package="mariadb-server",
        os_user="mysql",
        admin="root",
        binary="mariadb-install-db",
        folders=("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"),
        settings={
            "character-set-server": "utf8mb4",
            "skip-name-resolve": 1,
            "innodb-flush-log-at-trx-commit": 0,
            "innodb-log-file-size": "16M",
        },
        image="mariadb:10.11",
        image_port=3306,
        image_data="/var/lib/mysql",
        image_password="MARIADB_ROOT_PASSWORD",
    ),
    "postgresql": Kind(
        dialect="postgresql",
        variable="TEST_POSTGRESQL_URL",
        package="postgresql",
        os_user="postgres",
        admin="postgres",
        binary="initdb",
        folders=("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/bin", "/opt/homebrew/bin"),
        settings={"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"},
        image="postgres:15",
        image_port=5432,
        image_data="/var/lib/postgresql/data",
        image_password="POSTGRES_PASSWORD",
    ),
}


class Runtime(ABC):
    """A server that is ours: its files, its port, its process."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.login = Login("127.0.0.1", free_port(), kind.admin, secrets.token_hex(8))

    @abstractmethod
    def launch(self, options: list[str]) -> None:
        """Start the process with these options, without waiting for it to answer."""

    @abstractmethod
    def alive(self) -> bool:
        """Whether the process is still there."""

    @abstractmethod
    def log(self) -> str:
        """Return what the server wrote."""

    @abstractmethod
    def stop(self) -> None:
        """Shut down in order."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, as a power cut does."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""

    @abstractmethod
    def resume(self) -> None:
        """Undo ``pause``."""

    @abstractmethod
    def discard(self) -> None:
        """Stop it if it runs, and remove its files."""

    def start(self, settings: dict[str, object]) -> None:
        """Start it, and return once it answers a login."""
        every = {**self.kind.settings, **settings}
        if self.kind.dialect == "mariadb":
            options = [f"--{name.replace('_', '-')}={value}" for name, value in every.items()]
        else:
            options = [word for name, value in every.items() for word in ("-c", f"{name}={value}")]
        self.launch(options)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.login.connect(self.kind.dialect).close()
            except Exception as error:
                if not self.alive() or time.monotonic() > deadline:
                    raise Unavailable(f"{self.kind.dialect} did not start: {error}\n{self.log()}") from error
                time.sleep(0.05)
            else:
                return


def free_port() -> int:
    """Find a port below the range that the system gives to clients: it stays free during a restart."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Guard:
    """A shell that runs ``script`` once this process has ended, however it ended.

    It reads from a pipe that only we hold open, so that a SIGKILL leaves neither servers nor files behind.
    """

    def __init__(self, script: str, *arguments: str) -> None:
        command = ["sh", "-c", f"cat > /dev/null; {script}", "guard", *arguments]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
        )

    def release(self) -> None:
        """Let the script run now, and wait for it."""
        self._process.communicate()


class Local(Runtime):
    """A server from the installed binaries, as an ordinary OS user: PostgreSQL refuses root."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        super().__init__(kind)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.longest_file: int | None = None  # in bytes, from the next start on: to one that is as long, a full disk
        root = os.geteuid() == 0
        self._user = kind.os_user if root else None
        # The server's user must get in, which it could not below a TMPDIR of root's own.
        self._home = Path(tempfile.mkdtemp(prefix="alembic-job-test-", dir="/tmp" if root else None))
        if self._user:
            shutil.chown(self._home, self._user, pwd.getpwnam(self._user).pw_gid)
        # An orderly end has removed the file with the process id. SIGQUIT is PostgreSQL's immediate
        # shutdown, which removes its shared memory; MariaDB gets the surest.
        number = "KILL" if kind.dialect == "mariadb" else "QUIT"
        end = f'[ -f "$1/pid" ] && kill -s {number} "$(head -n1 "$1/pid")" && sleep 1'
        # What a server starts outlives it, as a Galera node's transfer to another does, and would write on.
        sweep = 'while found=$(grep -lsF "HOME=$1" /proc/[0-9]*/environ); [ "$found" ]; do for file in $found; do'
        sweep += ' number=${file#/proc/}; kill -s KILL "${number%/environ}"; done; sleep 0.1; done'
        remove = 'rm -rf "$1"'
        self._guard = Guard(f"{end}; {sweep}; {remove}", str(self._home))
        try:
            self._initialise()
        except BaseException:
            self._guard.release()
            raise

    def _initialise(self) -> None:
        data = self._home / "data"
        secret = self._home / "secret"
        if self.kind.dialect == "mariadb":
            secret.write_text(FIRST_SQL.format(password=self.login.password))
            command = [
                f"{self._folder}/mariadb-install-db",
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ]
        else:
            secret.write_text(self.login.password)
            command = [f"{self._folder}/initdb", "-D", str(data), "-U", self.kind.admin, "-E", "UTF8"]
            command += ["--locale=C", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"]
        secret.chmod(0o644)  # the folder is closed to others
        for _ in range(INITIALISE_TRIES):
            done = self._popen(command).wait()
            if not done:
                return
            shutil.rmtree(data, ignore_errors=True)  # seen with mariadb-install-db beside other servers' starts
        raise Unavailable(f"{command[0]} failed with {done}, {INITIALISE_TRIES} times:\n{self.log()}")

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        path = f"{self._folder}:/usr/sbin:/usr/bin:/sbin:/bin"
        with (self._home / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._home,
                # A MariaDB that starts removes all temporary tables in its TMPDIR, also another server's, which may
                # then crash: mysql_rm_tmp_tables(), and ha_maria::drop_table() of a table that could not be opened.
                env={"PATH": path, "HOME": str(self._home), "TMPDIR": str(self._home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop us
                user=self._user,
                group=pwd.getpwnam(self._user).pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
            )

    def launch(self, options: list[str]) -> None:
        if self.kind.dialect == "mariadb":
            server = shutil.which("mariadbd", path=f"{self._folder}:/usr/sbin:/usr/local/sbin") or "mariadbd"
            command = [server, "--no-defaults", f"--datadir={self._home}/data", f"--port={self.login.port}"]
            command += ["--bind-address=127.0.0.1", f"--socket={self._home}/socket"]
            command += [f"--pid-file={self._home}/pid", f"--init-file={self._home}/secret"]
        else:
            command = [f"{self._folder}/postgres", "-D", f"{self._home}/data", "-p", str(self.login.port)]
            command += ["-h", "127.0.0.1", "-k", "", "-c", f"external_pid_file={self._home}/pid"]
        # Without the signal a write fails, as it does on a full disk.
        limited = ["env", "--ignore-signal=XFSZ", "prlimit", f"--fsize={self.longest_file}"]
        limit = limited if self.longest_file else []
        self._process = self._popen([*limit, *command, *options])
        self._note_pid(self._process.pid)

    def _note_pid(self, pid: int) -> None:
        """Tell the guard from the start: MariaDB writes this file only once it is ready."""
        note = self._home / "note"
        note.write_text(f"{pid}\n")
        if self._user:
            shutil.chown(note, self._user)
        note.replace(self._home / "pid")

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        text = (self._home / "log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-30:])

    def stop(self) -> None:
        if self._process and self.alive():
            self.resume()
            # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
            self._process.send_signal(signal.SIGTERM if self.kind.dialect == "mariadb" else signal.SIGINT)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self._process and self.alive():
            signal_tree(self._process.pid, signal.SIGKILL)
            self._process.wait()
            (self._home / "pid").unlink(missing_ok=True)

    def pause(self) -> None:
        if self._process and self.alive():
            signal_tree(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self._process and self.alive():
            signal_tree(self._process.pid, signal.SIGCONT)

    def discard(self) -> None:
        if self._process and self.alive():
            self.resume()
            # Nothing is worth an orderly shutdown; but PostgreSQL reaps its own processes in this one.
            self._process.send_signal(signal.SIGKILL if self.kind.dialect == "mariadb" else signal.SIGQUIT)
            self._process.wait(STOP_TIMEOUT_S)
        if not self.alive():
            (self._home / "pid").unlink(missing_ok=True)  # the number may be another's by now
        self._guard.release()


# Nobody but the administrator, and him from everywhere. It runs at every start.
FIRST_SQL = """\
DROP USER IF EXISTS ''@'localhost', 'root'@'127.0.0.1', 'root'@'::1';
CREATE USER IF NOT EXISTS 'root'@'%' IDENTIFIED BY '{password}';
GRANT ALL PRIVILEGES ON *.* TO 'root'@'%' WITH GRANT OPTION;
"""


class Container(Runtime):
    """A server in a container, for machines without the binaries."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._name = f"alembic-job-test-{secrets.token_hex(4)}"
        # The files lie in a volume: options are fixed when a container is created, so that a
        # start with other settings needs a new one.
        self._guard = Guard('docker rm -f "$1"; docker volume rm -f "$1"', self._name)

    def launch(self, options: list[str]) -> None:
        command = ["run", "-d", "--rm", "--name", self._name]
        command += ["-p", f"127.0.0.1:{self.login.port}:{self.kind.image_port}"]
        command += ["-v", f"{self._name}:{self.kind.image_data}"]
        command += ["-e", f"{self.kind.image_password}={self.login.password}"]
        command += [self.kind.image, "mariadbd" if self.kind.dialect == "mariadb" else "postgres", *options]
        code, output = _docker(*command)
        if code:
            raise Unavailable(f"docker run of {self.kind.image} failed:\n{output}")

    def alive(self) -> bool:
        return _docker("inspect", "-f", "{{.State.Running}}", self._name)[1].strip() == "true"

    def log(self) -> str:
        return _docker("logs", "--tail", "30", self._name)[1]

    def stop(self) -> None:
        _docker("stop", "-t", str(STOP_TIMEOUT_S), self._name)
        self._wait_until_gone()

    def kill(self) -> None:
        _docker("kill", self._name)
        self._wait_until_gone()

    def pause(self) -> None:
        _docker("pause", self._name)

    def resume(self) -> None:
        _docker("unpause", self._name)

    def discard(self) -> None:
        self._guard.release()

    def _wait_until_gone(self) -> None:
        """Wait for ``--rm``, which removes the container some time after its end."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _docker("inspect", self._name)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.1)


def _docker(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["docker", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@dataclass
class PrivateServer(Server):
    """A server that one test has for itself: to stop, to freeze, to start with other settings."""

    runtime: Runtime = field(kw_only=True)
    settings: dict[str, object] = field(default_factory=dict, kw_only=True)

    @property
    def logins(self) -> tuple[Login, ...]:
        """How the administrator gets in."""
        return (self.login,)

    def start(self, **settings: object) -> None:
        """Start it (again), on the same port; ``settings`` are added to those of before."""
        self.settings = {**self.settings, **settings}
        self.runtime.start(self.settings)

    def stop(self) -> None:
        """Shut down in order; the data stay."""
        self.runtime.stop()

    def restart(self, **settings: object) -> None:
        """Stop and start."""
        self.stop()
        self.start(**settings)

    def kill(self) -> None:
        """End it at once, as a power cut does; the data stay, ``start`` recovers them."""
        self.runtime.kill()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers, as when a node vanishes."""
        self.runtime.pause()

    def resume(self) -> None:
        """Undo ``pause``."""
        self.runtime.resume()

    def discard(self) -> None:
        """Stop it and remove its files."""
        self.runtime.discard()


def private_server(dialect: str, **settings: object) -> PrivateServer:
    """Start a server with settings of its own, such as ``max_connections=5``. The caller discards it."""
    kind = KINDS[dialect]
    folder = find(kind)
    if folder is None and install(lambda: find(kind), kind.package):
        folder = find(kind)
    if folder is None and not _docker_answers():
        raise Unavailable(
            f"No {dialect} server for the tests. Either install the Debian package {kind.package}"
            f" (as root the tests do that themselves), or start a Docker engine for the image {kind.image},"
            f" or set {kind.variable} to the SQLAlchemy URL of an administrator of a server to use."
        )
    runtime = Local(kind, folder) if folder else Container(kind)
    server = PrivateServer(dialect, runtime.login, runtime=runtime)
    try:
        server.start(**settings)
    except BaseException:
        server.discard()
        raise
    return server


def find(kind: Kind) -> Path | None:
    """Return the folder of the newest installed server binaries."""
    onpath = shutil.which(kind.binary)
    if onpath:
        return Path(onpath).resolve().parent
    found = [path for pattern in kind.folders for path in Path("/").glob(f"{pattern[1:]}/{kind.binary}")]
    return max(found, key=_version).parent if found else None


def _version(path: Path) -> list[int]:
    return [int(part) for part in path.parts if part.isdigit()]


def install(found: Callable[[], object], *packages: str) -> bool:
    """Install Debian packages, if this is Debian and we are root; ``found`` tells whether another worker has."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    with _install_lock(), _no_services():
        if found():  # another worker was faster
            return True
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        options = ["-qq", "-o", "DPkg::Lock::Timeout=300"]
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", *options, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode and command[0] == "install":
                raise Unavailable(f"apt-get install {' '.join(packages)} failed:\n{done.stdout[-3000:]}")
    return True


@contextlib.contextmanager
def _install_lock() -> Iterator[None]:
    with Path(tempfile.gettempdir(), "alembic-job-test-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Keep the packages from starting a server of the machine's own, the Debian way."""
    policy = Path("/usr/sbin/policy-rc.d")
    try:
        with policy.open("x") as script:
            script.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:  # the machine has rules of its own: container images come with just this one
        yield
        return
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def _docker_answers() -> bool:
    return shutil.which("docker") is not None and _docker("info")[0] == 0


class Shareable(Protocol):
    """What ``SharedServers`` starts."""

    @property
    def logins(self) -> tuple[Login, ...]:
        """How an administrator gets in: one login for each server."""

    def discard(self) -> None:
        """Stop it and remove its files."""


class SharedServers:
    """The one pair of servers of a test run, each started when a test first asks for it; and ``others``.

    It lives in the process that outlives the workers of pytest-xdist, which ask over a socket.
    """

    def __init__(self, **others: Callable[[], Shareable]) -> None:
        self._others = others
        self._started: dict[str, Shareable] = {}
        self._known: dict[str, tuple[Login, ...] | str] = {}
        self._listener: Listener | None = None

    def logins(self, name: str) -> tuple[Login, ...]:
        """Return the administrator's logins for a dialect or one of the others, starting it if need be."""
        if name not in self._known:
            self._known[name] = self._provide(name)
        known = self._known[name]
        if isinstance(known, str):
            raise Unavailable(known)
        return known

    def _provide(self, name: str) -> tuple[Login, ...] | str:
        given = KINDS[name].given if name in KINDS else None
        try:
            if given:
                return (_given(name, given),)
            self._started[name] = private_server(name) if name in KINDS else self._others[name]()
        except Exception as error:
            return str(error)  # remembered: every test says it, none tries again
        return self._started[name].logins

    @property
    def address(self) -> str:
        """Where workers ask; from now on they are answered."""
        if self._listener is None:
            self._listener = Listener(family="AF_UNIX")
            threading.Thread(target=self._answer, daemon=True).start()
        return str(self._listener.address)

    def _answer(self) -> None:
        assert self._listener is not None
        while True:
            with contextlib.suppress(EOFError, ConnectionError):  # a worker that ended while it asked
                try:
                    asked = self._listener.accept()
                except OSError:
                    return  # closed
                with asked:
                    try:
                        asked.send(self.logins(asked.recv()))
                    except Unavailable as error:
                        asked.send(error)

    def close(self) -> None:
        """Stop and remove what was started."""
        if self._listener is not None:
            self._listener.close()
        for server in self._started.values():
            server.discard()


def ask(address: str, name: str) -> tuple[Login, ...]:
    """Ask the ``SharedServers`` of another process."""
    with Client(address, family="AF_UNIX") as connection:
        connection.send(name)
        answer = connection.recv()
    if isinstance(answer, tuple):
        return answer
    raise answer


def _given(dialect: str, url: str) -> Login:
    """Read an administrator's URL, and prove it with a login."""
    parts = urlsplit(url)
    kind = KINDS[dialect]
    login = Login(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or kind.image_port,
        user=unquote(parts.username or kind.admin),
        password=unquote(parts.password or ""),
    )
    try:
        login.connect(dialect).close()
    except Exception as error:
        raise Unavailable(f"The server in {kind.variable} does not let us in: {error}") from error
    return login
