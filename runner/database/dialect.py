"""What a dialect module has to offer: data and small functions, no flow."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..errors import DatabaseUnreachable, RunnerError
from ..model import Holder, VersionTable
from ..url import URL

Ending = Literal["commit", "rollback"] | None  # how a statement ended the transaction; None: it goes on
Ask = Callable[[str], Sequence[Sequence[Any]]]  # the rows of a query, on the connection of whomever


@dataclass(frozen=True)
class Refusal:
    """What a driver's error means. ``transient``: trying again may help.

    ``unanswered``: the connection went away before the server said what became of the statement.
    """

    error: type[RunnerError]
    code: str | None
    text: str
    transient: bool = False
    connection_lost: bool = False
    unanswered: bool = False


@dataclass(frozen=True)
class Room:
    """``there``: the version table is. ``length``: of its column, in characters; None where there is no limit."""

    there: bool
    length: int | None = None


SERVER_LOCK = "a session lock of the server"
URL_FORM = "Write mysql+pymysql://user:password@host:3306/name, special characters of the password percent-encoded."


def server_url_problem(url: URL) -> tuple[str, str] | None:
    """A server needs the name of a database."""
    return None if url.database else ("the URL names no database", URL_FORM)


def one_line(text: object) -> str:
    """A driver's message, which may come in several lines, as one without the last full stop."""
    return " ".join(str(text).split()).rstrip(".")


def lacking(columns: str, there: Collection[str]) -> list[str]:
    """Which of the columns of one of our tables an older layout of it lacks, each as ``ADD COLUMN`` takes it.

    Only such as may be empty, because rows are there: whatever may not has been there from the first layout on.
    """
    each = (column.strip() for column in re.split(r",(?![^()]*\))", columns))
    named = (column for column in each if column[0].islower())  # else a key
    return [column for column in named if column.split()[0] not in there and "NOT NULL" not in column]


def words_of(error: BaseException) -> str:
    """What any driver's error says; PyMySQL and its kin put a number before that."""
    args: tuple[object, ...] = error.args
    return one_line(args[1] if len(args) > 1 and isinstance(args[0], int) else error) or type(error).__name__


def unrecognised(error: BaseException) -> Refusal:
    """At a login, what is not recognised is transient: a proxy or a new server version may say anything."""
    text = one_line(error) or type(error).__name__
    return Refusal(DatabaseUnreachable, None, text, transient=True)


