"""A revision on its way, and what is true of each of its statements."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from .database import Ending
from .errors import RevisionUnresolved
from .halves import Recorded
from .model import Revision
from .resuming import Progress, Unrecorded
from .statements import Kind, savepoint_set
from .watching import InFlight


@dataclass
class Statement:
    """One statement of a revision. Reads and session settings have no number."""

    number: int | None
    kind: Kind
    sql: str
    started: float
    aborted: bool = False  # sent in a transaction that can only be rolled back any more
    returned: bool = False
    error: BaseException | None = None  # of the driver
    durable: bool = False
    undone: bool = False
    sent: InFlight | None = None  # what was seen of it while it ran
    recorded: Recorded | None = None  # by an earlier run, so that it is left out
    progress: Progress | None = None  # where it is recorded


@dataclass
class Flight:
    """A revision on its way: begun, and not seen to be committed yet."""

    revision: Revision
    started: float
    statements: list[Statement] = field(default_factory=list)
    heads: frozenset[str] | None = None  # what the version table holds once Alembic has moved it
    error: BaseException | None = None
    doubtful: bool = False  # the connection was lost before the server said what became of a statement
    progress: Progress | None = None  # what is recorded of it; None where nothing can be
    stopped: RevisionUnresolved | Unrecorded | None = None  # why no further statement of it may be sent

    @property
    def id(self) -> str:
        """The revision's identifier."""
        return self.revision.revision

    def ended_at(self, cause: BaseException | None) -> Statement | None:
        """The statement whose failure this is. One that the revision caught and survived is not."""
        last = self.statements[-1] if self.statements else None
        if last and last.sent and last.sent.cut:  # MySQL's SLEEP returns when it is cancelled
            return last
        if last is None or last.returned:
            return None
        return last if last.error in (None, cause, getattr(cause, "orig", None)) else None

    @property
    def resumable(self) -> bool:
        """Whether what it left is recorded, so that a run can go on behind it."""
        return self.progress is not None and not self.progress.given_up

    @property
    def count(self) -> int:
        """How many statements it sent, besides reads and session settings."""
        return sum(1 for s in self.statements if s.number)

    @property
    def changed(self) -> list[Statement]:
        """The statements that may have changed something."""
        return [s for s in self.statements if s.kind in ("dml", "ddl")]

    @property
    def durable(self) -> list[Statement]:
        """The statements whose effect is in the database."""
        return [s for s in self.changed if s.durable]

    def transaction_ended(self, how: Ending) -> None:
        """What was answered in it is durable from now on, or undone."""
        for statement in self.statements:
            if not statement.returned or statement.undone:
                continue
            if how == "commit":
                statement.durable = True
            elif not statement.durable:
                statement.undone = True

    def back_to(self, savepoint: str) -> None:
        """Everything since the savepoint is undone; all of the revision when it was set before that."""
        for statement in reversed(self.statements[:-1]):
            if savepoint_set(statement.sql) == savepoint:
                return
            statement.undone = not statement.durable

    def holds(self, numbers: Collection[int]) -> None:
        """The statements of these numbers are in the database, whatever their session could say."""
        for statement in self.changed:
            statement.durable = statement.durable or statement.number in numbers
