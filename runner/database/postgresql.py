"""PostgreSQL, through psycopg 3.

Error codes: PostgreSQL documentation, appendix A. For a login that the server refused psycopg gives
no SQLSTATE, so there it goes by libpq's message; ``tests/contract`` holds the table against a server.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ..errors import (
    ConfigInvalid,
    DatabaseMissing,
    DatabaseReadOnly,
    DatabaseUnreachable,
    LoginRefused,
    PermissionDenied,
    RunnerError,
)
from ..model import Holder, VersionTable
from ..url import URL
from .dialect import (
    SERVER_LOCK,
    Ask,
    Ending,
    Refusal,
    Room,
    driver_autocommits,
    from_driver,
    lacking,
    one_line,
    server_url_problem,
)

NAME = "postgresql"
DEFAULT_PORT = 5432
LOCK_KIND, LOCK_REASON = "pg_advisory_lock", SERVER_LOCK
LOCKING_READ = ""
DDL_COMMITS = False
NO_SCHEMA = ("3F000",)
HIDES_TRANSACTIONS = False
ONE_WRITER = False
LEASES = True
CLOCK = "extract(epoch FROM clock_timestamp())"
LIMIT_ENDS_WITH_TRANSACTION = True
DRIVER_HINT = "Install the extra: pip install 'alembic-job[postgresql]'."

# The first that matches decides. Server messages are English unless lc_messages says otherwise:
# what is not recognised is transient.
_MESSAGES: tuple[tuple[str, type[RunnerError]], ...] = (
    (r"password authentication failed", LoginRefused),
    (r"no password supplied", LoginRefused),
    (r"(?:[Pp]eer|Ident|GSSAPI|LDAP|RADIUS|PAM|certificate|SSPI) authentication failed", LoginRefused),
    (r"role \".*\" does not exist", LoginRefused),
    (r"role \".*\" is not permitted to log in", LoginRefused),
    (r"user name .* does not match|empty user name|no PostgreSQL user name specified", LoginRefused),
    (r"database \".*\" does not exist", DatabaseMissing),
    (r"no pg_hba\.conf entry|pg_hba\.conf rejects connection", PermissionDenied),
    (r"permission denied for database|is not currently accepting connections", PermissionDenied),
    (r"server does not support SSL, but SSL was required", PermissionDenied),
    (r"certificate verify failed|root certificate file .* does not exist", PermissionDenied),
    (r"server certificate for .* does not match|could not read (?:root )?certificate", PermissionDenied),
    (r"session is read-only|hot standby mode|server is not in", DatabaseReadOnly),
    (r"unsupported startup parameter", ConfigInvalid),  # of a pooler
    (r"bad value for|invalid (?:\w+ value|connection option|integer value|port number|URI)", ConfigInvalid),
)
_STATES: tuple[tuple[str, type[RunnerError]], ...] = (
    ("28", LoginRefused),
    ("3D000", DatabaseMissing),
    ("57P04", DatabaseMissing),  # the database was dropped
    ("42501", PermissionDenied),
    ("25006", DatabaseReadOnly),  # read-only transaction
    ("08", DatabaseUnreachable),
    ("53", DatabaseUnreachable),  # too many connections, disk full, out of memory
    ("57P", DatabaseUnreachable),  # shutting down, crashed, starting up
)
_LOST = re.compile(
    r"server closed the connection|connection (?:is|already) closed|the connection is lost"
    r"|terminating connection|SSL connection has been closed|consuming input failed|connection was closed"
)
_KEEP_ALIVE = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}
_IDLE, _IN_ERROR = 0, 3  # PQTRANS_IDLE, PQTRANS_INERROR
_LOCK_KEY, _FENCE_KEY = (
    int.from_bytes(hashlib.sha256(text).digest()[:8], "big", signed=True)
    for text in (b"alembic-job", b"alembic-job:fence")
)


url_problem = server_url_problem


def place(url: URL) -> str:
    """Host and port."""
    return f"{url.host or 'localhost'}:{url.port or DEFAULT_PORT}"


def is_there(url: URL) -> bool:
    """A server is asked."""
    return True


def connect(url: URL, timeout_s: float, application: str) -> Any:
    """Log in. libpq counts the time-out in whole seconds, at least two."""
    import psycopg  # noqa: PLC0415  0.1 s that only this dialect pays

    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    query = dict(url.query)
    if "ssl" in query:  # asyncpg's name
        query.setdefault("sslmode", "require" if query["ssl"] in ("true", "True", "1") else query["ssl"])
    options = {key: value for key, value in query.items() if key in known}
    hosts = [
        host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
        for host in query.get("host", "").split(",")
    ]
    if any(colon for _, colon, _ in hosts):  # SQLAlchemy's way to name several: ?host=a:5432&host=b:5432
        options |= {
            "host": ",".join(host for host, _, _ in hosts),
            "port": ",".join(port for _, _, port in hosts),
        }
    given = {
        "host": url.host,
        "port": url.port,
        "user": url.user,
        "password": url.password,
        "dbname": url.database,
    }
    arguments: dict[str, Any] = {
        **_KEEP_ALIVE,
        "application_name": application,
        "connect_timeout": max(2, math.ceil(timeout_s)),
        **{key: value for key, value in given.items() if value is not None},
        **options,
    }
    return psycopg.connect(autocommit=True, prepare_threshold=None, **arguments)


def classify(error: BaseException) -> Refusal | None:
    """By SQLSTATE, of whatever driver; without one, by the message."""
    if not from_driver(error):
        return None
    code, text = code_of(error), one_line(error)
    if code:
        kind = next((kind for prefix, kind in _STATES if code.startswith(prefix)), None)
        if kind is None:
            return None
        lost = code.startswith(("08", "57P"))
        return Refusal(kind, code, text, kind in (DatabaseUnreachable, DatabaseReadOnly), lost)
    kind = next((kind for pattern, kind in _MESSAGES if re.search(pattern, text)), None)
    if kind is not None:
        return Refusal(kind, None, text, kind is DatabaseReadOnly)
    if _LOST.search(text):
        return Refusal(DatabaseUnreachable, None, text, transient=True, connection_lost=True, unanswered=True)
    if re.search(
        r"connection (?:to server )?.*failed|could not (?:connect|translate)|failed to resolve host|timeout expired",
        text,
    ):
        return Refusal(DatabaseUnreachable, None, text, transient=True)
    return None


def _query(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    return list(connection.execute(sql).fetchall())


def changed(connection: Any, sql: str) -> int:
    """As the server counts. Not waiting long for a row, and without leaving that setting in a pooler's session."""
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '1s'")
        return int(connection.execute(sql).rowcount)


