"""Events as lines: JSON for machines, text for people, and the termination message."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, cast

from .events import Event, LedgerListed
from .masking import Masker

SCHEMA_VERSION = 1
LINE_LIMIT = 15 * 1024  # container runtimes split a line at 16 KiB
LIST_LIMIT = 50
TERMINATION_LIMIT = 1024
LEVELS = ("debug", "info", "warning", "error")
_SHORTEST_TEXT = 32  # times and names of events are shorter
_ALWAYS = {"run_started", "run_finished"}
# Words of a fixed set. To mask one that is also somebody's password would tell the password, and break the reader.
_OWN_WORDS = {"event", "level", "time", "outcome", "exit_name", "state", "stream", "dialect", "lock_kind", "signal"}

_KILLED = (
    "With the reason OOMKilled, raise the memory limit. Then run again: the next run waits until none of this one's"
    " statements runs on the server."
)

Record = dict[str, Any]  # an event on its way out: its name, level, message, time and own fields
Fields = Literal["default", "gcp", "ecs", "datadog"]
_RENAMED: dict[Fields, dict[str, str]] = {
    "default": {},
    "gcp": {"level": "severity"},
    "ecs": {"time": "@timestamp", "level": "log.level", "event": "event.action", "error": "error.message"},
    "datadog": {"time": "timestamp", "level": "status"},
}
_COLOURS = {"debug": "2", "warning": "33", "error": "31"}
_CLEAR = "\r\x1b[K"  # the live line
_SHOWN = 100  # of a statement, in characters


def now() -> str:
    """The time in RFC 3339, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def record_of(event: Event) -> Record:
    """The event as it travels: between the processes, and into a line."""
    return {
        "event": event.name,
        "level": event.level,
        "message": event.message,
        "time": now(),
        **event.fields(),
    }


@dataclass(frozen=True)
class Style:
    """How lines look."""

    format: Literal["json", "text", "csv"] = "json"  # csv: the ledger, and nothing else
    level: str = "info"
    fields: Fields = "default"


class Report:
    """Writes each event as one line to a file descriptor. A reader that is gone is not an error."""

    def __init__(
        self, style: Style, masker: Masker, run_id: str, descriptor: int, termination_log: Path | None
    ) -> None:
        self._style = style
        self._masker = masker
        self._run_id = run_id
        self._out = descriptor
        self._termination_log = termination_log
        self._sequence = 0
        self._alive = True
        self._terminal = style.format == "text" and os.isatty(descriptor)
        self._colours = self._terminal and not os.environ.get("NO_COLOR")
        self._lowest = LEVELS.index(style.level)
        self._running: tuple[str, float] | None = None

    @property
    def wants_ticks(self) -> bool:
        """Whether a live line has to be redrawn while nothing happens."""
        return self._terminal and self._running is not None

    def write(self, *records: Record, masked: bool = False) -> None:
        """Show events, as far as their level is wanted, in one go. ``masked``: that has been done already."""
        lines = [line for record in records if (line := self._line(record if masked else self._masked(record)))]
        if lines:
            self._send((_CLEAR if self._terminal else "") + "".join(lines))
        self.tick()

    def _masked(self, record: Record) -> Record:
        return {key: value if key in _OWN_WORDS else self._masker.deep(value) for key, value in record.items()}

    def _line(self, record: Record) -> str:
        event = record["event"]
        if event == "revision_started":
            # To be read if nothing follows: who is killed from outside has no other last word.
            where = f"revision {record['revision']} ({record['position']} of {record['count']})"
            error = f"The run was ended from outside, after it had begun {where}."
            self._terminate({**record, "error": error, "hint": _KILLED})
            self._running = (record["message"].rstrip("."), time.monotonic())
        elif event in ("revision_executed", "revision_failed"):
            self._running = None
        elif event == "run_finished":
            self._terminate(record)
            self._running = None
        if LEVELS.index(record["level"]) < self._lowest and event not in _ALWAYS:
            return ""
        self._sequence += 1
        if self._style.format == "csv":
            return self._csv(record)
        return (self._text(record) if self._style.format == "text" else self._json(record)) + "\n"

    def tick(self) -> None:
        """Redraw the live line."""
        if self._terminal and self._running:
            said, since = self._running
            columns = 80
            with suppress(OSError):
                columns = os.get_terminal_size(self._out).columns or columns
            said = said[: max(0, columns - 12)]  # a line that wraps could not be cleared
            self._send(_CLEAR + self._coloured(f"… {said} ({time.monotonic() - since:.0f} s)", "36"))

    def _json(self, record: Record) -> str:
        names = _RENAMED[self._style.fields]
        line = {
            "time": record["time"],
            "seq": self._sequence,
            "level": record["level"],
            "event": record["event"],
            "message": record["message"],
            "run_id": self._run_id,
            "schema_version": SCHEMA_VERSION,
            **record,
        }
        if names:
            line = {names.get(key, key): value for key, value in line.items()}
        if self._style.fields == "gcp":
            line["severity"] = line["severity"].upper()
        if self._style.fields == "ecs":
            line["ecs.version"] = "8.11.0"
        return fitted(line)

    def _csv(self, record: Record) -> str:
        """The rows of the ledger under their names. Why there are none goes to stderr, which is no place otherwise."""
        event = record["event"]
        if event == "run_started":
            return _csv_line(CSV_COLUMNS)
        if event in ("ledger_unavailable", "sidecar_not_stopped") or (event == "run_finished" and record["exit_code"]):
            with suppress(OSError):
                write_all(2, _encoded(f"{record['message']}\n"))
        if event != "ledger_listed":
            return ""
        return _csv_line([record.get(name) for name in CSV_COLUMNS])

    def _text(self, record: Record) -> str:
        if record["event"] == "sql_planned":
            return str(record["message"])
        said = record["message"]
        if record["event"] == "user_output":
            said = "  | " + (f"{record['logger']}: " if record["logger"] else "") + said.replace("\n", "\n  | ")
        said += "".join(map(_statement, record.get("durable_statements") or record.get("statements") or ()))
        line = f"{datetime.now().astimezone():%H:%M:%S} {record['level'].upper():7} {said}"
        return self._coloured(line, _COLOURS.get(record["level"]))

    def _coloured(self, text: str, code: str | None) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if code and self._colours else text

    def _send(self, text: str) -> None:
        if self._alive:
            try:
                write_all(self._out, text.encode("utf-8", "replace"))
            except OSError:
                self._alive = False

    def _terminate(self, record: Record) -> None:
        if self._termination_log is None:
            return
        said = {key: record.get(key) for key in ("error", "hint", "exit_name", "exit_code", "revision")}
        with suppress(OSError):
            self._termination_log.write_bytes(_encoded(short_json(said, TERMINATION_LIMIT)))


