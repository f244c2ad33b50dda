"""Several runs at once: one migrates, and all of them end well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.databases import Database
from tests.job import Job, Revision, linear, make_project


def test_of_five_runs_at_once_one_migrates_and_all_end_well(
    database: Database, tmp_path: Path, start_job: Callable[..., Job]
) -> None:
    project = make_project(tmp_path, linear(4))
    jobs = [start_job(cwd=project.path, env={"ALEMBIC_JOB_DATABASE_URL": database.url}) for _ in range(5)]
    results = [job.finish(90) for job in jobs]
    assert [result.exit_code for result in results] == [0] * 5
    outcomes = sorted(result.finished["outcome"] for result in results)
    assert outcomes == ["up_to_date"] * 4 + ["upgraded"]
    [winner] = [result for result in results if result.of("revision_started")]
    assert winner.finished["applied"] == ["r1", "r2", "r3", "r4"]
    assert database.versions() == {"r4"}
    assert database.tables() == {"alembic_version", "t1", "t2", "t3", "t4"}


def test_who_waits_while_a_newer_image_migrates_is_told_that_it_is_the_older_one(
    database: Database, tmp_path: Path, start_job: Callable[..., Job]
) -> None:
    # Found by the chaos suite, sqlite, seed 1, round 2: it ended with 32, "the target 'r6' is not among the 6
    # revisions of this image. Did you mean r6?"
    slow = Revision(
        "r1",
        upgrade=f"""
        op.create_table("t1", sa.Column("id", sa.Integer, primary_key=True))
        while not os.path.exists({str(tmp_path / "go")!r}):
            time.sleep(0.05)
        """,
    )
    newer = make_project(tmp_path / "newer", [slow, *linear(3)[1:]])
    older = make_project(tmp_path / "older", [slow, *linear(2)[1:]])
    env = {"ALEMBIC_JOB_DATABASE_URL": database.url}
    winner = start_job(cwd=newer.path, env=env)
    winner.wait_for("revision_started")
    waiter = start_job(cwd=older.path, env=env)
    waiter.wait_for("lock_waiting")
    (tmp_path / "go").touch()
    assert winner.finish().exit_code == 0
    result = waiter.finish()
    assert (result.exit_code, result.finished["outcome"]) == (0, "ahead"), result.stdout
    assert "r3" in result.one("database_ahead")["message"]
    assert result.one("plan_ready")["state"] != "partial"  # what another run is just about to do is not half done
