"""Revisions that were begun and are not complete, as the table of their statements has them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .answers import Answer
from .database import Ask, Session, words_of
from .errors import RevisionUnresolved
from .events import RecordedStatement, RevisionHalfDone
from .model import VersionTable
from .pen import OwnTable, Pen

LAYOUT = 1  # of the table; each row says which it was written in
_NAME = "alembic_job_statement"
COLUMNS = {
    "version_table": "VARCHAR(128) NOT NULL",
    "version_schema": "VARCHAR(128) NOT NULL",
    "revision": "VARCHAR(255) NOT NULL",
    "number": "INTEGER NOT NULL",
    "layout": "INTEGER NOT NULL",
    "direction": "VARCHAR(16) NOT NULL",
    "run_id": "VARCHAR(64) NOT NULL",
    "sha256": "VARCHAR(64)",
    "state": "VARCHAR(16) NOT NULL",
    "digest": "VARCHAR(64) NOT NULL",
    "statement": "TEXT",
    "before_it": "TEXT",
    "changed_it": "INTEGER",
    "row_count": "BIGINT",
    "last_id": "BIGINT",
    "gave_rows": "INTEGER",
    "answer": "TEXT",
}
TABLE = OwnTable(
    _NAME,
    ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    + ", PRIMARY KEY (version_table, version_schema, revision, number)",
)
NAMES = ", ".join(COLUMNS)


@dataclass(frozen=True)
class Recorded:
    """A statement as a run recorded it. ``before``: how what it is about was defined; ``changed``: and then was not."""

    number: int
    state: str
    digest: str
    sql: str
    before: Mapping[str, str | None] | None = None
    changed: bool = False
    row_count: int = -1
    last_id: int | None = None
    gave_rows: bool = False
    answer: Answer | None = None


@dataclass(frozen=True)
class Half:
    """A revision that was begun, with what is recorded of it, and by which run last."""

    revision: str
    direction: str
    run_id: str
    sha256: str | None
    statements: tuple[Recorded, ...]
    reads: Mapping[int, Recorded] = field(default_factory=dict)  # by their place among the reads

    def numbers(self, state: str) -> list[int]:
        """The statements in this state."""
        return [one.number for one in self.statements if one.state == state]

    @property
    def is_left(self) -> bool:
        """Whether anything of it is in the database, or may be."""
        return any(one.state != "failed" for one in self.statements)

    def event(self, *, resumed: bool, now: Mapping[int, str] | None = None, sql: bool = True) -> RevisionHalfDone:
        """What is recorded, and beside it what the revision sends ``now`` under the same number. ``sql``: show it."""
        sent = now if now and sql else {}
        listed = [
            RecordedStatement(
                statement_number=one.number, state=one.state, sql=one.sql if sql else None, now=sent.get(one.number)
            )
            for one in self.statements
        ]
        further = [
            RecordedStatement(statement_number=number, state="new", sql=None, now=sql)
            for number, sql in sent.items()
            if number not in {one.number for one in self.statements}
        ]
        return RevisionHalfDone(
            revision=self.revision,
            direction=self.direction,
            run=self.run_id,
            statements=[*listed, *further],
            count=len(listed),
            resumed=resumed,
        )

    def unresolved(self, why: str) -> RevisionUnresolved:
        """The error for what only a person can settle."""
        resolve = f"alembic-job resolve {self.revision}"
        return RevisionUnresolved(
            f"{self.event(resumed=False).message} {why}",
            hint=f"The event revision_half_done lists the statements. Complete the revision by hand, then: {resolve}"
            f" --applied --reason TEXT; or undo what is there of it, then: {resolve} --rolled-back --reason TEXT, and"
            " the next run starts it anew.",
            revision=self.revision,
        )


class Unreadable(Exception):
    """The table of statements cannot be relied on; the message says why."""


def read(session: Session, tables: Iterable[str], table: VersionTable) -> dict[str, Half]:
    """What is recorded for this version table, by revision. ``tables`` are those of the database. Raises Unreadable."""
    name = session.dialect.own_table(_NAME)
    return read_by(session.ask, session.dialect.literal, name, table) if name in tables else {}


def read_by(
    ask: Ask, literal: Callable[[str], str], name: str, table: VersionTable, revision: str | None = None
) -> dict[str, Half]:
    """The same by any query: of all revisions, or of one."""
    try:
        where = f"version_table = {literal(table.name)} AND version_schema = {literal(table.schema or '')}"
        if revision is not None:
            where += f" AND revision = {literal(revision)}"
        rows = ask(f"SELECT {NAMES} FROM {name} WHERE {where} ORDER BY revision, number")
        by_revision: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            one = dict(zip(COLUMNS, row, strict=True))
            by_revision.setdefault(one["revision"], []).append(one)
        return {revision: _half(revision, ones) for revision, ones in by_revision.items()}
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(f"{name} cannot be read: {words_of(error)}") from error


def _half(revision: str, rows: list[dict[str, Any]]) -> Half:
    newest = max(int(row["layout"]) for row in rows)
    if newest > LAYOUT:
        raise Unreadable(f"{_NAME} is of layout {newest}, from a newer alembic-job; this one knows {LAYOUT}")
    recorded, last = [_recorded(row) for row in rows], rows[-1]
    return Half(
        revision,
        last["direction"],
        last["run_id"],
        last["sha256"],
        tuple(one for one in recorded if one.number > 0),
        {one.number: one for one in recorded if one.number < 0},
    )


def _recorded(row: Mapping[str, Any]) -> Recorded:
    return Recorded(
        number=int(row["number"]),
        state=_one_of(row["state"], "started", "done", "failed"),
        digest=row["digest"],
        sql=row["statement"] or "",
        before=json.loads(row["before_it"]) if row["before_it"] else None,
        changed=bool(row["changed_it"]),
        row_count=-1 if row["row_count"] is None else int(row["row_count"]),
        last_id=None if row["last_id"] is None else int(row["last_id"]),
        gave_rows=bool(row["gave_rows"]),
        answer=Answer.read(row["answer"]) if row["answer"] else None,
    )


def _one_of(value: str, *allowed: str) -> str:
    if value not in allowed:
        raise ValueError(f"state {value!r}")
    return value


def contradicted(session: Session, half: Half) -> str | None:
    """Why the record cannot be true any more: something is as it was before a statement that is recorded as done.

    Somebody has undone the revision, by hand or with plain Alembic, and the record does not know.
    """
    last: dict[str, Recorded] = {}
    for one in half.statements:
        last |= dict.fromkeys(map(_plain, one.before or ()), one)
    for one in half.statements:
        its = one.before if one.state == "done" and one.changed else None
        # An index goes with its table, which another statement may have dropped.
        if not its or any(last[_plain(what)] is not one or what.startswith("INDEX") for what in its):
            continue
        with suppress(Exception):  # of a database in which this user may not look
            if session.dialect.definitions(session.ask, about(its)) == its:
                return f"Statement {one.number} is recorded as done, and the database is as it was before it."
    return None


def remains(session: Session, half: Half) -> list[str]:
    """What is not as it was before the revision, as far as DDL was recorded: ``TABLE box``, …."""
    first: dict[str, str | None] = {}
    for one in half.statements:
        first = {**(one.before or {}), **first}
    with suppress(Exception):  # of a database in which this user may not look
        now = session.dialect.definitions(session.ask, about(first)) or {}
        return [what for what in now if now[what] != first[what]]
    return []


def unseen(session: Session, half: Half) -> list[int]:
    """The DDL statements that did not end, as far as is recorded, and after which the database is as it was before."""
    found = []
    with suppress(Exception):  # as above
        for one in half.statements:
            if one.state != "done" and one.before:
                now = session.dialect.definitions(session.ask, about(one.before))
                found += [one.number] if now == one.before else []
    return found


def _plain(what: str) -> str:
    return re.sub(r'[`"\[\]]', "", what).lower()


def about(definitions: Iterable[str]) -> list[tuple[str, str]]:
    """The kinds and names that definitions are of."""
    return [(kind, name) for kind, _, name in (what.partition(" ") for what in definitions)]


def forget(pen: Pen, table: VersionTable, revisions: Iterable[str]) -> None:
    """Take out what is recorded of revisions that are settled. Raises the driver's errors."""
    one = f"DELETE FROM {pen.name(TABLE)} WHERE version_table = ? AND version_schema = ? AND revision = ?"
    if writes := [(one, (table.name, table.schema or "", revision)) for revision in revisions]:
        pen.write(TABLE, writes)


def happened(before: Mapping[str, str | None] | None, now: Mapping[str, str | None] | None, sql: str) -> bool | None:
    """Whether a DDL statement was executed, by how that which it is about was defined before, and is now.

    None where that cannot be told: when what changed has no name that the statement has, it was somebody else.
    """
    if before is None or now is None or set(before) != set(now):
        return None
    changed = {what for what in now if now[what] != before[what]}
    if not changed:
        return False
    if changed != set(now):
        return None
    for what in changed:
        was, is_ = before[what], now[what]
        if is_ and "INVALID" in is_:
            return None
        if was is None or is_ is None:
            continue
        for line in _lines(was) ^ _lines(is_):
            names = re.findall(r"`([^`]+)`", line)
            if not any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sql) for name in names):
                return None
    return True


def _lines(definition: str) -> set[str]:
    """Without the comma, which comes and goes with the line below."""
    return {line.rstrip(",") for line in definition.splitlines()}
