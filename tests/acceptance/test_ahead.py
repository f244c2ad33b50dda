"""An image older than its database: success where the ledger proves that nothing is missing, else 30."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import plain
from tests.acceptance.expect import URL, applied_nothing, refused
from tests.acceptance.test_ledger import ENV_OF_ITS_OWN, MIDDLE, environment, killed, name_of
from tests.databases import Database
from tests.job import Job, Project, Result, creates, linear, make_project

Run = Callable[..., Result]
Start = Callable[..., Job]
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def old_image(tmp_path: Path, database: Database, run_job: Run) -> Project:
    """An image with five revisions, against a database at the eighth."""
    project = make_project(tmp_path, linear(8))
    for target, image in (("r6", "app:6"), ("heads", "app:8")):
        assert run_job("upgrade", target, cwd=project.path, env=environment(database, image)).exit_code == 0
    return older(project)


def older(project: Project) -> Project:
    project.remove("r6", "r7", "r8")
    for cache in project.versions.glob("__pycache__/*"):
        cache.unlink()  # a new image has none
    return project


def is_ahead(result: Result) -> dict[str, Any]:
    assert (result.exit_code, result.finished["outcome"]) == (0, "ahead"), result.stdout
    applied_nothing(result)
    assert not result.of("lock_acquired")
    warning = result.one("database_ahead")
    assert warning["level"] == "warning"
    return warning


@pytest.mark.parametrize("command", ["upgrade", "wait"])
def test_with_proof_the_old_image_is_content_and_says_what_is_newer(
    old_image: Project, database: Database, run_job: Run, command: str
) -> None:
    warning = is_ahead(run_job(command, cwd=old_image.path, env=environment(database, "app:5")))
    assert [one["revision"] for one in warning["revisions"]] == ["r8", "r7", "r6"]
    assert [one["image"] for one in warning["revisions"]] == ["app:8", "app:8", "app:6"]
    assert all(one["applied"].endswith("Z") for one in warning["revisions"])
    assert (warning["unknown"], warning["target"], warning["proven"]) == (["r8"], ["r5"], True)
    assert database.versions() == {"r8"}


def test_an_earlier_target_is_contained_too_and_one_that_is_not_here_is_not(
    old_image: Project, database: Database, run_job: Run
) -> None:
    is_ahead(run_job("upgrade", "r3", cwd=old_image.path, env=environment(database)))
    refused(run_job("upgrade", "r8", cwd=old_image.path, env=environment(database)), 32, "target_invalid", "r8")


@pytest.mark.parametrize("command", ["status", "plan", "current"])
def test_the_state_is_ahead(old_image: Project, database: Database, run_job: Run, command: str) -> None:
    result = run_job(command, cwd=old_image.path, env=environment(database))
    assert result.exit_code == 0, result.stdout
    plan = result.one("plan_ready")
    assert (plan["state"], plan["current"], plan["target"], plan["pending"]) == ("ahead", ["r8"], ["r5"], [])


@SQLITE
@pytest.mark.parametrize(("command", "code"), [("status", 0), ("plan", 0)])
def test_nothing_is_pending(old_image: Project, database: Database, run_job: Run, command: str, code: int) -> None:
    assert run_job(command, "--exit-code", cwd=old_image.path, env=environment(database)).exit_code == code


@SQLITE
def test_doctor_has_nothing_to_complain_of(old_image: Project, database: Database, run_job: Run) -> None:
    assert run_job("doctor", cwd=old_image.path, env=environment(database)).exit_code == 0


@SQLITE
@pytest.mark.parametrize("arguments", [("downgrade", "r1", "--yes"), ("stamp", "r3"), ("check",)])
def test_what_needs_the_revisions_is_refused(
    old_image: Project, database: Database, run_job: Run, arguments: tuple[str, ...]
) -> None:
    refused(run_job(*arguments, cwd=old_image.path, env=environment(database)), 30, "revision_unknown", "r8")


def test_fail_refuses_and_says_what_is_newer(old_image: Project, database: Database, run_job: Run) -> None:
    fail = environment(database, ALEMBIC_JOB_ON_AHEAD="fail")
    result = run_job("upgrade", cwd=old_image.path, env=fail)
    refused(result, 30, "revision_unknown", "r8", "image app:8", "ALEMBIC_JOB_ON_AHEAD")
    assert run_job("status", cwd=old_image.path, env=fail).one("plan_ready")["state"] == "unknown"


def test_without_a_ledger_it_is_30(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(8))
    assert run_job("upgrade", cwd=project.path, env=environment(database, ALEMBIC_JOB_LEDGER="false")).exit_code == 0
    older(project)
    refused(run_job("upgrade", cwd=project.path, env=environment(database)), 30, "revision_unknown", "r8")
    ok = run_job("upgrade", cwd=project.path, env=environment(database, ALEMBIC_JOB_ON_AHEAD="ok"))
    assert is_ahead(ok)["proven"] is False


def test_what_plain_alembic_ran_in_between_is_no_proof(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(8))
    assert run_job("upgrade", "r6", cwd=project.path, env=environment(database)).exit_code == 0
    assert plain.upgrade(database, project.ini, project.path / "migrations", "r7").returncode == 0
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    refused(run_job("upgrade", cwd=older(project).path, env=environment(database)), 30, "revision_unknown", "r8")


@SQLITE
@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM {} WHERE revision = 'r7'",
        "UPDATE {} SET status = 'failed' WHERE revision = 'r8'",
        "UPDATE {} SET status = 'rolled_back' WHERE revision = 'r7'",
        "UPDATE {} SET status = 'started' WHERE revision = 'r7'",
        "UPDATE {} SET direction = 'downgrade' WHERE revision = 'r8'",
        "UPDATE {} SET parents = 'r5' WHERE revision = 'r6'",
        "UPDATE {} SET parents = '[\"r7\"]' WHERE revision = 'r6'",
        "UPDATE {} SET version_table = 'other' WHERE revision = 'r8'",
        "UPDATE {} SET layout = 2 WHERE revision = 'r8'",
    ],
)
def test_a_ledger_that_does_not_lead_down_proves_nothing(
    old_image: Project, database: Database, run_job: Run, edit: str
) -> None:
    database.execute(edit.format(name_of(database)))
    refused(run_job("upgrade", cwd=old_image.path, env=environment(database)), 30, "revision_unknown", "r8")


@SQLITE
def test_a_revision_that_was_undone_and_stamped_is_no_proof(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(6))
    for arguments in (("upgrade",), ("downgrade", "r5", "--yes"), ("stamp", "r6")):
        assert run_job(*arguments, cwd=project.path, env=environment(database)).exit_code == 0
    refused(run_job("upgrade", cwd=older(project).path, env=environment(database)), 30, "revision_unknown", "r6")


def test_a_newer_image_that_was_killed_right_behind_its_commit_is_proof(
    old_image: Project, database: Database, run_job: Run
) -> None:
    # The version table says that it is there; nobody came back to write so.
    database.execute(f"UPDATE {name_of(database)} SET status = 'started', ended = NULL WHERE revision = 'r8'")
    is_ahead(run_job("upgrade", cwd=old_image.path, env=environment(database)))


def test_a_newer_revision_that_was_killed_half_way_leaves_the_database_where_it_was(
    tmp_path: Path, database: Database, run_job: Run, start_job: Start
) -> None:
    project = make_project(tmp_path, linear(1))
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    project.add(MIDDLE)
    killed(project, database, start_job)
    project.remove("r2")
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["outcome"]) == (0, "up_to_date")


# --- branches -----------------------------------------------------------------------------------------

ROOT = creates("root", "root")
A1, A2 = creates("a1t", "a1", "root"), creates("a2t", "a2", "a1")
B1, B2 = creates("b1t", "b1", "root"), creates("b2t", "b2", "b1")


@pytest.mark.parametrize("on_ahead", ["known", "ok"])
def test_ahead_on_one_branch_and_behind_on_the_other_is_30(
    tmp_path: Path, database: Database, run_job: Run, on_ahead: str
) -> None:
    project = make_project(tmp_path, [ROOT, A1, A2, B1])
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    project.remove("a2")
    project.add(B2)
    result = run_job("upgrade", cwd=project.path, env=environment(database, ALEMBIC_JOB_ON_AHEAD=on_ahead))
    refused(result, 30, "revision_unknown", "a2", "behind it on another branch", "b2")
    applied_nothing(result)
    for target in ("a1", "b1"):
        is_ahead(run_job("upgrade", target, cwd=project.path, env=environment(database)))


def test_ahead_on_one_branch_and_level_on_the_other_is_ahead(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, [ROOT, A1, A2, B1])
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    project.remove("a2")
    warning = is_ahead(run_job("upgrade", cwd=project.path, env=environment(database)))
    assert sorted(warning["target"]) == ["a1", "b1"]


@SQLITE
def test_a_newer_revision_that_depends_on_another_branch_proves_that_one_too(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    project = make_project(tmp_path, [ROOT, A1, B1, creates("a2t", "a2", "a1", depends_on="b1")])
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    assert database.versions() == {"a2"}
    project.remove("a2")
    is_ahead(run_job("upgrade", cwd=project.path, env=environment(database)))


# --- company ------------------------------------------------------------------------------------------


@SQLITE
def test_the_rows_of_another_application_prove_nothing(tmp_path: Path, database: Database, run_job: Run) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = make_project(tmp_path / "one", linear(8), env=ENV_OF_ITS_OWN.format(table="one_version"))
    assert run_job("upgrade", cwd=one.path, env=environment(database)).exit_code == 0
    two = make_project(tmp_path / "two", linear(5), env=ENV_OF_ITS_OWN.format(table="two_version"))
    database.execute("CREATE TABLE two_version (version_num VARCHAR(32))", "INSERT INTO two_version VALUES ('r8')")
    refused(run_job("upgrade", cwd=two.path, env=environment(database)), 30, "revision_unknown", "r8")


def test_an_old_image_that_waits_leaves_when_a_newer_one_has_gone_past_it(
    tmp_path: Path, database: Database, run_job: Run, start_job: Start
) -> None:
    project = make_project(tmp_path, linear(5))
    assert run_job("upgrade", "r2", cwd=project.path, env=environment(database)).exit_code == 0
    (tmp_path / "new").mkdir()
    newer = make_project(tmp_path / "new", linear(8))
    waiting = start_job("wait", cwd=project.path, env=environment(database, ALEMBIC_JOB_TARGET_TIMEOUT="30s"))
    waiting.wait_for("plan_ready")
    assert run_job("upgrade", cwd=newer.path, env={URL: database.url}).exit_code == 0
    result = waiting.finish()
    assert (result.exit_code, result.finished["outcome"]) == (0, "ahead"), result.stdout
