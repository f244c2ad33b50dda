"""Fixtures: databases on real servers, and the real process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import job
from tests.clusters import Galera, Pooler, PrivateGalera, start_galera, start_pooler
from tests.databases import AWKWARD_PASSWORD, Database, Login, Server, sqlite_database
from tests.servers import KINDS, PrivateServer, SharedServers, Unavailable, ask
from tests.servers import private_server as start_private_server

# A slow moment of a busy machine is no bug of the code under test.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

SHARED = pytest.StashKey[SharedServers]()
_LONG = {"test_vanished_node.py", "test_where_session_locks_fail.py"}


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[SHARED] = SharedServers(galera=start_galera)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist calls it, if it is there
def pytest_configure_node(node: Any) -> None:
    node.workerinput["servers"] = node.config.stash[SHARED].address


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes a minute begins first, so that nobody waits for it alone at the end."""
    items.sort(key=lambda item: item.path.name not in _LONG)


def pytest_unconfigure(config: pytest.Config) -> None:
    if SHARED in config.stash:
        config.stash[SHARED].close()


@contextlib.contextmanager
def _had() -> Iterator[None]:
    """Fail, not skip, when a server cannot be had: a green run has tried them all."""
    try:
        yield
    except Unavailable as error:
        failure = pytest.fail.Exception(str(error), pytrace=False)
        raise failure from None


def _logins(config: pytest.Config, name: str) -> tuple[Login, ...]:
    with _had():
        if SHARED in config.stash:
            return config.stash[SHARED].logins(name)
        return ask(config.workerinput["servers"], name)  # type: ignore[attr-defined]


def _shared(config: pytest.Config, dialect: str) -> Iterator[Server]:
    [login] = _logins(config, dialect)
    server = Server(dialect, login)
    yield server
    if KINDS[dialect].given:  # else it goes as a whole
        server.drop_databases()


@pytest.fixture(scope="session")
def mariadb_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The MariaDB server that all tests share; ``new_database()`` gives a database of one's own."""
    yield from _shared(pytestconfig, "mariadb")


@pytest.fixture(scope="session")
def postgresql_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The PostgreSQL server that all tests share; ``new_database()`` gives a database of one's own."""
    yield from _shared(pytestconfig, "postgresql")


@pytest.fixture
def private_server() -> Iterator[Callable[..., PrivateServer]]:
    """Start servers that this test alone uses: ``private_server("mariadb", max_connections=5)``."""
    started: list[PrivateServer] = []

    def start(dialect: str, **settings: object) -> PrivateServer:
        with _had():
            started.append(start_private_server(dialect, **settings))
        return started[-1]

    yield start
    for server in started:
        server.discard()


@pytest.fixture(scope="session")
def galera(pytestconfig: pytest.Config) -> Galera:
    """The Galera cluster that all tests share; ``new_database()`` gives a database, once for each node."""
    return Galera(tuple(Server("mariadb", login) for login in _logins(pytestconfig, "galera")))


@pytest.fixture(scope="module")
def private_galera() -> Iterator[PrivateGalera]:
    """A Galera cluster for the tests of one file, to kill nodes and to cut them off. It takes 10 to 15 s to start."""
    with _had():
        cluster = start_galera()
    yield cluster
    cluster.discard()


def _pooler(server: Server, pool_mode: str) -> Iterator[Pooler]:
    with _had():
        pooler = start_pooler(server, pool_mode)
    yield pooler
    pooler.discard()


@pytest.fixture(scope="session")
def pgbouncer(postgresql_server: Server) -> Iterator[Pooler]:
    """PgBouncer in transaction mode before the shared PostgreSQL: ``pgbouncer.through(database)``."""
    yield from _pooler(postgresql_server, "transaction")


@pytest.fixture(scope="session")
def pgbouncer_sessions(postgresql_server: Server) -> Iterator[Pooler]:
    """The same in session mode."""
    yield from _pooler(postgresql_server, "session")


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database, once for every dialect.

    For some dialects only: ``@pytest.mark.parametrize("database", ["mariadb"], indirect=True)``.
    """
    if request.param == "sqlite":
        return sqlite_database(tmp_path / "database.sqlite")
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server.new_database()


@pytest.fixture
def pair(tmp_path: Path, database: Database, request: pytest.FixtureRequest) -> tuple[Database, Database]:
    """Two empty databases, once for every dialect."""
    if database.path:
        return database, sqlite_database(tmp_path / "second.sqlite")
    server: Server = request.getfixturevalue(f"{database.dialect}_server")
    return database, server.new_database()


@pytest.fixture(params=sorted(KINDS))
def awkward_database(request: pytest.FixtureRequest) -> Database:
    """An empty database whose password is made of special characters, once for every server."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server.new_database(password=AWKWARD_PASSWORD[request.param])


@pytest.fixture
def start_job(tmp_path: Path) -> Iterator[Callable[..., job.Job]]:
    """Start the real process as ``tests.job.start_job`` does, in ``tmp_path`` unless told."""
    started: list[job.Job] = []

    def start(*arguments: str, cwd: Path = tmp_path, **options: Any) -> job.Job:
        started.append(job.start_job(*arguments, cwd=cwd, **options))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def run_job(start_job: Callable[..., job.Job]) -> Callable[..., job.Result]:
    """Run the real process to its end: ``run_job("upgrade", cwd=project.path, env={…})``."""

    def run(
        *arguments: str, timeout_s: float = 60, complete: bool = True, stderr: bool = False, **options: Any
    ) -> job.Result:
        return start_job(*arguments, **options).finish(timeout_s, complete=complete, stderr=stderr)

    return run
