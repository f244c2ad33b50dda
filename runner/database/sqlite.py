"""SQLite, through the standard library."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConfigInvalid, DatabaseMissing, DatabaseUnreachable, PermissionDenied, RunnerError
from ..model import VersionTable
from ..url import URL
from .dialect import Refusal, driver_autocommits, one_line

NAME = "sqlite"
DEFAULT_PORT = None
DDL_COMMITS = True
DRIVER_HINT = "Use a Python with the sqlite3 module."

_MESSAGES: tuple[tuple[str, type[RunnerError], bool], ...] = (
    ("unable to open database file", DatabaseMissing, False),
    ("attempt to write a readonly database", PermissionDenied, False),
    ("file is not a database", ConfigInvalid, False),
    ("database disk image is malformed", ConfigInvalid, False),
    ("database is locked", DatabaseUnreachable, True),
    ("database or disk is full", DatabaseUnreachable, True),
)


def path_of(url: URL) -> Path:
    """The database file, also of the ``file:`` form."""
    return Path((url.database or "").removeprefix("file:"))


def connect(url: URL, timeout_s: float) -> Any:
    """A file that does not exist is an empty database, and looking at it does not create it."""
    path = path_of(url)
    if not path.exists():
        if not path.absolute().parent.is_dir():
            raise sqlite3.OperationalError(f"unable to open database file: no directory {path.absolute().parent}")
        return sqlite3.connect(":memory:", isolation_level=None)
    mode = "rw" if os.access(path, os.W_OK) else "ro"
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=timeout_s, isolation_level=None)


def classify(error: BaseException) -> Refusal | None:
    """By message: sqlite3 gives error names only since Python 3.11."""
    text = one_line(error)
    for words, kind, transient in _MESSAGES:
        if words in text:
            return Refusal(kind, getattr(error, "sqlite_errorname", None), text, transient)
    return None


def server_version(connection: Any) -> str:
    """The library's version."""
    return str(connection.execute("SELECT sqlite_version()").fetchone()[0])


def read_only(connection: Any) -> str | None:
    """A file is never a replica; one that may not be written is refused at the first write."""
    return None


def versions(connection: Any, table: VersionTable) -> tuple[str, ...]:
    """The version rows that are committed."""
    name = ".".join('"' + part.replace('"', '""') + '"' for part in (table.schema, table.name) if part)
    try:
        return tuple(sorted(str(row[0]) for row in connection.execute(f"SELECT version_num FROM {name}")))  # noqa: S608
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "unknown database" in str(error):
            return ()
        raise


def has_tables(connection: Any, besides: VersionTable) -> bool:
    """Whether there is a table that is not SQLite's own."""
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return any(row[0] != besides.name for row in rows)


def lock_name(connection: Any, url: URL) -> str:
    """A file beside the database, whatever path led there."""
    return f"{path_of(url).resolve()}.alembic-job.lock"


def try_lock(connection: Any, name: str) -> Callable[[], None] | None:
    """flock: the kernel frees it when its holder dies. The file stays; removing it would let two hold it."""
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None

    def release() -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may still have the file open
        os.close(descriptor)

    return release


def autocommits(connection: Any) -> bool:
    """Whether no transaction is open after a statement."""
    return not getattr(connection, "in_transaction", not driver_autocommits(connection))


def commits_before(kind: str, code: str | None) -> bool:
    """No statement commits what came before it."""
    return False


def commits_after(kind: str, connection: Any) -> bool:
    """sqlite3 opens a transaction before DML, not before DDL; so ask."""
    return autocommits(connection)
