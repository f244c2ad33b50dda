"""The ledger, alike on every dialect: what is written is what is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.database import Session
from runner.events import Event
from runner.ledger import Entry, Journal, Who, fingerprint, read
from runner.model import Revision, VersionTable
from runner.pen import Pen
from tests.contract.test_session import runners
from tests.databases import Database

TABLE = VersionTable("alembic_version", "main")
TRICKY = 'it\'s 100 % \\ "so" é ✓ ?'


class Run:
    """A run of its own, and what it said."""

    def __init__(self, database: Database, session: Session | None, run_id: str, table: VersionTable = TABLE) -> None:
        self.said: list[Event] = []
        who = Who(run_id, "upgrade", "1.0", "node-1", "default/pod-1", "app:1")
        pen = Pen(runners(database), session)
        self.journal = Journal(who, table, pen, runners(database).url.user, self.said.append, lambda text: text)


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    if database.path:
        database.path.touch()
    with runners(database).session() as opened:
        yield opened


@pytest.fixture
def migrating(database: Database, session: Session) -> Iterator[Any]:
    """The driver's connection that migrates; only SQLite's has to write."""
    with contextlib.closing(database.connect()) as connection:
        yield connection


def entries(session: Session, table: VersionTable = TABLE) -> list[Entry]:
    ledger = read(session, session.tables())
    assert ledger.trouble is None
    return list(ledger.of(table))


def revision(id: str, *parents: str, path: str = "no/such/file.py", summary: str = "") -> Revision:
    return Revision(id, parents, summary, path, depends_on=("x", "y"))


def test_no_table_is_an_empty_ledger(session: Session) -> None:
    assert entries(session) == []


def test_a_row_is_there_as_soon_as_the_revision_begins(
    database: Database, session: Session, migrating: Any, tmp_path: Path
) -> None:
    file = tmp_path / "r2.py"
    file.write_text("x = 1\n")
    run = Run(database, session, "run1")
    run.journal.begins(revision("r2", "r1", path=str(file), summary=TRICKY), "upgrade", migrating)
    (row,) = entries(session)
    assert (row.run_id, row.revision, row.status, row.direction) == ("run1", "r2", "started", "upgrade")
    assert (row.parents, row.depends_on, row.summary) == (("r1",), ("x", "y"), TRICKY)
    assert (row.sha256, row.path) == (fingerprint(str(file)), str(file))
    assert (row.image, row.pod, row.hostname, row.runner_version) == ("app:1", "default/pod-1", "node-1", "1.0")
    assert row.started and row.started.endswith("Z") and row.ended is None
    assert run.said == []


def test_each_status_is_what_was_last_said_of_the_revision(
    database: Database, session: Session, migrating: Any
) -> None:
    journal = Run(database, session, "run1").journal
    for id in ("r1", "r2", "r3"):
        journal.begins(revision(id), "upgrade", migrating)
        journal.executed(id, 1.25)
    journal.committed(["r1"])
    journal.ended("r2", "rolled_back")
    journal.ended("r3", "failed", "1062", TRICKY * 1000)
    journal.migrated()
    journal.flush()
    one, two, three = entries(session)
    assert [row.status for row in (one, two, three)] == ["committed", "rolled_back", "failed"]
    assert (one.duration_s, one.code, one.error) == (1.25, None, None)
    assert three.code == "1062" and three.error and three.error.startswith(TRICKY) and len(three.error) == 4000
    assert one.ended


def test_a_second_try_in_the_same_run_keeps_the_row_and_forgets_the_error(
    database: Database, session: Session, migrating: Any
) -> None:
    journal = Run(database, session, "run1").journal
    journal.begins(revision("r1"), "upgrade", migrating)
    journal.ended("r1", "failed", "1205", "no lock")
    journal.flush()
    journal.begins(revision("r1"), "upgrade", migrating)
    (row,) = entries(session)
    assert (row.status, row.code, row.error, row.ended) == ("started", None, None, None)


def test_what_is_said_of_a_revision_that_never_began_is_not_written(database: Database, session: Session) -> None:
    journal = Run(database, session, "run1").journal
    journal.ended("r9", "failed")
    journal.committed(["r9"])
    journal.flush()
    assert entries(session) == []


def test_two_version_tables_in_one_database_have_rows_of_their_own(
    database: Database, session: Session, migrating: Any
) -> None:
    other = VersionTable("other_version", "main")
    Run(database, session, "run1").journal.begins(revision("r1"), "upgrade", migrating)
    Run(database, session, "run2", other).journal.begins(revision("r1"), "upgrade", migrating)
    assert [row.run_id for row in entries(session)] == ["run1"]
    assert [row.run_id for row in entries(session, other)] == ["run2"]


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_a_session_that_was_lost_is_replaced(database: Database, session: Session) -> None:
    run = Run(database, session, "run1")
    run.journal.begins(revision("r1"), "upgrade", None)
    session.connection.close()
    run.journal.begins(revision("r2"), "upgrade", None)
    assert run.said == []
    with runners(database).session() as another:
        assert [row.revision for row in entries(another)] == ["r1", "r2"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_in_a_transaction_of_the_migration_the_row_goes_with_it(
    database: Database, session: Session, migrating: Any
) -> None:
    journal = Run(database, session, "run1").journal
    journal.begins(revision("r1"), "upgrade", migrating)
    migrating.execute("BEGIN")
    journal.begins(revision("r2"), "upgrade", migrating)
    migrating.execute("ROLLBACK")
    assert [row.revision for row in entries(session)] == ["r1"]


def test_what_cannot_be_written_is_one_warning(database: Database, session: Session, migrating: Any) -> None:
    run = Run(database, session, "run1")
    run.journal.begins(revision("r1"), "upgrade", migrating)
    database.execute(f"ALTER TABLE {session.dialect.own_table('alembic_job_ledger')} RENAME COLUMN status TO state")
    for id in ("r2", "r3"):
        run.journal.begins(revision(id), "upgrade", migrating)
    run.journal.flush()
    assert [event.name for event in run.said] == ["ledger_unavailable"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_table_that_went_with_the_migrations_transaction_is_made_again(
    database: Database, session: Session, migrating: Any
) -> None:
    run = Run(database, session, "run1")
    migrating.execute("BEGIN")
    run.journal.begins(revision("r1"), "upgrade", migrating)
    migrating.execute("ROLLBACK")
    run.journal.ended("r1", "failed")
    run.journal.migrated()
    run.journal.flush()
    assert run.said == []
    run.journal.begins(revision("r2"), "upgrade", migrating)
    assert [row.revision for row in entries(session)] == ["r2"]
