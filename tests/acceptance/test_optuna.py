"""A history that others wrote: the migrations inside Optuna, as they ship.

With the newest dependencies only. Optuna asks for SQLAlchemy 1.4.2, and with the first releases of 1.4
plain Alembic does not get through its history on PostgreSQL either: in ``v3.0.0.b`` a server-side cursor
that ``v3.0.0.a`` used is still open.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance import plain
from tests.databases import Database, Server, sqlite_database
from tests.job import Result

HEAD = "v3.2.0.a"
COUNT = 10


@pytest.fixture(scope="module")
def optuna() -> Path:
    """The folder that holds Optuna's alembic.ini."""
    found = importlib.util.find_spec("optuna")
    assert found, "Optuna is missing: pip install -r tests/newest.txt"
    assert found.origin
    return Path(found.origin).parent / "storages" / "_rdb"


@pytest.fixture
def upgrade(optuna: Path, run_job: Callable[..., Result]) -> Callable[[Database], Result]:
    """Run the job on Optuna's files, where they are installed."""

    def run(database: Database) -> Result:
        return run_job(
            "upgrade",
            env={
                "ALEMBIC_JOB_DATABASE_URL": database.url,
                "ALEMBIC_JOB_CONFIG": str(optuna / "alembic.ini"),
                "ALEMBIC_JOB_SCRIPT_LOCATION": str(optuna / "alembic"),
            },
        )

    return run


