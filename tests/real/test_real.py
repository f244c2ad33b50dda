"""Projects that others wrote end as with plain Alembic, on each product."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import plain
from tests.acceptance.expect import applied_nothing, refused
from tests.databases import Database, sqlite_database
from tests.job import Result
from tests.real import table
from tests.real.projects import PROJECTS, Cell, Fails, Project, Refused, Works
from tests.real.runs import Checkout, NewDatabase, Times

PAIRS = int(os.environ.get("REAL_PAIRS", "1"))

# SQLAlchemy does not read indexes on expressions; what SQLite keeps of them is compared, too.
pytestmark = pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")


def cells(kind: type[Cell]) -> pytest.MarkDecorator:
    found = [
        pytest.param(project, dialect, id=f"{project.name.replace(' ', '-')}-{dialect}")
        for project in PROJECTS
        for dialect, cell in project.cells.items()
        if isinstance(cell, kind)
    ]
    return pytest.mark.parametrize(("project", "dialect"), found)


@pytest.fixture
def checkout(project: Project, tmp_path: Path) -> Checkout:
    return Checkout.of(project, tmp_path)


def state(database: Database, project: Project) -> dict[str, Any]:
    """All that the end state is: the schema, the version, and how many rows there are in each table."""
    schema = plain.schema(database)
    tables = schema.keys() - {"enums"}
    quote = "`" if database.dialect == "mariadb" else '"'
    counts = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {quote}{name}{quote}" for name in sorted(tables))
    return {
        "schema": schema,
        "versions": database.versions(project.version_table),
        "rows": dict(database.query(counts)),
        "with views": database.tables(),
        "source": _source(database) if database.path else {},
    }


def _source(database: Database) -> dict[tuple[str, str], list[str]]:
    """What SQLite keeps of each object. Constraints are in no order: batch mode takes them from a set."""
    found = database.query(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_master WHERE tbl_name NOT LIKE 'alembic_job_%'"
    )
    return {(kind, name): sorted(line.strip().rstrip(",") for line in sql.splitlines()) for kind, name, sql in found}


def in_turn(
    checkout: Checkout, dialect: str, new_database: NewDatabase, *, exit_code: int
) -> tuple[Result, Database, list[tuple[Times, Times]]]:
    """Run plain Alembic and the program, each on a database of its own, as often as the times are wanted.

    The first results are returned; the databases are those with the names "theirs" and "ours".
    """
    results, times = [], []
    for number in range(PAIRS):
        again = str(number or "")
        ours, theirs = new_database(dialect, f"ours{again}"), new_database(dialect, f"theirs{again}")
        for database in (ours, theirs):
            checkout.prepare(database)
        done, theirs_took = checkout.plain(theirs)
        assert (done.returncode == 0) == (exit_code == 0), done.stderr
        result, ours_took = checkout.upgrade(ours)
        assert result.exit_code == exit_code, result.stdout
        results.append(result)
        times.append((ours_took, theirs_took))
    return results[0], new_database(dialect, "ours"), times


@cells(Works)
def test_it_ends_as_with_plain_alembic_and_stays(
    project: Project, dialect: str, checkout: Checkout, new_database: NewDatabase
) -> None:
    cell = project.cells[dialect]
    assert isinstance(cell, Works)
    result, ours, times = in_turn(checkout, dialect, new_database, exit_code=0)

    finished, left = result.finished, state(ours, project)
    assert finished["outcome"] == "upgraded"
    assert left == state(new_database(dialect, "theirs"), project)
    assert len(left["rows"]) == cell.tables
    assert set(finished["to"]) == left["versions"] != set()
    assert finished["count"] == result.one("plan_ready")["count"] == len(result.of("revision_executed")) > 0

    again, _ = checkout.upgrade(ours)
    assert (again.exit_code, again.finished["outcome"]) == (0, "up_to_date"), again.stdout
    applied_nothing(again)
    table.record(project, dialect, f"{finished['count']} revisions, {cell.tables} tables, equal", times)


@cells(Fails)
def test_it_fails_where_plain_alembic_fails_and_tells_why(
    project: Project, dialect: str, checkout: Checkout, new_database: NewDatabase
) -> None:
    cell = project.cells[dialect]
    assert isinstance(cell, Fails)
    result, ours, times = in_turn(checkout, dialect, new_database, exit_code=41)

    left = state(ours, project)
    assert left == state(new_database(dialect, "theirs"), project)
    assert len(left["rows"]) == cell.tables
    assert left["versions"] == ({cell.version} if cell.version else set())
    refused(result, 41, "revision_partial", cell.revision, cell.cause)
    failed = result.one("revision_failed")
    assert (failed["revision"], failed["code"]) == (cell.revision, cell.code)
    assert cell.cause in failed["error"]
    assert failed["sql"].strip().startswith(cell.statement)
    made = [re.match(r"\s*CREATE TABLE (\w+)", one["sql"]) for one in failed["durable_statements"]]
    created = {one[1] for one in made if one}
    assert created and created < ours.tables()

    again, _ = checkout.upgrade(ours)
    refused(
        again, 41, "revision_partial", cell.revision, cell.cause
    )  # it goes on behind what is there, and fails there again
    assert again.one("revision_half_done")["resumed"]
    assert state(ours, project) == left
    at = f"at `{cell.version}`" if cell.version else "no version"
    said = f"{table.named(result)} in `{cell.revision}`: {cell.code}; {at}, {cell.tables} tables, equal"
    table.record(project, dialect, said, times)


@cells(Refused)
def test_it_goes_to_another_database_than_told_and_nothing_is_run(
    project: Project, dialect: str, checkout: Checkout, new_database: NewDatabase
) -> None:
    cell = project.cells[dialect]
    assert isinstance(cell, Refused)
    database = new_database(dialect, "ours")
    result, _ = checkout.upgrade(database)
    refused(result, 35, "wrong_database", cell.elsewhere)
    applied_nothing(result)
    for one in (database, sqlite_database(Path(project.path(cell.elsewhere)))):
        assert one.tables() == set()
    table.record(project, dialect, f"{table.named(result)}, nothing run", [])
