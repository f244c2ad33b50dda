"""MySQL and MariaDB, through PyMySQL.

Error numbers: MySQL Error Message Reference, MariaDB Knowledge Base "MariaDB Error Codes".
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta, timezone
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
from ..statements import unquoted
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

NAME = "mysql"
DEFAULT_PORT = 3306
LOCK_KIND, LOCK_REASON = "GET_LOCK", SERVER_LOCK
LOCKING_READ = "LOCK IN SHARE MODE"
DDL_COMMITS = True
NO_SCHEMA = ("1049",)
HIDES_TRANSACTIONS = True
ONE_WRITER = False
LEASES = True
CLOCK = "UNIX_TIMESTAMP(NOW(6))"
LIMIT_ENDS_WITH_TRANSACTION = False
DRIVER_HINT = "Install PyMySQL: pip install alembic-job."

_LOST = {2006, 2013, 2055, 1053, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 4031}
_TRANSIENT = _LOST | {
    2002,  # socket not there
    2003,  # refused, unreachable, timed out, or the name does not resolve yet
    2005,  # unknown host
    1040,  # too many connections
    1077,  # normal shutdown
    1078,
    1079,  # shutdown complete
    1129,  # host blocked after many connection errors, until FLUSH HOSTS
    1047,  # a Galera node that is not in the majority
    1180,  # and what it says to a COMMIT that it could not agree upon
    1203,  # user has too many connections
    1226,  # user has exceeded a resource
    3032,  # offline mode
    3169,  # session killed
}
_REFUSED: dict[int, type[RunnerError]] = {
    1045: LoginRefused,
    1251: LoginRefused,  # client does not support the authentication protocol
    1698: LoginRefused,  # unix_socket authentication, and others without a password
    1820: LoginRefused,  # password must be changed
    1862: LoginRefused,  # password has expired
    3118: LoginRefused,  # account is locked, MySQL
    4151: LoginRefused,  # account is locked, MariaDB
    1049: DatabaseMissing,
    1044: PermissionDenied,  # access denied to database
    1095: PermissionDenied,
    1130: PermissionDenied,  # host is not allowed to connect
    1142: PermissionDenied,  # command denied on table
    1143: PermissionDenied,  # command denied on column
    1227: PermissionDenied,  # needs SUPER or the like
    1370: PermissionDenied,  # routine
    2026: PermissionDenied,  # TLS
    3159: PermissionDenied,  # require_secure_transport
    1290: DatabaseReadOnly,  # --read-only
    1792: DatabaseReadOnly,  # read-only transaction
    1836: DatabaseReadOnly,  # read-only mode
}
_PARSE_ERRORS = {"1064", "1149", "1065"}  # the server did not get as far as the implicit commit
_NO_ANSWER = {2013, 2055}
_IN_A_STRING = str.maketrans({"'": "''", "\\": "\\\\"})
_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS of the protocol


url_problem = server_url_problem


def place(url: URL) -> str:
    """Host and port."""
    return f"{url.host or 'localhost'}:{url.port or DEFAULT_PORT}"


def is_there(url: URL) -> bool:
    """A server is asked."""
    return True


def connect(url: URL, timeout_s: float, application: str) -> Any:
    """Log in. The read time-out stays on: our own statements are short, and a dead server must not hang us."""
    options: dict[str, Any] = {
        key: url.query[key] for key in ("unix_socket", "read_default_file", "read_default_group") if key in url.query
    }
    if _tls_disabled(url.query):
        options["ssl_disabled"] = True
    elif tls := _tls(url.query):
        try:
            options["ssl"] = _context(*tls)
        except OSError as error:  # ssl.SSLError is one
            raise PermissionDenied(
                f"TLS cannot be set up: {one_line(error)}.",
                hint="Check that the files named by ssl_ca, ssl_cert and ssl_key in the URL are there and hold that.",
            ) from error
    return _connection_class()(
        host=url.host or "localhost",
        port=url.port or DEFAULT_PORT,
        user=url.user,
        password=url.password or "",
        database=url.database,
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=max(1, round(timeout_s)),
        read_timeout=timeout_s,
        write_timeout=timeout_s,
        program_name=application,
        **options,
    )


@functools.cache
def _connection_class() -> Any:
    import pymysql.connections  # noqa: PLC0415  0.04 s that only this dialect pays

    class Connection(pymysql.connections.Connection):  # type: ignore[misc]
        def _create_ssl_ctx(self, options: Any) -> ssl.SSLContext:
            # PyMySQL loads the CA bundle at every connect, 22 ms of CPU, even where it verifies nothing.
            return options if isinstance(options, ssl.SSLContext) else _unverified()

    return Connection


@functools.cache
def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _true(text: str | None) -> bool:
    return str(text).lower() in ("1", "true", "yes", "on")


def _tls_disabled(query: dict[str, str]) -> bool:
    return _true(query.get("ssl_disabled")) or query.get("ssl_mode", "").upper() == "DISABLED"


def _tls(query: dict[str, str]) -> tuple[str | None, ...] | None:
    """TLS options of any MySQL driver as ca, capath, cert, key, cipher, verify, identity; None without any."""
    mode = query.get("ssl_mode", "").upper().replace("-", "_")
    identity = mode == "VERIFY_IDENTITY" or any(
        _true(query.get(key)) for key in ("ssl_check_hostname", "ssl_verify_identity")
    )
    ca, capath = query.get("ssl_ca"), query.get("ssl_capath")
    verify = identity or mode == "VERIFY_CA" or bool(ca or capath) or _true(query.get("ssl_verify_cert"))
    others = [query.get(key) for key in ("ssl_cert", "ssl_key", "ssl_cipher")]
    if not (verify or any(others) or mode == "REQUIRED" or _true(query.get("ssl"))):
        return None
    return (ca, capath, *others, "yes" if verify else None, "yes" if identity else None)


@functools.cache
def _context(
    ca: str | None,
    capath: str | None,
    cert: str | None,
    key: str | None,
    cipher: str | None,
    verify: str | None,
    identity: str | None,
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca, capath=capath)
    # Certificates that a server makes for itself do not pass the strict check of Python 3.13.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    context.check_hostname = bool(identity)
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if cert:
        context.load_cert_chain(cert, key)
    if cipher:
        context.set_ciphers(cipher)
    return context


def classify(error: BaseException) -> Refusal | None:
    """By error number, which PyMySQL, mysqlclient and the asynchronous drivers all give first."""
    text = one_line(error.args[1] if len(error.args) > 1 else error)
    if isinstance(error, RuntimeError) and "'cryptography' package is required" in text:
        # PyMySQL needs it for caching_sha2_password without TLS.
        return Refusal(ConfigInvalid, None, text + ": pip install 'pymysql[rsa]'")
    number = int(code_of(error) or 0)
    if code_of(error) == "0" and text in ("", "Not connected"):  # PyMySQL's and aiomysql's on a connection lost before
        return Refusal(DatabaseUnreachable, None, "The connection was lost", transient=True, connection_lost=True)
    if number == 2003 and "CERTIFICATE_VERIFY_FAILED" in text:  # noqa: PLR2004
        return Refusal(PermissionDenied, str(number), text)
    if number in _TRANSIENT:
        lost, unanswered = number in _LOST, number in _NO_ANSWER
        return Refusal(
            DatabaseUnreachable, str(number), text, transient=True, connection_lost=lost, unanswered=unanswered
        )
    if number == 1290 and "read" not in text:  # noqa: PLR2004  another option forbids it: --secure-file-priv, say
        return None
    if number in _REFUSED:
        return Refusal(_REFUSED[number], str(number), text, transient=_REFUSED[number] is DatabaseReadOnly)
    return None


def _query(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def server_version(connection: Any) -> str:
    """``10.11.6-MariaDB`` or ``8.0.36``."""
    return str(_query(connection, "SELECT VERSION()")[0][0])


def read_only(connection: Any) -> str | None:
    """A replica says ``read_only``. That a privileged user could write all the same makes it worse, not better."""
    row = _query(connection, "SELECT @@global.read_only, @@hostname")[0]
    if str(row[0]) not in ("0", "OFF"):
        return f"{row[1]} has read_only set: it is a replica or in failover"
    ready = _query(connection, "SHOW STATUS LIKE 'wsrep_ready'")  # logins and SELECT 1 work there all the same
    wsrep = _query(connection, "SHOW VARIABLES LIKE 'wsrep_on'")
    if ready and ready[0][1] == "OFF" and wsrep and wsrep[0][1] == "ON":
        return f"{row[1]} is a Galera node without the majority of its cluster"
    return None


def _quoted(table: VersionTable) -> str:
    return ".".join("`" + part.replace("`", "``") + "`" for part in (table.schema, table.name) if part)


def versions(connection: Any, table: VersionTable) -> tuple[str, ...]:
    """The version rows, committed: the connection is in autocommit."""
    try:
        rows = _query(connection, f"SELECT version_num FROM {_quoted(table)}")  # noqa: S608
        return tuple(sorted(str(row[0]) for row in rows))
    except Exception as error:
        if code_of(error) in ("1146", "1049"):  # no such table, no such database
            return ()
        raise


def room(ask: Ask, table: VersionTable) -> Room:
    """The length of the column. Without strict mode a longer text would be cut, and not be found again."""
    schema, name = (f"'{part.translate(_IN_A_STRING)}'" for part in (table.schema or "", table.name))
    rows = ask(
        "SELECT character_maximum_length FROM information_schema.columns"  # noqa: S608
        f" WHERE table_schema = {schema} AND table_name = {name} AND column_name = 'version_num'"
    )
    return Room(True, None if rows[0][0] is None else int(rows[0][0])) if rows else Room(False)


def widened(table: VersionTable, length: int) -> str:
    """MODIFY names the whole column again."""
    return f"ALTER TABLE {_quoted(table)} MODIFY version_num VARCHAR({length}) NOT NULL"


def tables(connection: Any) -> frozenset[str]:
    """The tables of the current database."""
    rows = _query(connection, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()")
    return frozenset(str(row[0]) for row in rows)


def ask(connection: Any) -> Ask:
    """Queries on this connection."""
    return functools.partial(_query, connection)


def identity(ask: Ask) -> str:
    """The database's name, in the case that the server compares it."""
    name, lower = ask("SELECT DATABASE(), @@lower_case_table_names")[0]
    return str(name).lower() if int(lower) else str(name)


