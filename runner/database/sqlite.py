"""SQLite, through the standard library."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import ConfigInvalid, DatabaseMissing, DatabaseUnreachable, PermissionDenied, RunnerError
from ..model import Holder, VersionTable
from ..statements import unquoted
from ..url import URL
from .dialect import Ask, Ending, Refusal, Room, driver_autocommits, from_driver, lacking, one_line

NAME = "sqlite"
LOCK_KIND, LOCK_REASON = "flock", "a lock file beside the database"
LOCKING_READ = ""
DDL_COMMITS = True
NO_SCHEMA = ()
CLOCK = "((julianday('now') - 2440587.5) * 86400.0)"
HIDES_TRANSACTIONS = False
ONE_WRITER = True
LEASES = False  # a row in the file could not be renewed while the migration writes to it
LIMIT_ENDS_WITH_TRANSACTION = False
_DRIVERS_BUSY_TIMEOUT_MS = 5000
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


def url_problem(url: URL) -> tuple[str, str] | None:
    """What is in memory is gone after the run."""
    if url.database in (None, "", ":memory:"):
        return "an in-memory SQLite database ends with the run", "Name a file: sqlite:////data/app.db."
    return None


def place(url: URL) -> str:
    """The file."""
    return url.masked()


def is_there(url: URL) -> bool:
    """A file that does not exist is an empty database."""
    return path_of(url).exists()


def connect(url: URL, timeout_s: float, application: str) -> Any:
    """A file that does not exist is an empty database, and looking at it does not create it."""
    path = path_of(url)
    if not path.exists():
        if not path.absolute().parent.is_dir():
            raise sqlite3.OperationalError(f"unable to open database file: no directory {path.absolute().parent}")
        return _open(":memory:")
    mode = "rw" if os.access(path, os.W_OK) else "ro"
    return _open(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=timeout_s)


def _open(name: str, **options: Any) -> Any:
    # env.py may run its migrations in a thread, from where the version is then read; never from two at once.
    return sqlite3.connect(name, isolation_level=None, check_same_thread=False, **options)


def classify(error: BaseException) -> Refusal | None:
    """By message: sqlite3 gives error names only since Python 3.11."""
    if not from_driver(error):
        return None
    text = one_line(error)
    for words, kind, transient in _MESSAGES:
        if words in text:
            return Refusal(kind, code_of(error), text, transient)
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


def room(ask: Ask, table: VersionTable) -> Room:
    """A length is a word that SQLite does not read."""
    return Room(True)


def widened(table: VersionTable, length: int) -> str:
    """Never needed."""
    return ""


def tables(connection: Any) -> frozenset[str]:
    """The tables that are not SQLite's own."""
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return frozenset(str(row[0]) for row in rows)


def ask(connection: Any) -> Ask:
    """Queries on this connection."""
    return lambda sql: list(connection.execute(sql).fetchall())


def identity(ask: Ask) -> str:
    """The file itself, whatever path led there; nothing for a database in memory."""
    path = _file(ask)
    if not path:
        return ""
    status = os.stat(path)  # noqa: PTH116
    return f"{status.st_dev}:{status.st_ino}"


def _file(ask: Ask) -> str:
    return next((str(path or "") for _, name, path in ask("PRAGMA database_list") if name == "main"), "")


def lock_name(ask: Ask) -> str:
    """A file beside the database, whatever path led there."""
    return f"{Path(_file(ask)).resolve()}.alembic-job.lock"


def fence_name(name: str) -> str | None:
    """The lock and the session that migrates are of one process."""
    return None


def try_lock(ask: Ask, name: str, owner: str) -> Callable[[], bool] | None:
    """flock: the kernel frees it when its holder dies. The file stays; removing it would let two hold it."""
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None

    since = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    about = {"pid": os.getpid(), "hostname": socket.gethostname(), "since": since, "owner": owner}
    os.truncate(descriptor, 0)
    os.write(descriptor, json.dumps(about).encode())

    def release() -> bool:
        os.truncate(descriptor, 0)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may still have the file open
        os.close(descriptor)
        return True

    return release


def holds(ask: Ask, name: str) -> bool:
    """The kernel takes it from nobody; but who removes the file lets another process make it anew."""
    try:
        about = json.loads(Path(name).read_text() or "{}")
    except (OSError, ValueError):
        return False
    return bool(about.get("pid") == os.getpid() and about.get("hostname") == socket.gethostname())


