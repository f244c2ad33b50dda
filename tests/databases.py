"""Databases as the tests see them: through the raw drivers, never through the code under test."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

PASSWORD = "correct-horse-staple"
# What a URL, a ConfigParser, a shell and an SQL literal each stumble over. PyMySQL sends a
# password as Latin-1, so one with other letters cannot be used from env.py with MariaDB at all.
AWKWARD_PASSWORD = {"mariadb": "p%40:/?#[]@ '\"\\$x{y}%(z)s", "postgresql": "p%40:/?#[]@ é'\"\\$x{y}%(z)s"}

# What env.py opens; SQLAlchemy 1.4 does not know psycopg 3.
_PSYCOPG = "psycopg2" if version("sqlalchemy").startswith("1.") else "psycopg"
DRIVERS = {"sqlite": "sqlite", "mariadb": "mysql+pymysql", "postgresql": f"postgresql+{_PSYCOPG}"}


@dataclass(frozen=True)
class Login:
    """How to get in; ``name`` is the database."""

    host: str
    port: int
    user: str
    password: str
    name: str = ""

    def url(self, driver: str) -> str:
        """Render as an SQLAlchemy URL."""
        user, password = quote(self.user, safe=""), quote(self.password, safe="")
        return f"{driver}://{user}:{password}@{self.host}:{self.port}/{self.name}"

    def connect(self, dialect: str, **options: Any) -> Any:
        """Open a connection of the raw driver, in autocommit. A hung server fails the test in a minute.

        ``options`` are the driver's own, and win.
        """
        if dialect == "mariadb":
            import pymysql

            mine: dict[str, Any] = {
                "charset": "utf8mb4",
                "autocommit": True,
                "connect_timeout": 10,
                "read_timeout": 60,
                "write_timeout": 60,
                "ssl_disabled": True,  # PyMySQL spends most of a login on loading certificates
            }
            return pymysql.connect(
                host=self.host,
                port=self.port,
                user=self.user,
                password=self.password,
                database=self.name or None,
                **{**mine, **options},
            )
        import psycopg

        mine = {
            "autocommit": True,
            "connect_timeout": 10,
            "options": "-c statement_timeout=60s",
            "application_name": "tests",
        }
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=self.name or "postgres",
            **{**mine, **options},
        )


@dataclass(frozen=True)
class Database:
    """One empty database and its own user; ``login`` is None for SQLite, ``path`` for the others."""

    dialect: str
    url: str
    login: Login | None = None
    path: Path | None = None

    def connect(self) -> Any:
        """Open a raw DBAPI connection as the database's own user, in autocommit; the caller closes it."""
        if self.path is not None:
            return sqlite3.connect(self.path, isolation_level=None, timeout=10)
        assert self.login is not None
        return self.login.connect(self.dialect)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return all rows of one statement, on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return _rows(connection, sql)

    def execute(self, *statements: str) -> None:
        """Run the statements on one connection, each committed."""
        with contextlib.closing(self.connect()) as connection:
            for sql in statements:
                _rows(connection, sql)

    def tables(self) -> set[str]:
        """Return the names of all tables but the runner's own (PostgreSQL: ``schema.table`` outside of ``public``)."""
        found = {name for (name,) in self.query(_TABLES[self.dialect])}
        return {name for name in found if not name.rpartition(".")[2].startswith("alembic_job_")}

    def versions(self, table: str = "alembic_version") -> set[str]:
        """Return the rows of Alembic's version table; none if there is no such table."""
        if table not in self.tables():
            return set()
        return {row for (row,) in self.query(f"SELECT version_num FROM {table}")}

    def __str__(self) -> str:
        """Name it in the ids and messages of pytest, without the password."""
        return f"{self.dialect} {self.path or (self.login and self.login.name)}"


_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
    "mariadb": "SELECT table_name FROM information_schema.tables WHERE table_schema = database()",
    "postgresql": (
        "SELECT CASE table_schema WHEN 'public' THEN '' ELSE table_schema || '.' END || table_name"
        " FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
    ),
}


def _rows(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


def sqlite_database(path: Path) -> Database:
    """Name a SQLite file, which need not exist yet."""
    return Database("sqlite", f"sqlite:///{path}", path=path)


@dataclass
class Server:
    """A running server, and SQL on it as its administrator."""

    dialect: str
    login: Login
    _made: list[Login] = field(default_factory=list)

    @property
    def host(self) -> str:
        """The loopback address, mostly."""
        return self.login.host

    @property
    def port(self) -> int:
        """The TCP port."""
        return self.login.port

    @property
    def user(self) -> str:
        """The administrator."""
        return self.login.user

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """Hold a raw connection of the administrator."""
        with contextlib.closing(self.login.connect(self.dialect)) as connection:
            yield connection

    def admin(self, *statements: str) -> None:
        """Run the statements as the administrator."""
        with self.connected() as connection:
            for sql in statements:
                _rows(connection, sql)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return all rows of one statement, as the administrator."""
        with self.connected() as connection:
            return _rows(connection, sql)

    def new_database(self, *, password: str = PASSWORD, driver: str | None = None) -> Database:
        """Create an empty database and an ordinary user of the same name, with rights on it alone."""
        name = f"t{uuid.uuid4().hex[:12]}"
        with self.connected() as connection:
            if self.dialect == "mariadb":
                secret = connection.escape(password)
                grants = [
                    f"CREATE DATABASE {name}",
                    f"CREATE USER {name}@'%' IDENTIFIED BY {secret}",
                    f"GRANT ALL PRIVILEGES ON {name}.* TO {name}@'%'",
                ]
            else:
                from psycopg import sql

                secret = sql.Literal(password).as_string(connection)
                grants = [
                    f"CREATE ROLE {name} LOGIN PASSWORD {secret}",
                    f"CREATE DATABASE {name} OWNER {name}",
                    f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
                ]
            for statement in grants:
                _rows(connection, statement)
        login = Login(self.host, self.port, name, password, name)
        self._made.append(login)
        return Database(self.dialect, login.url(driver or DRIVERS[self.dialect]), login)

    def drop_databases(self) -> None:
        """Remove what ``new_database`` made: for a server that outlives the tests."""
        mariadb = self.dialect == "mariadb"
        with self.connected() as connection:
            if mariadb:
                _rows(connection, "SET lock_wait_timeout = 5")
            for login in self._made:
                with contextlib.suppress(Exception):  # a session that a test left must not hide its result
                    _rows(connection, f"DROP DATABASE {login.name}" + ("" if mariadb else " WITH (FORCE)"))
                    _rows(connection, f"DROP USER {login.name}" + ("@'%'" if mariadb else ""))
        self._made.clear()