def together(connection: Any, writes: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """In a transaction of their own."""
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '2s'")
        for sql, values in writes:
            connection.execute(sql.replace("?", "%s"), tuple(values))


def server_version(connection: Any) -> str:
    """``15.6``, with the distribution's addition where there is one."""
    return str(_query(connection, "SHOW server_version")[0][0])


def read_only(connection: Any) -> str | None:
    """A standby, or a database whose sessions start read-only."""
    recovery, transaction = _query(
        connection, "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')"
    )[0]
    if recovery:
        return "the server is in recovery: it is a standby or in failover"
    return "default_transaction_read_only is on" if transaction == "on" else None


def _quoted(table: VersionTable) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in (table.schema, table.name) if part)


def versions(connection: Any, table: VersionTable) -> tuple[str, ...]:
    """The version rows, committed: the connection is in autocommit."""
    try:
        rows = _query(connection, f"SELECT version_num FROM {_quoted(table)}")  # noqa: S608
        return tuple(sorted(str(row[0]) for row in rows))
    except Exception as error:
        if getattr(error, "sqlstate", None) in ("42P01", "3F000"):  # no such table, no such schema
            return ()
        raise


def room(ask: Ask, table: VersionTable) -> Room:
    """The length of the column. The information schema hides what the user has no right to; the catalogue does not."""
    name = _quoted(table).replace("'", "''")
    rows = ask(
        "SELECT CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4 THEN a.atttypmod - 4 END"  # noqa: S608
        " FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
        f" WHERE a.attrelid = to_regclass('{name}') AND a.attname = 'version_num'"
    )
    return Room(True, None if rows[0][0] is None else int(rows[0][0])) if rows else Room(False)


def widened(table: VersionTable, length: int) -> str:
    """Longer is possible without a rewrite of the table."""
    return f"ALTER TABLE {_quoted(table)} ALTER COLUMN version_num TYPE VARCHAR({length})"


