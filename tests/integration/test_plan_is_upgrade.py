"""What ``plan`` prints is what ``upgrade`` does, in that order, for any shape of history."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.databases import sqlite_database
from tests.graphs import random_history, random_targets
from tests.job import Result, make_project

SEEDS = (1, 2, 5, 13)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_plan_prints_is_what_upgrade_does(seed: int, tmp_path: Path, run_job: Callable[..., Result]) -> None:
    chance = random.Random(seed)
    revisions = random_history(chance, 12)
    first = random_targets(chance, revisions)
    print(f"seed {seed}: {[(r.id, r.down, r.depends_on, r.labels) for r in revisions]}, {first}")
    project = make_project(tmp_path, revisions)
    database = sqlite_database(tmp_path / "database.sqlite")
    for targets in (first, ("heads",)):
        env = {"ALEMBIC_JOB_DATABASE_URL": database.url}
        plan = run_job("plan", *targets, cwd=project.path, env=env).one("plan_ready")
        planned = [pending["revision"] for pending in plan["pending"]]
        result = run_job("upgrade", *targets, cwd=project.path, env=env)
        assert result.exit_code == 0
        assert [event["revision"] for event in result.of("revision_executed")] == planned
        assert result.finished["applied"] == planned
        assert {"alembic_version", *(f"t_{one}" for one in planned)} <= database.tables()
        assert sorted(database.versions()) == result.finished["to"]
    assert sorted(database.versions()) == plan["heads"]
