"""Half-done revisions: which of their statements are in the database, and how a run goes on behind them.

Where DDL commits as it goes, a failure or a kill leaves a part of a revision, and a run from its start would fail at
what is there already. So each statement is recorded. One that lasts by itself, on the runner's own connection:
as ``started`` before it is sent and as ``done`` once it was answered. One that lasts as its transaction does, in
that very transaction: mark and data are both there or neither. The next run executes the revision again, and what
is recorded as done is left out. What was started and not done is looked up in the database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .answers import Answer, Replayed, brings_into_session, fingerprint_of, of_tables
from .database import Dialect, words_of
from .errors import DatabaseUnreachable, RevisionUnresolved
from .events import numbered
from .halves import COLUMNS, LAYOUT, NAMES, TABLE, Half, Recorded, about, happened, read_by
from .masking import sql_literals
from .model import VersionTable
from .pen import Pen, Write, rows_of
from .statements import Kind, first_word, objects, several, table_written

_LONGEST = 2000  # of a statement that is kept, in characters
_LONGEST_BEFORE = 15000  # TEXT of MySQL has 64 KiB, of up to four bytes a character
_ROOM = 1_000_000  # for all answers of a revision, in characters; then only their SHA-256 is kept
_PACKET = 200_000  # of one INSERT, in characters: servers have a limit, of 1 MiB at least
_CALLS = ("CALL", "DO", "EXECUTE")  # they may do anything, and commit on the way

How = Literal["with its transaction", "by itself", "who knows"]


@dataclass
class _Mark:
    """A statement that is to be recorded."""

    number: int
    how: How
    digest: str
    sql: str
    many: bool = False  # several statements, or one several times: it may fail half-way
    before: Mapping[str, str | None] | None = None
    changed: bool = False
    row_count: int = -1
    last_id: int | None = None
    gave_rows: bool = False
    answer: str | None = None


class Unrecorded(Exception):
    """A statement could not be recorded, so nothing goes on. ``orig``: why, as the driver said it."""

    def __init__(self, why: str, orig: Exception) -> None:
        super().__init__(why)
        self.orig = orig


@dataclass
class Progress:
    """One revision while it runs: what of it is left out, and how the rest is recorded."""

    pen: Pen
    table: VersionTable
    revision: str
    direction: str
    run_id: str
    sha256: str | None
    warn: Callable[[str], None]
    tells_sql: bool
    half: Half | None = None  # what an earlier run, or an earlier attempt of this one, recorded
    given_up: bool = False  # nothing is recorded
    _known: dict[int, Recorded] = field(default_factory=dict)  # the statements of ``half``
    _ahead: set[int] = field(default_factory=set)  # those that this attempt has yet to come to
    _numbers: set[int] = field(default_factory=set)  # what this attempt has recorded
    _now: dict[int, str] = field(default_factory=dict)
    _sent: _Mark | None = None
    _listens: _Mark | None = None  # to the answer of a query that is not recorded
    _expects: Recorded | None = None  # the same answer as then
    _reads: int = 0
    _room: int = _ROOM  # for answers
    _elsewhere: bool = False  # the revision went to another database or search path
    _heard: list[_Mark] = field(default_factory=list)  # reads that no statement was recorded behind yet
    _open: list[_Mark] = field(default_factory=list)  # of a transaction that is not committed yet
    _bracket: list[_Mark] | None = None  # behind a BEGIN or LOCK TABLES of the revision's own
    _last_at_once: dict[str, bool] = field(default_factory=dict)

    @property
    def _dialect(self) -> Dialect:
        return self.pen.dialect

    @property
    def wrote(self) -> bool:
        """Whether there is anything of it in the table."""
        return bool(self._numbers or self.half)

    def begins(self, *, again: bool) -> None:
        """Before the first statement. ``again``: this run has tried it before, and nothing of that remains."""
        if again and self._make():
            self.half = self._read()
        if self.half and (failed := self.half.numbers("failed")):
            self._write([(f"DELETE FROM {self.pen.name(TABLE)} {_THIS}", self._key(number)) for number in failed])
            self.half = replace(self.half, statements=tuple(s for s in self.half.statements if s.state != "failed"))
        self._known = {one.number: one for one in self.half.statements} if self.half else {}
        self._ahead = set(self._known)

    def recorded_as_done(self) -> Collection[int]:
        """The statements of which the table says so by now; none where it cannot be read."""
        with suppress(Exception):
            if self.wrote and (half := self._read()):
                return half.numbers("done")
        return ()

    def _read(self) -> Half | None:
        name = self.pen.name(TABLE)
        return read_by(self.pen.ask, self._dialect.literal, name, self.table, self.revision).get(self.revision)

    # --- around a read ----------------------------------------------------------------------------

    @property
    def _resumes(self) -> bool:
        """Whether a recorded statement is yet to come: nothing before it may go another way than it went."""
        return bool(self._ahead)

    def before_read(self, sql: str, parameters: Any) -> Recorded | None:
        """Before a query is sent: what to answer instead. Raises RevisionUnresolved.

        What a revision read before its last statement that lasts, it is told again: else it would find its own work,
        and go another way. The same as if it had paused there.
        """
        self._listens = self._expects = None
        if self.given_up:
            return None
        if not of_tables(sql):
            self.before_session(sql)
            return None
        self._reads += 1
        digest = _digest(sql, parameters)
        if not self._resumes:
            self._forget_reads()
            self._listens = _Mark(-self._reads, "by itself", digest, sql_literals(sql)[:_LONGEST])
            return None
        known = self.half.reads.get(-self._reads) if self.half else None
        if known is None or known.digest != digest:
            raise self._stopped(f"A query is another one now: {sql_literals(sql)[:200]}.")
        if known.answer and known.answer.sha256 is None:
            return known
        self._expects = known
        return None

    def _forget_reads(self) -> None:
        """From here on: nothing that lasts came of them, and who removed the cause may have done so in the rows."""
        gone = [number for number in self.half.reads if number <= -self._reads] if self.half else []
        if self.half and gone:
            self._write([(f"DELETE FROM {self.pen.name(TABLE)} {_THIS}", self._key(number)) for number in gone])
            kept = {number: one for number, one in self.half.reads.items() if number not in gone}
            self.half = replace(self.half, reads=kept)

    def before_session(self, sql: str) -> None:
        """What a variable or a temporary table was filled with, nobody kept. Raises RevisionUnresolved."""
        if self._resumes and brings_into_session(sql):
            raise self._stopped(f"What this took out of the database, nobody kept: {sql_literals(sql)[:200]}.")

    def heard(self, cursor: Any, *, streams: bool) -> Any:
        """The cursor with the answer. ``streams``: it is not all here. Raises RevisionUnresolved."""
        mark, self._listens = self._listens, None
        expects, self._expects = self._expects, None
        if (mark is None and expects is None) or cursor.description is None:
            return cursor
        if streams or not self._dialect.DDL_COMMITS:  # there, hardly a revision is ever gone on with
            if expects:
                raise self._stopped(f"What a query was answered, nobody kept: {expects.sql[:200]}.")
            if mark:
                self._heard.append(mark)
            return cursor
        rows = [tuple(row) for row in cursor.fetchall()]
        if expects and (expects.answer is None or expects.answer.sha256 != fingerprint_of(rows)):
            raise self._stopped(f"A query with a long answer has another one now: {expects.sql[:200]}.")
        if mark:
            mark.answer = Answer.of(cursor.description, rows, self._room)
            self._room -= len(mark.answer)
            self._heard.append(mark)
        return Replayed(cursor, cursor.rowcount, getattr(cursor, "lastrowid", None), cursor.description, rows)

    def refused(self, error: BaseException) -> None:
        """A query failed, as the question for a table that is not there does."""
        mark, self._listens = self._listens, None
        if mark and (answer := Answer.of_error(error)):
            mark.answer = answer
            self._heard.append(mark)

    # --- around a statement -----------------------------------------------------------------------

    def before(
        self, number: int, kind: Kind, sql: str, parameters: Any, driver: Any, *, many: bool = False
    ) -> Recorded | None:
        """Before a statement is sent: what to answer instead of sending it. Raises RevisionUnresolved, Unrecorded."""
        self._sent = None
        if kind not in ("dml", "ddl") or self.given_up:
            return None
        self._now[number] = sql_literals(sql)[:_LONGEST]
        self._ahead.discard(number)
        mark = _Mark(
            number, self._how(kind, sql, driver), _digest(sql, parameters), self._now[number], many or several(sql)
        )
        known = self._known.get(number)
        if known and self._is_there(known, mark, sql):
            return known
        if mark.how != "with its transaction":
            mark.before = self._definitions(sql) if kind == "ddl" and not self._elsewhere else None
            self._tell_reads(driver)
            self._announce([mark] if known is None else [])
        self._sent = mark
        return None

    def after(self, kind: Kind, sql: str, cursor: Any, driver: Any) -> None:
        """Once it was answered."""
        mark, self._sent = self._sent, None
        if kind in ("ddl", "commit", "rollback") or first_word(sql) == "UNLOCK":
            bracket, self._bracket = self._bracket or [], None
            self._done(bracket if kind != "rollback" else [])
        if kind == "lock" and self._dialect.HIDES_TRANSACTIONS and first_word(sql) != "UNLOCK":
            self._bracket = []
        if mark is None:
            return
        mark.row_count, mark.last_id = _whole(cursor.rowcount, -1), _whole(getattr(cursor, "lastrowid", None), None)
        mark.gave_rows = kind == "dml" and cursor.description is not None
        if mark.how == "by itself":
            mark.changed = mark.before is not None and self._definitions(sql) != mark.before
            self._done([mark])
        elif mark.how == "who knows":
            if self._bracket is not None and first_word(sql) not in _CALLS:
                self._bracket.append(mark)
        else:
            self._open.append(mark)
            if self._dialect.DDL_COMMITS:  # which may happen where nobody sees it
                self.commits(driver)

    def failed(self, *, answered: bool) -> None:
        """It failed. It may have been executed all the same: without an answer, or as an index that is left invalid."""
        mark, self._sent = self._sent, None
        if mark is None or mark.how == "with its transaction" or mark.many or not answered:
            return
        with suppress(Exception):  # then it counts as begun, and is looked up
            if not mark.before or self._dialect.definitions(self.pen.ask, about(mark.before)) == mark.before:
                self._write([(f"UPDATE {self.pen.name(TABLE)} SET state = 'failed' {_THIS}", self._key(mark.number))])

    def commits(self, driver: Any, *, undone: Collection[int | None] = ()) -> None:
        """The transaction is about to be committed, in the middle of the revision. ``undone``: what a rollback took."""
        marks, self._open = [mark for mark in self._open if mark.number not in undone], []
        if not marks or self.given_up:
            return
        try:
            if not self._make():
                return
            self._along(driver, *self._insertions([*self._heard, *marks]))
            self._numbers |= {mark.number for mark in (*self._heard, *marks)}
            self._heard = []
        except Exception as error:
            if self._dialect.gave_way(error):  # a deadlock, an abort in a cluster: the transaction may be gone
                raise Unrecorded(self._unwritten(error), error) from error
            refusal = self._dialect.classify(error)
            if not (refusal and refusal.connection_lost):  # which took the transaction with it
                self._announce(marks)  # a role that may not, say: then they are begun, and nobody knows more

    def _tell_reads(self, driver: Any) -> None:
        """In the open transaction, which the next statement commits: what was read in one that is lost goes with it."""
        if self._heard and not self._dialect.ONE_WRITER and self._make():
            with suppress(Exception):  # then they are written with that statement
                self._along(driver, *self._insertions(self._heard))
                self._numbers |= {mark.number for mark in self._heard}
                self._heard = []

    def ends(self) -> None:
        """The revision came to its end. Raises RevisionUnresolved when it sent less than what is recorded."""
        if self._ahead:
            raise self._stopped(f"Now it sends no {numbered(sorted(self._ahead))}.")

    def settled(self, driver: Any) -> None:
        """The version row was moved: take out what is recorded, in the same transaction."""
        numbers = sorted(self._numbers.union(self._known, self.half.reads if self.half else ()))
        literal, key = self._dialect.literal, self._key(0)[:-1]
        names = zip(("version_table", "version_schema", "revision"), key, strict=True)
        where = " AND ".join(f"{name} = {literal(value)}" for name, value in names)
        # One by one by the whole key: a list or a range of numbers locks on InnoDB what lies between and behind,
        # where the next revision is to be recorded on another connection.
        with suppress(Exception):  # then it goes at the end of the run, or when the next one begins
            self._along(
                driver,
                *(f"DELETE FROM {self.pen.name(TABLE)} WHERE {where} AND number = {number}" for number in numbers),
            )

    # --- deciding ---------------------------------------------------------------------------------

    def goes_elsewhere(self, sql: str) -> None:
        """After ``USE`` or another search path, names mean something else than on the runner's own connection."""
        self._elsewhere = self._elsewhere or first_word(sql) == "USE" or "search_path" in sql.lower()

    def _how(self, kind: Kind, sql: str, driver: Any) -> How:
        unclear = self._bracket is not None or self._elsewhere or first_word(sql) in _CALLS or several(sql)
        if kind == "dml" and unclear:
            return "who knows"
        if not self._dialect.joins(kind, driver):
            return "by itself"
        table = table_written(sql, whole=True)
        if table and table not in self._last_at_once:
            self._last_at_once[table] = self._dialect.lasts_at_once(self._ask, table)
        return "by itself" if table and self._last_at_once[table] else "with its transaction"

    def _is_there(self, known: Recorded, mark: _Mark, sql: str) -> bool:
        """Whether a recorded statement is in the database, so that it is left out."""
        if known.digest != mark.digest:
            differs = "is another one now" if known.sql != mark.sql else "has other values or parameters now"
            raise self._stopped(f"Statement {known.number} {differs}.")
        if known.gave_rows:
            raise self._stopped(f"Statement {known.number} gave rows, which nobody kept.")
        if known.state == "done":
            return True
        now = self._definitions(sql)
        there = happened(known.before, now, sql)
        invalid = [what.lower() for what, text in (now or {}).items() if text and " INVALID" in text]
        if there is None and invalid:
            left = f"Statement {known.number} left the {invalid[0]}, which is invalid"
            raise self._stopped(f"{left}: drop it, and run again.")
        if there is None:
            raise self._stopped(f"Whether statement {known.number} was executed, the database does not tell.")
        if there:
            mark.changed = True
            self._done([mark])
        return there

    def _definitions(self, sql: str) -> dict[str, str | None] | None:
        about = objects(sql)
        try:
            return self._dialect.definitions(self._ask, about) if about else None
        except Unrecorded:
            raise
        except Exception:
            return None  # in another database, say, where this user may not look

    def _ask(self, sql: str) -> Sequence[Sequence[Any]]:
        """Raises Unrecorded where there is no connection to ask on: as an error of the statement it would mislead."""
        try:
            return self.pen.ask(sql)
        except Exception as error:
            if self._unreachable(error):
                raise Unrecorded(self._unwritten(error), error) from error
            raise

    def _unreachable(self, error: Exception) -> bool:
        refusal = self._dialect.classify(error)
        return refusal is not None and refusal.error is DatabaseUnreachable

    def _stopped(self, why: str) -> RevisionUnresolved:
        assert self.half
        error = self.half.unresolved(" ".join(why.split()))  # SQL comes in several lines
        error.event = self.half.event(resumed=False, now=self._now, sql=self.tells_sql)
        return error

    # --- writing ----------------------------------------------------------------------------------

    def _announce(self, marks: Sequence[_Mark]) -> None:
        insert = f"INSERT INTO {self.pen.name(TABLE)} ({NAMES}) VALUES ({', '.join('?' for _ in COLUMNS)})"
        self._write(
            [(insert, self._values(mark, "done")) for mark in self._heard]
            + [(insert, self._values(mark, "started")) for mark in marks]
        )
        self._numbers |= {mark.number for mark in (*self._heard, *marks)}
        self._heard = []

    def _done(self, marks: Sequence[_Mark]) -> None:
        """What cannot be written stays begun, and is looked up by who goes on."""
        told = "state = 'done', changed_it = ?, row_count = ?, last_id = ?, gave_rows = ?"
        change = f"UPDATE {self.pen.name(TABLE)} SET {told} {_THIS}"
        with suppress(Exception):
            if marks:
                self._write(
                    [
                        (change, (int(m.changed), m.row_count, m.last_id, int(m.gave_rows), *self._key(m.number)))
                        for m in marks
                    ]
                )

    def _insertions(self, marks: Sequence[_Mark]) -> Iterator[str]:
        """With nothing in them that a driver, or a setting of the session, would interpret."""
        literal, rows = self._dialect.literal, list[str]()
        for mark in marks:
            values = (
                "NULL" if value is None else str(value) if isinstance(value, int) else literal(value)
                for value in self._values(mark, "done")
            )
            rows.append(f"({', '.join(values)})")
            if mark is marks[-1] or sum(map(len, rows)) > _PACKET:
                yield f"INSERT INTO {self.pen.name(TABLE)} ({NAMES}) VALUES {', '.join(rows)}"
                rows = []

    def _along(self, driver: Any, *statements: str) -> None:
        """In the migrating session, below SQLAlchemy. Raises the driver's errors, and leaves the transaction whole."""
        if self._dialect.DDL_COMMITS:
            for sql in statements:
                rows_of(driver, sql)
            return
        rows_of(driver, "SAVEPOINT alembic_job_statement")  # else its failure would be the revision's
        try:
            for sql in statements:
                rows_of(driver, sql)
        except Exception:
            rows_of(driver, "ROLLBACK TO SAVEPOINT alembic_job_statement")
            raise
        rows_of(driver, "RELEASE SAVEPOINT alembic_job_statement")

    def _values(self, mark: _Mark, state: str) -> tuple[Any, ...]:
        before = json.dumps(mark.before) if mark.before else None
        if before and len(before) > _LONGEST_BEFORE:
            before = None
        schema, changed, gave_rows = self.table.schema or "", int(mark.changed), int(mark.gave_rows)
        who = (self.table.name, schema, self.revision, mark.number, LAYOUT, self.direction, self.run_id, self.sha256)
        return (
            *who,
            state,
            mark.digest,
            mark.sql,
            before,
            changed,
            mark.row_count,
            mark.last_id,
            gave_rows,
            mark.answer,
        )

    def _key(self, number: int) -> tuple[Any, ...]:
        return (self.table.name, self.table.schema or "", self.revision, number)

    def _make(self) -> bool:
        """Whether the table is there."""
        self._write(())
        return not self.given_up

    def _write(self, writes: Sequence[Write]) -> None:
        """Where nothing is recorded so far and nothing can be, the revision runs without. Raises Unrecorded."""
        if self.given_up:
            return
        try:
            self.pen.make(TABLE)
            if writes:
                self.pen.write(TABLE, writes)
        except Exception as error:
            why = self._unwritten(error)
            if self.wrote or self._unreachable(error):  # which may pass, and the revision would be without a record
                raise Unrecorded(why, error) from error
            self.given_up = True
            self.warn(why)

    def _unwritten(self, error: Exception) -> str:
        return f"{self.pen.name(TABLE)} cannot be written: {words_of(error)}"


_THIS = "WHERE version_table = ? AND version_schema = ? AND revision = ? AND number = ?"


def _digest(sql: str, parameters: Any) -> str:
    return hashlib.sha256(f"{sql}\0{parameters!r}".encode()).hexdigest()


def _whole(number: Any, otherwise: Any) -> Any:
    return number if isinstance(number, int) else otherwise
