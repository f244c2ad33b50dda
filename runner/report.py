"""Events as lines: JSON for machines, text for people, and the termination message."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, cast

from .events import Event
from .masking import Masker

SCHEMA_VERSION = 1
LINE_LIMIT = 15 * 1024  # container runtimes split a line at 16 KiB
LIST_LIMIT = 50
TERMINATION_LIMIT = 1024
LEVELS = ("debug", "info", "warning", "error")
_ALWAYS = {"run_started", "run_finished"}

Record = dict[str, Any]  # an event on its way out: its name, level, message, time and own fields
Fields = Literal["default", "gcp", "ecs", "datadog"]
_RENAMED: dict[Fields, dict[str, str]] = {
    "default": {},
    "gcp": {"level": "severity"},
    "ecs": {"time": "@timestamp", "level": "log.level", "event": "event.action", "error": "error.message"},
    "datadog": {"time": "timestamp", "level": "status"},
}
_COLOURS = {"debug": "2", "warning": "33", "error": "31"}


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

    format: Literal["json", "text"] = "json"
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
        self._running: tuple[str, float] | None = None

    @property
    def wants_ticks(self) -> bool:
        """Whether a live line has to be redrawn while nothing happens."""
        return self._terminal and self._running is not None

    def write(self, record: Record) -> None:
        """Show one event, if its level is wanted."""
        record = self._masker.deep(record)
        event = record["event"]
        if event == "revision_started":
            self._terminate({"exit_name": None, "exit_code": None, "error": None, "hint": None, **record})
            self._running = (record["message"].rstrip("."), time.monotonic())
        elif event in ("revision_executed", "revision_failed"):
            self._running = None
        elif event == "run_finished":
            self._terminate(record)
            self._running = None
        if event not in _ALWAYS and LEVELS.index(record["level"]) < LEVELS.index(self._style.level):
            return
        self._sequence += 1
        line = self._text(record) if self._style.format == "text" else self._json(record)
        self._send(("\r\x1b[K" if self._terminal else "") + line + "\n")
        self.tick()

    def tick(self) -> None:
        """Redraw the live line."""
        if self.wants_ticks and self._running:
            said, since = self._running
            self._send(f"\r\x1b[K\x1b[36m… {said} ({time.monotonic() - since:.0f} s)\x1b[0m")

    def _json(self, record: Record) -> str:
        common = {
            "time": record.pop("time"),
            "seq": self._sequence,
            "level": record.pop("level"),
            "event": record.pop("event"),
            "message": record.pop("message"),
            "run_id": self._run_id,
            "schema_version": SCHEMA_VERSION,
        }
        line = fitted({**common, **record})
        names = _RENAMED[self._style.fields]
        line = {names.get(key, key): value for key, value in line.items()}
        if self._style.fields == "gcp":
            line["severity"] = line["severity"].upper()
        if self._style.fields == "ecs":
            line["ecs.version"] = "8.11.0"
        return json.dumps(line, ensure_ascii=False)

    def _text(self, record: Record) -> str:
        if record["event"] == "sql_planned":
            return str(record["message"])
        said = record["message"]
        if record["event"] == "user_output":
            said = "  | " + (f"{record['logger']}: " if record["logger"] else "") + said
        line = f"{datetime.now().astimezone():%H:%M:%S} {record['level'].upper():7} {said}"
        code = _COLOURS.get(record["level"])
        return f"\x1b[{code}m{line}\x1b[0m" if self._terminal and code and not os.environ.get("NO_COLOR") else line

    def _send(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        while data and self._alive:
            try:
                data = data[os.write(self._out, data) :]
            except BlockingIOError:
                time.sleep(0.005)  # somebody set the pipe to non-blocking
            except OSError:
                self._alive = False

    def _terminate(self, record: Record) -> None:
        if self._termination_log is None:
            return
        said = {key: record.get(key) for key in ("exit_name", "exit_code", "revision", "error", "hint")}
        with suppress(OSError):
            self._termination_log.write_text(short_json(said, TERMINATION_LIMIT), encoding="utf-8")


def fitted(line: Record) -> Record:
    """The line within its limit: long lists stop at 50, then the longest texts are cut."""
    line = {key: value[:LIST_LIMIT] if isinstance(value, list) else value for key, value in line.items()}
    if "schema" in line or _size(line) <= LINE_LIMIT:
        return line
    line["truncated"] = True
    for limit in (8192, 2048, 512, 128, 32):
        line = _cut(line, limit)
        if _size(line) <= LINE_LIMIT:
            break
    return line


def _size(line: Record) -> int:
    # Field names of the log platforms and the line's end take a little more.
    return len(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace")) + 128


def _cut(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= limit else value[: limit - 1] + "…"
    if isinstance(value, list):
        return [_cut(item, limit) for item in value]
    if isinstance(value, dict):
        return {key: _cut(item, limit) for key, item in value.items()}
    return value


def short_json(said: dict[str, Any], limit: int) -> str:
    """Valid JSON of at most ``limit`` bytes; texts give way."""
    length = limit
    while True:
        text = json.dumps(_cut(said, length), ensure_ascii=False)
        if len(text.encode()) <= limit:
            return text
        length -= max(1, length // 10)


def style_for(log_format: str, level: str, fields: str) -> Style:
    """``auto`` is text on a terminal, else JSON."""
    if log_format == "auto":
        log_format = "text" if sys.stdout is not None and sys.stdout.isatty() else "json"
    return Style("text" if log_format == "text" else "json", level, cast(Fields, fields))
