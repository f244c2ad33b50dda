"""The ledger: what this program saw of each revision that it ran, in a table beside the application's.

One row per revision and run, written before the revision's first statement and on another connection
than the migrating one, so that it survives a rollback and a kill. SQLite has one writer: there the
migrating session writes it. Nothing depends on it: what cannot be read or written is a warning.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any

from .database import Dialect, Session, words_of
from .errors import PermissionDenied
from .events import Emit, LedgerUnavailable, counted
from .model import Holder, Revision, VersionTable
from .pen import OwnTable, Pen, Write

LAYOUT = 1  # of the table; another one only where a column means something else, not for one more
_NAME = "alembic_job_ledger"
_TYPES = {
    "run_id": "VARCHAR(64) NOT NULL",
    "number": "INTEGER NOT NULL",
    "layout": "INTEGER NOT NULL",
    "version_table": "VARCHAR(255) NOT NULL",
    "version_schema": "VARCHAR(255)",
    "command": "VARCHAR(32)",
    "direction": "VARCHAR(16) NOT NULL",
    "revision": "VARCHAR(255) NOT NULL",
    "parents": "TEXT",
    "depends_on": "TEXT",
    "summary": "TEXT",
    "path": "TEXT",
    "sha256": "VARCHAR(64)",
    "status": "VARCHAR(16) NOT NULL",
    "code": "VARCHAR(64)",
    "error": "TEXT",
    "reason": "TEXT",
    "started": "NUMERIC(20, 6)",
    "ended": "NUMERIC(20, 6)",
    "duration_s": "NUMERIC(14, 3)",
    "image": "TEXT",
    "pod": "VARCHAR(255)",
    "hostname": "VARCHAR(255)",
    "db_user": "VARCHAR(255)",
    "runner_version": "VARCHAR(32)",
    "session": "VARCHAR(64)",
}
_TABLE = OwnTable(
    _NAME, ", ".join(f"{name} {kind}" for name, kind in _TYPES.items()) + ", PRIMARY KEY (run_id, number)"
)
_NEVER_EMPTY = {name for name, kind in _TYPES.items() if "NOT NULL" in kind}  # in every layout
_LONGEST = 4000  # of a text, in characters

BASE = "base"  # what a row says where no revision was set
OPEN = ("started", "executed")  # how a row stays when its run is gone before it could tell


@dataclass(frozen=True)
class Entry:
    """A row. ``parents`` and what it depends on are None where somebody edited them to what cannot be read."""

    run_id: str
    number: int
    version_table: str
    version_schema: str | None
    command: str | None
    direction: str
    revision: str
    parents: tuple[str, ...] | None
    depends_on: tuple[str, ...] | None
    summary: str | None
    path: str | None
    sha256: str | None
    status: str
    code: str | None
    error: str | None
    reason: str | None
    started: str | None
    ended: str | None
    duration_s: float | None
    image: str | None
    pod: str | None
    hostname: str | None
    db_user: str | None
    runner_version: str | None
    session: str | None

    @property
    def said(self) -> str:
        """``7f1c (applied 2026-03-01T03:00:00Z by run 1f0a, image app:8)``."""
        by = ", ".join(filter(None, (f"run {self.run_id}", f"image {self.image}" if self.image else "")))
        return f"{self.revision} (applied {self.ended or self.started or 'at an unknown time'} by {by})"


@dataclass(frozen=True)
class Ledger:
    """What could be read, oldest first. ``trouble``: why it is left alone; ``remedy``: what to do, if that is known."""

    entries: tuple[Entry, ...] = ()
    trouble: str | None = None
    remedy: str | None = None

    def of(self, table: VersionTable) -> tuple[Entry, ...]:
        """The rows of one application: a database may have several version tables."""
        where = (table.name, table.schema)
        return tuple(one for one in self.entries if (one.version_table, one.version_schema) == where)


def read(session: Session, tables: Iterable[str]) -> Ledger:
    """The whole ledger. ``tables`` are those of the database. Never raises what the ledger is to blame for."""
    name = session.dialect.own_table(_NAME)
    if name not in tables:
        return Ledger()
    try:
        newest = session.ask(f"SELECT max(layout) FROM {name}")[0][0]
        if newest is not None and not _known(newest):
            return Ledger(trouble=f"{name} is of layout {newest}, from a newer alembic-job; this one knows {LAYOUT}")
        there = session.dialect.own_columns(session.ask, _NAME) | _NEVER_EMPTY
        names = ", ".join(column if column in there else f"NULL AS {column}" for column in _TYPES)
        rows = [dict(zip(_TYPES, row, strict=True)) for row in session.ask(f"SELECT {names} FROM {name}")]
        return Ledger(tuple(map(_entry, sorted(rows, key=_order))))
    except Exception as error:
        refusal = session.dialect.classify(error)
        denied = refusal is not None and refusal.error is PermissionDenied
        return Ledger(trouble=f"{name} cannot be read: {words_of(error)}", remedy=_to_read(name) if denied else None)


def _to_read(name: str) -> str:
    """For who only looks: ``wait`` in the pods of the application, with its login."""
    schema = name.rpartition(".")[0]
    grants = (
        f"GRANT USAGE ON SCHEMA {schema} TO …; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO …;"
        if schema
        else f"GRANT SELECT ON {name} TO …;"
    )
    return f"Let this user read it: {grants} Without it, nothing proves a database ahead of an older image."


def _known(layout: Any) -> bool:
    number = _number(layout)
    return number is not None and number <= LAYOUT


def _order(row: Mapping[str, Any]) -> tuple[float, float]:
    """Oldest first; products do not agree on where to put what has no time."""
    started, number = _number(row["started"]), _number(row["number"])
    return (-math.inf if started is None else started, -math.inf if number is None else number)


def _entry(row: dict[str, Any]) -> Entry:
    """Whatever a person, or SQLite, left in a column: a row is what can be read of it."""
    del row["layout"]
    names: dict[str, Any] = {name: _revisions(row.pop(name)) for name in ("parents", "depends_on")}
    times: dict[str, Any] = {name: _time(row.pop(name)) for name in ("started", "ended")}
    numbers: dict[str, Any] = {
        "number": int(_number(row.pop("number")) or 0),
        "duration_s": _number(row.pop("duration_s")),
    }
    texts: dict[str, Any] = {name: _text(value) for name, value in row.items()}
    empty = {name: "" for name in _NEVER_EMPTY if name in texts and texts[name] is None}
    return Entry(**{**texts, **empty, **names, **times, **numbers})


def _text(value: Any) -> str | None:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode(errors="replace")
    return None if value is None else str(value)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _revisions(text: Any) -> tuple[str, ...] | None:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return tuple(map(str, found)) if isinstance(found, list) else None


def _time(seconds: Any) -> str | None:
    try:
        return datetime.fromtimestamp(float(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def named(session: Session, holder: Holder) -> Holder:
    """Who holds a lock, with what the ledger says of the run: MariaDB itself tells nothing of it."""
    number = (holder.key or "").rpartition(" ")[2]
    if not holder.run_id and not number.isdecimal():
        return holder
    try:
        rows = session.ask(
            f"SELECT run_id, session, image, pod FROM {session.dialect.own_table(_NAME)}"
            f" WHERE status IN {OPEN} ORDER BY started DESC"
        )
    except Exception:  # no such table, most of the time
        return holder
    for run_id, by, image, pod in rows:
        if run_id == holder.run_id if holder.run_id else by == number:
            return replace(holder, run_id=run_id, image=_text(image), pod=_text(pod))
    return holder


def latest(entries: Iterable[Entry]) -> dict[str, Entry]:
    """The last row of each revision that came to be in the database, or left it; of others, the last one."""
    found: dict[str, Entry] = {}
    for entry in entries:
        before = found.get(entry.revision)
        if before is None or entry.status == "committed" or before.status != "committed":
            found[entry.revision] = entry
    return found


def fingerprint(path: str) -> str | None:
    """The SHA-256 of a file; None where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def edited(entries: Iterable[Entry], revisions: Iterable[Revision]) -> list[tuple[Revision, Entry]]:
    """The revisions, of those in the database, whose file is another one than when they were applied.

    Not of those that were marked since: nothing of their files was run then, so those say nothing of the database.
    """
    applied = latest(entries)
    found = []
    for revision in revisions:
        entry = applied.get(revision.revision)
        if entry and entry.sha256 and (entry.status, entry.direction) == ("committed", "upgrade"):
            now = fingerprint(revision.path)
            if now and now != entry.sha256:
                found.append((revision, entry))
    return found


