"""docs/rollback.md: what the job of an old image says to a database that a newer one has migrated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance import plain
from tests.acceptance.expect import URL
from tests.databases import Database
from tests.job import Project, Result, Revision, creates, linear, make_project

Run = Callable[..., Result]
# test_ahead.py has each database; here it is the page's story.
POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
FAILS = 'op.execute("SELECT * FROM nothing_there")'


class Deploys:
    """A project whose files are those of the image that is deployed at the moment."""

    def __init__(self, run_job: Run, project: Project, database: Database) -> None:
        self._run_job = run_job
        self.project = project
        self.url = database.url

    def run(self, *arguments: str, **env: str) -> Result:
        return self._run_job(*arguments, cwd=self.project.path, env={URL: self.url, **env})

    def ends(self, command: str, code: int, outcome: str, **env: str) -> Result:
        result = self.run(command, **env)
        assert (result.exit_code, result.finished["outcome"]) == (code, outcome), result.stdout
        return result


@pytest.fixture
def deploys(tmp_path: Path, run_job: Run, database: Database) -> Deploys:
    deploys = Deploys(run_job, make_project(tmp_path, linear(2)), database)
    deploys.ends("upgrade", 0, "upgraded")
    return deploys


@POSTGRESQL
@pytest.mark.parametrize("command", ["upgrade", "wait"])
def test_what_the_ledger_saw_is_ahead(deploys: Deploys, command: str) -> None:
    deploys.project.add(creates("t3", "r3", "r2"))
    deploys.ends("upgrade", 0, "upgraded", ALEMBIC_JOB_IMAGE="shop:3")
    deploys.project.remove("r3")
    said = deploys.ends(command, 0, "ahead").one("database_ahead")
    assert [(one["revision"], one["image"]) for one in said["revisions"]] == [("r3", "shop:3")]


@POSTGRESQL
def test_what_it_did_not_see_is_30_unless_somebody_knows_better(deploys: Deploys, database: Database) -> None:
    deploys.project.add(creates("t3", "r3", "r2"))
    done = plain.upgrade(database, deploys.project.ini, deploys.project.path / "migrations")
    assert not done.returncode, done.stderr
    deploys.project.remove("r3")
    assert deploys.ends("upgrade", 30, "failed").finished["exit_name"] == "revision_unknown"
    deploys.ends("upgrade", 0, "ahead", ALEMBIC_JOB_ON_AHEAD="ok")


@POSTGRESQL
def test_a_newer_revision_that_left_nothing_left_the_database_where_it_was(deploys: Deploys) -> None:
    deploys.project.add(Revision("r3", "r2", FAILS))
    deploys.ends("upgrade", 40, "failed")
    deploys.project.remove("r3")
    deploys.ends("upgrade", 0, "up_to_date")


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_newer_revision_that_is_half_done_does_not_stop_the_old_image_and_is_told_by_status(deploys: Deploys) -> None:
    table = 'op.create_table("t3", sa.Column("id", sa.Integer, primary_key=True))\n'
    deploys.project.add(Revision("r3", "r2", table + FAILS))
    deploys.ends("upgrade", 41, "failed")
    deploys.project.remove("r3")
    for command, outcome in (("upgrade", "up_to_date"), ("wait", "ready")):
        ended = deploys.ends(command, 0, outcome)
        assert ended.one("revision_half_done")["revision"] == "r3"
    status = deploys.run("status")
    assert status.one("revision_half_done")["revision"] == "r3"
    assert "the next upgrade has nothing to run here, and leaves it" in status.finished["hint"]
    assert "nothing to run, and leaves it" in deploys.run("doctor").of("finding")[-1]["hint"]


@POSTGRESQL
def test_after_a_revert_a_new_revision_needs_the_reverted_one_below_it(deploys: Deploys) -> None:
    reverted = creates("t3", "r3", "r2")
    deploys.project.add(reverted)
    deploys.ends("upgrade", 0, "upgraded")
    deploys.project.remove("r3")
    deploys.ends("upgrade", 0, "ahead")
    deploys.project.add(creates("t4", "r4", "r2"))
    deploys.ends("upgrade", 30, "failed")
    deploys.project.add(reverted, creates("t4", "r4", "r3"))
    assert deploys.ends("upgrade", 0, "upgraded").finished["applied"] == ["r4"]


@POSTGRESQL
def test_what_was_undone_by_the_newer_image_is_not_ahead_any_more(deploys: Deploys) -> None:
    deploys.project.add(creates("t3", "r3", "r2"))
    deploys.ends("upgrade", 0, "upgraded")
    result = deploys.run("downgrade", "r2", "--yes")
    assert (result.exit_code, result.finished["outcome"]) == (0, "downgraded")
    deploys.project.remove("r3")
    deploys.ends("upgrade", 0, "up_to_date")
