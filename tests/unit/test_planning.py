"""Planning is Alembic's own, for every shape of history; and the rows are those that it leaves."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from typing import Any

import pytest
from alembic.runtime.migration import HeadMaintainer
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionMap
from alembic.util import CommandError
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import RunnerError
from runner.history import History
from tests.graphs import random_history, random_targets
from tests.job import Revision

SEEDS = st.integers(0, 2**32)


class InMemory:
    """What ``ScriptDirectory`` makes of revision files, without files."""

    def __init__(self, revisions: Sequence[Revision]) -> None:
        from alembic.script.base import Script

        def script(one: Revision) -> Script:
            module = type("module", (), {"down_revision": one.down, "depends_on": one.depends_on})
            module.branch_labels, module.upgrade, module.downgrade = one.labels, None, None  # type: ignore[attr-defined]
            module.__doc__ = one.message
            return Script(module, one.id, f"/nowhere/{one.id}.py")  # type: ignore[arg-type]

        self.directory = ScriptDirectory(tempfile.gettempdir())
        self.directory.revision_map = RevisionMap(lambda: [script(one) for one in revisions])


def history_of(revisions: Sequence[Revision]) -> History:
    return History(InMemory(revisions).directory)


class Rows(HeadMaintainer):
    """The version table as a set: Alembic's own bookkeeping, without a database."""

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__(None, heads)  # type: ignore[arg-type]

    def _insert_version(self, version: str) -> None:
        assert version not in self.heads
        self.heads.add(version)

    def _delete_version(self, version: str) -> None:
        self.heads.remove(version)

    def _update_version(self, from_: str, to_: str) -> None:
        assert to_ not in self.heads
        self.heads.remove(from_)
        self.heads.add(to_)


def after(steps: Sequence[Any], heads: Sequence[str]) -> tuple[str, ...]:
    """The rows that Alembic leaves."""
    rows = Rows(heads)
    for step in steps:
        rows.update_to_step(step)
    return tuple(sorted(rows.heads))


Situation = tuple[History, tuple[str, ...], tuple[str, ...]]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """A history, the rows of a database somewhere in it, and a target."""
    chance = random.Random(draw(SEEDS))
    revisions = random_history(chance, draw(st.integers(1, 14)))
    history = history_of(revisions)
    current: tuple[str, ...] = ()
    if draw(st.booleans()):
        current = after(history.script._upgrade_revs((chance.choice(revisions).id,), ()), ())  # type: ignore[arg-type]
    return history, current, random_targets(chance, revisions)


def ids(steps: Sequence[Any]) -> list[str]:
    return [step.revision.revision for step in steps]


@given(situations())
def test_the_steps_are_those_of_alembic_in_its_order(
    situation: Situation,
) -> None:
    history, current, targets = situation
    try:
        expected = ids(history.script._upgrade_revs(targets, current))  # type: ignore[arg-type]
    except CommandError:
        try:
            goal = history.resolve(targets, current)
        except RunnerError:  # refused by both
            return
        assert len(goal) < len(targets)  # one contains the other, which then counts alone
        expected = ids(history.script._upgrade_revs(goal, current))  # type: ignore[arg-type]
    assert ids(history.upgrade_steps(history.resolve(targets, current), current)) == expected


@given(situations())
def test_after_the_steps_the_target_is_held_and_not_before(
    situation: Situation,
) -> None:
    history, current, targets = situation
    try:
        goal = history.resolve(targets, current)
        history.upgrade_steps(goal, current)
    except RunnerError:  # targets of which one contains the other, say; Alembic refuses them too
        return
    steps = history.upgrade_steps(goal, current)
    assert history.holds(current, goal) == (not steps)
    assert history.holds(after(steps, current), goal)
    for count in range(len(steps)):
        assert not history.holds(after(steps[:count], current), goal)


@given(situations())
def test_what_a_plan_says_of_the_end_are_the_rows_that_alembic_leaves(
    situation: Situation,
) -> None:
    history, current, _ = situation
    everything = history.upgrade_steps(history.resolve(("heads",), current), current)
    assert history.stored_heads() == after(everything, current)


@given(situations())
def test_a_plan_made_again_in_the_middle_goes_on_with_the_rest(
    situation: Situation,
) -> None:
    history, current, targets = situation
    try:
        goal = history.resolve(targets, current)
        history.upgrade_steps(goal, current)
    except RunnerError:  # targets of which one contains the other, say; Alembic refuses them too
        return
    steps = history.upgrade_steps(goal, current)
    for count in range(len(steps)):
        rest = history.upgrade_steps(goal, after(steps[:count], current))
        assert sorted(ids(rest)) == sorted(ids(steps[count:]))


@pytest.mark.parametrize(
    ("target", "goal", "fixed"),
    [
        ("-2", ("r1",), "r1"),
        ("-2", (), "base"),
        ("books@-1", ("r3",), "r3"),
        ("books@-1", (), "books@base"),
        ("books@base", (), "books@base"),
        ("r5-2", ("r3",), "r5-2"),
        ("base", (), "base"),
        ("r1", ("r1",), "r1"),
    ],
)
def test_a_relative_downgrade_can_be_said_so_that_it_means_the_same_later(
    target: str, goal: tuple[str, ...], fixed: str
) -> None:
    assert History.fixed(target, goal) == fixed