class Dialect(Protocol):
    """One database product. Every function takes the driver's own connection."""

    NAME: str
    DDL_COMMITS: bool
    NO_SCHEMA: tuple[str, ...]  # the codes for a table in a schema that is not there
    CLOCK: str  # the server's, in seconds, as SQL
    HIDES_TRANSACTIONS: bool  # behind BEGIN or LOCK TABLES nobody tells whether a transaction is open
    ONE_WRITER: bool  # while one session writes, no other can
    LEASES: bool  # whether a row can serve as a lock; without it, what only the lease asks is not there
    LIMIT_ENDS_WITH_TRANSACTION: bool  # what limit_lock_wait sets, which is for the session elsewhere
    LOCK_KIND: str
    LOCK_REASON: str
    LOCKING_READ: str  # ends a SELECT that is to see what others committed; nothing where each does
    DRIVER_HINT: str

    def url_problem(self, url: URL) -> tuple[str, str] | None:
        """What a URL of this dialect lacks, and what to write; None when it can be used."""

    def place(self, url: URL) -> str:
        """Where the database is, for people."""

    def is_there(self, url: URL) -> bool:
        """Whether there is anything to look at: false for a file that does not exist yet, and so is empty."""

    def connect(self, url: URL, timeout_s: float, application: str) -> Any:
        """A new autocommit connection, after a real login, under this name. Raises the driver's errors."""

    def classify(self, error: BaseException) -> Refusal | None:
        """What an error of any driver of this dialect means; None when it says nothing of the connection."""

    def server_version(self, connection: Any) -> str:
        """The version as the server names it."""

    def read_only(self, connection: Any) -> str | None:
        """Why this server takes no writes; None when it does."""

    def versions(self, connection: Any, table: VersionTable) -> tuple[str, ...]:
        """The rows of the version table; none when there is no such table."""

    def room(self, ask: Ask, table: VersionTable) -> Room:
        """What the version table has room for, where the server keeps to it."""

    def widened(self, table: VersionTable, length: int) -> str:
        """The statement that gives the version table more room."""

    def tables(self, connection: Any) -> frozenset[str]:
        """The tables that are not the system's; ``schema.table`` outside of the session's own schema."""

    def ask(self, connection: Any) -> Ask:
        """Queries on this connection."""

    def identity(self, ask: Ask) -> str:
        """Which database a session is in, as far as it can tell itself."""

    def lock_name(self, ask: Ask) -> str:
        """The name of the migration lock, derived from the database alone."""

    def fence_name(self, name: str) -> str | None:
        """The second key to this lock; None where the lock ends together with whoever migrates."""

    def try_lock(self, ask: Ask, name: str, owner: str) -> Callable[[], bool] | None:
        """Take the lock without waiting: what releases it, or None when another session holds it.

        The release says whether the lock was still held. ``owner`` tells people who it is.
        """

    def holds(self, ask: Ask, name: str) -> bool:
        """Whether this very session holds the lock."""

    def holder(self, ask: Ask, name: str) -> Holder | None:
        """Who holds the lock; None when nobody does."""

    def end_session(self, ask: Ask, connection: str) -> None:
        """End another session of the same user."""

    def dies_with_its_client(self, ask: Ask) -> None:
        """Let the server end this session within a minute when its client vanished without a word.

        A node that loses its network sends no FIN, and its session would keep its locks for hours.
        Whoever uses the session has to show signs of life more often than that.
        """

    def changed(self, connection: Any, sql: str) -> int:
        """Run a statement that writes: how many rows it changed."""

    def together(self, connection: Any, writes: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Run statements that write, with ``?`` for each value, all of them or none; not waiting long for a lock."""

    def no_session_locks(self, connection: Any) -> str | None:
        """Why the locks of this server's sessions exclude nobody; None where they do."""

    def prepare_for_lease(self, ask: Ask) -> None:
        """Let this session read what every node of a cluster has committed, and not wait long for a row."""

    def own_table(self, name: str) -> str:
        """Where a table of the runner's own is, as SQL names it."""

    def make_own_table(self, connection: Any, name: str, columns: str) -> None:
        """Create it where it is missing, and add the columns that an older layout of it lacks."""

    def own_columns(self, ask: Ask, name: str) -> frozenset[str]:
        """The columns that a table of the runner's own has; none when there is no such table."""

    def literal(self, text: str) -> str:
        """A text within a statement, the same for every driver and whatever quoting the session is set to."""

    def joins(self, kind: str, connection: Any) -> bool:
        """Whether a statement of this kind, sent now, lasts only as its session's transaction does."""

    def lasts_at_once(self, ask: Ask, table: str) -> bool:
        """Whether what is written to the rows of this table stays, whatever becomes of the transaction."""

    def definitions(self, ask: Ask, objects: Sequence[tuple[str, str]]) -> dict[str, str | None] | None:
        """How these objects are defined now, a line for each part, which begins with its name in backticks.

        None for one that is not there; and instead of all when there is none that can be looked up.
        """

    def session_mark(self, ask: Ask) -> str:
        """What tells this session from every other that this server ever had or will have."""

    def is_gone(self, ask: Ask, mark: str) -> bool:
        """Whether a session is proven to have ended. Another server's cannot be seen from here."""

    def sees_lock(self, ask: Ask, name: str) -> bool:
        """Whether a session sees that somebody holds the lock: if not, it is on another server."""

    def product(self, ask: Ask) -> str:
        """Which product it is: their SQL may differ within one dialect."""

    def other_schemas(self, ask: Ask) -> Sequence[str]:
        """The schemas of this database besides the session's own and the system's."""

    def leaves(self, schema: str) -> bool:
        """Whether what is in a schema of this name is outside of the database that was connected to."""

    def scratch(self, directory: str) -> str | None:
        """What to call a new database in this directory; None where a server has to have one."""

    def create(self, url: URL) -> None:
        """Make an empty database where opening one is all that it takes."""

    def emptying(self, url: URL) -> str:
        """What makes the database empty again, for people to run."""

    def session_id(self, ask: Ask) -> int | None:
        """The server's number of this session; None where there is no server."""

    def keeps_session(self, connection: Any, session_id: int | None) -> bool:
        """Whether this driver's connection has that session for good: behind a pooler it is soon another client's."""

    def cancel(self, ask: Ask, session_id: int) -> None:
        """Cancel what that session executes now; the session stays."""

    def interrupt(self, connection: Any) -> bool:
        """Cancel what this connection executes, from another thread; False where the driver cannot."""

    def limit_lock_wait(self, ask: Ask, seconds: float) -> None:
        """Let this session's DDL give way after so long, unless somebody has set that already."""

    def gave_way(self, error: BaseException) -> bool:
        """Whether this is how a statement fails that could not get its lock, and may later."""

    def blocker(self, ask: Ask, session_id: int, ours: Collection[int]) -> Holder | None:
        """Which session that one waits for, other than ``ours``, as far as an ordinary user is told."""

    def progress(self, ask: Ask, session_id: int) -> float | None:
        """How far that session's statement is, in percent, where the server tells."""

    def invalid_indexes(self, ask: Ask) -> Mapping[str, str]:
        """What ``CREATE INDEX CONCURRENTLY`` left unfinished: the index, as one would drop it, and its table."""

    def code_of(self, error: BaseException) -> str | None:
        """The server's own code of an error of any driver of this dialect."""

    def after(self, kind: str, connection: Any, *, gives_rows: bool) -> Ending:
        """What a statement of this kind that has returned did to the transaction of this session, of any driver."""

    def after_failure(self, kind: str, connection: Any, code: str | None) -> Ending:
        """The same for a statement that failed with this code."""

    def warnings(self, connection: Any) -> list[str]:
        """What the server warned of with its last answer, on SQLAlchemy's pooled connection of any driver."""

    def aborted(self, connection: Any) -> bool:
        """Whether the transaction is lost already, so that COMMIT will roll back."""


def driver_autocommits(connection: Any) -> bool:
    """The autocommit state of a DBAPI connection, as the common drivers tell it."""
    ask = getattr(connection, "get_autocommit", None)  # PyMySQL, mysqlclient, aiomysql
    if callable(ask):
        return bool(ask())
    told = getattr(connection, "autocommit", None)
    if isinstance(told, bool):
        return told
    # sqlite3; since Python 3.12 it has an attribute "autocommit", too, which most of the time says to look here (-1).
    return getattr(connection, "isolation_level", "") is None


# The packages whose errors SQLAlchemy passes on as ``orig``, or that a revision may use by itself.
_DRIVERS = (
    *("pymysql", "MySQLdb", "mysql", "mariadb", "aiomysql", "asyncmy"),
    *("psycopg", "psycopg2", "asyncpg", "pg8000", "sqlite3"),
    "sqlalchemy.dialects",  # what it makes of the errors of asynchronous drivers
)


def from_driver(error: BaseException) -> bool:
    """Whether a driver raised this: the same number or words in another error say nothing of the database."""
    return any(of_driver(kind.__module__) for kind in type(error).__mro__)


def of_driver(module: str) -> bool:
    """Whether this is a module of a driver."""
    return any(f"{module}.".startswith(f"{name}.") for name in _DRIVERS)
