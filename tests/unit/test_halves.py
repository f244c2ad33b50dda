"""Whether a DDL statement was executed, by what the database says of its objects before and now."""

from __future__ import annotations

import pytest

from runner.halves import happened

BOX = (
    "CREATE TABLE `box` (\n  `id` int(11) NOT NULL,\n  `x` int(11) DEFAULT NULL,\n  PRIMARY KEY (`id`)\n) ENGINE=InnoDB"
)
WITH_Y = BOX.replace("  PRIMARY", "  `y` int(11) DEFAULT NULL,\n  PRIMARY")
WITH_Z = WITH_Y.replace("`y`", "`z`")
WITH_INDEX = BOX.replace("(`id`)\n", "(`id`),\n  KEY `ix` (`x`)\n")
WITHOUT_X = BOX.replace("  `x` int(11) DEFAULT NULL,\n", "")
RENAMED_X = BOX.replace("`x`", "`group`")

ADD_Y = "ALTER TABLE box ADD COLUMN y INTEGER"
INDEX = "CREATE INDEX ix ON box (x)"

Definitions = dict[str, "str | None"]


@pytest.mark.parametrize(
    ("sql", "before", "now"),
    [
        ("CREATE TABLE box (id INTEGER)", {"TABLE box": None}, {"TABLE box": BOX}),
        ("DROP TABLE box", {"TABLE box": BOX}, {"TABLE box": None}),
        ("DROP TABLE box, lid", {"TABLE box": BOX, "TABLE lid": BOX}, {"TABLE box": None, "TABLE lid": None}),
        (ADD_Y, {"TABLE box": BOX}, {"TABLE box": WITH_Y}),
        ("ALTER TABLE box DROP COLUMN x", {"TABLE box": BOX}, {"TABLE box": WITHOUT_X}),
        ("ALTER TABLE box CHANGE x `group` INTEGER", {"TABLE box": BOX}, {"TABLE box": RENAMED_X}),
        (INDEX, {"TABLE box": BOX}, {"TABLE box": WITH_INDEX}),
        ("DROP INDEX ix ON box", {"TABLE box": WITH_INDEX}, {"TABLE box": BOX}),
        ("RENAME TABLE box TO lid", {"TABLE box": BOX, "TABLE lid": None}, {"TABLE box": None, "TABLE lid": BOX}),
    ],
)
def test_what_was_created_dropped_or_renamed_was_executed(sql: str, before: Definitions, now: Definitions) -> None:
    assert happened(before, now, sql) is True
    assert happened(before, before, sql) is False, "nothing changed, so it was not"


@pytest.mark.parametrize(
    ("sql", "before", "now"),
    [
        (ADD_Y, {"TABLE box": BOX}, {"TABLE box": WITH_Z}),
        (ADD_Y, {"TABLE box": BOX}, {"TABLE box": WITH_INDEX}),
        (INDEX, {"TABLE box": BOX}, {"TABLE box": WITH_Y}),
        ("RENAME TABLE box TO lid", {"TABLE box": BOX, "TABLE lid": None}, {"TABLE box": None, "TABLE lid": None}),
        ("DROP TABLE box, lid", {"TABLE box": BOX, "TABLE lid": BOX}, {"TABLE box": None, "TABLE lid": BOX}),
        (INDEX, {"INDEX ix": None}, {"INDEX ix": "`ix` CREATE INDEX ix ON box USING btree (x) INVALID"}),
        ("something else", None, {"TABLE box": BOX}),
        (ADD_Y, {"TABLE box": BOX}, None),
        (ADD_Y, {"TABLE box": BOX}, {"TABLE lid": BOX}),
    ],
)
def test_a_change_that_another_hand_may_have_made_decides_nothing(
    sql: str, before: Definitions | None, now: Definitions | None
) -> None:
    assert happened(before, now, sql) is None


def test_both_a_change_of_the_statement_s_and_another_decide_nothing() -> None:
    both = WITH_Y.replace("  PRIMARY", "  `z` int(11) DEFAULT NULL,\n  PRIMARY")
    assert happened({"TABLE box": BOX}, {"TABLE box": both}, ADD_Y) is None
