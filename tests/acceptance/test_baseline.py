"""A database with tables and no version: marked after a check, or told which revision it is at."""

from __future__ import annotations

import signal
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.expect import refused
from tests.acceptance.test_any_project import with_creator
from tests.databases import Database, Server, sqlite_database
from tests.job import Job, Project, Result, Revision, creates, make_project

Run = Callable[..., Result]
URL, SCRATCH = "ALEMBIC_JOB_DATABASE_URL", "ALEMBIC_JOB_SCRATCH_URL"
ORDERS = """
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("customer", sa.Integer, sa.ForeignKey("customers.id", ondelete="CASCADE"), nullable=False),
        sa.Column("state", sa.String(20), nullable=False, server_default="new"),
        sa.CheckConstraint("customer > 0", name="positive"),
        sa.UniqueConstraint("customer", "state", name="uq_orders"),
    )
"""
CUSTOMERS = (
    'op.create_table("customers", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(50)))'
)
STORY = (
    Revision("a1", None, CUSTOMERS),
    Revision("b2", "a1", ORDERS),
    Revision("c3", "b2", 'op.create_index("ix_customers_name", "customers", ["name"])'),
    Revision("d4", "c3", 'op.add_column("orders", sa.Column("note", sa.Text))'),
    creates("bills", "e5", "d4"),
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, STORY)