def _statement(statement: Record) -> str:
    """On a line of its own, and what it is now on the next."""
    said = f"\n  {statement['statement_number']:3} {statement.get('state') or 'done':7} {_one_line(statement['sql'])}"
    now = statement.get("now")
    return f"{said}\n      now     {_one_line(now)}" if now and now != statement["sql"] else said


def _one_line(sql: str | None) -> str:
    return textwrap.shorten(sql or "", _SHOWN, placeholder=" …")


CSV_COLUMNS = tuple(field.name for field in dataclasses.fields(LedgerListed))


def _csv_line(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow([_in_csv(value) for value in values])
    return line.getvalue()


def _in_csv(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"  # which a spreadsheet would take for a formula
    return value


def write_all(descriptor: int, data: bytes) -> None:
    """Write to the end, also where somebody has set the pipe to non-blocking. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            time.sleep(0.005)


_to_json = json.JSONEncoder(ensure_ascii=False).encode


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # a file's name may hold what is no UTF-8


def fitted(line: Record) -> str:
    """The line as JSON within its limit: long lists stop at 50, then the longest texts are cut."""
    for key, value in line.items():
        if isinstance(value, list) and len(value) > LIST_LIMIT:
            line = {**line, key: value[:LIST_LIMIT]}
    text = _to_json(line)
    if "schema" in line:
        return text
    limit = LINE_LIMIT // 2
    while len(_encoded(text)) >= LINE_LIMIT and limit >= _SHORTEST_TEXT:  # the line's end takes one more
        text = _to_json({**_cut(line, limit), "truncated": True})
        limit = limit * 3 // 4
    return text


def _cut(value: Any, limit: int) -> Any:
    """With each text within ``limit`` bytes of JSON."""
    if isinstance(value, str):
        cut = value[:limit]
        while len(_encoded(_to_json(cut))) > limit:
            cut = cut[: len(cut) * 3 // 4]
        return value if cut == value else cut + "…"
    if isinstance(value, list):
        return [_cut(item, limit) for item in value]
    if isinstance(value, dict):
        return {key: _cut(item, limit) for key, item in value.items()}
    return value


def short_json(said: dict[str, Any], limit: int) -> str:
    """Valid JSON of at most ``limit`` bytes; texts give way."""
    length = limit
    while True:
        text = _to_json(_cut(said, length))
        if len(_encoded(text)) <= limit:
            return text
        length -= max(1, length // 10)


def style_for(log_format: str, level: str, fields: str) -> Style:
    """``auto`` is text on a terminal, else JSON."""
    if log_format == "auto":
        log_format = "text" if sys.stdout is not None and sys.stdout.isatty() else "json"
    return Style("text" if log_format == "text" else "json", level, cast(Fields, fields))
