"""What is true of the rows of runs that are gone."""

from __future__ import annotations

import pytest

from runner.ledger import Entry
from runner.settling import settled
from tests.job import creates, linear
from tests.unit.test_planning import history_of

HISTORY = history_of([*linear(3), creates("b", "b1", "r1")])


def row(
    revision: str, status: str = "started", direction: str = "upgrade", parents: tuple[str, ...] | None = ()
) -> Entry:
    return Entry(
        run_id="gone", number=1, version_table="alembic_version", version_schema=None, command=None,
        direction=direction, revision=revision, parents=parents, depends_on=(), summary=None, path=None, sha256=None,
        status=status, code=None, error=None, reason=None, started=None, ended=None, duration_s=None, image=None,
        pod=None, hostname=None, db_user=None, runner_version=None, session=None,
    )  # fmt: skip


def told(rows: tuple[str, ...], *entries: Entry) -> list[tuple[str, bool]]:
    return [(entry.revision, done) for entry, done in settled(HISTORY, entries, rows)]


@pytest.mark.parametrize("status", ["started", "executed"])
def test_what_the_version_table_contains_was_done(status: str) -> None:
    assert told(("r3",), row("r1", status), row("r3", status), row("b1", status)) == [
        ("r1", True),
        ("r3", True),
        ("b1", False),
    ]


@pytest.mark.parametrize("status", ["committed", "rolled_back", "failed", "abandoned", "whatever"])
def test_what_has_an_end_is_left_alone(status: str) -> None:
    assert told(("r1",), row("r1", status)) == []


def test_a_downgrade_was_done_when_the_revision_is_not_there() -> None:
    assert told(("r1",), row("r2", direction="downgrade"), row("r1", direction="downgrade")) == [
        ("r2", True),
        ("r1", False),
    ]


def test_what_began_later_tells_how_it_was_before() -> None:
    assert told(("r2",), row("r2"), row("r2", "committed"))[:1] == [("r2", False)]
    assert told((), row("r2"), row("r2", "committed", "downgrade"))[:1] == [("r2", True)]


def test_a_mark_was_set_when_the_database_is_there() -> None:
    assert told(("r2",), row("r2", direction="stamp"), row("base", direction="stamp")) == [
        ("r2", True),
        ("base", False),
    ]
    assert told((), row("base", direction="stamp")) == [("base", True)]


def test_what_was_marked_later_leaves_it_open() -> None:
    assert told(("r2",), row("r2"), row("r2", "committed", "stamp")) == []


def test_the_ledger_leads_through_revisions_that_are_not_here() -> None:
    known = row("n2", "committed", parents=("n1",)), row("n1", "committed", parents=("r2",))
    assert told(("n2",), *known, row("n1"), row("r2"), row("r3")) == [("n1", True), ("r2", True), ("r3", False)]


def test_what_lies_behind_a_revision_that_nobody_knows_is_left_alone() -> None:
    assert told(("n2",), row("r2")) == []
    assert told(("n2",), row("n2", "committed", parents=None), row("r2")) == []
    assert told(("n2", "r3"), row("r2")) == [("r2", True)]