def another(database: Database, request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """One more empty database of the same dialect."""
    if database.path:
        return sqlite_database(tmp_path / "another.sqlite")
    server: Server = request.getfixturevalue(f"{database.dialect}_server")
    return server.new_database()


@pytest.fixture
def scratch(database: Database, request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return another(database, request, tmp_path)


@pytest.fixture
def both(database: Database, scratch: Database) -> dict[str, str]:
    """The environment with both URLs; on SQLite without a scratch, which is a temporary file then."""
    return {URL: database.url} if database.path else {URL: database.url, SCRATCH: scratch.url}


def unversioned(run_job: Run, project: Project, database: Database, *at: str) -> None:
    """Bring the database there, and forget the version."""
    assert run_job("upgrade", *at, cwd=project.path, env={URL: database.url}).exit_code == 0
    database.execute("DROP TABLE alembic_version")


def same_as_before(database: Database, tables: set[str]) -> None:
    """Nothing was changed, and no version table was made."""
    assert database.tables() == tables


# --- baseline REVISION --------------------------------------------------------------------------------


def test_a_baseline_verifies_the_tables_and_sets_the_version(
    project: Project, database: Database, run_job: Run
) -> None:
    unversioned(run_job, project, database, "c3")
    result = run_job("baseline", "c3", cwd=project.path, env={URL: database.url})
    assert (result.exit_code, result.finished["outcome"]) == (0, "stamped"), result.finished
    verified = result.one("tables_verified")
    assert (verified["tables"], verified["revisions"]) == (["customers", "orders"], ["c3"])
    assert "2 tables of c3 verified" in result.finished["hint"]
    assert result.names.index("lock_acquired") < result.names.index("tables_verified")
    assert not result.of("revision_started")
    assert database.versions() == {"c3"}
    assert run_job("upgrade", cwd=project.path, env={URL: database.url}).finished["applied"] == ["d4", "e5"]


def test_a_table_that_is_missing_is_told_and_nothing_is_changed(
    project: Project, database: Database, run_job: Run
) -> None:
    unversioned(run_job, project, database, "a1")
    result = run_job("baseline", "c3", cwd=project.path, env={URL: database.url})
    refused(result, 37, "findings", "not at c3", "orders is missing", "b2 made")
    assert "alembic-job baseline a1" in result.finished["hint"]
    assert "alembic-job baseline --detect" in result.finished["hint"]
    same_as_before(database, {"customers"})


def test_a_revision_that_is_too_old_is_told_by_what_the_next_upgrade_would_meet(
    project: Project, database: Database, run_job: Run
) -> None:
    unversioned(run_job, project, database, "e5")
    result = run_job("baseline", "a1", cwd=project.path, env={URL: database.url})
    refused(result, 37, "findings", "newer than a1", "orders, bills are there", "b2, e5 would create")
    assert "alembic-job baseline e5" in result.finished["hint"]
    same_as_before(database, {"customers", "orders", "bills"})


def test_where_names_cannot_tell_the_revision_the_replay_is_named_first(
    project: Project, database: Database, run_job: Run
) -> None:
    unversioned(run_job, project, database, "c3")
    result = run_job("upgrade", cwd=project.path, env={URL: database.url})
    refused(result, 34, "schema_unmanaged", "customers, orders are there already")
    assert result.finished["hint"].startswith(
        "Find out which revision the tables are of: alembic-job baseline --detect"
    )
    assert "any from b2 to d4" in result.finished["hint"]


def test_a_database_that_has_a_version_is_no_case_for_a_baseline(
    project: Project, database: Database, run_job: Run
) -> None:
    environment = {URL: database.url}
    run_job("upgrade", "c3", cwd=project.path, env=environment)
    again = run_job("baseline", "c3", cwd=project.path, env=environment)
    assert (again.exit_code, again.finished["outcome"]) == (0, "up_to_date")
    result = run_job("baseline", "e5", cwd=project.path, env=environment)
    refused(result, 32, "target_invalid", "has a version", "at c3, not at e5")
    assert "alembic-job stamp e5" in result.finished["hint"]
    detected = run_job("baseline", "--detect", cwd=project.path, env=environment)
    refused(detected, 32, "target_invalid", "has a version", "at c3")
    assert database.versions() == {"c3"}


@pytest.mark.parametrize("arguments", [("head",), ("--detect",)])
def test_a_database_without_tables_has_nothing_to_mark(
    project: Project, database: Database, run_job: Run, arguments: tuple[str, ...]
) -> None:
    result = run_job("baseline", *arguments, cwd=project.path, env={URL: database.url})
    refused(result, 37, "findings", "has no tables")
    assert "alembic-job upgrade" in result.finished["hint"]
    assert not database.path or not database.path.exists()  # only upgrade and stamp create it


def test_tables_that_are_made_in_sql_alone_cannot_be_verified(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, [Revision("a1", None, 'op.execute("CREATE TABLE users (id INTEGER)")')])
    unversioned(run_job, project, database)
    result = run_job("baseline", "a1", cwd=project.path, env={URL: database.url})
    refused(result, 37, "findings", "Nothing can be verified")
    assert "--detect" in result.finished["hint"] and "alembic-job stamp a1" in result.finished["hint"]
    same_as_before(database, {"users"})


def test_what_is_dropped_or_renamed_later_is_not_asked_for(tmp_path: Path, database: Database, run_job: Run) -> None:
    story = [
        creates("one", "r1"),
        creates("two", "r2", "r1"),
        creates("three", "r3", "r2"),
        creates("stays", "r4", "r3"),
        Revision("r5", "r4", 'op.drop_table("one")\nop.rename_table("two", "deux")\nop.execute("DROP TABLE three")'),
    ]
    project = make_project(tmp_path, story)
    unversioned(run_job, project, database)
    result = run_job("baseline", "head", cwd=project.path, env={URL: database.url})
    assert (result.exit_code, result.one("tables_verified")["tables"]) == (0, ["stays"]), result.finished


def test_a_baseline_of_two_branches_takes_two_revisions(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, [creates("t", "r1"), creates("left", "l2", "r1"), creates("right", "m2", "r1")])
    unversioned(run_job, project, database)
    result = run_job("baseline", "l2", cwd=project.path, env={URL: database.url})
    refused(result, 37, "findings", "right is there", "m2 would create")
    assert "alembic-job baseline l2 m2" in result.finished["hint"]
    assert run_job("baseline", "l2", "m2", cwd=project.path, env={URL: database.url}).exit_code == 0
    assert database.versions() == {"l2", "m2"}


def test_tables_in_a_schema_are_verified_there(tmp_path: Path, postgresql_server: Server, run_job: Run) -> None:
    database = postgresql_server.new_database()
    made = 'op.create_table("t", sa.Column("id", sa.Integer), schema="{}")'
    project = make_project(
        tmp_path,
        [Revision("r1", None, made.format("public")), Revision("r2", "r1", made.format("extra"))],
    )
    database.execute("CREATE TABLE t (id INTEGER)")
    result = run_job("baseline", "r2", cwd=project.path, env={URL: database.url})
    refused(result, 37, "findings", "extra.t is missing")
    database.execute("CREATE SCHEMA extra", "CREATE TABLE extra.t (id INTEGER)")
    assert run_job("baseline", "r2", cwd=project.path, env={URL: database.url}).exit_code == 0


def test_what_is_asked_has_to_be_clear(project: Project, run_job: Run) -> None:
    environment = {URL: f"sqlite:///{project.path}/db.sqlite"}
    for arguments in ([], ["a1", "--detect"], ["a1", "--yes"]):
        result = run_job("baseline", *arguments, cwd=project.path, env=environment)
        refused(result, 2, "config_invalid")
        assert "alembic-job baseline" in result.finished["hint"]


def test_a_database_that_only_env_py_can_connect_to_is_verified_by_it(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    project = make_project(tmp_path, STORY, env=with_creator(database))
    empty = run_job("baseline", "c3", cwd=project.path)
    refused(empty, 37, "findings", "has no tables")
    assert run_job("upgrade", "c3", cwd=project.path).exit_code == 0
    database.execute("DROP TABLE alembic_version")
    refused(run_job("baseline", "e5", cwd=project.path), 37, "findings", "bills is missing")
    assert run_job("baseline", "c3", cwd=project.path).exit_code == 0
    assert database.versions() == {"c3"}


def test_two_baselines_at_once_leave_one_version(
    project: Project, database: Database, run_job: Run, start_job: Callable[..., Job]
) -> None:
    unversioned(run_job, project, database, "e5")
    jobs = [start_job("baseline", "e5", cwd=project.path, env={URL: database.url}) for _ in range(3)]
    codes = sorted(job.finish().exit_code for job in jobs)
    assert codes[0] == 0 and set(codes) <= {0, 32}
    assert database.query("SELECT count(*) FROM alembic_version") == [(1,)]


# --- baseline --detect --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["a1", "c3", "e5"])
def test_the_revision_is_found_in_the_middle_of_a_history(
    project: Project, database: Database, both: dict[str, str], run_job: Run, at: str
) -> None:
    unversioned(run_job, project, database, at)
    before = database.tables()
    result = run_job("baseline", "--detect", cwd=project.path, env=both)
    assert (result.exit_code, result.finished["outcome"]) == (0, "reported"), result.finished
    found = result.one("baseline_found")
    assert (found["revisions"], found["candidates"], found["exact"], found["count"]) == ([at], [at], True, 0)
    assert [event["revision"] for event in result.of("revision_replayed")] == ["a1", "b2", "c3", "d4", "e5"]
    assert f"alembic-job baseline {at}." in result.finished["hint"]
    assert not result.of("difference_found") and not result.of("lock_acquired")
    same_as_before(database, before)


def test_with_yes_the_revision_that_was_found_is_set(
    project: Project, database: Database, both: dict[str, str], run_job: Run
) -> None:
    unversioned(run_job, project, database, "d4")
    result = run_job("baseline", "--detect", "--yes", cwd=project.path, env=both)
    assert (result.exit_code, result.finished["outcome"]) == (0, "stamped"), result.finished
    assert result.finished["to"] == ["d4"] and database.versions() == {"d4"}
    assert result.one("lock_released")
    assert run_job("upgrade", cwd=project.path, env={URL: database.url}).finished["applied"] == ["e5"]


DIFFERENT = {
    "remove_column": ("ALTER TABLE customers ADD COLUMN by_hand INTEGER", "customers", "by_hand", "INTEGER"),
    "add_index": ("DROP INDEX ix_customers_name", "customers", "ix_customers_name", None),
    "remove_table": ("CREATE TABLE by_hand (id INTEGER)", "by_hand", None, "a table of 1 column (id)"),
    "remove_index": ("CREATE INDEX by_hand ON orders (state)", "orders", "by_hand", "INDEX (state)"),
}


@pytest.mark.parametrize("operation", DIFFERENT)
def test_what_differs_is_told_and_nothing_is_set(
    project: Project, database: Database, both: dict[str, str], run_job: Run, operation: str
) -> None:
    sql, table, name, there = DIFFERENT[operation]
    unversioned(run_job, project, database, "e5")
    database.execute(sql + (" ON customers" if sql.startswith("DROP INDEX") and database.dialect == "mariadb" else ""))
    before = database.tables()
    result = run_job("baseline", "--detect", "--yes", cwd=project.path, env=both)
    refused(result, 37, "findings", "Nearest is e5, with 1 difference:", operation, table)
    told = result.one("difference_found")
    assert (told["operation"], told["table"], told["object"]) == (operation, table, name)
    assert str(told["database"]).startswith(str(there))
    assert (told["database"] is None) == operation.startswith("add_")
    found = result.one("baseline_found")
    assert (found["candidates"], found["exact"], found["count"]) == (["e5"], False, 1)
    assert "alembic-job stamp e5" in result.finished["hint"]
    same_as_before(database, before)


ALTERED = {
    "modify_type": ("customers MODIFY name VARCHAR(99)", "customers ALTER name TYPE VARCHAR(99)"),
    "modify_nullable": ("customers MODIFY name VARCHAR(50) NOT NULL", "customers ALTER name SET NOT NULL"),
    "modify_default": ("orders ALTER state SET DEFAULT 'old'", "orders ALTER state SET DEFAULT 'old'"),
    "add_constraint": ("orders DROP CONSTRAINT positive", "orders DROP CONSTRAINT positive"),
}


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
@pytest.mark.parametrize("operation", ALTERED)
def test_a_column_or_a_constraint_that_was_altered_is_told(
    project: Project, database: Database, both: dict[str, str], run_job: Run, operation: str
) -> None:
    unversioned(run_job, project, database, "e5")
    database.execute(f"ALTER TABLE {ALTERED[operation][database.dialect == 'postgresql']}")
    result = run_job("baseline", "--detect", cwd=project.path, env=both)
    refused(result, 37, "findings", "Nearest is e5, with 1 difference:")
    told = result.one("difference_found")
    assert told["operation"] == operation
    assert told["models"] and told["models"] != told["database"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_type_that_was_altered_is_told_on_sqlite(
    tmp_path: Path, project: Project, database: Database, run_job: Run
) -> None:
    database.execute("CREATE TABLE customers (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(99))")
    result = run_job("baseline", "--detect", cwd=project.path, env={URL: database.url})
    refused(result, 37, "findings", "Nearest is a1", "VARCHAR(99)", "VARCHAR(50)")
    assert result.one("difference_found")["operation"] == "modify_type"


def test_revisions_that_only_change_data_are_left_to_choose(
    tmp_path: Path, database: Database, both: dict[str, str], run_job: Run
) -> None:
    data = 'op.execute("UPDATE t SET id = id + 1")'
    story = [creates("t", "r1"), Revision("r2", "r1", data), Revision("r3", "r2", data), creates("u", "r4", "r3")]
    project = make_project(tmp_path, story)
    unversioned(run_job, project, database, "r2")
    result = run_job("baseline", "--detect", "--yes", cwd=project.path, env=both)
    refused(result, 37, "findings", "r1, r2, r3")
    found = result.one("baseline_found")
    assert (found["candidates"], found["exact"]) == (["r1", "r2", "r3"], True)
    assert "alembic-job baseline r1." in result.finished["hint"]
    assert "alembic-job baseline r3." in result.finished["hint"]
    same_as_before(database, {"t"})


def test_a_revision_that_does_nothing_is_no_choice(
    tmp_path: Path, database: Database, both: dict[str, str], run_job: Run
) -> None:
    story = [creates("t", "r1"), creates("l", "l2", "r1"), creates("m", "m2", "r1"), Revision("z3", ("l2", "m2"))]
    project = make_project(tmp_path, story)
    unversioned(run_job, project, database)
    result = run_job("baseline", "--detect", "--yes", cwd=project.path, env=both)
    assert (result.exit_code, database.versions()) == (0, {"z3"}), result.finished


BRANCHES = [
    creates("t", "r1"),
    creates("left", "l2", "r1"),
    Revision("l3", "l2", 'op.add_column("t", sa.Column("of_left", sa.Integer))'),
    creates("right", "m2", "r1"),
    Revision("m3", "m2", 'op.add_column("t", sa.Column("of_right", sa.Integer))'),
    creates("after", "z4", ("l3", "m3")),
]


@pytest.mark.parametrize("at", [("m3",), ("l3",), ("l2", "m3"), ("l3", "m2"), ("l3", "m3"), ("z4",)])
def test_a_database_that_has_one_branch_and_not_the_other_is_found(
    tmp_path: Path, database: Database, both: dict[str, str], run_job: Run, at: tuple[str, ...]
) -> None:
    project = make_project(tmp_path, BRANCHES)
    unversioned(run_job, project, database, *at)
    result = run_job("baseline", "--detect", "--yes", cwd=project.path, env=both)
    assert (result.exit_code, result.finished["outcome"]) == (0, "stamped"), result.finished
    assert database.versions() == set(at)


def test_a_revision_that_fails_in_the_scratch_ends_the_replay_there(
    tmp_path: Path, database: Database, both: dict[str, str], run_job: Run
) -> None:
    needs_data = 'if not list(op.get_bind().execute(sa.text("SELECT * FROM t"))): raise ValueError("no rows")'
    story = [creates("t", "r1"), creates("u", "r2", "r1"), Revision("r3", "r2", needs_data), creates("v", "r4", "r3")]
    project = make_project(tmp_path, story)
    unversioned(run_job, project, database, "r1")
    found = run_job("baseline", "--detect", cwd=project.path, env=both)
    assert (found.exit_code, found.one("baseline_found")["candidates"]) == (0, ["r1"]), found.finished
    assert "ended at r3 (ValueError: no rows" in found.finished["hint"]


def test_the_last_revision_before_a_replay_ended_may_be_that_of_the_next_one(
    tmp_path: Path, database: Database, both: dict[str, str], run_job: Run
) -> None:
    project = make_project(tmp_path, [creates("t", "r1"), Revision("r2", "r1", 'raise ValueError("no rows")')])
    unversioned(run_job, project, database, "r1")
    result = run_job("baseline", "--detect", "--yes", cwd=project.path, env=both)
    refused(result, 37, "findings", "that of r1", "ended at r2 (ValueError: no rows")
    assert "alembic-job baseline r1." in result.finished["hint"]
    assert "alembic-job baseline r2" in result.finished["hint"]
    same_as_before(database, {"t"})


def test_a_database_of_somebody_else_is_not_marked(
    project: Project, database: Database, both: dict[str, str], run_job: Run
) -> None:
    database.execute("CREATE TABLE somebody_elses (id INTEGER)")
    result = run_job("baseline", "--detect", cwd=project.path, env=both)
    refused(result, 37, "findings", "nothing of what this history makes", "somebody_elses")
    assert "database URL" in result.finished["hint"]
    assert result.one("baseline_found")["candidates"] == []


def test_the_other_schemas_of_a_history_are_compared_too(
    tmp_path: Path, postgresql_server: Server, run_job: Run
) -> None:
    database, scratch = postgresql_server.new_database(), postgresql_server.new_database()
    both = {URL: database.url, SCRATCH: scratch.url}
    made = 'op.execute("CREATE SCHEMA extra")\nop.create_table("u", sa.Column("id", sa.Integer), schema="extra")'
    moved = 'op.add_column("u", sa.Column("more", sa.Integer), schema="extra")'
    project = make_project(tmp_path, [creates("t", "r1"), Revision("r2", "r1", made), Revision("r3", "r2", moved)])
    unversioned(run_job, project, database, "r2")
    database.execute("CREATE SCHEMA others", "CREATE TABLE others.theirs (id INTEGER)")
    result = run_job("baseline", "--detect", cwd=project.path, env=both)
    assert result.one("baseline_found")["candidates"] == ["r2"], result.finished
    database.execute("ALTER TABLE extra.u ADD COLUMN by_hand INTEGER")
    scratch.execute("DROP SCHEMA extra CASCADE", "DROP TABLE t, alembic_version")
    again = run_job("baseline", "--detect", cwd=project.path, env=both)
    assert again.one("difference_found")["table"] == "extra.u"


def test_a_project_with_a_pool_and_prints_of_its_own_is_replayed(
    project: Project, database: Database, both: dict[str, str], run_job: Run
) -> None:
    project.env.write_text(
        "print('hello from env.py')\n"
        + project.env.read_text().replace("poolclass=pool.NullPool", "pool_pre_ping=True")
    )
    unversioned(run_job, project, database, "c3")
    result = run_job("baseline", "--detect", "--yes", cwd=project.path, env=both)
    assert (result.exit_code, database.versions()) == (0, {"c3"}), result.finished


# --- the scratch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_a_server_needs_a_scratch_database(project: Project, database: Database, run_job: Run) -> None:
    unversioned(run_job, project, database, "a1")
    result = run_job("baseline", "--detect", cwd=project.path, env={URL: database.url})
    refused(result, 2, "config_invalid", SCRATCH)
    assert SCRATCH in result.finished["hint"] and "rights" in result.finished["hint"]


def test_a_scratch_that_is_not_empty_is_refused_and_stays_as_it_is(
    project: Project, database: Database, scratch: Database, run_job: Run
) -> None:
    unversioned(run_job, project, database, "a1")
    scratch.execute("CREATE TABLE precious (id INTEGER)")
    result = run_job("baseline", "--detect", cwd=project.path, env={URL: database.url, SCRATCH: scratch.url})
    refused(result, 2, "config_invalid", "not empty", "precious")
    assert ("DROP DATABASE" in result.finished["hint"]) == (database.path is None)
    same_as_before(scratch, {"precious"})
    same_as_before(database, {"customers"})


def test_the_scratch_is_filled_and_can_be_a_file_of_ones_own(
    project: Project, database: Database, scratch: Database, run_job: Run
) -> None:
    unversioned(run_job, project, database, "a1")
    both = {URL: database.url, SCRATCH: scratch.url}
    assert run_job("baseline", "--detect", cwd=project.path, env=both).exit_code == 0
    assert {"customers", "orders", "bills"} <= scratch.tables()
    again = run_job("baseline", "--detect", cwd=project.path, env=both)
    refused(again, 2, "config_invalid", "not empty")


def aliases(database: Database, tmp_path: Path) -> list[str]:
    """Other ways to the same database."""
    if database.path:
        link, hard = tmp_path / "link.sqlite", tmp_path / "hard.sqlite"
        link.symlink_to(database.path)
        hard.hardlink_to(database.path)
        return [database.url, f"sqlite:///{link}", f"sqlite:///{hard}"]
    assert database.login
    other = "localhost" if database.login.host == "127.0.0.1" else "127.0.0.1"
    return [database.url, database.url.replace(f"@{database.login.host}", f"@{other}")]


def test_a_scratch_that_is_the_live_database_is_refused_whatever_leads_there(
    tmp_path: Path, project: Project, database: Database, run_job: Run
) -> None:
    unversioned(run_job, project, database, "c3")
    for url in aliases(database, tmp_path):
        result = run_job("baseline", "--detect", "--yes", cwd=project.path, env={URL: database.url, SCRATCH: url})
        refused(result, 2, "config_invalid", "not empty" if "hard" in url else "scratch URL is the live database")
        assert not result.of("revision_replayed")
        same_as_before(database, {"customers", "orders"})


def test_a_scratch_of_another_dialect_is_refused(
    tmp_path: Path, project: Project, database: Database, run_job: Run
) -> None:
    unversioned(run_job, project, database, "a1")
    url = "postgresql://nobody:some-secret@127.0.0.1:1/x" if database.path else f"sqlite:///{tmp_path}/x.sqlite"
    result = run_job("baseline", "--detect", cwd=project.path, env={URL: database.url, SCRATCH: url})
    refused(result, 2, "config_invalid", "of another dialect")
    assert "some-secret" not in result.stdout and not (tmp_path / "x.sqlite").exists()


def test_a_scratch_url_that_cannot_be_read_is_told_with_the_other_settings(project: Project, run_job: Run) -> None:
    environment = {URL: "sqlite:////tmp/x.sqlite", SCRATCH: "mysql://u:some-secret@h:x/y", "ALEMBIC_JOB_LOCK": "no"}
    result = run_job("status", cwd=project.path, env=environment)
    assert result.exit_code == 2
    assert {problem["variable"] for problem in result.one("settings_invalid")["problems"]} == {
        SCRATCH,
        "ALEMBIC_JOB_LOCK",
    }
    assert "some-secret" not in result.stdout


OWN_URL = """
    import os
    from alembic import context
    from sqlalchemy import create_engine

    engine = create_engine(os.environ["APP_DB"])
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""


def test_an_env_py_that_ignores_the_url_is_refused_before_anything_runs(
    tmp_path: Path, database: Database, both: dict[str, str], run_job: Run
) -> None:
    project = make_project(tmp_path, STORY, env=textwrap.dedent(OWN_URL))
    environment = {**both, "APP_DB": database.url}
    assert run_job("upgrade", "a1", cwd=project.path, env=environment).exit_code == 0
    database.execute("DROP TABLE alembic_version")
    result = run_job("baseline", "--detect", "--yes", cwd=project.path, env=environment)
    refused(result, 35, "wrong_database", "env.py was given the scratch database")
    assert "alembic-job baseline REVISION" in result.finished["hint"]
    assert not result.of("revision_replayed")
    same_as_before(database, {"customers"})


def test_a_history_that_leaves_the_database_by_a_schema_is_not_replayed_on_mysql(
    tmp_path: Path, mariadb_server: Server, run_job: Run
) -> None:
    database, scratch = mariadb_server.new_database(), mariadb_server.new_database()
    assert database.login
    made = f'op.create_table("t", sa.Column("id", sa.Integer), schema="{database.login.name}")'
    project = make_project(tmp_path, [Revision("r1", None, made)])
    database.execute("CREATE TABLE t (id INTEGER)")
    result = run_job("baseline", "--detect", cwd=project.path, env={URL: database.url, SCRATCH: scratch.url})
    refused(result, 2, "config_invalid", "Revision r1 names the schema", database.login.name)
    assert not scratch.tables()


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_the_passwords_of_both_urls_appear_nowhere(
    tmp_path: Path, project: Project, database: Database, request: pytest.FixtureRequest, run_job: Run
) -> None:
    server: Server = request.getfixturevalue(f"{database.dialect}_server")
    scratch = server.new_database(password="scratch-horse-battery")
    secret = tmp_path / "scratch_url"
    secret.write_text(scratch.url + "\n")
    project.env.write_text("import os\nprint(dict(os.environ))\n" + project.env.read_text())
    project.add(creates("f", "f6", "e5"))
    project.add(Revision("g7", "f6", f'print({scratch.url!r})\nop.execute("SELECT nonsense FROM nowhere")'))
    unversioned(run_job, project, database, "b2")
    for given in ({SCRATCH: scratch.url}, {f"{SCRATCH}_FILE": str(secret)}):
        for level in ("info", "debug"):
            environment = {URL: database.url, "ALEMBIC_JOB_LOG_LEVEL": level, **given}
            for command in (["config"], ["baseline", "--detect"]):
                result = run_job(*command, cwd=project.path, env=environment)
                assert "scratch-horse" not in result.stdout
                assert database.login and database.login.password not in result.stdout
    shown = run_job("config", cwd=project.path, env={URL: database.url, SCRATCH: scratch.url}).of("setting_listed")
    assert {event["value"] for event in shown if event["variable"] == SCRATCH} == {
        scratch.url.replace(":scratch-horse-battery@", "@")
    }


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_a_scratch_that_refuses_the_login_is_told_as_that(
    project: Project, database: Database, scratch: Database, run_job: Run
) -> None:
    unversioned(run_job, project, database, "a1")
    assert scratch.login
    url = scratch.url.replace(scratch.login.password, "wrong-word")
    result = run_job("baseline", "--detect", cwd=project.path, env={URL: database.url, SCRATCH: url})
    refused(result, 11, "login_refused", "The scratch database")
    assert "wrong-word" not in result.stdout


def test_a_signal_ends_the_replay_at_once_and_leaves_nothing(
    tmp_path: Path, database: Database, both: dict[str, str], run_job: Run, start_job: Callable[..., Job]
) -> None:
    slow = Revision("r2", "r1", 'import pathlib\nif pathlib.Path("slow").exists(): time.sleep(60)')
    project = make_project(tmp_path, [creates("t", "r1"), slow, creates("u", "r3", "r2")])
    unversioned(run_job, project, database)
    (project.path / "slow").touch()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    job = start_job("baseline", "--detect", "--yes", cwd=project.path, env={**both, "TMPDIR": str(temporary)})
    job.wait_for("revision_replayed")
    time.sleep(0.5)
    job.send_signal(signal.SIGTERM)
    result = job.finish(timeout_s=20)
    assert (result.exit_code, result.finished["outcome"]) == (143, "interrupted")
    same_as_before(database, {"t", "u"})
    assert not list(temporary.iterdir())


def test_without_locks_the_name_of_the_database_is_the_proof(
    project: Project, database: Database, both: dict[str, str], run_job: Run
) -> None:
    unversioned(run_job, project, database, "c3")
    unlocked = {**both, "ALEMBIC_JOB_LOCK": "none"}
    live = run_job("baseline", "--detect", cwd=project.path, env={**unlocked, SCRATCH: database.url})
    refused(live, 2, "config_invalid", "scratch URL is the live database")
    result = run_job("baseline", "--detect", "--yes", cwd=project.path, env=unlocked)
    assert (result.exit_code, database.versions()) == (0, {"c3"}), result.finished


def test_no_temporary_file_stays(tmp_path: Path, project: Project, run_job: Run) -> None:
    database = sqlite_database(tmp_path / "db.sqlite")
    unversioned(run_job, project, database, "a1")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {URL: database.url, "TMPDIR": str(temporary)}
    assert run_job("baseline", "--detect", cwd=project.path, env=environment).exit_code == 0
    assert not list(temporary.iterdir())
