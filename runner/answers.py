"""What a query was answered, kept for a run that goes on behind it; and a cursor that gives it."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

MOST_ROWS = 1000  # of a query whose answer is kept
_LONGEST = 15000  # in characters; TEXT of MySQL has 64 KiB, of up to four bytes a character


@dataclass(frozen=True)
class Answer:
    """The rows of a query, of plain values."""

    description: Sequence[tuple[str, int | None]]
    rows: Sequence[tuple[Any, ...]]

    @classmethod
    def of(cls, description: Sequence[Sequence[Any]], rows: Sequence[tuple[Any, ...]]) -> str | None:
        """As text; None where that is too long, or not everything can be told in it."""
        named = [(one[0], one[1] if isinstance(one[1], int) else None) for one in description]
        try:
            text = json.dumps([named, [[_told(value) for value in row] for row in rows]])
        except TypeError:
            return None
        return text if len(text) <= _LONGEST else None

    @classmethod
    def read(cls, text: str) -> Answer:
        """Raises what is wrong with the text."""
        named, rows = json.loads(text)
        return cls([(name, code) for name, code in named], [tuple(_meant(value) for value in row) for row in rows])

    def cursor(self, cursor: Any) -> Replayed:
        """As the driver gives it."""
        description = [(name, code, None, None, None, None, None) for name, code in self.description]
        return Replayed(cursor, len(self.rows), None, description, self.rows)


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
    """A cursor with an answer of before. ``more``: and what the real one has besides."""

    def __init__(
        self, cursor: Any, rowcount: int, lastrowid: Any, description: Any = None, rows: Iterable[Any] = (), *,
        more: bool = False,
    ) -> None:  # fmt: skip
        self._cursor = cursor
        self.rowcount = rowcount
        self.lastrowid = lastrowid
        self.description = description
        self._rows = deque(rows)
        self._more = more

    def fetchone(self) -> Any:
        """As the driver's."""
        if self._rows:
            return self._rows.popleft()
        return self._cursor.fetchone() if self._more else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """As the driver's."""
        found: list[Any] = []
        while len(found) < (size or 1) and (row := self.fetchone()) is not None:
            found.append(row)
        return found

    def fetchall(self) -> list[Any]:
        """As the driver's."""
        kept = [*self._rows, *(self._cursor.fetchall() if self._more else ())]
        self._rows.clear()
        return kept

    def __getattr__(self, name: str) -> Any:
        """Everything else is the real one's."""
        return getattr(self._cursor, name)


def of_tables(sql: str) -> bool:
    """Whether a query is about what is in the database, and not about the session that asks."""
    session = re.search(r"@|_LOCK\b|CONNECTION_ID|PROCESSLIST|\bFOR\s+UPDATE\b|LOCK\s+IN\s+SHARE", sql, re.IGNORECASE)
    told = re.search(r"\bFROM\b|\A\s*(?:SHOW|DESC|DESCRIBE|PRAGMA)\b|LAST_INSERT_ID|\bNEXTVAL\b", sql, re.IGNORECASE)
    return bool(told) and not session
