"""What a statement leaves behind, told by its first word."""

from __future__ import annotations

import pytest
from alembic_job.statements import kind_of
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
