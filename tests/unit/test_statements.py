"""What a statement leaves behind, told by its first word."""

from __future__ import annotations

import pytest
from alembic_job.statements import kind_of, objects
from hypothesis import given
from hypothesis import strategies as st

KINDS = {
    "SELECT 1": "read",
    "  select 1": "read",
    "(SELECT 1) UNION (SELECT 2)": "read",
    "EXPLAIN DELETE FROM t": "read",
    "WITH a AS (SELECT 1) SELECT * FROM a": "read",
    "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a": "dml",
    "INSERT INTO t VALUES (1)": "dml",
    "REPLACE INTO t VALUES (1)": "dml",
    "LOAD DATA INFILE 'x' INTO TABLE t": "dml",
    "CALL p()": "dml",
    "CREATE TABLE t (a INT)": "ddl",
    "ALTER TABLE t ADD a INT": "ddl",
    "TRUNCATE t": "ddl",
    "GRANT SELECT ON t TO a": "ddl",
    "WHATEVER": "ddl",
    "": "ddl",
    "CREATE TEMPORARY TABLE t (a INT)": "session",
    "CREATE TEMP TABLE t (a INT)": "session",
    "DROP TEMPORARY TABLE t": "session",
    "CREATE TABLE temporary (a INT)": "ddl",
    "SET lock_timeout = 5": "session",
    "SAVEPOINT a": "session",
    "ROLLBACK TO SAVEPOINT a": "session",
    "ROLLBACK": "rollback",
    "COMMIT": "commit",
    "BEGIN": "lock",
    "LOCK TABLES t WRITE": "lock",
}
COMMENTS = ["", "-- a\n", "# a\n", "/* INSERT */ ", "/*+ hint */", "\n\t-- SELECT\n/* x */\n"]


@pytest.mark.parametrize(("sql", "kind"), KINDS.items())
def test_the_first_word_tells_the_kind(sql: str, kind: str) -> None:
    assert kind_of(sql) == kind


@given(sql=st.sampled_from(sorted(KINDS)), comments=st.lists(st.sampled_from(COMMENTS), max_size=3))
def test_comments_before_it_change_nothing(sql: str, comments: list[str]) -> None:
    assert kind_of("".join(comments) + sql) == KINDS[sql]


def test_a_comment_that_mysql_executes_counts() -> None:
    assert kind_of("/*!40101 SET NAMES utf8 */") == "session"
    assert kind_of("/*!50001 CREATE TABLE t (a INT) */") == "ddl"


@given(st.text())
def test_no_text_is_beyond_it(sql: str) -> None:
    assert kind_of(sql) in {"read", "session", "dml", "ddl", "commit", "rollback", "lock"}


@pytest.mark.parametrize(
    ("sql", "about"),
    [
        ("CREATE TABLE `order` (`select` INTEGER)", [("TABLE", "`order`")]),
        ("CREATE TABLE t (a TEXT DEFAULT 'select; drop')", [("TABLE", "t")]),
        ("ALTER TABLE box ADD COLUMN `key; drop` INTEGER", [("TABLE", "box")]),
        ('ALTER TABLE box ADD COLUMN "key; drop" INTEGER;', [("TABLE", "box")]),
        ("CREATE INDEX `the index` ON box (x)", [("INDEX", "`the index`"), ("TABLE", "box")]),
        ("ALTER TABLE a RENAME TO b", [("TABLE", "a"), ("TABLE", "b")]),
        ("RENAME TABLE a TO b, b TO `c d`", [("TABLE", "a"), ("TABLE", "b"), ("TABLE", "b"), ("TABLE", "`c d`")]),
    ],
)
def test_what_ddl_is_about_is_told_whatever_is_quoted_in_it(sql: str, about: list[tuple[str, str]]) -> None:
    assert objects(sql) == about


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE a SELECT 1",
        "CREATE TABLE a AS SELECT 'x'",
        "CREATE TABLE a (x TEXT DEFAULT '\\'') SELECT ';'",
        "ALTER TABLE a ADD x INTEGER; DROP TABLE b",
        "GRANT SELECT ON a TO b",
    ],
)
def test_what_cannot_be_looked_up_as_one_is_about_nothing(sql: str) -> None:
    assert objects(sql) is None