def tables(connection: Any) -> frozenset[str]:
    """The tables outside the system's schemas."""
    rows = _query(
        connection,
        # What begins with pg_ is the system's, and other sessions' temporary tables.
        "SELECT schemaname = current_schema(), schemaname, tablename FROM pg_tables"
        " WHERE schemaname !~ '^pg_' AND schemaname <> 'information_schema'",
    )
    return frozenset(table if own else f"{schema}.{table}" for own, schema, table in rows)


def ask(connection: Any) -> Ask:
    """Queries on this connection."""
    return functools.partial(_query, connection)


def identity(ask: Ask) -> str:
    """The database's name."""
    return str(ask("SELECT current_database()")[0][0])


def lock_name(ask: Ask) -> str:
    """Advisory locks belong to the database, so one key serves for all."""
    return str(_LOCK_KEY)


def fence_name(name: str) -> str | None:
    """Another key, for the session that migrates."""
    return str(_FENCE_KEY)


def try_lock(ask: Ask, name: str, owner: str) -> Callable[[], bool] | None:
    """Never pg_advisory_lock: who blocks in it holds a snapshot, and CREATE INDEX CONCURRENTLY waits for that."""
    if not ask(f"SELECT pg_try_advisory_lock({name})")[0][0]:
        return None

    def release() -> bool:
        return bool(ask(f"SELECT pg_advisory_unlock({name})")[0][0])

    return release


def no_session_locks(connection: Any) -> str | None:
    """A pooler answers the login itself, and lends a server process for a transaction at a time."""
    used = _query(connection, "SELECT pg_backend_pid()")[0][0]
    return None if keeps_session(connection, used) else "a pooler lends another session for each transaction"


def prepare_for_lease(ask: Ask) -> None:
    """Nothing: behind a pooler, what is set for this session would be found by somebody else's."""


def own_table(name: str) -> str:
    """In a schema of its own, where autogenerate does not look."""
    return f"alembic_job.{name}"


def make_own_table(connection: Any, name: str, columns: str) -> None:
    """IF NOT EXISTS does not help two that create at the same moment: one of them gets a unique violation."""
    for _ in range(3):
        if there := own_columns(ask(connection), name):
            for column in lacking(columns, there):
                changed(connection, f"ALTER TABLE {own_table(name)} ADD COLUMN IF NOT EXISTS {column}")
            return
        try:
            if not _query(connection, "SELECT to_regnamespace('alembic_job')")[0][0]:  # needs no right, then
                connection.execute("CREATE SCHEMA IF NOT EXISTS alembic_job")
            connection.execute(f"CREATE TABLE IF NOT EXISTS {own_table(name)} ({columns})")
        except Exception as error:
            if code_of(error) not in ("23505", "42P07", "42P06"):
                raise


def literal(text: str) -> str:
    """In hexadecimal, as the others."""
    return f"convert_from(decode('{text.encode().hex()}', 'hex'), 'UTF8')"


def joins(kind: str, connection: Any) -> bool:
    """Everything does, DDL too."""
    return not driver_autocommits(connection) or _transaction_status(connection) not in (None, _IDLE)


def lasts_at_once(ask: Ask, table: str) -> bool:
    """All tables are alike."""
    return False


_PARTS = """
SELECT '`' || attname || '` ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
    || coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), '')
  FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
  WHERE attrelid = {what} AND attnum > 0 AND NOT attisdropped
UNION ALL SELECT '`' || conname || '` ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = {what}
UNION ALL SELECT '`' || indexrelid::regclass || '` ' || pg_get_indexdef(indexrelid)
    || CASE WHEN indisvalid THEN '' ELSE ' INVALID' END
  FROM pg_index WHERE {what} IN (indrelid, indexrelid)
ORDER BY 1"""


def definitions(ask: Ask, objects: Sequence[tuple[str, str]]) -> dict[str, str | None] | None:
    """Columns, constraints and indexes; the labels of an enumeration."""
    found: dict[str, str | None] = {}
    for kind, name in [one for one in objects if one[0] != "TABLE" or objects[0][0] != "INDEX"]:
        if kind in ("TABLE", "INDEX"):
            parts = ask(_PARTS.format(what=f"to_regclass({literal(name)})"))
        elif kind == "TYPE":
            what = f"to_regtype({literal(name)})"
            labels = "SELECT '`' || enumlabel || '`' FROM pg_enum WHERE enumtypid = {what} ORDER BY enumsortorder"
            parts = ask(labels.format(what=what))
        else:
            continue
        found[f"{kind} {name}"] = "\n".join(str(part) for (part,) in parts) or None
    return found or None


