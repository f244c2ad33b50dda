"""What a query was answered, kept for a run that goes on behind it; and a cursor that gives it."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from .database import of_driver
from .statements import without_quoted

_LONGEST = 15000  # in characters; TEXT of MySQL has 64 KiB, of up to four bytes a character


@dataclass(frozen=True)
class Answer:
    """What came of a query: its rows; or their SHA-256, where they are many or no plain values; or the error."""

    description: Sequence[tuple[str, int | None]] = ()
    rows: Sequence[tuple[Any, ...]] | None = None
    sha256: str | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, description: Sequence[Sequence[Any]], rows: Sequence[tuple[Any, ...]], room: int = _LONGEST) -> str:
        """As text, of at most ``room`` characters or so."""
        told, left = [], min(room, _LONGEST)
        try:
            for row in rows:
                told.append([_told(value) for value in row])
                left -= len(json.dumps(told[-1]))
                if left < 0:
                    return json.dumps({"sha256": fingerprint_of(rows)})
        except TypeError:
            return json.dumps({"sha256": fingerprint_of(rows)})
        named = [(one[0], one[1] if isinstance(one[1], int) else None) for one in description]
        return json.dumps({"columns": named, "rows": told})

    @classmethod
    def of_error(cls, error: BaseException) -> str | None:
        """As text; None for what is no driver's, or has more than plain values."""
        kind = type(error)
        plain = all(type(value) in (str, int) for value in error.args)
        if not (isinstance(error, Exception) and of_driver(kind.__module__) and plain):
            return None
        return json.dumps({"error": [kind.__module__, kind.__qualname__, *error.args]})

    @classmethod
    def read(cls, text: str) -> Answer:
        """Raises what is wrong with the text."""
        said = json.loads(text)
        if "error" in said:
            module, name, *values = said["error"]
            kind = getattr(importlib.import_module(module), name) if of_driver(module) else None
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise ValueError(f"{module}.{name} is no driver's error")
            return cls(error=kind(*values))
        if "sha256" in said:
            return cls(sha256=said["sha256"])
        rows = [tuple(_meant(value) for value in row) for row in said["rows"]]
        return cls([(name, code) for name, code in said["columns"]], rows)

    def cursor(self, cursor: Any) -> Replayed:
        """As the driver gives it."""
        description = [(name, code, None, None, None, None, None) for name, code in self.description]
        return Replayed(cursor, len(self.rows or ()), None, description, self.rows or ())


def fingerprint_of(rows: Iterable[tuple[Any, ...]]) -> str:
    """The SHA-256 of rows of whatever values."""
    found = hashlib.sha256()
    for row in rows:
        found.update(repr(row).encode())
    return found.hexdigest()


_KINDS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "decimal": (Decimal, str, Decimal),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),  # which is a date, too
    "date": (date, date.isoformat, date.fromisoformat),
    "timedelta": (
        timedelta,
        lambda value: str(value / timedelta(microseconds=1)),
        lambda text: timedelta(microseconds=float(text)),
    ),
}


def _told(value: Any) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    for name, (kind, tell, _) in _KINDS.items():
        if type(value) is kind:
            return {name: tell(value)}
    raise TypeError(type(value).__name__)


def _meant(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((name, text),) = value.items()
    return _KINDS[name][2](text)


class Replayed:
    """A cursor with an answer of before."""

    def __init__(
        self, cursor: Any, rowcount: int, lastrowid: Any, description: Any = None, rows: Iterable[Any] = ()
    ) -> None:
        self._cursor = cursor
        self.rowcount = rowcount
        self.lastrowid = lastrowid
        self.description = description
        self._rows = deque(rows)

    def fetchone(self) -> Any:
        """As the driver's."""
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """As the driver's."""
        return [self._rows.popleft() for _ in range(min(size or 1, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        """As the driver's."""
        rows = list(self._rows)
        self._rows.clear()
        return rows

    def __getattr__(self, name: str) -> Any:
        """Everything else is the real one's."""
        return getattr(self._cursor, name)


def of_tables(sql: str) -> bool:
    """Whether a query is about what is in the database, and not about the session that asks."""
    bare = without_quoted(sql)
    told = re.search(r"\bFROM\b|\A\W*(?:SHOW|DESC|DESCRIBE|PRAGMA)\b|LAST_INSERT_ID|\bNEXTVAL\b", bare, re.IGNORECASE)
    return bool(told) and not _SESSION.search(bare)


def brings_into_session(sql: str) -> bool:
    """Whether this takes what is in tables into a variable or a temporary table."""
    bare = without_quoted(sql)
    takes = re.search(r":=|\bINTO\b" if _SELECT.match(bare) else r"\bSELECT\b", bare, re.IGNORECASE)
    return takes is not None and re.search(r"\bFROM\b", bare, re.IGNORECASE) is not None


_SELECT = re.compile(r"\W*SELECT\b", re.IGNORECASE)
_SESSION = re.compile(
    r"(?<![\w.])@@?\w|\b(?:GET|RELEASE|IS_FREE|IS_USED)_LOCK\s*\(|\bCONNECTION_ID\s*\(|\bPROCESSLIST\b"
    r"|\bpg_backend_pid\b|\bpg_(?:try_)?advisory",
    re.IGNORECASE,
)
