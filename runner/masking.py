"""Keeps passwords, bound parameters and row values out of everything that is shown.

One place does it: the screen passes every text through a ``Masker`` on its way out. SQL literals are
masked where the statement is known, with ``sql_literals``. Where a text is ambiguous, it loses more
rather than less.
"""

from __future__ import annotations

import base64
import itertools
import re
from typing import Any

_MASK = "***"
_SHORTEST = 3  # hiding shorter ones everywhere would blank out ordinary text
_SHORTEST_BASE64 = 8

# --- SQL ------------------------------------------------------------------------------------------

# Comments go too: an apostrophe in one would turn the quotes after it inside out, and where one server sees
# a comment another sees an operator. A literal that was cut off is masked to the end.
_DOUBLE = r'"(?:[^"\\]|""|\\.)*(?:"|\\?\Z)'
_QUOTED = rf"""
    (?P<dollar>\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z)) |
    (?P<string>[exbn]?'(?:[^'\\]|''|\\.)*(?:'|\\?\Z)) |
    (?P<comment>--[^\n]* | \#[^\n]* | /\*.*?(?:\*/|\Z)) |
    (?P<name>`[^`]*(?:`|\Z) | {_DOUBLE}(?=\s*\.) | (?:\.|\b(?:INTO|UPDATE|FROM|JOIN|TABLE|AS)\s)\s*{_DOUBLE}) |
    (?P<double>{_DOUBLE})  # a literal for MySQL, a name for others
    """
_NUMBER = r"""| (?P<number>(?<![\w.$"`])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w"`]))"""
_FLAGS = re.VERBOSE | re.DOTALL | re.IGNORECASE
_IN_DML = re.compile(_QUOTED + _NUMBER, _FLAGS)
_IN_DDL = re.compile(_QUOTED, _FLAGS)
_DDL = re.compile(
    r"\s*(?:/\*.*?\*/\s*|--[^\n]*\n\s*)*(?:CREATE|ALTER|DROP|RENAME|TRUNCATE|COMMENT)\b"
    r"(?!\s+(?:USER|ROLE|LOGIN|SERVER|SUBSCRIPTION)\b)",  # these have passwords in them
    re.IGNORECASE | re.DOTALL,
)
_ESCAPED_QUOTE = re.compile(r"""\\['"]""")


def sql_literals(sql: str) -> str:
    """The statement with its literals as ``?``. Lengths and defaults of DDL stay: they are not data."""
    ddl = bool(_DDL.match(sql))

    def instead(match: re.Match[str]) -> str:
        if match["name"] or (ddl and match["double"]):
            return match[0]
        if comment := match["comment"]:
            return "/* ? */" if comment.startswith("/*") else "-- ?"
        return "?"

    if _ESCAPED_QUOTE.search(sql):
        # MySQL goes on with the literal here, for others it ends: nobody can tell what follows.
        sql = sql[: re.search("['\"]", sql).start()] + "'"  # type: ignore[union-attr]
    return (_IN_DDL if ddl else _IN_DML).sub(instead, sql)


# --- messages -------------------------------------------------------------------------------------

# What servers and SQLAlchemy put values into. Each keeps the words and loses the value.
_END = r"""(?=\n|\\n|$|['"]|\s*\(Background)"""  # of a part of SQLAlchemy's message, also in a repr
_PARAMETERS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("[parameters:", re.compile(rf"\[parameters: (?:[^\n]*?\]{_END}|[^\n]*)"), "[parameters: ?]"),
    *(
        (word, re.compile(rf"(\[{word}[^\]\n]*\] )[^\n]+"), r"\1?")  # from the log of an engine with echo
        for word in ("generated in", "cached since", "no key", "raw sql", "caching disabled", "dialect ")
    ),
)
_Q, _QQ = r"\\*'", r'\\*"'  # in a repr they are escaped
_ROW_VALUES: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("Duplicate entry", re.compile(rf"(Duplicate entry ){_Q}.{{0,800}}?{_Q}( for key)", re.DOTALL), r"\1?\2"),
    ("ncorrect ", re.compile(rf"([Ii]ncorrect [\w ]*value: ){_Q}.{{0,800}}?{_Q}( for )", re.DOTALL), r"\1?\2"),
    ("incorrect", re.compile(rf"(Truncated incorrect [\w ]*value: ){_Q}[^\n]*?{_Q}(?=$|\n|[\\\"\s,)])"), r"\1?"),
    ("DETAIL:", re.compile(r"(DETAIL:\s*(?:Key \([^)]*\)=)?)[^\n]*"), r"\1?"),
    ("Key (", re.compile(r"(Key \([^)\n]*\)=)\(.{0,800}?\)(?= (?:already|is |conflicts|not ))", re.DOTALL), r"\1(?)"),
    ("invalid input", re.compile(rf"(invalid input (?:syntax|value) for [\w ]+: ){_QQ}[^\n]*{_QQ}"), r"\1?"),
    ("out of range", re.compile(rf"(value ){_QQ}[^\"\n]*\"( is out of range)"), r"\1?\2"),
    ("out of range:", re.compile(rf"(out of range: ){_QQ}[^\n]*{_QQ}"), r"\1?"),
    ("literal:", re.compile(rf"(literal: ){_QQ}[^\n]*{_QQ}"), r"\1?"),
    ("Failing row", re.compile(r"(Failing row contains )[^\n]*"), r"\1?"),
    ("CONTEXT:", re.compile(r"(CONTEXT:\s*)[^\n]*"), r"\1?"),
)
# Pieces of a statement, which begin at a word of it, or, after "...", anywhere.
_SQL_PARTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("[SQL:", re.compile(rf"(?<=\[SQL: )(.*?)(?=\]{_END}|\Z)", re.DOTALL)),
    (
        "to use near",
        re.compile(r"(?:(?<=to use near ')|(?<=to use near \\'))(.*?)(?=\\*' at line \d|\Z)", re.DOTALL),
    ),
    ("LINE ", re.compile(r"(?<=LINE \d: )([^\n]*?)(?=\n|\s+\^|$)")),
    ('near "', re.compile(r"(?<=near \")('[^\n]*?)(?=\": syntax error)")),
)
# The user may be missing. "(?<!…)" keeps a long word from being looked at again from each of its letters.
_URL_PASSWORD = re.compile(r"((?<![\w+.-])\w[\w+.-]*://[^\s:/@'\"]*:)[^\s/'\"]*(?=@)")