def lock_name(ask: Ask) -> str:
    """GET_LOCK names are server-wide and at most 64 characters, so: a hash of the database's name."""
    return "alembic-job:" + hashlib.sha256(identity(ask).encode()).hexdigest()[:32]


def fence_name(name: str) -> str | None:
    """Of the same database, and still within 64 characters."""
    return f"{name}:fence"


def try_lock(ask: Ask, name: str, owner: str) -> Callable[[], bool] | None:
    """GET_LOCK answers 1, 0 (another session holds it) or NULL (an error, a kill)."""
    answer = ask(f"SELECT GET_LOCK('{name}', 0)")[0][0]
    if answer is None:
        raise DatabaseUnreachable(f"The server answered NULL to GET_LOCK('{name}'): out of memory, or killed.")
    if not answer:
        return None

    def release() -> bool:  # 0: another session holds it, NULL: nobody does
        return bool(ask(f"SELECT RELEASE_LOCK('{name}')")[0][0])

    return release


def holds(ask: Ask, name: str) -> bool:
    """IS_USED_LOCK tells the connection that holds it."""
    return bool(ask(f"SELECT IS_USED_LOCK('{name}') = CONNECTION_ID()")[0][0])


def holder(ask: Ask, name: str) -> Holder | None:
    """Of sessions of another user, ordinary rights tell the number and nothing else."""
    used = ask(f"SELECT IS_USED_LOCK('{name}')")[0][0]
    if used is None:
        return None
    rows = ask(  # without a percent sign, which some drivers would take for a place to fill
        "SELECT USER, HOST, COMMAND, TIME, CONCAT(REPLACE(UTC_TIMESTAMP() - INTERVAL TIME SECOND, ' ', 'T'), 'Z')"  # noqa: S608
        f" FROM information_schema.PROCESSLIST WHERE ID = {int(used)}"
    )
    user, host, doing, seconds, since = rows[0] if rows else (None, None, None, None, None)
    return Holder(
        connection=f"connection {used}",
        user=user,
        hostname=None if host is None else str(host).rpartition(":")[0] or str(host),
        since=since,
        idle_s=float(seconds or 0) if doing == "Sleep" else None,
        end_with=f"KILL {used}",
    )