def own_columns(ask: Ask, name: str) -> frozenset[str]:
    """From the catalogue: the information schema hides what the user has no right to."""
    return frozenset(
        str(row[0])
        for row in ask(
            "SELECT attname FROM pg_attribute"  # noqa: S608
            f" WHERE attrelid = to_regclass('{own_table(name)}') AND attnum > 0 AND NOT attisdropped"
        )
    )


def session_mark(ask: Ask) -> str:
    """Process numbers come again."""
    return str(ask("SELECT pid || '/' || backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")[0][0])


def is_gone(ask: Ask, mark: str) -> bool:
    """Shown by number and start. A pooler keeps the process for others, so one that is idle for long counts as gone."""
    pid, _, started = mark.partition("/")
    return not ask(
        f"SELECT 1 FROM pg_stat_activity WHERE pid = {int(pid)} AND backend_start = '{started}'"  # noqa: S608
        " AND NOT (coalesce(state, '') = 'idle' AND state_change < clock_timestamp() - interval '60 seconds')"
    )


def _in_pg_locks(name: str) -> str:
    """A key of 64 bits is shown there as two halves."""
    high, low = divmod(int(name) % 2**64, 2**32)
    return (
        "FROM pg_locks AS held LEFT JOIN pg_stat_activity AS session USING (pid)"  # noqa: S608
        " WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1"
        f" AND held.classid = {high} AND held.objid = {low}"
        " AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )


def sees_lock(ask: Ask, name: str) -> bool:
    """In pg_locks, whoever it is."""
    return bool(ask(f"SELECT 1 {_in_pg_locks(name)}"))


def holds(ask: Ask, name: str) -> bool:
    """In pg_locks, with our own process."""
    return bool(ask(f"SELECT 1 {_in_pg_locks(name)} AND pid = pg_backend_pid()"))


def holder(ask: Ask, name: str) -> Holder | None:
    """Of sessions of another role, ordinary rights tell user and application, not address and state."""
    rows = ask(
        "SELECT pid, usename, host(client_addr), application_name,"  # noqa: S608  numbers
        " to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),"
        " CASE WHEN left(state, 4) = 'idle' THEN extract(epoch FROM clock_timestamp() - state_change) END"
        f" {_in_pg_locks(name)}"
    )
    if not rows:
        return None
    pid, user, address, application, since, idle_s = rows[0]
    run = str(application or "").partition("alembic-job/")[2]
    return Holder(
        connection=f"process {pid}",
        user=user,
        hostname=address,
        since=since,
        run_id=run or None,
        idle_s=None if idle_s is None else float(idle_s),
        end_with=f"SELECT pg_terminate_backend({pid})",
    )


def end_session(ask: Ask, connection: str) -> None:
    """A role may end sessions of its own."""
    ask(f"SELECT pg_terminate_backend({int(connection.rpartition(' ')[2])})")


def dies_with_its_client(ask: Ask) -> None:
    """By the server's own keep-alive; without effect on a Unix socket, which cannot lose its other end.

    Keep-alive does not count while an answer waits for its receipt, so that has a limit, too (PostgreSQL 12).
    """
    ask("SELECT set_config(name, '60000', false) FROM pg_settings WHERE name = 'tcp_user_timeout'")
    ask(
        "SELECT set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false),"
        " set_config('tcp_keepalives_count', '3', false)"
    )


def product(ask: Ask) -> str:
    """There is one."""
    return "PostgreSQL"


def other_schemas(ask: Ask) -> list[str]:
    """By the catalogue."""
    rows = ask(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        " AND nspname IS DISTINCT FROM current_schema() ORDER BY nspname"
    )
    return [str(row[0]) for row in rows]


def leaves(schema: str) -> bool:
    """Schemas are within the database."""
    return False


def scratch(directory: str) -> str | None:
    """A server has to have one."""
    return None


def create(url: URL) -> None:
    """It is there, or the login was refused."""


def emptying(url: URL) -> str:
    """Statements for an administrator."""
    return f'DROP DATABASE "{url.database}"; CREATE DATABASE "{url.database}" OWNER "{url.user}";'


def session_id(ask: Ask) -> int | None:
    """The process of the backend."""
    return int(ask("SELECT pg_backend_pid()")[0][0])


def keeps_session(connection: Any, session_id: int | None) -> bool:
    """A pooler tells another process in the protocol than SQL does."""
    own = getattr(connection, "driver_connection", connection)
    told = getattr(getattr(own, "info", None), "backend_pid", None)
    return told in (None, session_id)


def cancel(ask: Ask, session_id: int) -> None:
    """The statement fails with 57014; an idle session does not notice."""
    ask(f"SELECT pg_cancel_backend({session_id:d})")


def interrupt(connection: Any) -> bool:
    """As the protocol has it, which psycopg and psycopg2 can from any thread; it takes no login."""
    own = getattr(connection, "driver_connection", connection)  # below SQLAlchemy's adapter
    cancel = getattr(own, "cancel", None)
    if cancel is None or inspect.iscoroutinefunction(cancel):
        return False
    cancel()
    return True


def limit_lock_wait(ask: Ask, seconds: float) -> None:
    """``lock_timeout`` is 0, for ever, by default. One that the role, the URL or env.py set has another source.

    For this transaction alone: behind a pooler the next one may be another client's.
    """
    ask(
        f"SELECT set_config(name, '{max(1, round(seconds * 1000))}', true) FROM pg_settings"  # noqa: S608  a number
        " WHERE name = 'lock_timeout' AND setting = '0' AND source IN ('default', 'configuration file')"
    )


def gave_way(error: BaseException) -> bool:
    """Lock not available, deadlock, serialization failure."""
    return code_of(error) in ("55P03", "40P01", "40001")


def blocker(ask: Ask, session_id: int, ours: Collection[int]) -> Holder | None:
    """The one that has been at it longest. Of another role's session only pid and user are told."""
    rows = ask(
        "SELECT pid, usename, coalesce(host(client_addr), ''),"  # noqa: S608  a number
        """ to_char(xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""
        f" FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids({session_id:d}))"
        " ORDER BY xact_start NULLS LAST"
    )
    rows = [row for row in rows if row[0] not in ours]
    if not rows:
        return None
    pid, user, host, since = rows[0]
    return Holder(f"process {pid}", user, host or None, since, end_with=f"SELECT pg_terminate_backend({pid})")


def progress(ask: Ask, session_id: int) -> float | None:
    """Of CREATE INDEX, since PostgreSQL 12; within its phase."""
    rows = ask(
        "SELECT blocks_done, blocks_total, tuples_done, tuples_total FROM pg_stat_progress_create_index"  # noqa: S608
        f" WHERE pid = {session_id:d}"
    )
    if not rows:
        return None
    blocks, all_blocks, tuples, all_tuples = (int(value or 0) for value in rows[0])
    done, total = (blocks, all_blocks) if all_blocks else (tuples, all_tuples)
    return round(min(100.0, done / total * 100), 1) if total else None


def invalid_indexes(ask: Ask) -> Mapping[str, str]:
    """By pg_index.indisvalid."""
    rows = ask(
        "SELECT indexrelid::regclass::text, indrelid::regclass::text FROM pg_index WHERE NOT indisvalid AND indislive"
    )
    return {str(index): str(table) for index, table in rows}


def code_of(error: BaseException) -> str | None:
    """The SQLSTATE, which psycopg2 calls pgcode."""
    return (getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)) if from_driver(error) else None


def after(kind: str, connection: Any, *, gives_rows: bool) -> Ending:
    """As libpq says; of other drivers, by the statement."""
    if kind == "rollback":
        return "rollback"
    status = _transaction_status(connection)
    if status is not None:
        return "commit" if status == _IDLE else None
    return "commit" if kind == "commit" or driver_autocommits(connection) else None


def after_failure(kind: str, connection: Any, code: str | None) -> Ending:
    """No statement commits what came before it, and one that fails leaves the transaction open, to be rolled back."""
    return None


def warnings(connection: Any) -> list[str]:
    """These come as notices, which the drivers log."""
    return []


def aborted(connection: Any) -> bool:
    """After a failed statement, COMMIT rolls back and says nothing."""
    return _transaction_status(connection) == _IN_ERROR


def _transaction_status(connection: Any) -> int | None:
    """PQtransactionStatus, from psycopg and psycopg2."""
    status = getattr(getattr(connection, "info", None), "transaction_status", None)
    return None if status is None else int(status)
