"""While revisions run: which statements, which of them are durable, which revisions are committed.

Three facts shape this. A revision's exception never reaches the generator that yielded its step, so
``migration_fn`` is wrapped. SQLAlchemy's ``commit`` event comes before the commit, so the dialect's
``do_commit`` is. And what is committed is what *another* connection sees: an implicit commit calls
nothing, and on MariaDB the migrating session may read stale rows.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from alembic.runtime.migration import MigrationContext, MigrationStep

from . import engines
from .answers import Replayed
from .database import Ask, Dialect, Ending, Session, driver_autocommits
from .errors import DatabaseUnreachable, RevisionUnresolved, RunnerError
from .events import (
    DurableStatement,
    RevisionExecuted,
    RevisionStarted,
    ServerWarning,
    StatementExecuted,
    TransactionCommitted,
)
from .flight import Flight, Statement
from .halves import Unreadable, forget
from .hooks import Hooks
from .ledger import Journal, fingerprint, unavailable
from .masking import sql_literals
from .model import Revision
from .pen import rows_of
from .place import Place
from .resuming import Progress, Unrecorded
from .statements import (
    Kind,
    dropped,
    first_word,
    kind_of,
    savepoint_restored,
    table_written,
    temporary_table,
)
from .stopping import Cut
from .watching import InFlight, Reason, Watch


class Recording:
    """What this process saw of the revisions that it ran."""

    def __init__(
        self,
        session: Session | None,
        place: Place,
        *,
        log_sql: Literal["masked", "full", "off"],
        statement_sent: Callable[..., None],
        watch: Watch,
        lock_wait_s: float,
        journal: Journal | None,
    ) -> None:
        self.place = place
        self.emit = place.emit
        self.executed: list[Flight] = []
        self.committed = 0
        self.flight: Flight | None = None
        self.read_back = False  # whether the database said afterwards what is in it
        self._session = session
        self._log_sql = log_sql
        self._statement_sent = statement_sent
        self._watch = watch
        self._lock_wait_s = lock_wait_s
        self._journal = journal
        self._last = False  # whether no other revision follows
        self._ask: Ask | None = None  # on the migrating connection
        self._autocommits = False
        self._migrating: Any = None  # the driver's connection
        self._session_id: int | None = None
        self._ours: tuple[int, ...] = ()
        self._invalid: frozenset[str] = frozenset()
        self._inside = False
        self._sent_for: Flight | None = None
        self._begun: set[tuple[str, str]] = set()
        self._temporary: set[str] = set()
        self._warned: set[str] = set()
        self._hooks = Hooks()

    @property
    def dialect(self) -> Dialect:
        """The dialect of the database."""
        return self.place.dialect

    # --- around the steps -------------------------------------------------------------------------

    def attach(self, context: MigrationContext) -> None:
        """Listen to the migrating connection. Called inside the steps: touching it earlier begins a transaction."""
        self.detach()  # env.py may run migrations more than once
        connection: Any = context.connection
        engine, dialect = connection.engine, connection.dialect
        engine.hide_parameters = True
        self._hooks.listen(engine, "before_cursor_execute", self._before_statement)
        self._hooks.listen(engine, "after_cursor_execute", self._after_statement)
        migrating, attached = connection.connection, [True]
        self._learn(connection)
        commit, rollback = dialect.do_commit, dialect.do_rollback

        def do_commit(dbapi: Any) -> None:
            ours = dbapi is migrating and bool(attached)
            aborted = ours and self.dialect.aborted(_driver_connection(dbapi))
            if ours and self._inside and self.flight and self.flight.changed:
                self._say_sent()
            with self._watch.our_code():  # a commit that is cut short may be one or not
                if ours and not aborted:
                    self._record_before_commit()
                commit(dbapi)
                if ours:
                    self._transaction_ended("rollback" if aborted else "commit")

        def do_rollback(dbapi: Any) -> None:
            with self._watch.our_code():
                rollback(dbapi)
                if dbapi is migrating and attached:
                    self._transaction_ended("rollback")

        self._hooks.then(attached.clear)
        self._hooks.put(dialect, "do_commit", do_commit)
        self._hooks.put(dialect, "do_rollback", do_rollback)
        # Not SQLAlchemy's event: reflection of a MySQL table turns that off for the whole connection.
        for name in ("do_execute", "do_execute_no_params", "do_executemany"):
            self._hooks.put(dialect, name, self._executing(getattr(dialect, name)))
        context.on_version_apply_callbacks += (self._version_moved,)

    def _learn(self, connection: Any) -> None:
        """What is asked of the migrating session while nothing is in flight."""
        self._ask = ask = engines.ask(connection)
        self._migrating = driver = _driver_connection(connection.connection)
        self._session_id = self.dialect.session_id(ask)
        if not self.dialect.keeps_session(driver, self._session_id):
            self._session_id = None
        own = self.dialect.session_id(self._session.ask) if self._session else None
        self._ours = tuple(one for one in (self._session_id, own) if one is not None)
        self._invalid = frozenset(self.dialect.invalid_indexes(ask))
        self._autocommits = driver_autocommits(driver)
        if not self.dialect.LIMIT_ENDS_WITH_TRANSACTION:
            self.dialect.limit_lock_wait(ask, self._lock_wait_s)

    def detach(self) -> None:
        """Stop listening: env.py has ended, or begins again."""
        self._hooks.take_back()
        if self._journal:
            self._journal.migrated()

    def _executing(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        """``arguments``: the driver's cursor, what it is to execute, and SQLAlchemy's context."""

        def executing(*arguments: Any) -> None:
            cursor, context = arguments[0], arguments[-1]
            statement = self._in_flight
            if statement and statement.recorded:
                recorded = statement.recorded
                if recorded.answer and recorded.answer.error:
                    statement.error = recorded.answer.error
                    raise recorded.answer.error
                if recorded.answer:
                    context.cursor = recorded.answer.cursor(cursor)
                else:
                    context.cursor = Replayed(cursor, recorded.row_count, recorded.last_id)
                return
            try:
                execute(*arguments)
            except BaseException as error:
                if statement and statement.kind == "read" and statement.progress:
                    statement.progress.refused(error)
                self._after_failure(error, context)
                raise
            if statement and statement.kind == "read" and statement.progress:
                self._hear(statement.progress, cursor, context)

        return executing

    def _hear(self, progress: Progress, cursor: Any, context: Any) -> None:
        def hear() -> None:
            context.cursor = progress.heard(cursor, streams=bool(getattr(context, "_is_server_side", False)))

        if self.flight:
            with self._watch.our_code():
                self._or_stop(self.flight, hear)

    @property
    def _in_flight(self) -> Statement | None:
        """The statement of a revision that was not answered yet."""
        last = self.flight.statements[-1] if self._inside and self.flight and self.flight.statements else None
        return None if last is None or last.returned or last.error else last

    def begin(self, revision: Revision, step: MigrationStep, position: int, count: int) -> None:
        """A revision is about to be handed to Alembic."""
        if self._ask and self.dialect.LIMIT_ENDS_WITH_TRANSACTION and not self._autocommits:
            # Begins the transaction that Alembic goes on with.
            self.dialect.limit_lock_wait(self._ask, self._lock_wait_s)
        direction = "upgrade" if step.is_upgrade else "downgrade"
        if self._journal:
            self._journal.begins(revision, direction, self._migrating)
        self.flight = flight = Flight(revision, time.monotonic(), progress=self._progress(revision, direction))
        self._last = position == count
        run = step.migration_fn

        @functools.wraps(run)  # Alembic tells the direction by the function's name
        def recorded(*args: Any, **keywords: Any) -> Any:
            self._inside = True
            try:
                with self._watch.their_code():
                    run(*args, **keywords)
                if flight.progress:
                    self._or_stop(flight, flight.progress.ends)
            except BaseException as error:
                flight.error = error
                raise
            finally:
                self._inside = False

        step.migration_fn = recorded  # whose answer nobody asks for
        self.emit(
            RevisionStarted(
                revision=revision.revision,
                parents=list(revision.parents),
                summary=revision.summary,
                path=revision.path,
                position=position,
                count=count,
            )
        )

    def _progress(self, revision: Revision, direction: str) -> Progress | None:
        journal = self._journal
        if journal is None:
            return None
        progress = Progress(
            pen=journal.pen,
            table=self.place.table,
            revision=revision.revision,
            direction=direction,
            run_id=journal.run_id,
            sha256=fingerprint(revision.path),
            tells_sql=self._log_sql != "off",
            warn=lambda why: self.emit(unavailable(why)),
            half=self.place.halves.get(revision.revision),
        )
        again = (revision.revision, direction) in self._begun
        self._begun.add((revision.revision, direction))
        try:
            progress.begins(again=again)
        except (Unrecorded, Unreadable) as error:
            raise DatabaseUnreachable(f"{error}.", hint="Run again when it can be.") from error
        return progress

    def end(self) -> None:
        """Alembic came back for the next step: the revision was executed, and maybe committed."""
        flight = self.flight
        if flight is None or flight.heads is None:
            return
        self.flight = None
        self.executed.append(flight)
        rows = self._rows()
        self.emit(
            RevisionExecuted(
                revision=flight.id,
                duration_s=round(time.monotonic() - flight.started, 3),
                statement_count=flight.count,
                committed=rows == flight.heads,
            )
        )
        if self._journal:
            self._journal.executed(flight.id, round(time.monotonic() - flight.started, 3))
        self.observe(rows)
        if self._journal and self._last:
            self._journal.flush()

    def write_down(self, failure: BaseException | None) -> None:
        """Into the ledger: what became of the revisions, as far as the database told."""
        journal = self._journal
        if journal is None:
            return
        for flight in self.uncommitted if self.read_back else ():
            journal.ended(flight.id, "failed" if flight.durable else "rolled_back")
        if self.flight and self.read_back:
            code = getattr(failure, "code", None)
            journal.ended(self.flight.id, "failed", code, str(failure) if failure else None)
        journal.flush()
        settled = [flight.id for flight in self.executed[: self.committed] if flight.progress and flight.progress.wrote]
        with suppress(Exception):  # they went with the version row, unless that session might not
            forget(journal.pen, self.place.table, settled)

    # --- what is committed ------------------------------------------------------------------------

    def learn(self) -> None:
        """What is recorded as done is there, also where the session could not say what became of its transaction."""
        if self.flight and self.flight.progress:
            self.flight.holds(self.flight.progress.recorded_as_done())

    def observe(self, rows: frozenset[str] | None = None) -> None:
        """Look which executed revisions another connection sees by now."""
        rows = self._rows() if rows is None else rows
        for index in range(len(self.executed), self.committed, -1):
            if rows == self.executed[index - 1].heads:
                newly = [flight.id for flight in self.executed[self.committed : index]]
                self.committed = index
                self.place.saw(self.executed[index - 1].heads or ())
                if self._journal:
                    self._journal.committed(newly)
                self.emit(TransactionCommitted(revisions=newly))
                return

    @property
    def uncommitted(self) -> list[Flight]:
        """The revisions that were executed to their end, and are not seen to be committed."""
        return self.executed[self.committed :]

    def _rows(self) -> frozenset[str] | None:
        if self._session is None:  # only env.py can connect, and it is busy
            return None
        try:
            return frozenset(self._session.versions(self.place.table))
        except Exception:  # lost, which is noticed before the next revision; or busy: SQLite while the migration writes
            return None

    def _transaction_ended(self, how: Ending) -> None:
        """A transaction may span revisions, so this concerns the statements of all that are not committed."""
        if how is None:
            return
        for flight in [*self.uncommitted, *filter(None, [self.flight])]:
            flight.transaction_ended(how)
        if how == "commit" and self.uncommitted:
            self.observe()

    # --- the listeners ----------------------------------------------------------------------------

    def _version_moved(self, heads: Any, **_: Any) -> None:
        if self.flight:
            self.flight.heads = frozenset(heads)
            if self.flight.progress and self.flight.progress.wrote:
                with self._watch.our_code():
                    self.flight.progress.settled(self._migrating)

    def _before_statement(self, connection: Any, cursor: Any, sql: str, parameters: Any, _: Any, many: bool) -> None:
        if not (self._inside and self.flight):
            return
        with self._watch.our_code():
            statement = self._noted(self.flight, connection, sql)
            self._look_up(self.flight, statement, connection, parameters, many=many)
            if statement.recorded:
                return
            if over := self._watch.over:  # which hits code between quick statements by chance only
                self._watch.has_cut = True
                raise Cut(over.said)
            driver = _driver_connection(connection.connection)
            if statement.kind in ("dml", "ddl", "commit") and (
                self.dialect.DDL_COMMITS or self._lasts(statement.kind, driver)
            ):
                self._say_sent()
        statement.sent = self._watch.sent(
            InFlight(
                revision=self.flight.id,
                number=statement.number,
                dialect=self.dialect,
                database=self.place.database,
                session_id=self._session_id if self._is_migrating(connection) else None,
                ours=self._ours,
                connection=_driver_connection(connection.connection),
                emit=self.emit,
            )
        )

    def _noted(self, flight: Flight, connection: Any, sql: str) -> Statement:
        kind = kind_of(sql)
        if kind == "dml" and table_written(sql) in self._temporary:
            kind = "session"
        if kind == "ddl" and (gone := dropped(sql)) and gone <= self._temporary:
            kind = "session"
        number = flight.count + 1 if kind not in ("read", "session") else None
        driver = _driver_connection(connection.connection)
        if self._is_migrating(connection) and driver_autocommits(driver) != self._autocommits:
            self._autocommits = not self._autocommits
            if self.dialect.LIMIT_ENDS_WITH_TRANSACTION and not self._autocommits:  # behind an autocommit block
                self.dialect.limit_lock_wait(functools.partial(rows_of, connection.connection), self._lock_wait_s)
        aborted = self.dialect.aborted(driver)
        flight.statements.append(Statement(number, kind, sql, time.monotonic(), aborted))
        return flight.statements[-1]

    def _look_up(self, flight: Flight, statement: Statement, connection: Any, parameters: Any, *, many: bool) -> None:
        """Whether an earlier run has executed this statement already."""
        progress, number = flight.progress, statement.number
        if progress is None or not self._is_migrating(connection):
            return
        statement.progress = progress
        if statement.kind == "commit" and not statement.aborted:
            self._record_before_commit()
        driver = _driver_connection(connection.connection)

        def look_up() -> None:
            if statement.kind == "read":
                statement.recorded = progress.before_read(statement.sql, parameters)
            elif number is None:
                progress.before_session(statement.sql)
                progress.goes_elsewhere(statement.sql)
            else:
                statement.recorded = progress.before(
                    number, statement.kind, statement.sql, parameters, driver, many=many
                )

        self._or_stop(flight, look_up)

    def _or_stop(self, flight: Flight, do: Callable[[], None]) -> None:
        """Not even a revision that catches every Exception goes on behind this."""
        try:
            if flight.stopped is None:
                do()
        except (RevisionUnresolved, Unrecorded) as error:
            flight.stopped = error
            if isinstance(error, Unrecorded) and self.dialect.gave_way(error.orig):
                self._transaction_ended("rollback")
        if flight.stopped:
            raise Cut(str(flight.stopped)) from flight.stopped

    def _record_before_commit(self) -> None:
        if self._inside and self.flight and self.flight.progress:
            undone = {statement.number for statement in self.flight.statements if statement.undone}
            progress = self.flight.progress
            self._or_stop(self.flight, lambda: progress.commits(self._migrating, undone=undone))

    def _is_migrating(self, connection: Any) -> bool:
        return _driver_connection(connection.connection) is self._migrating

    def _after_statement(self, connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if not (self._inside and self.flight and self.flight.statements):
            return
        self._watch.came_back()
        statement = self.flight.statements[-1]
        statement.returned = True
        if statement.recorded:
            statement.durable = True
            self._watch.back_in_their_code()
            return
        if temporary := temporary_table(sql):
            (self._temporary.discard if first_word(sql) == "DROP" else self._temporary.add)(temporary)
        elif statement.kind == "session" and first_word(sql) == "DROP":
            self._temporary -= dropped(sql)
        if savepoint := savepoint_restored(sql):
            self.flight.back_to(savepoint)
        gives_rows = cursor.description is not None
        how = self.dialect.after(statement.kind, _driver_connection(connection.connection), gives_rows=gives_rows)
        self._transaction_ended("rollback" if how and statement.aborted else how)
        if statement.number:
            self.emit(
                StatementExecuted(
                    revision=self.flight.id,
                    statement_number=statement.number,
                    sql=self.shown(sql),
                    duration_s=round(time.monotonic() - statement.started, 6),
                )
            )
        if statement.kind in ("dml", "ddl") and not gives_rows:
            self._tell_warnings(connection)
        if self.flight.progress and statement.number and self._is_migrating(connection):
            progress = self.flight.progress
            driver = _driver_connection(connection.connection)
            self._or_stop(self.flight, lambda: progress.after(statement.kind, sql, cursor, driver))
        self._watch.back_in_their_code()
        if statement.sent and statement.sent.cut:  # MySQL's SLEEP returns 1 when it is cancelled
            raise Cut(statement.sent.cut.said)

    def _tell_warnings(self, connection: Any) -> None:
        """Each once in a revision, however many rows or statements it is about."""
        assert self.flight
        for warning in self.dialect.warnings(connection.connection):
            if (self.flight.id + warning) not in self._warned:
                self._warned.add(self.flight.id + warning)
                self.emit(ServerWarning(stream="server", logger=None, text=warning, revision=self.flight.id))

    def _after_failure(self, error: BaseException, context: Any) -> None:
        """A revision may catch this and go on, so it is settled here and now. ``context``: SQLAlchemy's."""
        statement = self._in_flight
        if statement is None:
            return
        self._watch.came_back()
        statement.error = error
        self._settle_failure(statement, error, _driver_connection(context.root_connection.connection))
        self._watch.back_in_their_code()

    def _settle_failure(self, statement: Statement, error: BaseException, driver: Any) -> None:
        refusal = self.dialect.classify(error) if isinstance(error, Exception) else None
        answered = isinstance(error, Exception) and not (refusal and refusal.unanswered)
        if self.flight and self.flight.progress:
            self.flight.progress.failed(answered=answered)
        if self.flight and not answered and self._lasts(statement.kind, driver):
            self.flight.doubtful = True
        if not answered or (refusal and refusal.connection_lost):  # what is left of what came before, ``learn`` tells
            return
        self._transaction_ended(self.dialect.after_failure(statement.kind, driver, self.dialect.code_of(error)))

    def _lasts(self, kind: Kind, driver: Any) -> bool:
        """Whether a statement of this kind is durable as soon as it is done."""
        return kind == "commit" or driver_autocommits(driver) or (kind == "ddl" and self.dialect.DDL_COMMITS)

    def _say_sent(self) -> None:
        if self._sent_for is not self.flight:
            self._sent_for = self.flight
            self._statement_sent(recorded=bool(self.flight and self.flight.resumable))

    # --- what remains -----------------------------------------------------------------------------

    def why_cancelled(self, statement: Statement | None) -> Reason | None:
        """Why the revision in flight was ended by us, if it was."""
        if statement and statement.sent and statement.sent.cut:
            return statement.sent.cut
        return self._watch.over if self._watch.has_cut else None

    def left_invalid(self, flight: Flight) -> dict[str, bool]:
        """The invalid indexes that concern the statement that failed; true: it is what left them there."""
        last = flight.statements[-1] if flight.statements else None
        if last is None or last.returned or last.kind != "ddl" or self.place.database is None:
            return {}
        try:
            with self.place.database.session() as session:
                there = self.dialect.invalid_indexes(session.ask)
        except RunnerError:
            return {}
        concerned = [index for index, table in there.items() if _names(last.sql, index) or _names(last.sql, table)]
        found = {index: index not in self._invalid for index in concerned}
        last.durable = last.durable or any(found.values())
        return found

    def durable_statements(self, flight: Flight) -> list[DurableStatement]:
        """The statements of a revision whose effect is in the database, as events show them."""
        return [DurableStatement(statement_number=s.number or 0, sql=self.shown(s.sql) or "") for s in flight.durable]

    def shown(self, sql: str) -> str | None:
        """A statement as ``LOG_SQL`` wants it."""
        if self._log_sql == "off":
            return None
        return sql_literals(sql) if self._log_sql == "masked" else sql


def _driver_connection(pooled: Any) -> Any:
    return getattr(pooled, "dbapi_connection", None) or pooled.connection  # the latter before SQLAlchemy 1.4.24


def _names(sql: str, what: str) -> bool:
    """Whether the statement speaks of this index or table; REINDEX CONCURRENTLY adds to the name."""
    plain = re.sub(r"_ccnew\d*$", "", what.rpartition(".")[2].strip('"'))
    return re.search(rf"(?<!\w){re.escape(plain)}(?!\w)", sql) is not None