def end_session(ask: Ask, connection: str) -> None:
    """KILL, which a user may do to sessions of its own."""
    ask(f"KILL {int(connection.rpartition(' ')[2])}")


def dies_with_its_client(ask: Ask) -> None:
    """The server closes a session that has been idle for so long."""
    ask("SET SESSION wait_timeout = 60")


def changed(connection: Any, sql: str) -> int:
    """As the server counts: rows that hold other values than before."""
    with connection.cursor() as cursor:
        return int(cursor.execute(sql))


def together(connection: Any, writes: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """In a transaction of their own. The migrating session may have locked everything."""
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION lock_wait_timeout = 2, innodb_lock_wait_timeout = 2")
        cursor.execute("START TRANSACTION")
        try:
            for sql, values in writes:
                cursor.execute(sql.replace("?", "%s"), tuple(values))
        except Exception:
            cursor.execute("ROLLBACK")
            raise
        cursor.execute("COMMIT")


def no_session_locks(connection: Any) -> str | None:
    """Galera grants GET_LOCK on every node at once."""
    on = _query(connection, "SHOW VARIABLES LIKE 'wsrep_on'")
    return "a Galera node grants GET_LOCK without asking the others" if on and on[0][1] == "ON" else None


def prepare_for_lease(ask: Ask) -> None:
    """Without wsrep_sync_wait a Galera node may show what was there before another one's commit."""
    ask("SET SESSION innodb_lock_wait_timeout = 1")
    if ask("SHOW VARIABLES LIKE 'wsrep_sync_wait'"):
        ask("SET SESSION wsrep_sync_wait = 7")


def own_table(name: str) -> str:
    """In the database itself: another one might not be ours to create."""
    return name


def make_own_table(connection: Any, name: str, columns: str) -> None:
    """Asked first: CREATE TABLE IF NOT EXISTS needs the right to create, and waits for whoever uses the table."""
    there = own_columns(ask(connection), name)
    if not there:
        changed(
            connection,
            f"CREATE TABLE IF NOT EXISTS {own_table(name)} ({columns}) ENGINE=InnoDB"
            " DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        )
        return
    for column in lacking(columns, there):
        changed(connection, "SET SESSION lock_wait_timeout = 2")
        try:
            changed(connection, f"ALTER TABLE {own_table(name)} ADD COLUMN {column}")
        except Exception as error:
            if code_of(error) != "1060":  # another run has added it meanwhile
                raise


def own_columns(ask: Ask, name: str) -> frozenset[str]:
    """Of what the user has no right to, the server says that it is not there."""
    return frozenset(
        str(row[0])
        for row in ask(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS"  # noqa: S608
            f" WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{name}'"
        )
    )


def literal(text: str) -> str:
    """In hexadecimal: what a backslash or a double quote means is up to ``sql_mode``."""
    return f"_utf8mb4 X'{text.encode().hex()}'"


def joins(kind: str, connection: Any) -> bool:
    """DDL commits."""
    return kind == "dml" and not driver_autocommits(connection)


def lasts_at_once(ask: Ask, table: str) -> bool:
    """MyISAM, Aria and MEMORY know no transactions, say."""
    schema, _, name = table.rpartition(".")
    where = f"TABLE_SCHEMA = {literal(unquoted(schema))}" if schema else "TABLE_SCHEMA = DATABASE()"
    where += f" AND TABLE_NAME = {literal(unquoted(name))}"
    tables = "information_schema.TABLES NATURAL JOIN information_schema.ENGINES"
    found = ask(f"SELECT TRANSACTIONS FROM {tables} WHERE {where}")  # noqa: S608
    return bool(found) and str(found[0][0]).upper() != "YES"


_SHOWN = {"TABLE": "TABLE", "VIEW": "TABLE", "SEQUENCE": "TABLE"} | {
    kind: kind for kind in ("TRIGGER", "PROCEDURE", "FUNCTION", "EVENT")
}
_NOT_THERE = ("1146", "1305", "1360", "1539", "1347", "1049", "4091")


def definitions(ask: Ask, objects: Sequence[tuple[str, str]]) -> dict[str, str | None] | None:
    """As SHOW CREATE says it. An index is part of its table."""
    found: dict[str, str | None] = {}
    for kind, name in objects:
        if kind in _SHOWN:
            try:
                row = ask(f"SHOW CREATE {_SHOWN[kind]} {name}")[0]
            except Exception as error:
                if code_of(error) not in _NOT_THERE:
                    raise
                found[f"{kind} {name}"] = None
            else:
                text = str(row[1] if _SHOWN[kind] == "TABLE" else row[2])
                found[f"{kind} {name}"] = re.sub(r" AUTO_INCREMENT=\d+", "", text)
    return found or None


def session_mark(ask: Ask) -> str:
    """Connection numbers begin anew when the server does."""
    host, port, number = ask("SELECT @@hostname, @@port, CONNECTION_ID()")[0]
    return f"{host}:{port}/{_started(ask)}/{number}"


def _started(ask: Ask) -> int:
    now, uptime = ask("SELECT UNIX_TIMESTAMP()")[0][0], ask("SHOW GLOBAL STATUS LIKE 'Uptime'")[0][1]
    return int(now) - int(uptime)


def is_gone(ask: Ask, mark: str) -> bool:
    """A node does not show the sessions of the others."""
    server, started, number = mark.rsplit("/", 2)
    host, port = ask("SELECT @@hostname, @@port")[0]
    if server != f"{host}:{port}":
        return False
    if abs(_started(ask) - int(started)) > 5:  # noqa: PLR2004  seconds: the server was started again
        return True
    return not ask(f"SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = {int(number)}")  # noqa: S608


def sees_lock(ask: Ask, name: str) -> bool:
    """By IS_USED_LOCK. A Galera node knows nothing of the locks of another, so there it cannot be told."""
    used = ask(f"SELECT IS_USED_LOCK('{name}')")[0][0]
    return used is not None or any(row[1] == "ON" for row in ask("SHOW VARIABLES LIKE 'wsrep_on'"))


def product(ask: Ask) -> str:
    """MariaDB or MySQL: they check and default differently."""
    version = str(ask("SELECT VERSION()")[0][0])
    return "MariaDB" if re.search("MariaDB", version, re.IGNORECASE) else "MySQL"


def other_schemas(ask: Ask) -> list[str]:
    """A schema is a database of its own."""
    return []


def leaves(schema: str) -> bool:
    """A schema is a database of its own."""
    return True


def scratch(directory: str) -> str | None:
    """A server has to have one."""
    return None


def create(url: URL) -> None:
    """It is there, or the login was refused."""


def emptying(url: URL) -> str:
    """Statements for an administrator."""
    return f"DROP DATABASE `{url.database}`; CREATE DATABASE `{url.database}`;"


def session_id(ask: Ask) -> int | None:
    """The number that KILL takes."""
    return int(ask("SELECT CONNECTION_ID()")[0][0])


def keeps_session(connection: Any, session_id: int | None) -> bool:
    """A pooler answers CONNECTION_ID() and KILL by itself."""
    return True


def cancel(ask: Ask, session_id: int) -> None:
    """KILL QUERY: the statement fails with 1317. An idle session does not notice (measured on MariaDB 10.11)."""
    ask(f"KILL QUERY {session_id:d}")


def interrupt(connection: Any) -> bool:
    """No driver can; the server has to be asked."""
    return False


def limit_lock_wait(ask: Ask, seconds: float) -> None:
    """``lock_wait_timeout`` is of metadata locks, a day or a year by default; row locks have another one."""
    here, everywhere = (
        int(value) for value in ask("SELECT @@SESSION.lock_wait_timeout, @@GLOBAL.lock_wait_timeout")[0]
    )
    wanted = max(1, math.ceil(seconds))
    if here == everywhere and here > wanted:
        ask(f"SET SESSION lock_wait_timeout = {wanted}")


def gave_way(error: BaseException) -> bool:
    """Lock wait timeout, deadlock (of Galera, too), NOWAIT."""
    return code_of(error) in ("1205", "1213", "3572")


def blocker(ask: Ask, session_id: int, ours: Collection[int]) -> Holder | None:
    """The plugin metadata_lock_info tells. Without it, the only other session of the same user is a fair guess."""
    sessions = {
        int(row[0]): row
        for row in ask("SELECT id, user, host, time, state FROM information_schema.processlist WHERE db = DATABASE()")
    }
    if "metadata lock" not in str(sessions.get(session_id, ("",) * 5)[4]):
        return None
    try:
        rows = ask(
            "SELECT DISTINCT theirs.thread_id FROM information_schema.metadata_lock_info AS mine"  # noqa: S608  a number
            " JOIN information_schema.metadata_lock_info AS theirs USING (lock_type, table_schema, table_name)"
            f" WHERE mine.thread_id = {session_id:d} AND lock_type = 'Table metadata lock'"
        )
        found = [int(row[0]) for row in rows]
    except Exception:
        found = list(sessions)
        if len([one for one in found if one not in ours]) > 1:
            return None
    blocking = next((one for one in found if one not in ours), None)
    if blocking is None:
        return None
    _, user, host, seconds, _ = sessions.get(blocking, (None, None, None, None, None))  # of another user
    since = None if seconds is None else datetime.now(timezone.utc) - timedelta(seconds=int(seconds))
    return Holder(
        connection=f"connection {blocking}",
        user=user,
        hostname=None if host is None else str(host).rpartition(":")[0] or str(host),
        since=since.isoformat(timespec="seconds").replace("+00:00", "Z") if since else None,
        end_with=f"KILL {blocking}",
    )


def progress(ask: Ask, session_id: int) -> float | None:
    """MariaDB counts stages, and percent within one. MySQL has no such columns."""
    try:
        rows = ask(
            "SELECT stage, max_stage, progress FROM information_schema.processlist"  # noqa: S608  a number
            f" WHERE id = {session_id:d}"
        )
    except Exception:
        return None
    if not rows or not int(rows[0][1] or 0):
        return None
    stage, stages, percent = (float(value or 0) for value in rows[0])
    return round(min(100.0, (max(stage, 1) - 1 + percent / 100) / stages * 100), 1)


def invalid_indexes(ask: Ask) -> Mapping[str, str]:
    """There are none."""
    return {}


def code_of(error: BaseException) -> str | None:
    """The error number, which all drivers give first."""
    number = error.args[0] if error.args else None
    return str(number) if from_driver(error) and str(number).isdigit() else None


def after(kind: str, connection: Any, *, gives_rows: bool) -> Ending:
    """As the server said with its answer, where the driver tells; the answer with rows does not say it."""
    if kind in ("read", "rollback"):
        return "rollback" if kind == "rollback" else None
    open_ = _in_transaction(connection, ask=gives_rows)
    if open_ is None:  # "Statements That Cause an Implicit Commit" in the manual
        open_ = kind not in ("ddl", "lock", "commit") and not driver_autocommits(connection)
    return None if open_ else "commit"


def after_failure(kind: str, connection: Any, code: str | None) -> Ending:
    """DDL commits before it runs, also when it then fails, unless it did not get that far. A deadlock rolls back."""
    commits = kind in ("ddl", "lock")
    open_ = None if code and int(code) in _LOST else _in_transaction(connection, ask=True)
    if open_ is None:
        open_ = code in _PARSE_ERRORS if commits else code != "1213"
    return None if open_ else "commit" if commits else "rollback"


def _in_transaction(connection: Any, *, ask: bool) -> bool | None:
    """Only PyMySQL keeps what the server said; other drivers do not tell."""
    status = getattr(connection, "server_status", None)
    if not isinstance(status, int):
        return None
    if ask:
        try:
            connection.ping(reconnect=False)
        except Exception:
            return None
    return bool(connection.server_status & _IN_TRANSACTION)


def warnings(connection: Any) -> list[str]:
    """Asked for unless the driver says that there are none. Notes tell that an IF EXISTS was of use, and stay out."""
    own = getattr(connection, "driver_connection", None) or connection
    count = getattr(own, "warning_count", None)  # mysqlclient; others keep it with the result, asyncmy to itself
    if not (count() if callable(count) else getattr(getattr(own, "_result", None), "warning_count", 1)):
        return []
    cursor = connection.cursor()
    try:
        cursor.execute("SHOW WARNINGS")
        return [f"{message} ({code})" for level, code, message in cursor.fetchall() if level == "Warning"]
    finally:
        cursor.close()


def aborted(connection: Any) -> bool:
    """There is no such state."""
    return False
