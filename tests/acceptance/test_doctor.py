"""``doctor`` names what is wrong, and changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import alembic
import pytest

from tests.acceptance.expect import PROJECTS, URL, applied_nothing
from tests.databases import Database, sqlite_database
from tests.job import Project, Result, creates, linear, make_project

Run = Callable[..., Result]
READS_PYPROJECT = tuple(map(int, alembic.__version__.split(".")[:2])) >= (1, 16)

# What doctor says of each project, on an empty database: the exit name and words of the finding. Those whose
# revisions fail only when they run have no finding before that.
SITUATIONS: dict[str, tuple[str, str] | None] = {
    "autocommit_block": None,
    "branches_with_depends_on": None,
    "custom_version_table": None,
    "cycle": ("history_invalid", "Cycle is detected"),
    "duplicate_ids": ("history_invalid", "0002 is present more than once"),
    "env_exits_nonzero": ("config_invalid", "env.py exited with 3"),
    "env_exits_zero": ("target_not_reached", "without running any migrations"),
    "env_prints_megabytes": None,
    "env_raises": ("config_invalid", "env.py failed outside of any revision"),
    "env_runs_nothing": ("target_not_reached", "without running any migrations"),
    "env_swallows_error": None,
    "failing_third_revision": None,
    "grandchild_outlives": None,
    "long_revision_id": None,  # SQLite has room for any; on a server: a test of its own
    "missing_parent": ("history_invalid", "0002"),
    "missing_upgrade": ("config_invalid", "has no function upgrade()"),
    "newest_file_deleted": None,  # with a database that knows the file: a test of its own
    "no_config_file": ("config_invalid", "There is no alembic.ini"),
    "no_script_location": ("config_invalid", "script_location"),
    "own_runner_module": None,
    "prints_url": None,
    "pyproject_config": None if READS_PYPROJECT else ("config_invalid", "this Alembic does not read it"),
    "revision_exits": None,
    "revision_needs_app": None,
    "revision_syntax_error": ("config_invalid", "0002"),
    "slow_revisions": None,
    "transaction_per_migration": None,
    "two_heads": ("multiple_heads", "They parted at 0001"),
}


def findings(result: Result, *checks: str) -> list[str]:
    """What was found by these checks, and by no other."""
    found = result.of("finding")
    assert {event["check"] for event in found} <= set(checks), result.stdout
    assert (result.exit_code, result.finished["exit_name"]) == ((37, "findings") if found else (0, "ok"))
    for event in found:
        assert event["hint"] and event["error"] in result.finished["error"]
    applied_nothing(result)
    return [event["error"] for event in found]


def test_every_project_has_its_situation() -> None:
    assert set(SITUATIONS) == {path.name for path in PROJECTS.iterdir() if path.is_dir()}


@pytest.mark.parametrize("name", sorted(SITUATIONS))
def test_doctor_names_the_situation_of_each_project(tmp_path: Path, name: str, run_job: Run) -> None:
    project = tmp_path / name
    shutil.copytree(PROJECTS / name, project, ignore=shutil.ignore_patterns("__pycache__"))
    database = sqlite_database(tmp_path / "database.sqlite")
    database.execute("PRAGMA user_version = 1")
    result = run_job("doctor", cwd=project, env={URL: database.url})
    situation = SITUATIONS[name]
    found = result.of("finding")
    assert [event["exit_name"] for event in found] == ([situation[0]] if situation else []), result.stdout
    if situation:
        assert situation[1] in found[0]["error"]
        assert situation[1] in result.finished["error"]
    assert result.exit_code == (37 if situation else 0)
    assert database.tables() == set()


def test_a_sound_project_passes_every_check(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(3))
    env = {URL: database.url}
    run_job("upgrade", "r2", cwd=project.path, env=env)
    result = run_job("doctor", cwd=project.path, env=env)
    assert findings(result) == []
    passed = {event["check"]: event["found"] for event in result.of("check_passed")}
    assert list(passed) == ["settings", "configuration", "environment", "revisions", "version", "tables"]
    assert "r2" in passed["version"] and "1 revision" in passed["tables"]
    assert database.versions() == {"r2"}


def test_a_revision_that_this_image_does_not_hold(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(3))
    env = {URL: database.url, "ALEMBIC_JOB_LEDGER": "false"}
    run_job("upgrade", cwd=project.path, env=env)
    project.remove("r3")
    result = run_job("doctor", cwd=project.path, env=env)
    [said] = findings(result, "version")
    assert "at r3" in said and "head: r2" in said
    assert result.one("finding")["exit_name"] == "revision_unknown"


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_an_identifier_that_the_version_table_has_no_room_for(database: Database, run_job: Run) -> None:
    [said] = findings(run_job("doctor", cwd=PROJECTS / "long_revision_id", env={URL: database.url}), "version")
    assert "0002_create_pears_for_the_new_shop_in_town" in said and "32" in said


def test_tables_without_a_version(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(3))
    env = {URL: database.url}
    run_job("upgrade", "r2", cwd=project.path, env=env)
    database.execute("DROP TABLE alembic_version")
    result = run_job("doctor", cwd=project.path, env=env)
    [said] = findings(result, "tables")
    assert "no version" in said and "t1, t2" in said
    assert "r2" in result.one("finding")["hint"]


def test_a_table_in_the_way_of_a_pending_revision(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(3))
    env = {URL: database.url}
    run_job("upgrade", "r2", cwd=project.path, env=env)
    database.execute("CREATE TABLE t3 (id INTEGER)")
    [said] = findings(run_job("doctor", cwd=project.path, env=env), "tables")
    assert "t3 is there already, which the pending r3 would create" in said


def test_rows_that_contain_each_other_and_the_command_that_mends_them(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    project = make_project(tmp_path, linear(4))
    env = {URL: database.url}
    run_job("upgrade", "r3", cwd=project.path, env=env)
    database.execute("INSERT INTO alembic_version VALUES ('r1')")
    for command in ("doctor", "upgrade", "wait", "plan"):
        result = run_job(command, cwd=project.path, env=env)
        assert "holds r1, r3, and r1 is contained in r3" in result.finished["error"], command
        assert result.exit_code == (37 if command == "doctor" else 32)
    assert result.finished["hint"].endswith("alembic-job stamp r3")
    assert run_job("status", cwd=project.path, env=env).one("plan_ready")["current"] == ["r1", "r3"]
    assert database.versions() == {"r1", "r3"}
    assert run_job("stamp", "r3", cwd=project.path, env=env).exit_code == 0
    assert database.versions() == {"r3"}
    assert run_job("upgrade", cwd=project.path, env=env).finished["to"] == ["r4"]


@pytest.mark.parametrize("problem", ["password", "database", "server"])
def test_a_database_that_cannot_be_reached_is_one_finding_and_the_files_are_looked_at_all_the_same(
    tmp_path: Path, postgresql_server: object, problem: str, run_job: Run, request: pytest.FixtureRequest
) -> None:
    database: Database = request.getfixturevalue("postgresql_server").new_database()
    assert database.login
    wrong = {
        "password": (database.login.password, "not-the-password"),
        "database": (f"/{database.login.name}", "/nowhere"),
        "server": (f":{database.login.port}", ":1"),
    }
    url = database.url[::-1].replace(wrong[problem][0][::-1], wrong[problem][1][::-1], 1)[::-1]
    project = make_project(tmp_path, [*linear(2), creates("t3", "x2", "r1")])
    result = run_job("doctor", cwd=project.path, env={URL: url, "ALEMBIC_JOB_CONNECT_TIMEOUT": "1s"})
    names = [(event["check"], event["exit_name"]) for event in result.of("finding")]
    expected = {
        "password": "login_refused",
        "database": "database_missing",
        "server": "database_unreachable",
    }[problem]
    assert names == [("environment", expected), ("revisions", "multiple_heads")]
    assert "not-the-password" not in result.stdout


def test_a_misspelt_setting_is_a_finding(tmp_path: Path, run_job: Run) -> None:
    project: Project = make_project(tmp_path, linear(1))
    env = {URL: f"sqlite:///{tmp_path}/db.sqlite", "ALEMBIC_JOB_LOCK_TIMOUT": "3s"}
    [said] = findings(run_job("doctor", cwd=project.path, env=env), "settings")
    assert "ALEMBIC_JOB_LOCK_TIMOUT" in said
    assert not (tmp_path / "db.sqlite").exists()
