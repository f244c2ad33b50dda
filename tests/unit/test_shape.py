"""What differs between two schemas, and what the branches of a history make together."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from runner.database import DIALECTS
from runner.shape import Column, Shape, Table, differences, distance, read
from runner.states import possible


def shape_of(*statements: str) -> Shape:
    """The schema that these statements make, as it is read from SQLite."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        for sql in statements:
            connection.exec_driver_sql(sql)
        return read(connection, (), without="alembic_version")


PARENT = "CREATE TABLE p (id INTEGER PRIMARY KEY)"
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a VARCHAR(5) NOT NULL DEFAULT 'x', b INTEGER{}\n)"


def test_the_same_statements_make_the_same_schema() -> None:
    assert differences(shape_of(PARENT, TABLE.format("")), shape_of(PARENT, TABLE.format(""))) == []


def test_the_version_table_is_no_part_of_a_schema() -> None:
    assert shape_of("CREATE TABLE Alembic_Version (version_num VARCHAR(32))") == {}


@pytest.mark.parametrize(
    ("live", "operation", "name", "there", "should"),
    [
        (TABLE.format(", c INTEGER"), "remove_column", "c", "INTEGER", None),
        (TABLE.format("").replace(", b INTEGER", ""), "add_column", "b", None, "INTEGER"),
        (TABLE.format("").replace("(5)", "(6)"), "modify_type", "a", "VARCHAR(6)", "VARCHAR(5)"),
        (TABLE.format("").replace(" NOT NULL", ""), "modify_nullable", "a", "NULL", "NOT NULL"),
        (TABLE.format("").replace("'x'", "'y'"), "modify_default", "a", "'y'", "'x'"),
        (TABLE.format(", UNIQUE (b)"), "remove_constraint", None, "UNIQUE (b)", None),
        (TABLE.format(", CONSTRAINT c CHECK (b  > 0)"), "remove_constraint", "c", "CHECK (b > 0)", None),
        (
            TABLE.format(", FOREIGN KEY (b) REFERENCES p (id) ON DELETE CASCADE"),
            "remove_fk",
            None,
            "FOREIGN KEY (b) REFERENCES p (id) ONDELETE CASCADE",
            None,
        ),
    ],
)
def test_each_difference_is_what_would_have_to_be_done(
    live: str, operation: str, name: str | None, there: str | None, should: str | None
) -> None:
    is_, wanted = shape_of(PARENT, live), shape_of(PARENT, TABLE.format(""))
    (found,) = differences(is_, wanted)
    assert (found.operation, found.table, found.object) == (operation, "t", name)
    assert (found.database, found.models) == (there, should)
    assert distance(is_, wanted) == distance(wanted, is_) == 1


def test_a_missing_table_is_one_difference_and_far_away() -> None:
    few, many = shape_of(PARENT), shape_of(PARENT, TABLE.format(""))
    assert [found.operation for found in differences(few, many)] == ["add_table"]
    assert [found.operation for found in differences(many, few)] == ["remove_table"]
    assert distance(few, many) == distance(many, few) == 5  # itself, three columns, the key


def test_what_constraints_and_indexes_are_called_does_not_matter_and_what_they_say_does() -> None:
    one = shape_of(TABLE.format(", CONSTRAINT x UNIQUE (b)"), "CREATE INDEX i ON t (a)")
    two = shape_of(TABLE.format(", UNIQUE (b)"), "CREATE INDEX j ON t (a)")
    unique = shape_of(TABLE.format(", UNIQUE (b)"), "CREATE UNIQUE INDEX j ON t (a)")
    twice = shape_of(TABLE.format(", UNIQUE (b)"), "CREATE INDEX j ON t (a)", "CREATE INDEX k ON t (a)")
    assert differences(one, two) == []
    assert {found.operation for found in differences(one, unique)} == {"add_index", "remove_index"}
    assert [found.operation for found in differences(one, twice)] == ["add_index"]


@pytest.mark.parametrize(("version", "product"), [("8.0.36", "MySQL"), ("10.11.6-MariaDB-0+deb12u1", "MariaDB")])
def test_mysql_and_mariadb_are_told_apart(version: str, product: str) -> None:
    assert DIALECTS["mysql"].product(lambda _: [(version,)]) == product


# --- the states of a history --------------------------------------------------------------------------


def table(*columns: str) -> Table:
    return Table({name: Column("INTEGER", True, None) for name in columns})


FORK = {"r1": (), "l2": ("r1",), "m2": ("r1",), "z3": ("l2", "m2")}


def states(replayed: list[tuple[str, Any]], **more: Any) -> dict[str, Shape]:
    found = possible(replayed, lambda revision: FORK[revision], **more)
    return {" ".join(sorted(state.applied)): state.shape for state in found}


def test_a_branch_that_was_replayed_after_another_is_known_without_it() -> None:
    u = table("id")
    found = states(
        [
            ("r1", {"t": table("a")}),
            ("l2", {"t": table("a", "left"), "u": u}),
            ("m2", {"t": table("a", "left", "right"), "u": u}),
            ("z3", {"t": table("a", "left", "right", "z"), "u": u}),
        ]
    )
    assert list(found) == ["", "r1", "l2 r1", "m2 r1", "l2 m2 r1", "l2 m2 r1 z3"]
    assert found["m2 r1"] == {"t": table("a", "right")}
    assert found["l2 m2 r1"] == {"t": table("a", "left", "right"), "u": u}


def test_two_branches_that_change_the_same_are_known_as_they_ran_only() -> None:
    wide = Table({"a": Column("BIGINT", True, None)})
    text = Table({"a": Column("TEXT", True, None)})
    found = states([("r1", {"t": table("a")}), ("l2", {"t": wide}), ("m2", {"t": text})])
    assert list(found) == ["", "r1", "l2 r1", "l2 m2 r1"]


def test_with_too_many_branches_only_what_was_gone_through_is_known() -> None:
    same = {"t": table("a")}
    found = states([("r1", same), ("l2", same), ("m2", same)], most=3)
    assert list(found) == ["", "r1", "l2 r1", "l2 m2 r1"]
