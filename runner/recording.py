"""While revisions run: which statements, which of them are durable, which revisions are committed.

Three facts shape this. A revision's exception never reaches the generator that yielded its step, so
``migration_fn`` is wrapped. SQLAlchemy's ``commit`` event comes before the commit, so the dialect's
``do_commit`` is. And what is committed is what *another* connection sees: an implicit commit calls
nothing, and on MariaDB the migrating session may read stale rows.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from alembic.runtime.migration import MigrationContext, MigrationStep
from sqlalchemy import event

from .database import Dialect, Session
from .events import (
    DurableStatement,
    Emit,
    RevisionExecuted,
    RevisionStarted,
    StatementExecuted,
    TransactionCommitted,
)
from .masking import sql_literals
from .model import Revision, VersionTable
from .statements import Kind, kind_of


@dataclass
class Statement:
    """One statement of the revision in flight. Reads and session settings have no number."""

    number: int | None
    kind: Kind
    sql: str
    started: float
    returned: bool = False
    durable: bool = False


@dataclass
class Flight:
    """The revision in flight."""

    revision: Revision
    started: float
    statements: list[Statement] = field(default_factory=list)
    heads: frozenset[str] | None = None  # what the version table holds once Alembic has moved it
    error: BaseException | None = None

    @property
    def last(self) -> Statement | None:
        """The statement that was sent and did not return, if any."""
        return next((s for s in reversed(self.statements) if not s.returned), None)

    @property
    def changed(self) -> list[Statement]:
        """The statements that may have changed something."""
        return [s for s in self.statements if s.kind in ("dml", "ddl")]


@dataclass(frozen=True)
class Executed:
    """A revision that Alembic ran to its end, and the version rows after it."""

    revision: str
    heads: frozenset[str]


class Recording:
    """What this process saw of the revisions that it ran."""

    def __init__(
        self,
        session: Session,
        table: VersionTable,
        *,
        log_sql: Literal["masked", "full", "off"],
        statement_sent: Callable[[], None],
        emit: Emit,
    ) -> None:
        self.executed: list[Executed] = []
        self.committed = 0
        self.flight: Flight | None = None
        self.session_lost: Exception | None = None
        self._session = session
        self._table = table
        self._log_sql = log_sql
        self._statement_sent = statement_sent
        self._emit = emit
        self._inside = False
        self._detach: list[Callable[[], None]] = []

    @property
    def dialect(self) -> Dialect:
        """The dialect of the database."""
        return self._session.dialect

    # --- around the steps -------------------------------------------------------------------------

    def attach(self, context: MigrationContext) -> None:
        """Listen to the migrating connection. Called inside the steps: touching it earlier begins a transaction."""
        connection: Any = context.connection
        engine, dialect = connection.engine, connection.dialect
        engine.hide_parameters = True
        for name, listener in (
            ("before_cursor_execute", self._before_statement),
            ("after_cursor_execute", self._after_statement),
        ):
            event.listen(engine, name, listener)
            self._detach.append(lambda name=name, listener=listener: event.remove(engine, name, listener))  # type: ignore[misc]
        migrating = connection.connection
        commit, rollback = dialect.do_commit, dialect.do_rollback

        def do_commit(dbapi: Any) -> None:
            commit(dbapi)
            if dbapi is migrating:
                self._mark_durable()
                self.observe()

        def do_rollback(dbapi: Any) -> None:
            rollback(dbapi)
            if dbapi is migrating and self.flight and self._inside:
                self.flight.statements = [s for s in self.flight.statements if s.durable]

        dialect.do_commit, dialect.do_rollback = do_commit, do_rollback
        self._detach += [
            lambda: dialect.__dict__.pop("do_commit"),
            lambda: dialect.__dict__.pop("do_rollback"),
        ]
        context.on_version_apply_callbacks += (self._version_moved,)

    def detach(self) -> None:
        """Stop listening."""
        while self._detach:
            self._detach.pop()()

    def begin(self, revision: Revision, step: MigrationStep, position: int, count: int) -> None:
        """A revision is about to be handed to Alembic."""
        self.flight = flight = Flight(revision, time.monotonic())
        run = step.migration_fn

        @functools.wraps(run)  # Alembic tells the direction by the function's name
        def recorded(*args: Any, **keywords: Any) -> Any:
            self._inside = True
            try:
                return run(*args, **keywords)
            except BaseException as error:
                flight.error = error
                raise
            finally:
                self._inside = False

        step.migration_fn = recorded
        self._emit(
            RevisionStarted(
                revision=revision.revision,
                parents=list(revision.parents),
                summary=revision.summary,
                path=revision.path,
                position=position,
                count=count,
            )
        )

    def end(self) -> None:
        """Alembic came back for the next step: the revision was executed, and maybe committed."""
        flight = self.flight
        if flight is None or flight.heads is None:
            return
        self.flight = None
        self.executed.append(Executed(flight.revision.revision, flight.heads))
        rows = self._rows()
        self._emit(
            RevisionExecuted(
                revision=flight.revision.revision,
                duration_s=round(time.monotonic() - flight.started, 3),
                statement_count=sum(1 for s in flight.statements if s.number),
                committed=rows == flight.heads,
            )
        )
        self.observe(rows)

    # --- what is committed ------------------------------------------------------------------------

    def observe(self, rows: frozenset[str] | None = None) -> None:
        """Look which executed revisions another connection sees by now."""
        rows = self._rows() if rows is None else rows
        for index in range(len(self.executed), self.committed, -1):
            if rows == self.executed[index - 1].heads:
                newly = [e.revision for e in self.executed[self.committed : index]]
                self.committed = index
                self._emit(TransactionCommitted(revisions=newly))
                return

    def _rows(self) -> frozenset[str] | None:
        try:
            return frozenset(self._session.versions(self._table))
        except Exception as error:
            refusal = self.dialect.classify(error)
            if refusal is None or refusal.connection_lost:  # else busy: SQLite while the migration writes
                self.session_lost = error
            return None

    # --- the listeners ----------------------------------------------------------------------------

    def _version_moved(self, heads: Any, **_: Any) -> None:
        if self.flight:
            self.flight.heads = frozenset(heads)

    def _before_statement(self, connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if not (self._inside and self.flight):
            return
        kind = kind_of(sql)
        number = None
        if kind not in ("read", "session"):
            number = 1 + sum(1 for s in self.flight.statements if s.number)
        if (
            kind in ("dml", "ddl")
            and not self.flight.changed
            and (self.dialect.DDL_COMMITS or _autocommits(self.dialect, connection))
        ):
            self._statement_sent()
        self.flight.statements.append(Statement(number, kind, sql, time.monotonic()))

    def _after_statement(self, connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if not (self._inside and self.flight and self.flight.statements):
            return
        statement = self.flight.statements[-1]
        statement.returned = True
        if statement.kind == "rollback":
            self.flight.statements = [s for s in self.flight.statements if s.durable]
        elif self.dialect.commits_after(statement.kind, _driver_connection(connection)):
            self._mark_durable()
            self.observe()
        if statement.number:
            self._emit(
                StatementExecuted(
                    revision=self.flight.revision.revision,
                    statement_number=statement.number,
                    sql=self.shown(sql),
                    duration_s=round(time.monotonic() - statement.started, 6),
                )
            )

    def _mark_durable(self) -> None:
        for statement in self.flight.statements if self.flight else ():
            statement.durable = statement.durable or statement.returned

    # --- what remains -----------------------------------------------------------------------------

    def durable_statements(self, code: str | None) -> list[DurableStatement]:
        """The statements of the revision in flight whose effect is in the database, given how it failed."""
        if not self.flight:
            return []
        last = self.flight.last
        if last and self.dialect.commits_before(last.kind, code):
            self._mark_durable()
        return [
            DurableStatement(statement_number=s.number or 0, sql=self.shown(s.sql) or "")
            for s in self.flight.changed
            if s.durable
        ]

    def shown(self, sql: str) -> str | None:
        """A statement as ``LOG_SQL`` wants it."""
        if self._log_sql == "off":
            return None
        return sql_literals(sql) if self._log_sql == "masked" else sql


def _driver_connection(connection: Any) -> Any:
    pooled = connection.connection
    return getattr(pooled, "dbapi_connection", None) or pooled.connection  # the latter before SQLAlchemy 1.4.24


def _autocommits(dialect: Dialect, connection: Any) -> bool:
    return dialect.autocommits(_driver_connection(connection))