def row_values(text: str) -> str:
    """A server's or SQLAlchemy's message without the values of rows, and without literals."""
    for word, pattern, instead in _ROW_VALUES:
        if word in text:
            text = pattern.sub(instead, text)
    for word, part in _SQL_PARTS:
        if word in text:
            text = part.sub(lambda m: "?" if m[0].startswith("...") else sql_literals(m[0]), text)
    return text


def _parameters(text: str) -> str:
    for word, pattern, instead in _PARAMETERS:
        if word in text:
            text = pattern.sub(instead, text)
    return text


# --- passwords ------------------------------------------------------------------------------------


_PERCENT = "%{1,2}(?:25){0,3}"
_ESCAPE = rf"(?:\\|{_PERCENT}5c)"


def _in_any_writing(secret: str) -> str:
    """A pattern for the text as it is and as URLs, ConfigParser, repr, JSON, SQL and shells write it, also mixed."""
    return "".join(_letters(letter, len(list(same))) for letter, same in itertools.groupby(secret))


def _letters(letter: str, count: int) -> str:
    if letter.isascii() and (letter.isalnum() or letter in "_.-~"):
        return re.escape(letter * count)
    if letter in "%\\":  # each also escapes itself; a run is one repetition, which cannot be tried in many ways
        again = {"%": r"(?:\\?%|25)", "\\": r"(?:\\|%|25|5[cC])"}[letter]
        return f"{again}{{{count},{8 * count}}}"
    octets = letter.encode("utf-8", "surrogatepass")
    utf_16 = letter.encode("utf-16-be", "surrogatepass").hex()
    ways = [
        rf"{_ESCAPE}{{0,4}}{re.escape(letter)}",
        "".join(f"{_PERCENT}{octet:02x}" for octet in octets),  # URLs
        rf"{_ESCAPE}{{1,4}}{_PERCENT}{octets[0]:02x}",  # what was escaped, in a URL
        "".join(rf"{_ESCAPE}{{1,4}}x{octet:02x}" for octet in octets),  # repr of bytes
        "".join(rf"{_ESCAPE}{{1,4}}u{utf_16[i : i + 4]}" for i in range(0, len(utf_16), 4)),  # JSON
        rf"{_ESCAPE}{{1,4}}(?:x{ord(letter):02x}|U{ord(letter):08x})",  # ascii()
    ]
    ways += {" ": [r"\+"], "\n": [rf"{_ESCAPE}{{1,4}}n"], "\t": [rf"{_ESCAPE}{{1,4}}t"]}.get(letter, [])
    doubled = 2 if letter in "'\"" else 1
    return f"(?i:{'|'.join(ways)}){{{count},{doubled * count}}}"


def _in_base64(secret: str) -> list[str]:
    """Patterns for the part of any base64 text that this secret alone decides, at each of the three offsets."""
    octets = secret.encode("utf-8", "surrogatepass")
    found = []
    for offset, first in ((0, 0), (1, 2), (2, 3)):
        text = base64.b64encode(bytes(offset) + octets).decode()[first : (8 * (offset + len(octets))) // 6]
        if len(text) >= _SHORTEST_BASE64:
            found.append("".join({"+": "[-+]", "/": "[/_]"}.get(letter, letter) for letter in text))
    return found


class Masker:
    """Replaces what must not be seen in every text that leaves the program.

    Secrets may be added while it runs: the URL of the Alembic config, a rotated password.
    """

    def __init__(self, *, values: bool = True) -> None:
        self.longest = 0  # of what can stand for a secret, in characters
        self._values = values
        self._patterns: dict[str, re.Pattern[str]] = {}  # by secret

    def add(self, secret: str) -> None:
        """From now on, hide this. Very short ones are hidden in URLs only."""
        if len(secret) < _SHORTEST or secret in self._patterns:
            return
        self.longest = max(self.longest, 12 * len(secret.encode("utf-8", "surrogatepass")))
        self._patterns[secret] = re.compile("|".join([_in_any_writing(secret), *_in_base64(secret)]))
        # The longest first: another may be a part of it.
        self._patterns = dict(sorted(self._patterns.items(), key=lambda item: -len(item[0])))

    def text(self, text: str) -> str:
        """The text without secrets and parameters and, unless told otherwise, without row values."""
        for pattern in self._patterns.values():
            text = pattern.sub(_MASK, text)
        if "://" in text:
            text = _URL_PASSWORD.sub(rf"\1{_MASK}", text)
        if "[" in text:
            text = _parameters(text)
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
