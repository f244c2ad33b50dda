"""The example project, through the real process, on every database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.acceptance import plain
from tests.databases import Database, sqlite_database
from tests.job import Result

BOOKSHOP = Path(__file__).parents[2] / "examples" / "bookshop"
BEFORE_THE_SLUGS = "93d0b84e6a1c"
HEAD = "84ba5df1c76e"
COUNT = 11
TABLES = {"authors", "books", "customers", "order_lines", "orders", "publishers", "shipments"}

Bookshop = Callable[..., Result]


@pytest.fixture
def bookshop(database: Database, run_job: Callable[..., Result]) -> Bookshop:
    """Run the job in the bookshop's folder, from the console script, with all that it imports by itself."""

    def run(*arguments: str) -> Result:
        return run_job(*arguments, cwd=BOOKSHOP, env={"ALEMBIC_JOB_DATABASE_URL": database.url}, fresh=True)

    return run


@pytest.fixture
def second_database(database: Database, request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Another empty one of the same dialect."""
    if database.dialect == "sqlite":
        return sqlite_database(tmp_path / "second.sqlite")
    new: Database = request.getfixturevalue(f"{database.dialect}_server").new_database()
    return new


def test_upgrade_brings_an_empty_database_to_the_head(bookshop: Bookshop, database: Database) -> None:
    result = bookshop("upgrade")
    finished = result.finished
    assert (result.exit_code, finished["outcome"]) == (0, "upgraded")
    assert (finished["from"], finished["to"], finished["count"]) == ([], [HEAD], COUNT)
    assert finished["applied"] == [event["revision"] for event in result.of("revision_executed")]
    assert database.versions() == {HEAD}
    assert database.tables() == TABLES | {"alembic_version"}


@pytest.mark.parametrize("at", [HEAD, "d50c3a8e971f"])  # the merge, which does nothing; and one of its branches
def test_the_revision_is_found_again_when_the_version_is_lost(
    database: Database, second_database: Database, run_job: Callable[..., Result], at: str
) -> None:
    urls = {"ALEMBIC_JOB_DATABASE_URL": database.url, "ALEMBIC_JOB_SCRATCH_URL": second_database.url}
    assert run_job("upgrade", at, cwd=BOOKSHOP, env=urls).exit_code == 0
    database.execute("DROP TABLE alembic_version")
    result = run_job("baseline", "--detect", "--yes", cwd=BOOKSHOP, env=urls)
    assert (result.exit_code, database.versions()) == (0, {at}), result.finished


def test_the_second_run_does_nothing_and_takes_no_lock(bookshop: Bookshop) -> None:
    bookshop("upgrade")
    again = bookshop("upgrade")
    assert (again.exit_code, again.finished["outcome"]) == (0, "up_to_date")
    assert (again.finished["from"], again.finished["to"], again.finished["count"]) == ([HEAD], [HEAD], 0)
    assert not again.of("lock_acquired")
    assert not again.of("revision_started")


def test_plan_changes_nothing_and_names_what_upgrade_does_in_that_order(bookshop: Bookshop, database: Database) -> None:
    plan = bookshop("plan")
    assert plan.exit_code == 0
    assert database.tables() == set()
    planned = [pending["revision"] for pending in plan.one("plan_ready")["pending"]]
    assert len(planned) == COUNT
    upgrade = bookshop("upgrade")
    assert [event["revision"] for event in upgrade.of("revision_started")] == planned
    assert upgrade.finished["applied"] == planned


def test_downgrade_to_base_leaves_no_table_and_the_way_up_open(bookshop: Bookshop, database: Database) -> None:
    up = bookshop("upgrade")
    down = bookshop("downgrade", "base", "--yes")
    assert (down.exit_code, down.finished["outcome"]) == (0, "downgraded")
    assert (down.finished["from"], down.finished["to"]) == ([HEAD], [])
    assert sorted(down.finished["applied"]) == sorted(up.finished["applied"])
    assert database.versions() == set()
    assert database.tables() == {"alembic_version"}
    assert bookshop("upgrade").exit_code == 0
    assert database.versions() == {HEAD}


def test_downgrade_without_yes_is_refused(bookshop: Bookshop, database: Database) -> None:
    bookshop("upgrade")
    refused = bookshop("downgrade", "base")
    assert (refused.exit_code, refused.finished["exit_name"]) == (32, "target_invalid")
    assert database.versions() == {HEAD}
    assert database.tables() > TABLES


def test_status_exit_code_tells_whether_revisions_are_pending(bookshop: Bookshop) -> None:
    assert bookshop("status").exit_code == 0
    assert bookshop("status", "--exit-code").exit_code == 3
    bookshop("upgrade", BEFORE_THE_SLUGS)
    behind = bookshop("status", "--exit-code")
    assert (behind.exit_code, behind.finished["exit_name"]) == (3, "pending")
    assert behind.one("plan_ready")["state"] == "behind"
    assert behind.one("plan_ready")["current"] == [BEFORE_THE_SLUGS]
    bookshop("upgrade")
    assert bookshop("status", "--exit-code").exit_code == 0


def test_the_schema_is_the_one_that_plain_alembic_makes(
    bookshop: Bookshop, database: Database, second_database: Database
) -> None:
    assert bookshop("upgrade").exit_code == 0
    ended = plain.upgrade(second_database, BOOKSHOP / "alembic.ini", BOOKSHOP / "migrations")
    assert ended.returncode == 0, ended.stderr
    assert plain.schema(database) == plain.schema(second_database)
    assert database.versions() == second_database.versions()


def _as_docs_ledger_md_says(name: str | None, *_: object) -> bool:
    """For Alembic before 1.18, which has no plugins."""
    return not str(name).startswith("alembic_job")


def test_the_models_differ_in_nothing_from_the_migrated_schema(
    bookshop: Bookshop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BOOKSHOP)
    from bookshop.models import Base

    bookshop("upgrade")
    engine = sa.create_engine(database.url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": _as_docs_ledger_md_says})
        assert compare_metadata(context, Base.metadata) == []


def test_books_that_were_there_before_get_their_slugs(bookshop: Bookshop, database: Database) -> None:
    bookshop("upgrade", BEFORE_THE_SLUGS)
    database.execute(
        "INSERT INTO authors (id, name) VALUES (1, 'Astrid Lindgren')",
        *(  # on both sides of a batch of 5,000, and one whose batch comes after an empty one
            f"INSERT INTO books (id, author_id, isbn, title, price) VALUES ({id}, 1, '{id}', 'Pippi Goes On Board', 9)"
            for id in (1, 5000, 5001, 15001)
        ),
    )
    assert bookshop("upgrade").exit_code == 0
    assert database.query("SELECT slug FROM books ORDER BY id") == [
        ("pippi-goes-on-board-1",),
        ("pippi-goes-on-board-5000",),
        ("pippi-goes-on-board-5001",),
        ("pippi-goes-on-board-15001",),
    ]
