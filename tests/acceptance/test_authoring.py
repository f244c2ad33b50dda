"""From the first ``init`` to production with one program: Alembic's own commands, under our roof."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import alembic
import pytest

from tests.acceptance.expect import PROJECTS, URL, refused
from tests.acceptance.test_check import BOOKS, with_models
from tests.databases import Database, sqlite_database
from tests.job import Project, Result, linear, make_project, start_job

Run = Callable[..., Result]
VERSION = tuple(map(int, alembic.__version__.split(".")[:2]))


def test_from_the_first_init_to_production(tmp_path: Path, database: Database, run_job: Run) -> None:
    env = {URL: database.url}
    made = run_job("init", "migrations", cwd=tmp_path)
    assert (made.exit_code, made.finished["outcome"]) == (0, "written")
    assert (tmp_path / "alembic.ini").is_file() and (tmp_path / "migrations" / "env.py").is_file()
    env_py = tmp_path / "migrations" / "env.py"
    models = ["import sqlalchemy as sa", "target_metadata = sa.MetaData()"]
    models += ["sa.Table('books', target_metadata, sa.Column('id', sa.Integer))"]
    env_py.write_text(env_py.read_text().replace("target_metadata = None", "\n".join(models)))

    written = run_job("revision", "--autogenerate", "-m", "create books", "--rev-id", "b1", cwd=tmp_path, env=env)
    assert (written.exit_code, written.finished["outcome"]) == (0, "written")
    listed = written.one("revision_listed")
    assert (listed["revision"], listed["summary"]) == ("b1", "create books")
    assert "create_table('books'" in (tmp_path / listed["path"]).read_text()
    assert written.one("difference_found")["operation"] == "add_table"

    assert run_job("upgrade", cwd=tmp_path, env=env).finished["to"] == ["b1"]
    assert run_job("check", cwd=tmp_path, env=env).exit_code == 0
    assert "books" in database.tables()


@pytest.mark.parametrize("template", ["async", "multidb"])
def test_init_takes_alembics_own_flags(tmp_path: Path, template: str, run_job: Run) -> None:
    result = run_job("init", "--template", template, "--package", "db", cwd=tmp_path)
    assert result.exit_code == 0
    stock = Path(alembic.__file__).parent / "templates" / template / "env.py"
    assert (tmp_path / "db" / "env.py").read_text() == stock.read_text()
    assert (tmp_path / "db" / "versions" / "__init__.py").exists()


def test_init_writes_the_configuration_where_the_settings_say(tmp_path: Path, run_job: Run) -> None:
    assert run_job("init", "migrations", "-c", "other.ini", cwd=tmp_path).exit_code == 0
    assert (tmp_path / "other.ini").is_file() and not (tmp_path / "alembic.ini").exists()


def test_init_into_a_directory_that_is_in_use(tmp_path: Path, run_job: Run) -> None:
    project = make_project(tmp_path)
    refused(run_job("init", "migrations", cwd=project.path), 2, "config_invalid", "already exists and is not empty")


def test_revision_writes_a_file_without_a_database(tmp_path: Path, run_job: Run) -> None:
    project = make_project(tmp_path, linear(2))
    result = run_job("revision", "-m", "three", "--rev-id", "r3", "--depends-on", "r1", cwd=project.path)
    listed = result.one("revision_listed")
    assert (listed["revision"], listed["parents"], listed["depends_on"]) == ("r3", ["r2"], ["r1"])
    assert (project.path / listed["path"]).is_file()
    assert run_job("heads", cwd=project.path).one("revision_listed")["revision"] == "r3"


def test_flags_that_an_env_py_asks_for_are_there(tmp_path: Path, run_job: Run) -> None:
    # As Flask-Migrate's does, to write nothing when nothing has changed.
    project = with_models(tmp_path, BOOKS)
    hook = """
