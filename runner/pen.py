"""Writing to the runner's own tables: on a connection of its own, so that no rollback takes it along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .database import Database, Dialect, Session

_BUSY_S = 2.0
Write = tuple[str, Sequence[Any]]  # a statement with "?" for each value


@dataclass(frozen=True)
class OwnTable:
    """One of the runner's own tables: ``columns`` as CREATE TABLE has them."""

    name: str
    columns: str


class Pen:
    """Writes all of it or nothing, on ``session``, or on a new one where that is lost or there is none.

    ``migrating``: the driver's connection to write on instead: SQLite has one writer at a time.
    """

    def __init__(self, database: Database, session: Session | None) -> None:
        self.migrating: Any = None
        self._database = database
        self._session = session
        self._made: set[str] = set()

    @property
    def dialect(self) -> Dialect:
        """Of the database that is written to."""
        return self._database.dialect

    def name(self, table: OwnTable) -> str:
        """The table as SQL names it."""
        return self.dialect.own_table(table.name)

    def session_id(self) -> str | None:
        """The server's number of the session."""
        number = self._session.session_id() if self._session else None
        return None if number is None else str(number)

    def make(self, table: OwnTable) -> None:
        """Create the table where it is missing. Raises the driver's errors."""
        if table.name not in self._made:
            self.write(table, ())

    def write(self, table: OwnTable, writes: Sequence[Write]) -> None:
        """Run the statements, creating the table where it is missing. Raises the driver's errors."""
        if self.migrating is not None:
            self._on(self.migrating, table, writes)
        elif self._session is None or self.dialect.ONE_WRITER:
            self._anew(table, writes)
        else:
            try:
                self._session.with_connection(lambda connection: self._on(connection, table, writes))
            except Exception:  # lost, most likely, as a cluster's are with any of its nodes
                self._anew(table, writes)

    def ask(self, sql: str) -> Sequence[Sequence[Any]]:
        """A query where ``write`` writes."""
        if self.migrating is not None:
            return rows_of(self.migrating, sql)
        if self._session is not None:
            try:
                return self._session.ask(sql)
            except Exception as error:
                refusal = self.dialect.classify(error)
                if not refusal or not refusal.connection_lost:
                    raise
        session = self._database.connect()
        try:
            return session.ask(sql)
        finally:
            session.close()

    def _anew(self, table: OwnTable, writes: Sequence[Write]) -> None:
        # Where one writes at a time, for so long at most: a revision that was cut short may not have let go yet.
        session = self._database.connect(_BUSY_S if self.dialect.ONE_WRITER else None)
        try:
            self._on(session.connection, table, writes)
        finally:
            session.close()

    def _on(self, connection: Any, table: OwnTable, writes: Sequence[Write]) -> None:
        if table.name not in self._made:
            self.dialect.make_own_table(connection, table.name, table.columns)
            if connection is not self.migrating:  # whose transaction may be rolled back
                self._made.add(table.name)
        if writes:
            self.dialect.together(connection, writes)


def rows_of(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query on the connection of whatever driver, below SQLAlchemy."""
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
    finally:
        cursor.close()
