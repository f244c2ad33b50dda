"""Several runs at once: one migrates, and all of them end well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.databases import Database
from tests.job import Job, linear, make_project


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