def leave_it(context_, revision, directives):
    if getattr(config.cmd_opts, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []

"""
    stock = project.env.read_text().replace(
        "target_metadata=target_metadata", "target_metadata=target_metadata, process_revision_directives=leave_it"
    )
    project.env.write_text(stock.replace("def run_migrations_offline", hook + "def run_migrations_offline"))
    env = {URL: f"sqlite:///{tmp_path}/db.sqlite"}
    run_job("upgrade", cwd=project.path, env=env)
    result = run_job("revision", "--autogenerate", "-m", "nothing", cwd=project.path, env=env)
    assert (result.exit_code, result.finished["outcome"]) == (0, "reported"), result.stdout
    assert len(list(project.versions.glob("*.py"))) == 1


def test_merge_joins_the_heads_that_an_upgrade_to_head_refused(tmp_path: Path, run_job: Run) -> None:
    project = tmp_path / "two_heads"
    shutil.copytree(PROJECTS / "two_heads", project)
    template = Path(alembic.__file__).parent / "templates" / "generic" / "script.py.mako"
    shutil.copy(template, project / "migrations")
    env = {URL: f"sqlite:///{tmp_path}/db.sqlite"}
    told = run_job("upgrade", "head", cwd=project, env=env)
    refused(told, 31, "multiple_heads", "0002", "0003", "They parted at 0001")
    command = told.finished["hint"].partition("alembic-job ")[2].split()
    assert command[:3] == ["merge", "-m", "merge"]
    joined = run_job(*command, cwd=project, env=env)
    assert sorted(joined.one("revision_listed")["parents"]) == ["0002", "0003"]
    assert run_job("upgrade", "head", cwd=project, env=env).exit_code == 0


def test_revision_on_two_heads_names_them_and_the_command(tmp_path: Path, run_job: Run) -> None:
    project = tmp_path / "two_heads"
    shutil.copytree(PROJECTS / "two_heads", project)
    result = run_job("revision", "-m", "more", cwd=project)
    refused(result, 31, "multiple_heads", "0002", "0003")
    assert "alembic-job merge -m merge 0002 0003" in result.finished["hint"]


def test_branches_and_show_print_what_alembic_prints(tmp_path: Path, run_job: Run) -> None:
    branches = run_job("branches", "-v", cwd=PROJECTS / "two_heads")
    text = [event["text"] for event in branches.of("user_output")]
    assert any("0001" in line and "branchpoint" in line for line in text)
    shown = run_job("show", "0002", cwd=PROJECTS / "two_heads")
    assert "Rev: 0002 (head)" in shown.of("user_output")[0]["text"]
    assert (shown.exit_code, shown.finished["outcome"]) == (0, "reported")


def test_show_current_asks_the_database(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(3))
    env = {URL: database.url}
    run_job("upgrade", "r2", cwd=project.path, env=env)
    result = run_job("show", "current", cwd=project.path, env=env)
    assert any(event["text"].startswith("Rev: r2") for event in result.of("user_output")), result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "name", "fact"),
    [
        (("show", "zzz"), 32, "target_invalid", "'zzz' is not among the 2 revisions"),
        (("merge", "r1", "zzz"), 32, "target_invalid", "zzz"),
        (("revision", "-m", "x", "--head", "zzz"), 32, "target_invalid", "'zzz' is not among the 2 revisions"),
        (("revision", "--frobnicate"), 2, "config_invalid", "--frobnicate"),
        (("show",), 2, "config_invalid", "rev"),
        (("merge", "--sql"), 2, "config_invalid", "revisions"),
        (("revision", "--autogenerate", "--sql"), 2, "config_invalid", "does not make any sense"),
    ],
)
def test_a_mistake_in_alembics_own_flags_is_told_as_any_other(
    tmp_path: Path, arguments: tuple[str, ...], code: int, name: str, fact: str, run_job: Run
) -> None:
    project = make_project(tmp_path, linear(2))
    env = {URL: f"sqlite:///{tmp_path}/db.sqlite"}
    refused(run_job(*arguments, cwd=project.path, env=env), code, name, fact)
    assert len(list(project.versions.glob("*.py"))) == 2


def test_help_of_such_a_command_is_alembics(tmp_path: Path) -> None:
    job = start_job("revision", "--help", cwd=tmp_path, plain=True)
    result = job.finish()
    assert result.exit_code == 0
    assert "usage: alembic-job revision" in result.stdout and "--autogenerate" in result.stdout


def test_revision_environment_runs_env_py_and_waits_for_its_database(tmp_path: Path, run_job: Run) -> None:
    project = make_project(tmp_path, linear(1), ini={"revision_environment": "true"})
    env = {URL: "postgresql+psycopg://nobody@127.0.0.1:1/none", "ALEMBIC_JOB_WAIT_TIMEOUT": "1s"}
    refused(run_job("revision", "-m", "x", cwd=project.path, env=env), 10, "database_unreachable", "127.0.0.1")
    database = sqlite_database(tmp_path / "db.sqlite")
    project.env.write_text("print('env.py ran')\n" + project.env.read_text())
    result = run_job("revision", "-m", "x", cwd=project.path, env={URL: database.url})
    assert result.exit_code == 0, result.stdout
    assert "env.py ran" in [event["text"] for event in result.of("user_output")]


@pytest.mark.parametrize("lost", ["directory", "script_location"])
def test_a_project_that_is_not_there_says_how_to_start_one(tmp_path: Path, lost: str, run_job: Run) -> None:
    project: Project = make_project(tmp_path, linear(1))
    if lost == "directory":
        shutil.rmtree(project.path / "migrations")
    else:
        project.ini.write_text("[alembic]\nsqlalchemy.url = sqlite:///x.sqlite\n")
    result = run_job("revision", "-m", "x", cwd=project.path)
    refused(result, 2, "config_invalid", "script_location" if lost == "script_location" else "migrations")
