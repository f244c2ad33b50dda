"""The database as the runner itself sees it: its own short-lived connections, by the plain driver.

They need neither SQLAlchemy nor the driver of the project, so ``wait`` starts fast and Alembic 1.8
with SQLAlchemy 1.4 is served like the newest.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from ..errors import ConfigInvalid, RunnerError
from ..model import VersionTable
from ..url import URL
from . import mysql, postgresql, sqlite
from .dialect import (
    URL_FORM,
    Ask,
    Dialect,
    Ending,
    Refusal,
    Room,
    driver_autocommits,
    from_driver,
    of_driver,
    unrecognised,
    words_of,
)

DIALECTS: Mapping[str, Dialect] = {
    "mysql": cast(Dialect, mysql),
    "mariadb": cast(Dialect, mysql),
    "postgresql": cast(Dialect, postgresql),
    "sqlite": cast(Dialect, sqlite),
}


@dataclass(frozen=True)
class Session:
    """One open connection, in autocommit."""

    dialect: Dialect
    connection: Any
    url: URL
    owner: str = "alembic-job"
    _busy: threading.RLock = field(default_factory=threading.RLock, compare=False, repr=False)

    def server_version(self) -> str:
        """The version as the server names it."""
        return self.dialect.server_version(self.connection)

    def read_only(self) -> str | None:
        """Why this server takes no writes; None when it does."""
        return self.dialect.read_only(self.connection)

    def versions(self, table: VersionTable) -> tuple[str, ...]:
        """The committed version rows."""
        with self._busy:
            return self.dialect.versions(self.connection, table)

    def tables(self) -> frozenset[str]:
        """The tables of the database; ``schema.table`` outside of the session's own schema."""
        return self.dialect.tables(self.connection)

    @property
    def ask(self) -> Ask:
        """Queries on this connection, one at a time: a thread shows signs of life on it."""
        ask = self.dialect.ask(self.connection)

        def one_at_a_time(sql: str) -> Sequence[Sequence[Any]]:
            with self._busy:
                return ask(sql)

        return one_at_a_time

    def changed(self, sql: str) -> int:
        """Run a statement that writes: how many rows it changed."""
        with self._busy:
            return self.dialect.changed(self.connection, sql)

    def with_connection(self, write: Callable[[Any], None]) -> None:
        """Do something on the driver's connection, with no other thread on it."""
        with self._busy:
            write(self.connection)

    def session_id(self) -> int | None:
        """The server's number of this session; None where it cannot be told."""
        with suppress(Exception):
            return self.dialect.session_id(self.ask)
        return None

    def identity(self) -> str:
        """Which database this is, as far as the session can tell."""
        return self.dialect.identity(self.ask)

    def lock_name(self) -> str:
        """The name of this database's migration lock."""
        return self.dialect.lock_name(self.ask)

    def try_lock(self, name: str) -> Callable[[], bool] | None:
        """Take the lock without waiting: what releases it, or None."""
        return self.dialect.try_lock(self.ask, name, self.owner)

    def close(self) -> None:
        """Close; a connection that is broken already is closed enough."""
        with suppress(Exception):
            self.connection.close()


@dataclass(frozen=True)
class Database:
    """Where to connect to; ``url`` is asked again for every connection, so that rotated secrets work."""

    read_url: Callable[[], URL]
    connect_timeout_s: float
    owner: str = "alembic-job"  # with the run's id: who it is, to those who see the session on the server

    @property
    def url(self) -> URL:
        """The URL as it is now."""
        return self.read_url()

    @property
    def dialect(self) -> Dialect:
        """The dialect of the URL."""
        return DIALECTS[self.url.dialect]

    def connect(self, timeout_s: float | None = None) -> Session:
        """A new session after a real login. Raises the driver's errors, which ``refusal`` explains."""
        url = self.url
        dialect = DIALECTS[url.dialect]
        try:
            connection = dialect.connect(url, timeout_s or self.connect_timeout_s, self.owner)
        except ImportError as error:
            raise ConfigInvalid(
                f"The driver for {url.dialect} is not installed: {error}.", hint=dialect.DRIVER_HINT
            ) from error
        except UnicodeError as error:
            raise ConfigInvalid(
                "Host, user or password of the database URL has characters that cannot be sent to the server.",
                hint="Correct the URL; PyMySQL sends a password as Latin-1.",
            ) from error
        return Session(dialect, connection, url, self.owner)

    @contextmanager
    def session(self, timeout_s: float | None = None) -> Iterator[Session]:
        """A session for a few statements; driver errors come out as the runner's own."""
        session: Session | None = None
        try:
            session = self.connect(timeout_s)
            yield session
        except Exception as error:
            if not self.explains(error):
                raise
            raise explained(self.refusal(error)) from error
        finally:
            if session:
                session.close()

    def explains(self, error: BaseException) -> bool:
        """Whether this speaks of the database at all. What does not is a mistake of our own."""
        return from_driver(error) or isinstance(error, OSError) or self.dialect.classify(error) is not None

    def refusal(self, error: BaseException) -> Refusal:
        """What an error of the runner's own connection means; what is not recognised is transient."""
        return self.dialect.classify(error) or unrecognised(error)


def classified(error: BaseException) -> Refusal | None:
    """What an error of any driver, of any dialect, means; None when it says nothing of the connection."""
    packages = {package for kind in type(error).__mro__ for package in _packages(kind.__module__)}
    for dialect, names in _PACKAGES:
        if packages & names:
            return dialect.classify(error)
    if isinstance(error, (OSError, TimeoutError)) and "asyncpg" in _raised_in(error):  # which lets them through
        return unrecognised(error)
    return DIALECTS["mysql"].classify(error)


def _packages(module: str) -> set[str]:
    return {module.partition(".")[0], ".".join(module.split(".")[:3])}


def _raised_in(error: BaseException) -> set[str]:
    frames = traceback.walk_tb(error.__traceback__)
    return {str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames}


_PACKAGES: tuple[tuple[Dialect, set[str]], ...] = (
    (DIALECTS["sqlite"], {"sqlite3", "sqlalchemy.dialects.sqlite"}),
    (DIALECTS["postgresql"], {"psycopg", "psycopg2", "asyncpg", "pg8000", "sqlalchemy.dialects.postgresql"}),
)


def explained(refusal: Refusal) -> RunnerError:
    """The error of the contract for what a driver said."""
    return refusal.error(f"{refusal.text}.", code=refusal.code)


__all__ = [
    "DIALECTS",
    "URL_FORM",
    "Ask",
    "Database",
    "Dialect",
    "Ending",
    "Refusal",
    "Room",
    "Session",
    "classified",
    "driver_autocommits",
    "explained",
    "of_driver",
    "unrecognised",
    "words_of",
]
