"""What the ledger is for: who ran what, and which files were changed afterwards."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.expect import applied_nothing, refused
from tests.acceptance.test_ledger import environment, name_of
from tests.databases import Database
from tests.job import Project, Result, Revision, linear, make_project

Run = Callable[..., Result]
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def project(tmp_path: Path, database: Database, run_job: Run) -> Project:
    """Two revisions that an image applied, and one that failed."""
    made = make_project(tmp_path, [*linear(2), Revision("r3", "r2", 'raise ValueError("=no, not this one")')])
    assert run_job("upgrade", "r2", cwd=made.path, env=environment(database, "app:2")).exit_code == 0
    assert run_job("upgrade", cwd=made.path, env=environment(database, "app:3")).exit_code == 40
    return made


# --- runs ---------------------------------------------------------------------------------------------


def test_runs_lists_who_ran_what_when_how_long_and_from_which_image_and_file(
    project: Project, database: Database, run_job: Run
) -> None:
    result = run_job("runs", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["outcome"]) == (0, "reported")
    told = [(e["revision"], e["state"], e["image"]) for e in result.of("ledger_listed")]
    assert told == [("r1", "committed", "app:2"), ("r2", "committed", "app:2"), ("r3", "failed", "app:3")]
    first, second, last = result.of("ledger_listed")
    assert (first["parents"], second["parents"], first["command"], first["direction"]) == (
        [],
        ["r1"],
        "upgrade",
        "upgrade",
    )
    assert first["started"] <= first["ended"] <= last["started"]
    assert first["duration_s"] >= 0 and first["pod"] == "migrate-1"
    assert first["sha256"] == hashlib.sha256((project.path / first["path"]).read_bytes()).hexdigest()
    assert first["run"] == second["run"] != last["run"]
    assert "not this one" in last["error"]


def test_limit_gives_the_last_rows(project: Project, database: Database, run_job: Run) -> None:
    result = run_job("runs", "--limit", "2", cwd=project.path, env=environment(database))
    assert [event["revision"] for event in result.of("ledger_listed")] == ["r2", "r3"]


@SQLITE
@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_that_is_no_number_of_rows_is_refused(
    project: Project, database: Database, run_job: Run, limit: str
) -> None:
    refused(run_job("runs", f"--limit={limit}", cwd=project.path, env=environment(database)), 2, "config_invalid")


def test_csv_is_the_rows_and_nothing_else(project: Project, database: Database, run_job: Run) -> None:
    result = run_job("runs", "--csv", cwd=project.path, env=environment(database), plain=True)
    assert result.exit_code == 0
    found = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["revision"], row["state"], row["image"], row["parents"]) for row in found] == [
        ("r1", "committed", "app:2", ""),
        ("r2", "committed", "app:2", "r1"),
        ("r3", "failed", "app:3", "r2"),
    ]


@SQLITE
def test_a_csv_cell_is_no_formula(project: Project, database: Database, run_job: Run) -> None:
    database.execute(f"""UPDATE {name_of(database)} SET summary = '=HYPERLINK("http://example.org")'""")
    result = run_job("runs", "--csv", cwd=project.path, env=environment(database), plain=True)
    assert {row["summary"] for row in csv.DictReader(io.StringIO(result.stdout))} == {
        """'=HYPERLINK("http://example.org")"""
    }


def test_csv_that_cannot_be_had_says_why_on_stderr(tmp_path: Path, run_job: Run) -> None:
    project = make_project(tmp_path, linear(1))
    nowhere = {"ALEMBIC_JOB_DATABASE_URL": "sqlite:////no/such/directory/x.sqlite"}
    result = run_job("runs", "--csv", cwd=project.path, env=nowhere, plain=True, stderr=True)
    assert result.exit_code == 12
    assert len(result.stdout.splitlines()) == 1
    assert "/no/such/directory" in result.stderr


def test_without_a_ledger_there_is_nothing_to_list(tmp_path: Path, database: Database, run_job: Run) -> None:
    project = make_project(tmp_path, linear(1))
    result = run_job("runs", cwd=project.path, env=environment(database))
    assert result.exit_code == 0
    assert not result.of("ledger_listed") and "nothing" in result.finished["hint"]


def test_status_shows_the_last_rows(project: Project, database: Database, run_job: Run) -> None:
    project.add(*linear(8))
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    result = run_job("status", cwd=project.path, env=environment(database))
    assert [event["revision"] for event in result.of("ledger_listed")] == ["r4", "r5", "r6", "r7", "r8"]
    assert result.one("plan_ready")["state"] == "current"


@SQLITE
def test_text_says_it_in_a_line(project: Project, database: Database, run_job: Run) -> None:
    text = environment(database, ALEMBIC_JOB_LOG_FORMAT="text")
    out = run_job("runs", cwd=project.path, env=text).stdout
    assert "upgrade r2: committed in" in out and "image app:2" in out


# --- edited -------------------------------------------------------------------------------------------


def edit(project: Project, revision: str) -> None:
    path = next(project.versions.glob(f"{revision}_*.py"))
    path.write_text(path.read_text() + "\n# one more line\n")


def test_a_file_that_was_changed_after_it_was_applied_is_told(
    project: Project, database: Database, run_job: Run
) -> None:
    edit(project, "r1")
    edit(project, "r3")  # which was not applied, so that is what one does
    for arguments in (("status",), ("upgrade", "r2")):
        result = run_job(*arguments, cwd=project.path, env=environment(database))
        assert result.exit_code == 0
        warning = result.one("revision_edited")
        assert (warning["level"], warning["revision"], warning["image"]) == ("warning", "r1", "app:2")
        assert warning["path"].endswith("r1_r1.py") and warning["applied"].endswith("Z")


def test_doctor_finds_it(project: Project, database: Database, run_job: Run) -> None:
    edit(project, "r2")
    result = run_job("doctor", "r2", cwd=project.path, env=environment(database))
    assert result.exit_code == 37
    finding = result.one("finding")
    assert (finding["exit_name"], finding["revision"]) == ("history_invalid", "r2")


def test_fail_refuses_before_anything_runs(project: Project, database: Database, run_job: Run) -> None:
    edit(project, "r1")
    project.add(Revision("r3", "r2"))
    result = run_job("upgrade", cwd=project.path, env=environment(database, ALEMBIC_JOB_ON_EDITED="fail"))
    refused(result, 33, "history_invalid", "r1_r1.py", "image app:2")
    applied_nothing(result)
    assert database.versions() == {"r2"}


@SQLITE
def test_ignore_says_nothing(project: Project, database: Database, run_job: Run) -> None:
    edit(project, "r1")
    ignore = environment(database, ALEMBIC_JOB_ON_EDITED="ignore")
    for arguments, code in ((("status",), 0), (("upgrade", "r2"), 0), (("doctor", "r2"), 0)):
        result = run_job(*arguments, cwd=project.path, env=ignore)
        assert result.exit_code == code
        assert not result.of("revision_edited")


@SQLITE
def test_a_revision_that_was_undone_and_applied_again_counts_with_its_last_file(
    project: Project, database: Database, run_job: Run
) -> None:
    assert run_job("downgrade", "r1", "--yes", cwd=project.path, env=environment(database)).exit_code == 0
    edit(project, "r2")
    result = run_job("upgrade", "r2", cwd=project.path, env=environment(database))
    assert result.exit_code == 0 and not result.of("revision_edited")
    assert not run_job("status", cwd=project.path, env=environment(database)).of("revision_edited")
