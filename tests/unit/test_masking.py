"""No secret and no row value survives, however it is written."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from alembic_job.masking import Masker, row_values, sql_literals
from hypothesis import example, given
from hypothesis import strategies as st

from tests.databases import AWKWARD_PASSWORD

# "*" is what a secret turns into; a control character or a surrogate is in no password.
LETTERS = st.characters(exclude_characters="*", exclude_categories=("Cc", "Cs"))
SECRETS = st.text(LETTERS, min_size=3, max_size=20)
WAYS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in a URL": lambda text: quote(text, safe=""),
    "in a path": quote,
    "in a form": quote_plus,
    "as SQLAlchemy writes it": lambda text: quote(text, safe=" +"),
    "for ConfigParser": lambda text: text.replace("%", "%%"),
    "repr": lambda text: repr(text)[1:-1],
    "repr of bytes": lambda text: repr(text.encode())[2:-1],
    "ascii": lambda text: ascii(text)[1:-1],
    "in JSON": lambda text: json.dumps(text)[1:-1],
    "in readable JSON": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "in SQL": lambda text: text.replace("'", "''"),
    "in MySQL": lambda text: text.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"'),
    "in a shell": lambda text: re.sub(r"([^\w.~-])", r"\\\1", text),
}


def masked(secret: str, text: str) -> str:
    masker = Masker()
    masker.add(secret)
    return masker.text(text)


@pytest.mark.parametrize("way", WAYS)
@given(secret=SECRETS, before=st.text(LETTERS, max_size=5), after=st.text(LETTERS, max_size=5))
@example(secret=AWKWARD_PASSWORD["postgresql"], before="", after="")
@example(secret="%%%\\\\\\'''\"\"\"", before="", after="")
def test_a_secret_never_survives(way: str, secret: str, before: str, after: str) -> None:
    written = WAYS[way](secret)
    text = masked(secret, f"{before} {written} {after}")
    assert written not in text
    assert secret not in text


@given(
    word=st.text("QXZJ", min_size=6, max_size=12),
    special=st.text(LETTERS, max_size=5),
    ways=st.lists(st.sampled_from(["in a URL", "for ConfigParser", "repr", "in JSON"]), max_size=2),
)
@example(word="QXZJQX", special=AWKWARD_PASSWORD["postgresql"], ways=["in a URL", "repr"])
@example(word="QXZJQX", special='it\'s "so"\\', ways=["repr", "in JSON"])
def test_a_secret_never_survives_what_is_written_twice(word: str, special: str, ways: list[str]) -> None:
    secret = text = word + special + word
    for way in ways:
        text = WAYS[way](text)
    assert word not in masked(secret, f"{{'value': '{text}'}}")


@given(secret=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=9), before=st.binary(max_size=9))
def test_a_secret_never_survives_in_base64(secret: str, before: bytes) -> None:
    text = base64.b64encode(before + secret.encode() + b"@host").decode()
    left = masked(secret, text)
    assert left != text
    for piece in left.split("***"):
        for start in range(4):
            assert secret.encode() not in base64.b64decode(piece[start : start + (len(piece) - start) // 4 * 4])


def test_ordinary_text_stays() -> None:
    text = "Created 3 tables in 0.5 s: http://docs.example/a?b=c, user@example.com, it's 100 %."
    assert masked("correct-horse", text) == text


@pytest.mark.parametrize("secret", ["", "x", "xy"])
def test_a_very_short_secret_is_hidden_in_urls_and_leaves_other_text_alone(secret: str) -> None:
    assert masked(secret, f"mysql://app:{secret}@host/xyz is xyz") == "mysql://app:***@host/xyz is xyz"


def test_a_password_of_a_url_is_hidden_though_nobody_told_it() -> None:
    text = "postgresql+psycopg://app:s3cret@db/x and redis://:other@cache/0"
    assert masked("unknown", text) == "postgresql+psycopg://app:***@db/x and redis://:***@cache/0"


def test_the_longer_of_two_secrets_is_hidden_as_a_whole() -> None:
    masker = Masker()
    for secret in ("abc", "abcdef", "cde"):
        masker.add(secret)
    assert masker.text("abcdef abc cde") == "*** *** ***"


def test_masking_goes_into_lists_and_mappings() -> None:
    masker = Masker()
    masker.add("s3cret")
    assert masker.deep({"a": ["s3cret", {"b": "x s3cret"}], "n": 1}) == {"a": ["***", {"b": "x ***"}], "n": 1}


STRINGS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",), exclude_characters="\\"), max_size=12)
QUOTED: dict[str, Callable[[str], str]] = {
    "single quotes": lambda text: "'" + text.replace("'", "''") + "'",
    "backslashes": lambda text: "'" + text.replace("'", "\\'") + "'",
    "an escape string": lambda text: "E'" + text.replace("'", "\\'") + "'",
    "double quotes": lambda text: '"' + text.replace('"', '""') + '"',
    "dollars": lambda text: f"$tag${text}$tag$",
}


@given(
    values=st.lists(st.tuples(st.sampled_from(sorted(QUOTED)), STRINGS), min_size=1, max_size=4),
    comment=st.sampled_from(["", "-- it's\n", '/* "so" it\'s */', "# don't\n"]),
    cut=st.integers(min_value=0, max_value=3),
)
@example(values=[("single quotes", "C:\\"), ("single quotes", "")], comment="", cut=0)
def test_no_literal_survives_in_a_statement(values: list[tuple[str, str]], comment: str, cut: int) -> None:
    said = ", ".join(QUOTED[way](f"secret{text}secret") for way, text in values)
    statement = f"{comment}INSERT INTO t (a, b) VALUES ({said}, 4711)"
    shown = sql_literals(statement[: len(statement) - cut])
    assert "secret" not in shown
    assert "471" not in shown


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("UPDATE t SET a = -1.5e3, b = %(b)s, c2 = $1 WHERE d=:d", "UPDATE t SET a = ?, b = %(b)s, c2 = $1 WHERE d=:d"),
        ('INSERT INTO "user" ("user".a) SELECT `it\'s`, \'x\'', 'INSERT INTO "user" ("user".a) SELECT `it\'s`, ?'),
        ("CREATE TABLE t (a VARCHAR(50) DEFAULT 'x')", "CREATE TABLE t (a VARCHAR(50) DEFAULT ?)"),
        ('ALTER TABLE "t" ADD "order" INTEGER DEFAULT 1', 'ALTER TABLE "t" ADD "order" INTEGER DEFAULT 1'),
        ('CREATE USER app IDENTIFIED BY "pass"', "CREATE USER app IDENTIFIED BY ?"),
        ("SELECT 'cut off", "SELECT ?"),
    ],
)
def test_a_statement_keeps_what_is_no_data(statement: str, shown: str) -> None:
    assert sql_literals(statement) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Duplicate entry 'Bo's-4711' for key 'name'", "Duplicate entry ? for key 'name'"),
        ("Incorrect integer value: 'Bo' for column `a`", "Incorrect integer value: ? for column `a`"),
        ("Truncated incorrect DOUBLE value: 'Bo'", "Truncated incorrect DOUBLE value: ?"),
        (
            "the right syntax to use near 'AD COLUMN a DEFAULT 'Bo'' at line 1",
            "the right syntax to use near 'AD COLUMN a DEFAULT ?' at line 1",
        ),
        ("violates x\nDETAIL:  Key (email)=(bo@x) already exists.", "violates x\nDETAIL:  Key (email)=?"),
        (repr("Duplicate entry 'Bo's' for key \"a\""), "'Duplicate entry ? for key \"a\"'"),
        ("violates x DETAIL: Failing row contains (1, bo).", "violates x DETAIL: ?"),
        ('invalid input syntax for type integer: "bo"', "invalid input syntax for type integer: ?"),
        ('date/time field value out of range: "bo"', "date/time field value out of range: ?"),
        ('value "99999999999" is out of range for type integer', "value ? is out of range for type integer"),
        (
            "syntax error at or near \"x\"\nLINE 1: INSERT INTO t VALUES ('bo' x)\n   ^",
            'syntax error at or near "x"\nLINE 1: INSERT INTO t VALUES (? x)\n   ^',
        ),
        ("LINE 1: ...bo', 'bo')", "LINE 1: ?"),
        ("near \"'bo'\": syntax error", 'near "?": syntax error'),
        (
            "[SQL: INSERT INTO t\nVALUES (%(id)s, 'bo')]\n(Background on this error)",
            "[SQL: INSERT INTO t\nVALUES (%(id)s, ?)]\n(Background on this error)",
        ),
    ],
)
def test_a_servers_message_loses_the_values_and_keeps_the_words(message: str, shown: str) -> None:
    assert row_values(message) == shown


@pytest.mark.parametrize("written", [str, repr, json.dumps])
@pytest.mark.parametrize("values", [True, False])
def test_bound_parameters_are_never_shown(written: Callable[[str], str], values: bool) -> None:
    for text in (
        "[SQL: INSERT]\n[parameters: {'name': 'bo]und'}]\n(Background on this error at: x)",
        "x\n[parameters: ('bound', [1])] and more",
        "sqlalchemy.engine [generated in 0.00012s] ('bound',)",
        "[cached since 0.1s ago] {'a': 'bound'}",
    ):
        assert "und" not in Masker(values=values).text(written(text)).replace("(Background", "")


def test_values_stay_where_the_user_wants_full_statements() -> None:
    assert Masker(values=False).text("Duplicate entry 'bo' for key 'name'") == "Duplicate entry 'bo' for key 'name'"


def test_a_value_that_never_ends_takes_no_lines_with_it() -> None:
    text = 'value "a" was set\n' + "line\n" * 1000 + 'value "b" is out of range'
    assert row_values(text) == text.replace('"b"', "?")