@dataclass(frozen=True)
class Who:
    """Which run it is."""

    run_id: str
    command: str | None
    version: str
    hostname: str
    pod: str | None
    image: str | None
    reason: str | None = None  # of a person who settled something by hand
    numbers: count[int] = field(default_factory=lambda: count(1), compare=False)


class Journal:
    """Writes the rows of one run in one database. What fails is one warning, and the end of it.

    ``mask`` takes out of errors what nobody is to see.
    """

    def __init__(
        self, who: Who, table: VersionTable, pen: Pen, user: str | None, emit: Emit, mask: Callable[[str], str]
    ) -> None:
        self.pen = pen
        self._who = who
        self._table = table
        self._user = user
        self._emit = emit
        self._mask = mask
        self._over = False
        self._numbers: dict[tuple[str, str], int] = {}
        self._took: dict[int, float] = {}
        self._last: dict[str, int] = {}
        self._later: dict[int, Write] = {}  # by row: only the newest counts

    @property
    def run_id(self) -> str:
        """Of the run that writes."""
        return self._who.run_id

    @property
    def _dialect(self) -> Dialect:
        return self.pen.dialect

    @property
    def _where(self) -> str:
        return self.pen.name(_TABLE)

    # --- what happens -----------------------------------------------------------------------------

    def begins(self, revision: Revision, direction: str, migrating: Any) -> None:
        """Before the first statement: the row is there from now on. A revision that is tried again keeps its row."""
        self.pen.migrating = migrating if self._dialect.ONE_WRITER else None
        key = (revision.revision, direction)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = next(self._who.numbers)
            write = self._insert(number, revision, direction)
        else:
            again = "status = 'started', code = NULL, error = NULL, ended = NULL, duration_s = NULL"
            write = self._update(number, f"{again}, started = {self._dialect.CLOCK}", ())
        self._last[revision.revision] = number
        self._later.pop(number, None)
        self._write([*self._take_later(), write])

    def executed(self, revision: str, duration_s: float) -> None:
        """Alembic ran it to its end. Written together with what comes next: each commit costs."""
        number = self._last[revision]
        self._took[number] = duration_s
        self._later[number] = self._ended(number, "executed", None, None)

    def committed(self, revisions: Iterable[str]) -> None:
        """Another connection sees them."""
        for revision in revisions:
            if number := self._last.get(revision):
                self._later[number] = self._ended(number, "committed", None, None)

    def ended(self, revision: str, status: str, code: str | None = None, error: str | None = None) -> None:
        """It is not in the database, or not as a whole."""
        if number := self._last.get(revision):
            self._later[number] = self._ended(number, status, code, error)

    def marks(self, revisions: Iterable[Revision]) -> None:
        """They are about to be set without running them."""
        for revision in revisions:
            self.begins(revision, "stamp", None)

    def marked(self, revisions: Iterable[Revision], failure: BaseException | None) -> None:
        """What became of that."""
        for revision in revisions:
            if failure is None:
                self.committed([revision.revision])
            else:
                self.ended(revision.revision, "failed", getattr(failure, "code", None), str(failure))
        self.flush()

    def settles(self, entry: Entry, *, done: bool) -> None:
        """Complete the row of a run that is gone. When it ended nobody knows, so ``ended`` stays as it is."""
        found = "applied" if entry.direction == "downgrade" else "not applied"
        remained = (
            "DDL that it had run by then remained"
            if self._dialect.DDL_COMMITS
            else "Its transaction was rolled back; what it had committed by itself remained"
        )
        said = f"The run ended without a word; run {self._who.run_id} found the revision {found}. {remained}."
        where = f"run_id = ? AND number = ? AND status IN {OPEN}"
        values = ("committed", None) if done else ("abandoned", said)
        write = f"UPDATE {self._where} SET status = ?, error = ? WHERE {where}", (*values, entry.run_id, entry.number)
        self._write([write])

    def flush(self) -> None:
        """Write what is yet to be written."""
        if self._later:
            self._write(self._take_later())

    def migrated(self) -> None:
        """The session that migrates is gone."""
        self.pen.migrating = None

    # --- the statements ---------------------------------------------------------------------------

    def _insert(self, number: int, revision: Revision, direction: str) -> Write:
        who = self._who
        values = {
            "run_id": who.run_id,
            "number": number,
            "layout": LAYOUT,
            "version_table": self._table.name,
            "version_schema": self._table.schema,
            "command": who.command,
            "direction": direction,
            "revision": revision.revision,
            "parents": json.dumps(revision.parents),
            "depends_on": json.dumps(revision.depends_on),
            "summary": revision.summary[:_LONGEST],
            "path": revision.path or None,
            "sha256": fingerprint(revision.path),
            "status": "started",
            "reason": who.reason,
            "image": who.image,
            "pod": who.pod,
            "hostname": who.hostname,
            "db_user": self._user,
            "runner_version": who.version,
            "session": None if self._over else self.pen.session_id(),
        }
        names, marks = ", ".join(values), ", ".join("?" for _ in values)
        clock = self._dialect.CLOCK
        return f"INSERT INTO {self._where} ({names}, started) VALUES ({marks}, {clock})", tuple(values.values())

    def _ended(self, number: int, status: str, code: str | None, error: str | None) -> Write:
        said = self._mask(error)[:_LONGEST] if error else None
        return self._update(
            number,
            f"status = ?, code = ?, error = ?, duration_s = ?, ended = coalesce(ended, {self._dialect.CLOCK})",
            (status, code, said, self._took.get(number)),
        )

    def _update(self, number: int, what: str, values: Sequence[Any]) -> Write:
        return f"UPDATE {self._where} SET {what} WHERE run_id = ? AND number = ?", (*values, self._who.run_id, number)

    def _take_later(self) -> list[Write]:
        later, self._later = list(self._later.values()), {}
        return later

    # --- writing ----------------------------------------------------------------------------------

    def _write(self, writes: Sequence[Write]) -> None:
        if self._over:
            return
        try:
            self.pen.write(_TABLE, writes)
        except Exception as error:
            self._over = True
            self._emit(unavailable(f"{self._where} cannot be written: {words_of(error)}"))


def unavailable(why: str, hint: str | None = None) -> LedgerUnavailable:
    """The warning: the run goes on without it."""
    return LedgerUnavailable(
        error=f"{why}.",
        hint=hint
        or "Let this user create and alter tables, or run once with a user who may; or set ALEMBIC_JOB_LEDGER=false.",
    )


def told(entries: Sequence[Entry]) -> str:
    """The first of these rows, for people."""
    shown = ", ".join(entry.said for entry in entries[:3])
    return shown + (f" and {counted(len(entries) - 3)} more" if len(entries) > 3 else "")  # noqa: PLR2004
