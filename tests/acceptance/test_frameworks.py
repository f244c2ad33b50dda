"""Projects as Flask-Migrate and Alembic's asynchronous template make them, with the stock files of each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import alembic
import flask_migrate
import pytest

from tests.acceptance.expect import refused
from tests.acceptance.test_any_project import went_up_and_stays
from tests.acceptance.test_kinds import WARNS, Twins, from_template, has_template, twins, warned_once_each
from tests.databases import Database, sqlite_database
from tests.job import Project, Result, Revision, linear, make_project

__all__ = ["twins"]  # a fixture

Run = Callable[..., Result]

APP = """
import os
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

db = SQLAlchemy()

def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["APP_DB"]
    db.init_app(app)
    Migrate(app, db)
    return app
"""


@pytest.fixture
def flask_project(tmp_path: Path) -> Project:
    """What ``flask db init`` leaves behind: no alembic.ini beside the application, no script_location in it."""
    project = make_project(tmp_path, linear(3))
    stock = Path(flask_migrate.__file__).parent / "templates" / "flask"
    shutil.copy(stock / "env.py", project.env)
    shutil.copy(stock / "script.py.mako", project.env.parent)
    shutil.copy(stock / "alembic.ini.mako", project.env.with_name("alembic.ini"))
    project.ini.unlink()
    (project.path / "app.py").write_text(APP)
    return project


def test_a_flask_migrate_project_runs_as_with_flask_db(
    flask_project: Project, database: Database, run_job: Run
) -> None:
    result = went_up_and_stays(run_job, flask_project, 3, APP_DB=database.url)
    assert database.versions() == {"r3"}
    assert result.of("lock_acquired")


def test_a_flask_application_that_is_given_the_same_url_by_the_settings_runs_too(
    flask_project: Project, database: Database, run_job: Run
) -> None:
    both = {"APP_DB": database.url, "ALEMBIC_JOB_DATABASE_URL": database.url}
    went_up_and_stays(run_job, flask_project, 3, **both)


def test_a_flask_application_of_another_database_than_the_settings_name_is_refused(
    flask_project: Project, tmp_path: Path, run_job: Run
) -> None:
    one, two = sqlite_database(tmp_path / "one.sqlite"), sqlite_database(tmp_path / "two.sqlite")
    both = {"APP_DB": one.url, "ALEMBIC_JOB_DATABASE_URL": two.url}
    refused(run_job(cwd=flask_project.path, env=both), 35, "wrong_database", "one.sqlite", "two.sqlite")


def test_a_flask_application_that_cannot_be_loaded_is_told(flask_project: Project, run_job: Run) -> None:
    refused(run_job(cwd=flask_project.path), 2, "config_invalid", "current_app", "APP_DB")
    (flask_project.path / "app.py").unlink()
    result = run_job(cwd=flask_project.path)
    refused(result, 2, "config_invalid", "application cannot be loaded")
    assert "FLASK_APP" in result.finished["hint"]


ASYNCHRONOUS = [
    ("sqlite", "sqlite+aiosqlite"),
    ("mariadb", "mysql+aiomysql"),
    ("mariadb", "mysql+asyncmy"),
    ("postgresql", "postgresql+asyncpg"),
    ("postgresql", "postgresql+psycopg"),
]


@pytest.mark.parametrize(("database", "driver"), ASYNCHRONOUS, indirect=["database"])
@pytest.mark.parametrize("template", ["async", "pyproject_async"])
def test_an_asynchronous_project_as_alembic_init_makes_it_ends_as_with_plain_alembic(
    tmp_path: Path, twins: Twins, driver: str, template: str
) -> None:
    if has_template(template):
        result = replace(twins, driver=driver).end_alike(from_template(tmp_path, template))
        assert result.finished["applied"] == ["r1", "r2", "r3"]


@pytest.mark.parametrize(("database", "driver"), ASYNCHRONOUS, indirect=["database"])
def test_what_a_failed_revision_left_is_told_of_asynchronous_drivers_too(
    tmp_path: Path, twins: Twins, driver: str
) -> None:
    fails = Revision(
        "r4",
        "r3",
        upgrade="""
            op.execute("INSERT INTO t1 (id) VALUES (7)")
            sa.inspect(op.get_bind()).get_columns("t1")
            op.create_table("t4", sa.Column("id", sa.Integer))
            op.create_table("t1", sa.Column("id", sa.Integer))
        """,
    )
    project, both = from_template(tmp_path, "async"), replace(twins, driver=driver)
    project.add(fails)
    result = both.run(project)
    assert both.plain(project) != ""
    both.hold_the_same()
    durable = [one["statement_number"] for one in result.one("revision_failed")["durable_statements"]]
    kept = "t4" in both.ours.tables()
    assert durable == ([1, 2] if kept else [])
    assert (both.ours.dialect == "mariadb") <= kept
    refused(result, *((41, "revision_partial") if kept else (40, "revision_failed")), "r4", "statement 3")
    assert set(result.finished["to"]) == both.ours.versions()


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("driver", ["mysql+aiomysql", "mysql+asyncmy"])
def test_what_the_server_warns_of_is_told_of_asynchronous_drivers_too(
    tmp_path: Path, twins: Twins, driver: str
) -> None:
    project = from_template(tmp_path, "async")
    project.add(Revision("r4", "r3", upgrade=WARNS))
    warned_once_each(replace(twins, driver=driver).end_alike(project), "r4")


@pytest.fixture
def asynchronous(tmp_path: Path) -> Project:
    stock = Path(alembic.__file__).parent / "templates" / "async" / "env.py"
    return make_project(tmp_path, linear(3), env=stock.read_text())


def with_async_driver(database: Database) -> str:
    driver = {"sqlite": "sqlite+aiosqlite", "mariadb": "mysql+aiomysql", "postgresql": "postgresql+asyncpg"}
    return f"{driver[database.dialect]}://{database.url.partition('://')[2]}"


def test_an_asynchronous_project_runs_with_its_own_driver(
    asynchronous: Project, database: Database, run_job: Run
) -> None:
    went_up_and_stays(run_job, asynchronous, 3, ALEMBIC_JOB_DATABASE_URL=with_async_driver(database))


def test_an_asynchronous_project_whose_ini_names_the_database_runs_too(
    asynchronous: Project, database: Database, run_job: Run
) -> None:
    url = with_async_driver(database).replace("%", "%%")
    text = asynchronous.ini.read_text()
    asynchronous.ini.write_text(text.replace("driver://user:pass@localhost/dbname", url))
    went_up_and_stays(run_job, asynchronous, 3)


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "mysql+aiomysql"])
def test_an_asynchronous_project_without_its_server_waits_for_it(
    asynchronous: Project, run_job: Run, driver: str
) -> None:
    text = asynchronous.ini.read_text()
    dead = f"{driver}://nobody:secret-word@127.0.0.1:1/none"
    asynchronous.ini.write_text(text.replace("driver://user:pass@localhost/dbname", dead))
    result = run_job(cwd=asynchronous.path, env={"ALEMBIC_JOB_WAIT_TIMEOUT": "2s"})
    refused(result, 10, "database_unreachable")
    assert result.of("database_waiting")
    assert "secret-word" not in result.stdout


def test_an_asynchronous_project_is_replayed_in_a_scratch_to_find_its_revision(
    asynchronous: Project, database: Database, request: pytest.FixtureRequest, run_job: Run
) -> None:
    environment = {"ALEMBIC_JOB_DATABASE_URL": with_async_driver(database)}
    if not database.path:
        scratch = request.getfixturevalue(f"{database.dialect}_server").new_database()
        environment["ALEMBIC_JOB_SCRATCH_URL"] = with_async_driver(scratch)
    assert run_job("upgrade", "r2", cwd=asynchronous.path, env=environment).exit_code == 0
    database.execute("DROP TABLE alembic_version")
    result = run_job("baseline", "--detect", "--yes", cwd=asynchronous.path, env=environment)
    assert (result.exit_code, database.versions()) == (0, {"r2"}), result.finished


def test_a_flask_application_with_a_url_of_its_own_gets_no_replay_and_says_so(
    flask_project: Project, tmp_path: Path, run_job: Run
) -> None:
    database = sqlite_database(tmp_path / "one.sqlite")
    run_job("upgrade", "r2", cwd=flask_project.path, env={"APP_DB": database.url})
    database.execute("DROP TABLE alembic_version")
    result = run_job("baseline", "--detect", cwd=flask_project.path, env={"APP_DB": database.url})
    refused(result, 35, "wrong_database", "was given the scratch database")
    assert run_job("baseline", "r2", cwd=flask_project.path, env={"APP_DB": database.url}).exit_code == 0
