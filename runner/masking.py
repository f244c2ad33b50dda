"""Keeps passwords, bound parameters and row values out of everything that is shown.

One place does it: the screen passes every text through a ``Masker`` on its way out. SQL literals are
masked where the statement is known, with ``sql_literals``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

_MASK = "***"
_LITERAL = re.compile(
    r"""
    \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ |           # PostgreSQL's dollar quotes
    [eExXbBnN]?'(?:[^'\\]|''|\\.)*(?:'|$) |     # strings; one that was cut off is masked to the end
    (?<![\w.$"`])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w"`])
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_DDL = re.compile(r"\s*(?:/\*.*?\*/\s*|--[^\n]*\n\s*)*(?:CREATE|ALTER|DROP|RENAME|TRUNCATE)\b", re.I | re.S)
_STRING_ONLY = re.compile(r"\$(\w*)\$.*?\$\1\$|[eExXbBnN]?'(?:[^'\\]|''|\\.)*(?:'|$)", re.DOTALL)

# What servers and SQLAlchemy put values into. Each keeps the words and loses the value.
_ROW_VALUES: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("Duplicate entry", re.compile(r"(Duplicate entry )'.*?'( for key)", re.S), r"\1?\2"),
    ("ncorrect ", re.compile(r"([Ii]ncorrect [\w ]*value: )'.*?'( for )", re.S), r"\1?\2"),
    ("Truncated incorrect", re.compile(r"(Truncated incorrect [\w ]*value: )'.*?'(?=$|[\"\s,)])"), r"\1?"),
    ("DETAIL:", re.compile(r"(DETAIL:\s*(?:Key \([^)]*\)=)?).*"), r"\1?"),
    ("Key (", re.compile(r"(Key \([^)]*\)=)\(.*?\)(?= (?:already|is |conflicts|not ))", re.S), r"\1(?)"),
    ("invalid input", re.compile(r"(invalid input (?:syntax|value) for [\w ]+: )\".*?\"", re.S), r"\1?"),
    ("out of range", re.compile(r"(value )\".*?\"( is out of range)", re.S), r"\1?\2"),
    ("Failing row", re.compile(r"(Failing row contains ).*"), r"\1?"),
    ("[parameters:", re.compile(r"\[parameters: .*?\](?=\n|$|\s*\(Background)", re.S), "[parameters: ?]"),
    ("CONTEXT:", re.compile(r"(CONTEXT:\s*).*"), r"\1?"),
)
_URL_PASSWORD = re.compile(r"(\w[\w+.-]*://[^\s:/@'\"]*:)[^\s/'\"]*(?=@)")
_SQL_PART = re.compile(r"\[SQL: (.*?)\](?=\n|$)", re.DOTALL)


def sql_literals(sql: str) -> str:
    """The statement with its literals as ``?``. Lengths and defaults of DDL stay: they are not data."""
    return (_STRING_ONLY if _IN_DDL.match(sql) else _LITERAL).sub("?", sql)


def row_values(text: str) -> str:
    """A server's or SQLAlchemy's message without the values of rows and parameters."""
    for word, pattern, instead in _ROW_VALUES:
        if word in text:
            text = pattern.sub(instead, text)
    if "[SQL:" in text:
        text = _SQL_PART.sub(lambda m: f"[SQL: {sql_literals(m.group(1))}]", text)
    return text


class Masker:
    """Replaces what must not be seen in every text that leaves the program.

    Secrets may be added while it runs: the URL of the Alembic config, a rotated password. Each is
    known as it is and as it may be written in a URL, in Python's ``repr`` and in JSON.
    """

    def __init__(self, *, values: bool = True) -> None:
        self.longest = 0
        self._values = values
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        """From now on, hide this. Very short ones are not hidden: they would blank out ordinary text."""
        if len(secret) < 3 or secret in self._secrets:  # noqa: PLR2004
            return
        forms: list[Callable[[str], str]] = [
            str,
            quote,
            quote_plus,
            lambda text: quote(text, safe=""),
            lambda text: quote(text, safe=" +"),  # as SQLAlchemy writes it
            lambda text: repr(text)[1:-1],
            lambda text: json.dumps(text)[1:-1],
        ]
        self._secrets |= {form(secret) for form in forms}
        self._secrets |= {form.replace("%", "%%") for form in self._secrets}  # as ConfigParser wants it
        by_length = sorted(self._secrets, key=len, reverse=True)
        self.longest = len(by_length[0])
        self._pattern = re.compile("|".join(map(re.escape, by_length)))

    def text(self, text: str) -> str:
        """The text without secrets and, unless told otherwise, without row values."""
        if self._pattern:
            text = self._pattern.sub(_MASK, text)
        if "://" in text:
            text = _URL_PASSWORD.sub(rf"\1{_MASK}", text)
        return row_values(text) if self._values else text

    def deep(self, value: Any) -> Any:
        """The same for every text inside lists and mappings."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (list, tuple)):
            return [self.deep(item) for item in value]
        if isinstance(value, dict):
            return {key: self.deep(item) for key, item in value.items()}
        return value