def holder(ask: Ask, name: str) -> Holder | None:
    """What the holder wrote into the file; nobody, when the lock can be had."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            about = json.loads(os.read(descriptor, 4096) or b"{}")
        except ValueError:  # not written yet
            about = {}
    else:
        return None
    finally:
        os.close(descriptor)
    pid = about.get("pid")
    return Holder(
        connection=f"process {pid}" if pid else "another process",
        hostname=about.get("hostname"),
        since=about.get("since"),
        run_id=str(about.get("owner", "")).partition("alembic-job/")[2] or None,
        end_with=f"kill {pid}" if pid else None,
    )


def end_session(ask: Ask, connection: str) -> None:
    """There are none."""


def dies_with_its_client(ask: Ask) -> None:
    """It does: they are one process."""


def together(connection: Any, writes: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """In a transaction of their own, unless one is open: then they last as long as that."""
    open_already = _in_transaction(connection)
    cursor = connection.cursor()
    try:
        if not open_already:
            cursor.execute("BEGIN IMMEDIATE")
        for sql, values in writes:
            cursor.execute(sql, tuple(values))
        if not open_already:
            cursor.execute("COMMIT")
    except Exception:
        if not open_already and _in_transaction(connection):
            cursor.execute("ROLLBACK")
        raise
    finally:
        cursor.close()


def own_table(name: str) -> str:
    """In the file itself."""
    return name


def make_own_table(connection: Any, name: str, columns: str) -> None:
    """On whatever connection, also below an asynchronous one."""
    cursor = connection.cursor()
    try:
        # Else the revision's next last_insert_rowid() would be of a row of ours.
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {own_table(name)} ({columns}) WITHOUT ROWID")
        cursor.execute(f"PRAGMA table_info({own_table(name)})")
        for column in lacking(columns, {str(row[1]) for row in cursor.fetchall()}):
            cursor.execute(f"ALTER TABLE {own_table(name)} ADD COLUMN {column}")
    finally:
        cursor.close()


def literal(text: str) -> str:
    """In hexadecimal, as the others."""
    return f"CAST(X'{text.encode().hex()}' AS TEXT)"


def joins(kind: str, connection: Any) -> bool:
    """DDL is part of a transaction that is open; the driver opens one before each DML, unless it is told not to."""
    return _in_transaction(connection) or (kind == "dml" and not driver_autocommits(connection))


def lasts_at_once(ask: Ask, table: str) -> bool:
    """All tables are alike."""
    return False


def definitions(ask: Ask, objects: Sequence[tuple[str, str]]) -> dict[str, str | None] | None:
    """Columns as PRAGMA has them; everything else by its text. An index is one of its own, too."""
    found: dict[str, str | None] = {}
    for kind, name in [one for one in objects if one[0] != "TABLE" or objects[0][0] != "INDEX"]:
        plain = literal(unquoted(name))
        columns = ask(f'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info({plain})')  # noqa: S608
        lines = [f"`{column}` {' '.join(map(str, rest))}" for column, *rest in columns]
        where = (
            f"lower(name) = lower({plain})"
            if kind != "TABLE"
            else f"lower(tbl_name) = lower({plain}) AND type <> 'table'"
        )
        others = ask(f"SELECT name, sql FROM sqlite_master WHERE {where} ORDER BY name")  # noqa: S608
        lines += [f"`{other}` {' '.join(str(sql).split())}" for other, sql in others]
        found[f"{kind} {name}"] = "\n".join(lines) or None
    return found or None


def own_columns(ask: Ask, name: str) -> frozenset[str]:
    """Nobody hides them."""
    return frozenset(str(row[1]) for row in ask(f"PRAGMA table_info({own_table(name)})"))


def no_session_locks(connection: Any) -> str | None:
    """The lock file excludes every process of this host."""
    return None


def sees_lock(ask: Ask, name: str) -> bool:
    """The lock's name is the file's, so who is in the same file has the same lock."""
    return name == lock_name(ask)


def product(ask: Ask) -> str:
    """There is one."""
    return "SQLite"


def other_schemas(ask: Ask) -> list[str]:
    """A schema is a file of its own."""
    return []


def leaves(schema: str) -> bool:
    """A schema is a file of its own, but for the two that each connection has."""
    return schema not in ("main", "temp")


def scratch(directory: str) -> str | None:
    """A file."""
    return str(Path(directory, "scratch.sqlite"))


def create(url: URL) -> None:
    """An empty file is an empty database."""
    if not is_there(url):
        path_of(url).touch()


def emptying(url: URL) -> str:
    """Without its file it is empty."""
    return f"rm {path_of(url)}"


def session_id(ask: Ask) -> int | None:
    """There is no server."""
    return None


def keeps_session(connection: Any, session_id: int | None) -> bool:
    """There is no server."""
    return True


def cancel(ask: Ask, session_id: int) -> None:
    """There is no server."""


def interrupt(connection: Any) -> bool:
    """The statement fails with "interrupted"."""
    own = getattr(connection, "driver_connection", connection)
    stop = getattr(getattr(own, "_conn", own), "interrupt", None)  # below aiosqlite, whose own is a coroutine
    if stop is None:
        return False
    stop()
    return True


def limit_lock_wait(ask: Ask, seconds: float) -> None:
    """``busy_timeout``; another value than that of Python's driver is the project's own."""
    if int(ask("PRAGMA busy_timeout")[0][0]) == _DRIVERS_BUSY_TIMEOUT_MS:
        ask(f"PRAGMA busy_timeout = {round(seconds * 1000)}")


def gave_way(error: BaseException) -> bool:
    """Another process holds the file; by message, because Python tells the code since 3.11 only."""
    text = str(error)
    return from_driver(error) and ("is locked" in text)


def blocker(ask: Ask, session_id: int, ours: Collection[int]) -> Holder | None:
    """Nobody knows who has the file."""
    return None


def progress(ask: Ask, session_id: int) -> float | None:
    """It does not tell."""
    return None


def invalid_indexes(ask: Ask) -> Mapping[str, str]:
    """There are none."""
    return {}


def code_of(error: BaseException) -> str | None:
    """The name of the error; Python tells it since 3.11."""
    return getattr(error, "sqlite_errorname", None)


def after(kind: str, connection: Any, *, gives_rows: bool) -> Ending:
    """sqlite3 opens a transaction before DML, not before DDL; so ask."""
    if kind == "rollback":
        return "rollback"
    return None if _in_transaction(connection) else "commit"


def after_failure(kind: str, connection: Any, code: str | None) -> Ending:
    """Some failures (a full disk, ON CONFLICT ROLLBACK) end the transaction."""
    return None if _in_transaction(connection) else "rollback"


def warnings(connection: Any) -> list[str]:
    """There is no such thing."""
    return []


def aborted(connection: Any) -> bool:
    """There is no such state."""
    return False


def _in_transaction(connection: Any) -> bool:
    own = getattr(connection, "driver_connection", connection)  # aiosqlite's, below SQLAlchemy's adapter
    return bool(getattr(own, "in_transaction", not driver_autocommits(connection)))
