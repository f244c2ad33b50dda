"""Two rows as the lock, where the locks of sessions exclude nobody: Galera, a pooler in transaction mode.

The *lease* expires by the server's clock unless it is renewed, so it frees itself after a crash. The
*fence* is written by the session that migrates, in its own transaction: when a revision begins, and
when it moves the version. Who takes a lease over has to write the fence, too: it waits there for a
transaction that is still open, and the other one finds the fence in new hands. Where DDL commits as it
goes, the fence says which revision is in flight, and in which session; then a lease is taken over only
when that session is proven to be gone.

Measured on Galera (``tests/integration/test_galera.py``): an UPDATE in autocommit has one winner; to
*read* a row before the version is moved does not fence, to write it does; and an UPDATE that changes no
value replicates nothing, so each changes ``beat``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from .database import Ask, Database, Session
from .model import Holder

LIFE_S = 30.0  # renewed at a third of it
_NAME = "alembic_job_lease"
_COLUMNS = (
    "name VARCHAR(32) NOT NULL PRIMARY KEY, owner VARCHAR(64), hostname VARCHAR(255), beat BIGINT NOT NULL,"
    " since NUMERIC(20, 6), expires NUMERIC(20, 6), revision VARCHAR(255), session VARCHAR(255)"
)


@dataclass
class Lease:
    """The lease of a database, seen from one run.

    ``session`` is for the taking. After that each statement has a connection of its own, because a
    cluster that loses a node breaks them all, and the lease outlives that.
    """

    session: Session
    database: Database
    reason: str
    kind: str = field(default="lease", init=False)

    @property
    def name(self) -> str:
        """The table."""
        return self.session.dialect.own_table(_NAME)

    @property
    def _now(self) -> str:
        return self.session.dialect.CLOCK

    # --- taking -----------------------------------------------------------------------------------

    def take(self) -> bool:
        """Take a lease that nobody has, or whose owner does not migrate any more."""
        session = self.session
        session.dialect.prepare_for_lease(session.ask)
        session.dialect.make_own_table(session.connection, _NAME, _COLUMNS)
        owner, expired, beat, *_ = self._row("lease")
        _, _, fence_beat, revision, mark, _ = self._row("fence")
        if owner and not expired:
            return False
        if revision and mark and not session.dialect.is_gone(session.ask, mark):
            return False
        mine = f"owner = '{session.owner}', beat = beat + 1"
        taken = session.changed(
            f"UPDATE {self.name} SET {mine}, hostname = '{socket.gethostname()}', since = {self._now},"
            f" expires = {self._now} + {LIFE_S} WHERE name = 'lease' AND beat = {int(beat)}"
        )
        if not taken:
            return False
        fenced = False
        with suppress(Exception):  # a transaction is still open there
            fenced = bool(
                session.changed(
                    f"UPDATE {self.name} SET {mine}, revision = NULL, session = NULL"
                    f" WHERE name = 'fence' AND beat = {int(fence_beat)}"
                )
            )
        if not fenced:
            session.changed(self._update("lease", "owner = NULL"))
        return fenced

    def seize(self) -> bool:
        """Free a lease that has expired, on somebody's word that its session is gone, though nothing proves it."""
        owner, expired, *_ = self._row("lease")
        if owner and not expired:
            return False
        for row in ("lease", "fence"):
            self.session.changed(
                f"UPDATE {self.name} SET owner = NULL, revision = NULL, session = NULL, beat = beat + 1"
                f" WHERE name = '{row}'"
            )
        return True

    def _row(self, name: str) -> Sequence[Any]:
        sql = (
            f"SELECT owner, expires < {self._now}, beat, revision, session, hostname FROM {self.name}"
            f" WHERE name = '{name}'"
        )
        rows = self.session.ask(sql)
        if not rows:
            with suppress(Exception):  # another run inserts it, too
                self.session.changed(f"INSERT INTO {self.name} (name, beat) VALUES ('{name}', 0)")
            rows = self.session.ask(sql)
        return rows[0]

    def holder(self) -> Holder | None:
        """Whoever stands in the row, in the words of the row."""
        rows = self.session.ask(
            f"SELECT lease.owner, lease.hostname, lease.since, lease.expires < {self._now}, fence.revision"
            f" FROM {self.name} AS lease, {self.name} AS fence"
            " WHERE lease.name = 'lease' AND fence.name = 'fence' AND lease.since IS NOT NULL"
        )
        if not rows:
            return None
        owner, host, since, expired, revision = rows[0]
        return Holder(
            connection="a lease that has expired" if expired or not owner else "a lease",
            hostname=host,
            since=datetime.fromtimestamp(float(since), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            run_id=str(owner or "").partition("alembic-job/")[2] or None,
            end_with="alembic-job unlock" if expired or not owner else None,
            migrates=revision is not None,
        )

    # --- while it is ours -------------------------------------------------------------------------

    def is_ours(self) -> bool:
        """Ours, and not expired."""
        with self.database.session() as session:
            session.dialect.prepare_for_lease(session.ask)
            mine = f"name = 'lease' AND owner = '{self.session.owner}'"
            return bool(session.ask(f"SELECT 1 FROM {self.name} WHERE {mine} AND expires > {self._now}"))

    def keep(self) -> None:
        """Renew it."""
        with self.database.session() as session:
            session.changed(self._update("lease", f"expires = {self._now} + {LIFE_S}"))

    def release(self) -> bool:
        """Nobody's from now on."""
        with self.database.session() as session:
            session.dialect.prepare_for_lease(session.ask)
            was_ours = session.changed(self._update("lease", "owner = NULL"))
            with suppress(Exception):  # the transaction is open yet; who comes next sees to it
                session.changed(self._update("fence", "owner = NULL, revision = NULL, session = NULL"))
        return bool(was_ours)

    def is_seen_by(self, ask: Ask) -> bool:
        """Whether this session reads the row that we wrote: if not, it is in another database."""
        try:
            return bool(ask(f"SELECT 1 FROM {self.name} WHERE name = 'fence' AND owner = '{self.session.owner}'"))
        except Exception:  # no such table there
            return False

    def fence(self, ask: Ask) -> bool:
        """It is written when a revision begins."""
        return True

    def begins(self, ask: Ask, change: Callable[[str], int], revision: str) -> bool:
        """Write the fence, in the transaction of the revision: which one it is, and the session."""
        mark = self.session.dialect.session_mark(ask)
        return bool(change(self._update("fence", f"revision = '{_quoted(revision)}', session = '{_quoted(mark)}'")))

    def moves(self, change: Callable[[str], int]) -> bool:
        """Write the fence in the transaction that moves the version."""
        return bool(change(self._update("fence", "revision = NULL, session = NULL")))

    def _update(self, row: str, what: str) -> str:
        return f"UPDATE {self.name} SET {what}, beat = beat + 1 WHERE name = '{row}' AND owner = '{self.session.owner}'"

    def fence_left(self) -> Holder | None:
        """The rows are no session's, so no pool can keep them."""
        return None

    def end_fence(self) -> None:
        """Nothing to end."""

    def forget_fence(self) -> None:
        """Nothing to forget."""


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "''")
