"""The classic situations: what is told of them is enough to act on."""

from __future__ import annotations

import py_compile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.expect import applied_nothing, refused
from tests.databases import Database
from tests.job import Project, Result, Revision, creates, linear, make_project

Run = Callable[..., Result]
URL = "ALEMBIC_JOB_DATABASE_URL"
VERSION_TABLE = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, [creates("users", "a1"), creates("orders", "b2", "a1"), creates("bills", "c3", "b2")])


# --- 34: tables without a version ---------------------------------------------------------------------


def test_tables_that_are_there_without_a_version_are_told_before_anything_runs(
    project: Project, database: Database, run_job: Run
) -> None:
    database.execute("CREATE TABLE users (id INTEGER)", "CREATE TABLE orders (id INTEGER)")
    result = run_job("upgrade", cwd=project.path, env={URL: database.url})
    refused(result, 34, "schema_unmanaged", "users, orders", "a1, b2")
    assert "alembic-job baseline b2" in result.finished["hint"]
    applied_nothing(result)
    assert run_job("baseline", "b2", cwd=project.path, env={URL: database.url}).exit_code == 0
    assert run_job("upgrade", cwd=project.path, env={URL: database.url}).finished["applied"] == ["c3"]


def test_tables_of_others_are_in_nobodys_way(project: Project, database: Database, run_job: Run) -> None:
    database.execute("CREATE TABLE spatial_ref_sys (id INTEGER)")
    assert run_job("upgrade", cwd=project.path, env={URL: database.url}).exit_code == 0


@pytest.mark.parametrize(("on_unmanaged", "code"), [("fail", 34), ("upgrade", 0), ("check", 0)])
def test_the_setting_says_what_becomes_of_unmanaged_tables(
    project: Project, database: Database, run_job: Run, on_unmanaged: str, code: int
) -> None:
    database.execute("CREATE TABLE legacy (id INTEGER)")
    environment = {URL: database.url, "ALEMBIC_JOB_ON_UNMANAGED": on_unmanaged}
    assert run_job("upgrade", cwd=project.path, env=environment).exit_code == code


def test_a_table_that_an_earlier_revision_drops_is_in_nobodys_way(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    drops = Revision(
        "a1", upgrade='op.execute("DROP TABLE IF EXISTS users")\nop.drop_table("users") if False else None'
    )
    project = make_project(tmp_path, [drops, creates("users", "b2", "a1")])
    database.execute("CREATE TABLE users (id INTEGER)")
    assert run_job("upgrade", cwd=project.path, env={URL: database.url}).exit_code == 0


def test_an_empty_version_table_points_at_a_first_run_that_failed(
    project: Project, database: Database, run_job: Run
) -> None:
    database.execute("CREATE TABLE users (id INTEGER)", VERSION_TABLE)
    result = run_job("upgrade", cwd=project.path, env={URL: database.url})
    fact = [] if database.dialect == "postgresql" else ["half-way"]  # where nothing of a failed run remains
    refused(result, 34, "schema_unmanaged", "users", *fact)


def test_a_first_deploy_of_several_pods_is_not_taken_for_unmanaged_tables(
    tmp_path: Path, database: Database, start_job: Callable[..., object]
) -> None:
    slow = Revision("a1", upgrade='op.create_table("t", sa.Column("id", sa.Integer))\ntime.sleep(2)')
    project = make_project(tmp_path, [slow])
    first = start_job("upgrade", cwd=project.path, env={URL: database.url})
    first.wait_for("revision_started")  # type: ignore[attr-defined]
    others = [start_job("upgrade", cwd=project.path, env={URL: database.url}) for _ in range(2)]
    codes = [job.finish().exit_code for job in (first, *others)]  # type: ignore[attr-defined]
    assert codes == [0, 0, 0]


# --- 30: a revision that is not here ------------------------------------------------------------------


def at(database: Database, revision: str) -> None:
    database.execute(VERSION_TABLE, f"INSERT INTO alembic_version VALUES ('{revision}')")


def test_an_older_image_is_told_by_its_tables(project: Project, database: Database, run_job: Run) -> None:
    at(database, "d4")
    database.execute(*(f"CREATE TABLE {table} (id INTEGER)" for table in ("users", "orders", "bills")))
    result = run_job("upgrade", cwd=project.path, env={URL: database.url})
    refused(result, 30, "revision_unknown", "d4", "head: c3", "older than the database")


def test_the_version_table_of_another_project_is_told_by_its_tables(
    project: Project, database: Database, run_job: Run
) -> None:
    at(database, "0f9d")
    database.execute("CREATE TABLE somebody_elses (id INTEGER)")
    result = run_job("upgrade", cwd=project.path, env={URL: database.url})
    refused(result, 30, "revision_unknown", "another project")


def test_a_file_that_was_deleted_is_told_by_what_python_left_of_it(
    project: Project, database: Database, run_job: Run
) -> None:
    path = next(project.versions.glob("c3*.py"))
    py_compile.compile(str(path))
    at(database, "c3")
    path.unlink()
    result = run_job("upgrade", cwd=project.path, env={URL: database.url})
    refused(result, 30, "revision_unknown", "c3", "was deleted")


def test_an_edited_row_is_told_with_what_it_is_most_like(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, [creates("users", "1975ea83b712")])
    at(database, "1975ea83b71")
    result = run_job("upgrade", cwd=project.path, env={URL: database.url})
    refused(result, 30, "revision_unknown", "1975ea83b71,", "most alike is 1975ea83b712")


# --- 31: several heads --------------------------------------------------------------------------------


def test_two_heads_are_told_with_where_they_parted_and_how_to_join_them(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    project = make_project(tmp_path, [*linear(2), creates("left", "l3", "r2"), creates("right", "m3", "r2")])
    result = run_job("upgrade", "head", cwd=project.path, env={URL: database.url})
    refused(result, 31, "multiple_heads", "l3, m3", "parted at r2")
    assert "alembic-job merge -m merge l3 m3" in result.finished["hint"]
