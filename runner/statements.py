"""What kind of statement this is: enough to know what a failed revision leaves behind."""

from __future__ import annotations

import re
from typing import Literal

# "lock": BEGIN, LOCK TABLES and the like. On MySQL they commit what came before, and leave nothing themselves.
Kind = Literal["read", "session", "dml", "ddl", "commit", "rollback", "lock"]

_COMMENTS = re.compile(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|\#[^\n]*(?:\n|\Z)|/\*(?!!).*?\*/|/\*!\d*|\()*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+")
_WRITES = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE)\b", re.IGNORECASE)
_TEMPORARY = re.compile(r"(?:CREATE|DROP)\s+(?:OR\s+REPLACE\s+)?(?:LOCAL\s+|GLOBAL\s+)?TEMP(?:ORARY)?\b", re.IGNORECASE)
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("SELECT", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "VALUES", "TABLE", "CHECK"), "read"),
    **dict.fromkeys(("SET", "USE", "PRAGMA", "SAVEPOINT", "RELEASE", "KILL", "RESET", "ATTACH", "DETACH"), "session"),
    **dict.fromkeys(("INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "CALL", "DO", "COPY"), "dml"),
    **dict.fromkeys(("COMMIT", "END"), "commit"),
    **dict.fromkeys(("BEGIN", "START", "LOCK", "UNLOCK"), "lock"),
    **dict.fromkeys(("ROLLBACK", "ABORT"), "rollback"),
}


def first_word(sql: str) -> str:
    """The first keyword after comments and brackets, in capitals."""
    match = _WORD.match(sql, _COMMENTS.match(sql).end())  # type: ignore[union-attr]  # it matches the empty text too
    return match[0].upper() if match else ""


def kind_of(sql: str) -> Kind:
    """By the first keyword: ``context.isddl`` is false for ``op.execute("ALTER …")``. Unknown ones count as DDL."""
    word = first_word(sql)
    if word == "WITH":
        return "dml" if _WRITES.search(sql) else "read"
    if word == "LOAD":
        return "dml"
    if word == "ROLLBACK" and re.search(r"\bTO\b", sql, re.IGNORECASE):
        return "session"
    if word in ("CREATE", "DROP") and _TEMPORARY.match(sql, _COMMENTS.match(sql).end()):  # type: ignore[union-attr]
        return "session"
    return _KINDS.get(word, "ddl")
