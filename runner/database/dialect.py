"""What a dialect module has to offer: data and small functions, no flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import DatabaseUnreachable, RunnerError
from ..model import VersionTable
from ..url import URL


@dataclass(frozen=True)
class Refusal:
    """What a driver's error means. ``transient``: trying again may help."""

    error: type[RunnerError]
    code: str | None
    text: str
    transient: bool = False
    connection_lost: bool = False


def one_line(text: object) -> str:
    """A driver's message, which may come in several lines, as one without the last full stop."""
    return " ".join(str(text).split()).rstrip(".")


def unrecognised(error: BaseException) -> Refusal:
    """At a login, what is not recognised is transient: a proxy or a new server version may say anything."""
    text = one_line(error) or type(error).__name__
    return Refusal(DatabaseUnreachable, None, text, transient=True)


class Dialect(Protocol):
    """One database product. Every function takes the driver's own connection."""

    NAME: str
    DEFAULT_PORT: int | None
    DDL_COMMITS: bool
    DRIVER_HINT: str

    def connect(self, url: URL, timeout_s: float) -> Any:
        """A new autocommit connection, after a real login. Raises the driver's errors."""

    def classify(self, error: BaseException) -> Refusal | None:
        """What an error of any driver of this dialect means; None when it says nothing of the connection."""

    def server_version(self, connection: Any) -> str:
        """The version as the server names it."""

    def read_only(self, connection: Any) -> str | None:
        """Why this server takes no writes; None when it does."""

    def versions(self, connection: Any, table: VersionTable) -> tuple[str, ...]:
        """The rows of the version table; none when there is no such table."""

    def has_tables(self, connection: Any, besides: VersionTable) -> bool:
        """Whether the database holds any table but the version table."""

    def lock_name(self, connection: Any, url: URL) -> str:
        """The name of the migration lock, derived from the database alone."""

    def try_lock(self, connection: Any, name: str) -> Callable[[], None] | None:
        """Take the lock without waiting: what releases it, or None when another session holds it."""

    def autocommits(self, connection: Any) -> bool:
        """Whether each statement of this session, of whatever driver, commits by itself."""

    def commits_before(self, kind: str, code: str | None) -> bool:
        """Whether a statement of this kind that failed with this code committed what came before it."""

    def commits_after(self, kind: str, connection: Any) -> bool:
        """Whether all statements so far are durable once a statement of this kind has returned."""


def driver_autocommits(connection: Any) -> bool:
    """The autocommit state of a DBAPI connection, as the common drivers tell it."""
    ask = getattr(connection, "get_autocommit", None)  # PyMySQL, mysqlclient, aiomysql
    return bool(ask() if callable(ask) else getattr(connection, "autocommit", False))