def plain_upgrade(database: Database, optuna: Path, target: str = "head") -> str:
    """Return what plain Alembic wrote to stderr; empty when it did not fail."""
    ended = plain.upgrade(database, optuna / "alembic.ini", optuna / "alembic", target)
    return ended.stderr if ended.returncode else ""


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_whole_history_ends_in_the_schema_that_plain_alembic_makes(
    dialect: str,
    optuna: Path,
    upgrade: Callable[[Database], Result],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    if dialect == "sqlite":
        ours, theirs = sqlite_database(tmp_path / "ours.sqlite"), sqlite_database(tmp_path / "theirs.sqlite")
    else:
        server: Server = request.getfixturevalue("postgresql_server")
        ours, theirs = server.new_database(), server.new_database()
    assert plain_upgrade(theirs, optuna) == ""

    result = upgrade(ours)

    finished = result.finished
    assert (result.exit_code, finished["outcome"]) == (0, "upgraded")
    assert (finished["from"], finished["to"], finished["count"]) == ([], [HEAD], COUNT)
    assert ours.versions() == theirs.versions() == {HEAD}
    assert plain.schema(ours) == plain.schema(theirs)
    assert upgrade(ours).finished["outcome"] == "up_to_date"


def test_on_mariadb_it_ends_where_plain_alembic_does_and_tells_what_is_in_the_database(
    mariadb_server: Server, optuna: Path, upgrade: Callable[[Database], Result]
) -> None:
    ours, theirs = mariadb_server.new_database(), mariadb_server.new_database()
    assert "1072" in plain_upgrade(theirs, optuna)

    result = upgrade(ours)

    # The version stays at v1.3.0.a; the revision that fails is the one after it.
    assert ours.versions() == theirs.versions() == {"v1.3.0.a"}
    assert_partial(result)
    failed = result.one("revision_failed")
    assert failed["statement_number"] == 7
    assert beginnings(failed) == [
        "CREATE TABLE study_directions",
        "CREATE TABLE trial_intermediate_values",
        "DELETE FROM trial_values",
        "ALTER TABLE trial_values ADD COLUMN objective",
        "ALTER TABLE trial_values ADD CONSTRAINT uq_trial_values_trial_id_objective",
        "ALTER TABLE studies DROP COLUMN direction",
    ]
    assert result.finished["applied"] == ["v0.9.0.a", "v1.2.0.a", "v1.3.0.a"]

    # And it is true: the six are there, the failed one and the one that should have followed are not.
    made = plain.schema(ours)
    assert {"study_directions", "trial_intermediate_values"} < set(made)
    assert "direction" not in columns(made, "studies")
    assert {"objective", "step"} < columns(made, "trial_values")
    assert "uq_trial_values_trial_id_objective" in {
        unique["name"] for unique in made["trial_values"]["unique constraints"]
    }
    assert "value" in columns(made, "trials")
    assert made == plain.schema(theirs)


def test_on_mariadb_the_rows_that_a_failed_revision_moved_are_told_too(
    mariadb_server: Server, optuna: Path, upgrade: Callable[[Database], Result]
) -> None:
    database = mariadb_server.new_database()
    assert plain_upgrade(database, optuna, "v1.3.0.a") == ""
    database.execute(
        "INSERT INTO studies (study_id, study_name, direction) VALUES (1, 'one', 'MINIMIZE')",
        "INSERT INTO trials (trial_id, study_id, state, value, number) VALUES (1, 1, 'COMPLETE', 0.25, 0)",
        "INSERT INTO trial_values (trial_value_id, trial_id, step, value) VALUES (1, 1, 3, 0.5)",
    )

    result = upgrade(database)

    assert_partial(result)
    assert beginnings(result.one("revision_failed"))[2:5] == [
        "INSERT INTO study_directions",
        "INSERT INTO trial_intermediate_values",
        "DELETE FROM trial_values",
    ]
    assert "INSERT INTO trial_values" in beginnings(result.one("revision_failed"))
    assert result.finished["applied"] == []
    moved = database.query("SELECT trial_id, step, intermediate_value FROM trial_intermediate_values")
    assert moved == [(1, 3, 0.5)]
    assert database.query("SELECT direction, objective FROM study_directions") == [("MINIMIZE", 0)]
    assert database.query("SELECT trial_id, step, value, objective FROM trial_values") == [(1, None, 0.25, 0)]


def test_on_mariadb_it_reaches_head_once_the_cause_is_removed_by_hand(
    mariadb_server: Server, optuna: Path, upgrade: Callable[[Database], Result]
) -> None:
    database = mariadb_server.new_database()
    assert plain_upgrade(database, optuna, "v1.3.0.a") == ""
    database.execute(
        "INSERT INTO studies (study_id, study_name, direction) VALUES (1, 'one', 'MINIMIZE')",
        "INSERT INTO trials (trial_id, study_id, state, value, number) VALUES (1, 1, 'COMPLETE', 0.25, 0)",
        "INSERT INTO trial_values (trial_value_id, trial_id, step, value) VALUES (1, 1, 3, 0.5)",
    )
    assert_partial(upgrade(database))
    again = upgrade(database)  # the cause is still there; nothing is done twice
    assert_partial(again)
    assert again.one("revision_half_done")["resumed"]

    # MariaDB does not drop a column that a unique key of several has. The revision looks which tables are there, reads
    # rows that it has moved since, and a column that it has dropped since: it is told what it was told then.
    database.execute("ALTER TABLE trial_values DROP INDEX trial_id")
    result = upgrade(database)

    assert (result.exit_code, result.finished["outcome"], result.finished["to"]) == (0, "upgraded", [HEAD])
    moved = database.query("SELECT trial_id, step, intermediate_value FROM trial_intermediate_values")
    assert moved == [(1, 3, 0.5)]
    assert database.query("SELECT direction, objective FROM study_directions") == [("MINIMIZE", 0)]
    assert database.query("SELECT trial_id, value, objective FROM trial_values") == [(1, 0.25, 0)]
    assert database.query("SELECT count(*) FROM alembic_job_statement") == [(0,)]


def assert_partial(result: Result) -> None:
    """The exit code and the events of the revision that MariaDB refuses."""
    finished, failed = result.finished, result.one("revision_failed")
    assert (result.exit_code, finished["exit_name"]) == (41, "revision_partial")
    assert (finished["outcome"], finished["retryable"], finished["to"]) == ("failed", False, ["v1.3.0.a"])
    assert finished["revision"] == failed["revision"] == "v2.4.0.a"
    assert finished["code"] == failed["code"] == "1072"
    assert failed["sql"] == "ALTER TABLE trial_values DROP COLUMN step"
    assert "Key column 'step' doesn't exist" in failed["error"]
    assert failed["rolled_back"] == []


def beginnings(failed: dict[str, list[dict[str, str]]]) -> list[str]:
    """The durable statements, in order, each as far as it tells what was done to which name."""
    shapes = r"CREATE TABLE \w+|ALTER TABLE \w+ (?:ADD|DROP) \w+ \w+|(?:INSERT INTO|DELETE FROM) \w+"
    found = [re.match(shapes, statement["sql"].strip()) for statement in failed["durable_statements"]]
    return [match[0] if match else "?" for match in found]


def columns(made: dict[str, dict[str, list[dict[str, str]]]], table: str) -> set[str]:
    return {column["name"] for column in made[table]["columns"]}
