"""``check``: what models and databases differ in, as data."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.expect import PROJECTS, URL, applied_nothing, refused
from tests.databases import Database, sqlite_database
from tests.job import Project, Result, Revision, linear, make_project

Run = Callable[..., Result]

MODELS = """
    import sqlalchemy as sa

    metadata = sa.MetaData()
    sa.Table(
        "books", metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("title", sa.String(50), nullable=False),
    )
"""
BOOKS = Revision(
    "r1",
    upgrade="""
        op.create_table(
            "books",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("title", sa.String(50), nullable=False),
        )
    """,
)


def with_models(tmp_path: Path, *revisions: Revision, models: str = MODELS) -> Project:
    project = make_project(tmp_path, revisions)
    (project.path / "models.py").write_text(textwrap.dedent(models))
    stock = project.env.read_text()
    assert "target_metadata = None" in stock
    project.env.write_text(stock.replace("target_metadata = None", "from models import metadata as target_metadata"))
    return project


@pytest.fixture
def upgraded(tmp_path: Path, database: Database, run_job: Run) -> Project:
    project = with_models(tmp_path, BOOKS)
    assert run_job("upgrade", cwd=project.path, env={URL: database.url}).exit_code == 0
    return project


def test_models_and_database_that_agree(upgraded: Project, database: Database, run_job: Run) -> None:
    result = run_job("check", cwd=upgraded.path, env={URL: database.url})
    assert (result.exit_code, result.finished["outcome"]) == (0, "up_to_date")
    assert not result.of("difference_found")


def test_each_difference_comes_as_data(upgraded: Project, database: Database, run_job: Run) -> None:
    database.execute(
        "ALTER TABLE books ADD COLUMN price INTEGER",
        "CREATE INDEX ix_books_title ON books (title)",
        "CREATE TABLE loans (id INTEGER, book INTEGER)",
    )
    with (upgraded.path / "models.py").open("a") as models:
        models.write('metadata.tables["books"].append_column(sa.Column("isbn", sa.String(13)))\n')
    before = database.tables()
    result = run_job("check", cwd=upgraded.path, env={URL: database.url})
    found = {
        (e["operation"], e["table"], e["object"]): (e["database"], e["models"]) for e in result.of("difference_found")
    }
    assert found == {
        ("add_column", "books", "isbn"): (None, "VARCHAR(13)"),
        ("remove_column", "books", "price"): ("INTEGER", None),
        ("remove_index", "books", "ix_books_title"): ("(title)", None),
        ("remove_table", "loans", None): ("(id, book)", None),
    }
    refused(result, 4, "drift", "4 places", "add_column books isbn")
    assert "revision --autogenerate" in result.finished["hint"]
    applied_nothing(result)
    assert database.tables() == before


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_another_type_and_another_nullability_of_one_column(
    upgraded: Project, database: Database, run_job: Run
) -> None:
    change = (
        "ALTER TABLE books MODIFY title VARCHAR(20) NULL"
        if database.dialect == "mariadb"
        else "ALTER TABLE books ALTER title TYPE VARCHAR(20), ALTER title DROP NOT NULL"
    )
    database.execute(change)
    models = upgraded.env.read_text()
    upgraded.env.write_text(
        models.replace("target_metadata=target_metadata", "target_metadata=target_metadata, compare_type=True")
    )
    [found] = run_job("check", cwd=upgraded.path, env={URL: database.url}).of("difference_found")
    assert set(found["operation"].split()) == {"modify_type", "modify_nullable"}
    assert (found["table"], found["object"]) == ("books", "title")
    assert "VARCHAR(20)" in found["database"] and "VARCHAR(50)" in found["models"]


def test_a_database_that_is_behind_is_told_what_is_pending(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = with_models(tmp_path, *linear(3))
    env = {URL: database.url}
    run_job("upgrade", "r1", cwd=project.path, env=env)
    for arguments in (("check",), ("revision", "--autogenerate", "-m", "next")):
        result = run_job(*arguments, cwd=project.path, env=env)
        refused(result, 3, "pending", "at r1", "2 revisions are pending: r2, r3")
        assert "alembic-job upgrade" in result.finished["hint"]
    assert len(list(project.versions.glob("*.py"))) == 3


def test_a_head_that_another_depends_on_does_not_count_as_behind(tmp_path: Path, run_job: Run) -> None:
    database = sqlite_database(tmp_path / "db.sqlite")
    env = {URL: database.url}
    branches = PROJECTS / "branches_with_depends_on"
    run_job("upgrade", cwd=branches, env=env)
    refused(run_job("check", cwd=branches, env=env), 2, "config_invalid", "no models to compare with")


def test_env_py_hooks_that_fail_are_not_taken_for_a_bug_of_ours(tmp_path: Path, run_job: Run) -> None:
    project = with_models(tmp_path, BOOKS)
    stock = project.env.read_text()
    broken = "target_metadata=target_metadata, include_object=lambda *_: 1 / 0"
    project.env.write_text(stock.replace("target_metadata=target_metadata", broken))
    env = {URL: f"sqlite:///{tmp_path}/db.sqlite"}
    run_job("upgrade", cwd=project.path, env=env)
    refused(run_job("check", cwd=project.path, env=env), 2, "config_invalid", "ZeroDivisionError", "env.py, line")
