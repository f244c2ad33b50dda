"""What kind of statement this is: enough to know what a failed revision leaves behind."""

from __future__ import annotations

import re
from typing import Literal

from .masking import sql_literals

# "lock": BEGIN, LOCK TABLES and the like. On MySQL they commit what came before, and leave nothing themselves.
Kind = Literal["read", "session", "dml", "ddl", "commit", "rollback", "lock"]

_COMMENTS = re.compile(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|\#[^\n]*(?:\n|\Z)|/\*(?!!).*?\*/|/\*!\d*|\()*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+")
_WRITES = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE)\b", re.IGNORECASE)
_TEMPORARY = re.compile(
    r"(?:CREATE|DROP)\s+(?:OR\s+REPLACE\s+)?(?:LOCAL\s+|GLOBAL\s+)?TEMP(?:ORARY)?\s+TABLE\s+"
    r"(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(?P<name>[^\s(]+)",
    re.IGNORECASE,
)
_WRITTEN = re.compile(
    r"(?:INSERT|REPLACE|UPDATE|DELETE)\s+(?:(?:LOW_PRIORITY|HIGH_PRIORITY|DELAYED|QUICK|IGNORE|ONLY|INTO|FROM|OR\s+\w+)\s+)*"
    r"(?P<name>[^\s(]+)",
    re.IGNORECASE,
)
_SAVEPOINT = re.compile(r"SAVEPOINT\s+(?P<name>[^\s;]+)", re.IGNORECASE)
_BACK_TO = re.compile(r"ROLLBACK\s+(?:WORK\s+|TRANSACTION\s+)?TO\s+(?:SAVEPOINT\s+)?(?P<name>[^\s;]+)", re.IGNORECASE)
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("SELECT", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "VALUES", "TABLE", "CHECK"), "read"),
    **dict.fromkeys(("SET", "USE", "PRAGMA", "SAVEPOINT", "RELEASE", "KILL", "RESET", "ATTACH", "DETACH"), "session"),
    **dict.fromkeys(("PREPARE", "DEALLOCATE", "DECLARE", "FETCH", "MOVE", "CLOSE", "LISTEN", "UNLISTEN"), "session"),
    **dict.fromkeys(("INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "COPY", "LOAD"), "dml"),
    **dict.fromkeys(("CALL", "DO", "EXECUTE"), "dml"),  # whatever they do, they need not commit
    **dict.fromkeys(("COMMIT", "END"), "commit"),
    **dict.fromkeys(("BEGIN", "START", "LOCK", "UNLOCK"), "lock"),
    **dict.fromkeys(("ROLLBACK", "ABORT"), "rollback"),
    **dict.fromkeys(("CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME", "GRANT", "REVOKE", "COMMENT"), "ddl"),
}
_STRONGEST: tuple[Kind, ...] = ("ddl", "dml", "commit", "rollback", "lock")


_PART = r"""(?:`[^`]+`|"[^"]+"|\[[^\]]+\]|[\w$]+)"""
_NAME = rf"(?!ON\b){_PART}(?:\s*\.\s*{_PART})*"
_OBJECT = r"(?P<kind>TABLE|VIEW|SEQUENCE|TRIGGER|PROCEDURE|FUNCTION|EVENT|TYPE|INDEX)"
_ABOUT = re.compile(
    rf"(?:CREATE|ALTER|DROP)\s+(?:(?:OR\s+REPLACE|UNIQUE|FULLTEXT|SPATIAL|MATERIALIZED|UNLOGGED|ONLINE|OFFLINE)\s+)*{_OBJECT}"
    rf"\s+(?:(?:CONCURRENTLY|ONLY|IF\s+(?:NOT\s+)?EXISTS)\s+)*(?P<names>{_NAME}(?:\s*,\s*{_NAME})*)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_OF_TABLE = re.compile(rf"\s*(?:USING\s+\w+\s+)?ON\s+(?:ONLY\s+)?(?P<name>{_NAME})", re.IGNORECASE)
_RENAMES = re.compile(
    rf"RENAME\s+TABLES?\s+(?P<names>{_NAME}\s+TO\s+{_NAME}(?:\s*,\s*{_NAME}\s+TO\s+{_NAME})*)", re.IGNORECASE
)
_RENAMED = re.compile(
    rf"\s*RENAME\s+(?:TO\s+|AS\s+)?(?!COLUMN|INDEX|KEY|CONSTRAINT)(?P<name>{_NAME})\s*;?\s*\Z", re.IGNORECASE
)
_FILLS = re.compile(r"\bSELECT\b", re.IGNORECASE)
_ASKS = re.compile(r"PRAGMA\s+(?:\S+\.)?\w+_(?:x?info|list|check)\b", re.IGNORECASE)
_UNSEEN = re.compile(r"\b(?:EXCHANGE|DISCARD|IMPORT)\b", re.IGNORECASE)  # leave definitions as they are
_QUOTED = re.compile(r"""`[^`]*`|"[^"]*"|'[^']*'""")


def first_word(sql: str) -> str:
    """The first keyword after comments and brackets, in capitals."""
    match = _WORD.match(sql, _start(sql))
    return match[0].upper() if match else ""


def kind_of(sql: str) -> Kind:
    """By the first keyword: ``context.isddl`` is false for ``op.execute("ALTER …")``. Unknown ones count as DDL.

    Of several statements in one text, which some drivers take, the strongest counts.
    """
    word = first_word(sql)
    kind = _KINDS.get(word, "ddl")
    if word == "PRAGMA" and _ASKS.match(sql, _start(sql)):
        kind = "read"
    elif word == "WITH":
        kind = "dml" if _WRITES.search(sql, _start(sql)) else "read"
    elif _BACK_TO.match(sql, _start(sql)) or temporary_table(sql):
        kind = "session"
    if kind == "ddl" or ";" not in sql.rstrip()[:-1]:
        return kind
    rest = {_KINDS.get(first_word(piece)) for piece in sql_literals(sql).split(";")[1:]}
    return next((strong for strong in _STRONGEST if strong in rest | {kind}), kind)


def several(sql: str) -> bool:
    """Whether there may be more than one statement in this text."""
    return ";" in without_quoted(sql).rstrip().rstrip(";")


def temporary_table(sql: str) -> str | None:
    """The temporary table that this creates or drops."""
    return _named(_TEMPORARY, sql)


def table_written(sql: str, *, whole: bool = False) -> str | None:
    """The table whose rows this changes; ``whole``: as the statement has it."""
    return _named(_WRITTEN, sql, whole=whole)


def savepoint_set(sql: str) -> str | None:
    """The savepoint that this sets."""
    return _named(_SAVEPOINT, sql)


def savepoint_restored(sql: str) -> str | None:
    """The savepoint that this rolls back to."""
    return _named(_BACK_TO, sql)


def objects(sql: str) -> list[tuple[str, str]] | None:
    """What a DDL statement is about, as kind and name: ``("TABLE", "orders")``; None where that cannot be told.

    An index comes with its table, where the statement names it.
    """
    text = sql[_start(sql) :]
    if (renames := _RENAMES.match(text)) and not several(text):
        names = re.findall(_NAME, re.sub(r"(?i)\sTO\s", " , ", renames["names"]))
        # Tables that change places may look afterwards as they did before.
        return None if set(names[::2]) == set(names[1::2]) else [("TABLE", name) for name in names]
    about = _ABOUT.match(text)
    if (
        about is None
        or several(text)
        or _UNSEEN.search(_bare(about["rest"]))
        or (about["kind"].upper() == "TABLE" and text[:1] in "cC" and _FILLS.search(_bare(about["rest"])))
    ):
        return None  # a table that is made and filled is not made and filled at once
    kind = about["kind"].upper()
    found = [(kind, name) for name in re.findall(_NAME, about["names"])]
    if kind == "INDEX" and (table := _OF_TABLE.match(about["rest"])):
        found.append(("TABLE", table["name"]))
    if kind == "TABLE" and (renamed := _RENAMED.match(about["rest"])):
        found.append(("TABLE", renamed["name"]))
    return found


def dropped(sql: str) -> set[str]:
    """The tables that a plain DROP TABLE drops."""
    about = objects(sql) if first_word(sql) == "DROP" else None
    return {unquoted(name).lower() for kind, name in about or () if kind == "TABLE"}


def unquoted(name: str) -> str:
    """The last part of a name as SQL has it, without quotes."""
    return re.split(r"\s*\.\s*", name.strip().rstrip(";"))[-1].strip('`"[]')


def _named(pattern: re.Pattern[str], sql: str, *, whole: bool = False) -> str | None:
    match = pattern.match(sql, _start(sql))
    if match is None:
        return None
    return match["name"].rstrip(";") if whole else unquoted(match["name"]).lower()


def without_quoted(sql: str) -> str:
    """Without literals and quoted names."""
    return _bare(sql_literals(sql))


def _bare(sql: str) -> str:
    """Without what is quoted, in which no keyword is one. With a quote behind a backslash nobody knows what that is."""
    return sql if "\\'" in sql or '\\"' in sql else _QUOTED.sub("x", sql)


def _start(sql: str) -> int:
    return _COMMENTS.match(sql).end()  # type: ignore[union-attr]  # it matches the empty text too
