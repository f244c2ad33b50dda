"""Fixtures: databases on real servers, and the real process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import job
from tests.databases import AWKWARD_PASSWORD, Database, Server, sqlite_database
from tests.servers import KINDS, PrivateServer, SharedServers, Unavailable, ask
from tests.servers import private_server as start_private_server

# A slow moment of a busy machine is no bug of the code under test.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

SHARED = pytest.StashKey[SharedServers]()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[SHARED] = SharedServers()


@pytest.hookimpl(optionalhook=True)  # pytest-xdist calls it, if it is there
def pytest_configure_node(node: Any) -> None:
    node.workerinput["servers"] = node.config.stash[SHARED].address


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


def _shared(config: pytest.Config, dialect: str) -> Iterator[Server]:
    with _had():
        if SHARED in config.stash:
            login = config.stash[SHARED].login(dialect)
        else:
            login = ask(config.workerinput["servers"], dialect)  # type: ignore[attr-defined]
    server = Server(dialect, login)
    yield server
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


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database, once for every dialect.

    For some dialects only: ``@pytest.mark.parametrize("database", ["mariadb"], indirect=True)``.
    """
    if request.param == "sqlite":
        return sqlite_database(tmp_path / "database.sqlite")
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server.new_database()


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
