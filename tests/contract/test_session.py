"""What every dialect offers to the rest of the program, on real servers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner import url as urls
from runner.database import Database as Runners
from runner.database import Session
from runner.errors import DatabaseMissing, RunnerError
from runner.model import VersionTable
from tests.databases import Database
from tests.servers import PrivateServer

STOCK = VersionTable()
QUOTE = {"mariadb": "`", "postgresql": '"', "sqlite": '"'}


def besides(session: Session, version: VersionTable) -> frozenset[str]:
    """The tables of the database but this one."""
    return frozenset(table for table in session.tables() if table.rpartition(".")[2].lower() != version.name)


def runners(database: Database, /, **changes: object) -> Runners:
    url = dataclasses.replace(urls.parse(database.url), **changes)  # type: ignore[arg-type]
    return Runners(lambda: url, connect_timeout_s=5.0)


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    if database.path:
        database.execute("PRAGMA user_version = 1")  # now there is a file
    with runners(database).session() as session:
        yield session


def quoted(database: Database, *parts: str) -> str:
    mark = QUOTE[database.dialect]
    return ".".join(mark + part.replace(mark, mark * 2) + mark for part in parts)


def test_the_server_tells_its_version(session: Session) -> None:
    assert session.server_version()[0].isdigit()


def test_an_ordinary_server_takes_writes(session: Session) -> None:
    assert session.read_only() is None


def test_without_a_version_table_there_are_no_versions(session: Session, database: Database) -> None:
    assert session.versions(STOCK) == ()
    if database.dialect != "mariadb":  # which tells those who may see it only
        assert session.versions(VersionTable("alembic_version", "no_such_schema")) == ()
    assert session.versions(VersionTable("odd `\"'name", None)) == ()


@pytest.mark.parametrize("name", ["alembic_version", "Migrations Done", "odd`name", 'odd"name'])
def test_versions_are_the_rows_of_the_table_with_that_name(session: Session, database: Database, name: str) -> None:
    table = quoted(database, name)
    database.execute(
        f"CREATE TABLE {table} (version_num VARCHAR(32))",
        f"INSERT INTO {table} VALUES ('b'), ('a')",
    )
    assert session.versions(VersionTable(name)) == ("a", "b")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_versions_come_from_the_schema_that_is_named(session: Session, database: Database) -> None:
    table = quoted(database, 'my "ops"', "v")
    database.execute(
        'CREATE SCHEMA "my ""ops"""', f"CREATE TABLE {table} (version_num TEXT)", f"INSERT INTO {table} VALUES ('a')"
    )
    assert session.versions(VersionTable("v", 'my "ops"')) == ("a",)
    assert session.versions(VersionTable("v")) == ()


def test_versions_are_those_that_are_committed(session: Session, database: Database) -> None:
    database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    other = database.connect()
    cursor = other.cursor()
    cursor.execute("BEGIN")
    cursor.execute("INSERT INTO alembic_version VALUES ('a')")
    assert session.versions(STOCK) == ()
    cursor.execute("COMMIT")
    assert session.versions(STOCK) == ("a",)
    other.close()


def test_the_version_table_alone_does_not_make_tables(session: Session, database: Database) -> None:
    assert not besides(session, STOCK)
    database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    assert not besides(session, STOCK)
    database.execute("CREATE TABLE apples (id INTEGER)")
    assert besides(session, STOCK)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_temporary_table_of_another_session_is_no_table(session: Session, database: Database) -> None:
    other = database.connect()
    other.execute("CREATE TEMPORARY TABLE scratch (id INTEGER)")
    assert not besides(session, STOCK)
    other.close()


def test_a_closed_session_closes_again_without_an_error(session: Session) -> None:
    session.close()
    session.close()


def test_a_password_of_special_characters_gets_in(awkward_database: Database) -> None:
    with runners(awkward_database).session() as session:
        assert session.versions(STOCK) == ()


def test_a_database_that_is_not_there_is_missing(database: Database) -> None:
    missing = str(database.path.parent / "nowhere" / "x") if database.path else "nowhere"
    with pytest.raises(RunnerError) as caught, runners(database, database=missing).session():
        pass
    # MariaDB does not tell a user of other rights whether it exists.
    assert isinstance(caught.value, DatabaseMissing) or caught.value.code == "1044"


def test_a_sqlite_file_that_is_not_there_is_empty_and_stays_away(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    with Runners(lambda: urls.parse(f"sqlite:///{path}"), 5.0).session() as session:
        assert (session.versions(STOCK), session.tables()) == ((), frozenset())
    assert not path.exists()


def test_a_mariadb_with_read_only_set_says_so(private_server: Callable[..., PrivateServer]) -> None:
    server = private_server("mariadb", read_only=1)
    with runners(server.new_database()).session() as session:
        assert "read_only" in str(session.read_only())


def test_a_postgresql_that_starts_sessions_read_only_says_so_and_so_does_a_standby(
    private_server: Callable[..., PrivateServer],
) -> None:
    server = private_server("postgresql")
    database = server.new_database()
    server.admin(f"ALTER DATABASE {database.url.rpartition('/')[2]} SET default_transaction_read_only = on")
    with runners(database).session() as session:
        assert "default_transaction_read_only" in str(session.read_only())
    server.admin(f"ALTER DATABASE {database.url.rpartition('/')[2]} RESET default_transaction_read_only")
    [[folder]] = server.query("SHOW data_directory")
    # A server that finds this file stays in recovery: a standby whose primary never comes.
    server.admin(f"COPY (SELECT) TO '{folder}/standby.signal'")
    server.restart()
    with runners(database).session() as session:
        assert "recovery" in str(session.read_only())
