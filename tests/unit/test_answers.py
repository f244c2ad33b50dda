"""What a query was answered is given again as it was, or is known to be another answer."""

from __future__ import annotations

import json
import sqlite3
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pymysql
import pytest

from runner.answers import Answer, brings_into_session, fingerprint_of, of_tables

NAMED = [("id", 3, None, None, None, None, None), ("what", None, None, None, None, None, None)]


class Cursor:
    """The driver's, which has nothing to say any more."""

    arraysize = 7


def again(rows: list[tuple[Any, ...]], room: int = 10_000) -> Answer:
    return Answer.read(Answer.of(NAMED, rows, room))


def test_rows_come_back_with_their_types_and_in_their_order() -> None:
    rows = [
        (1, None, True, 2.5, "é ✓ ' %", b"\x00\xff", Decimal("1.10")),
        (2, date(2026, 1, 2), datetime(2026, 1, 2, 3, 4, 5, 6), timedelta(hours=-25, microseconds=1), "", b"", -1),
    ]
    cursor = again(rows).cursor(Cursor())
    assert (cursor.rowcount, cursor.description[0][:2], cursor.arraysize) == (2, ("id", 3), 7)
    assert cursor.fetchone() == rows[0]
    assert cursor.fetchmany(5) == rows[1:]
    assert (cursor.fetchone(), cursor.fetchmany(), cursor.fetchall()) == (None, [], [])
    assert [[type(value) for value in row] for row in again(rows).cursor(Cursor()).fetchall()] == [
        [type(value) for value in row] for row in rows
    ]


def test_of_a_long_answer_it_is_known_whether_another_one_is_the_same() -> None:
    rows = [(number, "x" * 50) for number in range(1000)]
    answer = again(rows)
    assert answer.rows is None
    assert answer.sha256 == fingerprint_of(rows) != fingerprint_of(rows[::-1])


def test_values_that_no_text_can_hold_are_known_by_their_fingerprint() -> None:
    rows = [
        (
            1,
            {
                "a",
            },
        )
    ]
    assert again(rows).sha256 == fingerprint_of(rows)


@pytest.mark.parametrize(
    "error",
    [pymysql.err.ProgrammingError(1146, "Table 'a.b' doesn't exist"), sqlite3.OperationalError("no such table: b")],
)
def test_the_driver_s_error_comes_back_as_it_was(error: Exception) -> None:
    text = Answer.of_error(error)
    assert text
    found = Answer.read(text).error
    assert (type(found), found and found.args) == (type(error), error.args)


@pytest.mark.parametrize("error", [OverflowError("too large"), KeyboardInterrupt(), pymysql.err.Error(object())])
def test_an_error_that_could_not_be_made_again_is_not_kept(error: BaseException) -> None:
    assert Answer.of_error(error) is None


def test_a_record_that_names_something_else_than_an_error_of_a_driver_is_refused() -> None:
    for said in (
        ["os", "system", "true"],
        ["sqlite3", "connect", ":memory:"],
        ["subprocess", "CalledProcessError", 1, "x"],
    ):
        with pytest.raises(ValueError, match="is no driver's error"):
            Answer.read(json.dumps({"error": said}))


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT x FROM box", True),
        ("SELECT id FROM users WHERE email LIKE '%@old.com'", True),
        ("SELECT try_lock, `my@col` FROM box FOR UPDATE", True),
        ("SHOW FULL TABLES FROM `app`", True),
        ("DESCRIBE `app`.`box`", True),
        ('PRAGMA main.table_info("box")', True),
        ("SELECT LAST_INSERT_ID()", True),
        ("SELECT CONNECTION_ID()", False),
        ("SELECT GET_LOCK('a', 1) FROM dual", False),
        ("SELECT @@sql_mode FROM dual", False),
        ("SELECT SLEEP(1)", False),
    ],
)
def test_what_is_in_the_database_is_told_again_and_what_the_session_is_like_is_not(sql: str, told: bool) -> None:
    assert of_tables(sql) is told


@pytest.mark.parametrize(
    ("sql", "brings"),
    [
        ("SET @x = (SELECT max(x) FROM box)", True),
        ("SELECT x INTO @x FROM box", True),
        ("SELECT @x := x FROM box", True),
        ("CREATE TEMPORARY TABLE w AS SELECT * FROM box", True),
        ("INSERT INTO w SELECT x FROM box", True),
        ("SET @x = 'SELECT x FROM box'", False),
        ("SET @x = 1", False),
        ("CREATE TEMPORARY TABLE w (x INTEGER)", False),
        ("SELECT CONNECTION_ID()", False),
    ],
)
def test_what_takes_rows_out_of_the_database_into_the_session_is_seen(sql: str, brings: bool) -> None:
    assert brings_into_session(sql) is brings
