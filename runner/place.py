"""One of the databases that ``env.py`` migrates. Most projects have one, the multidb template several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from .ahead import Ahead
from .database import DIALECTS, Database, Dialect, Session
from .errors import RunnerError
from .events import Emit, Event
from .halves import Half
from .ledger import Ledger
from .model import Rows, State, VersionTable, is_own
from .seam import Seen

_READ_BACK_S = 15.0


class Place:
    """A database with a version table, as ``env.py`` uses it. ``rows`` are the committed ones, as read last.

    ``database`` is how the runner connects itself, and None where only ``env.py`` knows how
    (``creator=``). Then ``look`` asks ``env.py`` for the rows.
    """

    def __init__(
        self,
        seen: Seen | None,
        database: Database | None,
        *,
        section: str | None,
        look: Callable[[], Rows],
        emit: Emit,
        saw: Callable[[str | None, Rows], None],
    ) -> None:
        self.seen = seen
        self.database = database
        self.section = section
        self.table = seen.where.table if seen else VersionTable()
        self.schema = seen.schema if seen else None  # of it, as env.py configures it
        self.current: Rows = seen.current if seen else ()  # as env.py saw them
        self.rows: Rows = self.current
        self.goal: Rows = ()
        self.tables: frozenset[str] = frozenset()
        self.ledger = Ledger()
        self.halves: Mapping[str, Half] = {}  # the revisions that an earlier run has begun, by what it recorded
        self.unreadable: str | None = None  # why the record of them cannot be relied on
        self.ahead: Ahead | None = None  # of this image
        self._look = look
        self._emit = emit
        self._saw = saw

    @property
    def dialect(self) -> Dialect:
        """Which product the database is."""
        if self.database:
            return self.database.dialect
        assert self.seen
        return DIALECTS[self.seen.url.dialect]

    @property
    def name(self) -> str:
        """For people; never with the password."""
        url = self.database.url if self.database else self.seen.url if self.seen else None
        return url.masked() if url else "the database"

    def emit(self, event: Event) -> None:
        """Say what happened here."""
        self._emit(replace(event, section=self.section) if self.section else event)

    def saw(self, rows: Iterable[str]) -> None:
        """Remember the committed rows, so that the last line can tell them whatever becomes of this process."""
        self.rows = tuple(sorted(rows))
        self._saw(self.section, self.rows)

    def read(self) -> Rows:
        """Read the rows again."""
        if self.database is None:
            self.saw(self._look())
            return self.rows
        with self.database.session() as session:
            return self.read_on(session)

    def read_on(self, session: Session) -> Rows:
        """Read the rows on this session."""
        self.saw(session.versions(self.table))
        return self.rows

    @property
    def others(self) -> frozenset[str]:
        """The tables besides the version table and the runner's own."""
        own = self.table.name.lower()
        return frozenset(t for t in self.tables if t.rpartition(".")[2].lower() != own and not is_own(t))

    @property
    def state_if_empty(self) -> State:
        """What a database without version rows is."""
        return "unmanaged" if self.others else "empty"

    def read_back(self) -> Rows | RunnerError:
        """The committed rows on a new connection; why not, when the server does not tell for a while."""
        deadline = time.monotonic() + _READ_BACK_S
        while True:
            try:
                return self.read()
            except RunnerError as error:
                if not error.exit_code.retryable or time.monotonic() > deadline:
                    return error
                time.sleep(0.5)
