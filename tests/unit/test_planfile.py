"""The document of a plan, and how far along it a database is; for every shape of history."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from runner.history import History
from runner.planfile import PlanFile, PlannedDatabase, PlannedFile, PlannedRevision, read, write
from tests.graphs import random_history
from tests.job import Revision, linear
from tests.unit.test_planning import SEEDS, after, history_of


def planned(history: History, targets: Sequence[str], current: Sequence[str]) -> tuple[PlannedDatabase, list[Any]]:
    goal = history.resolve(targets, current)
    steps = history.upgrade_steps(goal, current)
    pending = tuple(PlannedRevision.of(history.describe(step.revision)) for step in steps)
    return PlannedDatabase(
        section=None,
        dialect="sqlite",
        version_table="alembic_version",
        version_table_schema=None,
        state="behind",
        current=tuple(current),
        goal=goal,
        pending=pending,
    ), steps


def some(chance: random.Random, revisions: Sequence[Revision]) -> tuple[str, ...]:
    return tuple(one.id for one in chance.sample(revisions, chance.choice((1, 1, 2))))


def names(steps: Sequence[Any]) -> list[str]:
    return [step.revision.revision for step in steps]


@given(SEEDS)
def test_wherever_a_run_of_it_was_cut_the_rest_is_its_tail(seed: int) -> None:
    chance = random.Random(seed)
    revisions = random_history(chance, chance.randint(2, 12))
    history = history_of(revisions)
    begun = after(history.upgrade_steps(history.resolve(some(chance, revisions), ()), ()), ())
    plan, steps = planned(history, ("heads",), begun)
    for cut in range(len(steps) + 1):
        rows = after(steps[:cut], begun)
        assert plan.fits(history, rows)
        rest = plan.in_order(history.upgrade_steps(plan.goal, rows))
        assert names(rest) == names(steps[cut:])
        assert after(rest, rows) == after(steps, begun)


@given(SEEDS)
def test_rows_that_no_run_of_it_leaves_do_not_fit_unless_they_hold_its_end(seed: int) -> None:
    chance = random.Random(seed)
    revisions = random_history(chance, chance.randint(2, 12))
    history = history_of(revisions)
    plan, steps = planned(history, some(chance, revisions), ())
    left = {after(steps[:cut], ()) for cut in range(len(steps) + 1)}
    elsewhere = after(history.upgrade_steps(history.resolve(some(chance, revisions), ()), ()), ())
    assert plan.fits(history, elsewhere) == (elsewhere in left or history.holds(elsewhere, plan.goal))


DOCUMENT = PlanFile(
    target=("heads",),
    env=PlannedFile(path="migrations/env.py", sha256="a" * 64),
    databases=(planned(history_of(linear(3)), ("heads",), ("r1",))[0],),
)


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    write(DOCUMENT, str(tmp_path / "plan.json"))
    assert read(str(tmp_path / "plan.json")) == DOCUMENT
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_for_people_the_summary_is_written_as_it_is() -> None:
    [there] = DOCUMENT.databases
    first = there.pending[0].model_copy(update={"summary": "für Bücher 本"})
    text = DOCUMENT.model_copy(update={"databases": (there.model_copy(update={"pending": (first,)}),)}).text
    assert '"summary": "für Bücher 本"' in text
    assert list(json.loads(text))[:2] == ["format", "digest"]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, one in items for leaf in leaves(one, (*path, key))]
    return [path]


CONTENT = DOCUMENT.model_dump(mode="json")


@pytest.mark.parametrize("path", leaves(CONTENT), ids=lambda path: ".".join(map(str, path)))
def test_the_digest_is_over_all_of_it(path: tuple[Any, ...]) -> None:
    content = json.loads(json.dumps(CONTENT))
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = "another"
    assert PlanFile.model_validate(content).digest != DOCUMENT.digest
