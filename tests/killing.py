"""A revision of six statements that is harmed at a point of its way: where, how, and what is true afterwards.

The run stops at the point by itself, in a module of the project beside ``env.py``, and waits there for what is
done to it. So a point is exact, however busy the machine is. Every statement leaves something that can be counted,
and would leave more if it were executed twice.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.databases import Database, Server
from tests.job import Job, Project, Result, Revision, make_project
from tests.processes import signal_tree
from tests.servers import PrivateServer

STATEMENTS = 6
MODES = ("process", "session", "server")
# Settings with which a server that is killed keeps what it has promised.
DURABLE: dict[str, dict[str, object]] = {
    "mariadb": {"innodb_flush_log_at_trx_commit": 1},
    "postgresql": {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"},
}
HOWS = {
    "process": ("the worker", "the parent", "both"),
    "session": ("the migrating one", "all of the run"),
    "server": ("kill -9",),
}

_HALTING = '''
"""Stops the run where HALT_AT says, until it is told to go on."""

import os
import time
from pathlib import Path

from sqlalchemy import event

BEGINNINGS = {
    1: "CREATE TABLE loan", 2: "INSERT INTO book (x) VALUES (3)", 3: "ALTER TABLE shelf", 4: "UPDATE book",
    5: "CREATE INDEX", 6: "INSERT INTO entry", "version": "UPDATE alembic_version SET version_num='r1'",
}
session = None


def halt(point):
    if os.environ.get("HALT_AT") != point:
        return
    directory = Path(os.environ["HALT_DIR"])
    if (directory / "reached").exists():
        return
    (directory / "reaching").write_text(f"{os.getpid()} {session}")
    (directory / "reaching").rename(directory / "reached")
    while not (directory / "go").exists():
        time.sleep(0.005)


def which(sql):
    return next((n for n, begins in BEGINNINGS.items() if sql.strip().startswith(begins)), None)


def listen(engine):
    """In front of the runner's listeners, but for do_execute, which comes after what the runner writes down before."""
    here = "SELECT CONNECTION_ID()"
    ask = {"mysql": here, "mariadb": here, "postgresql": "SELECT pg_backend_pid()"}

    @event.listens_for(engine, "connect")
    def connected(driver, _):
        global session
        if sql := ask.get(engine.dialect.name):
            cursor = driver.cursor()
            cursor.execute(sql)
            session = cursor.fetchone()[0]
            cursor.close()
            driver.rollback()

    def sent(cursor, sql, *_):
        halt(f"sent {which(sql)}")

    def executed(connection, cursor, sql, *_):
        halt(f"executed {which(sql)}")

    event.listen(engine, "do_execute", sent)
    event.listen(engine, "do_execute_no_params", lambda cursor, sql, _: sent(cursor, sql))
    event.listen(engine, "after_cursor_execute", executed)
'''

_ENV = """
import halting
from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
halting.listen(engine)
with engine.connect() as connection:
    context.configure(connection=connection{configure})
    with context.begin_transaction():
        context.run_migrations()
"""

_R0 = """
op.create_table("author", sa.Column("id", sa.Integer, primary_key=True))
for table in ("book", "shelf", "page", "entry"):
    op.create_table(table, sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Integer))
op.execute("INSERT INTO book (x) VALUES (1), (2)")
op.execute("INSERT INTO shelf (x) VALUES (1)")
"""
_SIX = (
    'op.create_table("loan", sa.Column("id", sa.Integer, primary_key=True),'
    ' sa.Column("author", sa.Integer, sa.ForeignKey("author.id")))',
    'op.execute("INSERT INTO book (x) VALUES (3)")',
    'op.add_column("shelf", sa.Column("y", sa.Integer, server_default="5"))',
    'raised = op.get_bind().execute(sa.text("UPDATE book SET x = x + :more"), {"more": 10}).rowcount',
    'op.create_index("ix_page_x", "page", ["x"])',
    'op.get_bind().execute(sa.text("INSERT INTO entry (x) SELECT b.x * 100 + :raised + s.y FROM book b, shelf s"),'
    ' {"raised": raised})',
)
# The same with an autocommit block: statement 3 is built without a lock, and statement 1 comes behind it.
_AUTOCOMMIT = (
    _SIX[1],
    'context = op.get_context().autocommit_block(); context.__enter__(); op.create_index("ix_page_x", "page", ["x"],'
    " postgresql_concurrently=True)",
    _SIX[0],
    "context.__exit__(None, None, None); " + _SIX[2],
    _SIX[3],
    _SIX[5],
)
_R2 = """
halt("r2")
op.create_table("done", sa.Column("id", sa.Integer, primary_key=True))
"""
PLAIN_ORDER = (1, 2, 3, 4, 5, 6)  # which of the effects each statement of the revision has
AUTOCOMMIT_ORDER = (2, 5, 1, 3, 4, 6)


@dataclass(frozen=True)
class Point:
    """One of the 13. ``halts``: where the run may be stopped for it; ``during`` a statement, or None."""

    name: str
    halts: tuple[str, ...]
    during: int | None = None


def points(order: Sequence[int] = PLAIN_ORDER) -> list[Point]:
    """Before the first, during each, between any two, and after the last of the statements."""
    found = [Point("before 1", ("code 0",))]
    for number, effect in enumerate(order, 1):
        during = (f"waiting {effect}", f"sent {effect}", f"executed {effect}")
        found.append(Point(f"during {number}", during, number))
        if number < STATEMENTS:
            found.append(Point(f"between {number} and {number + 1}", (f"code {number}",)))
    return [*found, Point(f"after {STATEMENTS}", (f"code {STATEMENTS}", "executed version", "r2"))]


def project(directory: Path, dialect: str, *, autocommit: bool = False) -> Project:
    """The history: r0 makes tables, r1 has the six statements, r2 another table."""
    body = "from halting import halt\n" + "halt('code 0')\n"
    for number, statement in enumerate(_AUTOCOMMIT if autocommit else _SIX, 1):
        body += f"{statement}\nhalt('code {number}')\n"
    revisions = [
        Revision("r0", None, upgrade=_R0),
        Revision("r1", "r0", upgrade=body),
        Revision("r2", "r1", upgrade="from halting import halt\n" + _R2),
    ]
    # On PostgreSQL the tables of r0 have to be committed, for others to lock them.
    configure = ", transaction_per_migration=True" if dialect == "postgresql" else ""
    made = make_project(directory, revisions, env=_ENV.format(configure=configure))
    (made.path / "halting.py").write_text(_HALTING)
    return made


# --- what is true of the database ---------------------------------------------------------------------


def effects(database: Database) -> dict[int, int]:
    """How often each of the six was executed, by what is in the database."""
    if "entry" not in database.tables():
        return dict.fromkeys(range(1, 7), 0)

    def number(sql: str) -> int:
        return int(database.query(sql)[0][0])

    def works(sql: str) -> int:
        try:
            database.query(sql)
        except Exception:
            return 0
        return 1

    entries, books = number("SELECT count(*) FROM entry"), number("SELECT count(*) FROM book")
    assert entries % books == 0, (entries, books)
    indexes = number(_INDEXES[database.dialect])
    return {
        1: int("loan" in database.tables()),
        2: books - 2,
        3: works("SELECT y FROM shelf"),
        4: (number("SELECT min(x) FROM book") - 1) // 10,
        5: indexes,
        6: entries // books,
    }


_INDEXES = {
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE name = 'ix_page_x'",
    "mariadb": "SELECT count(*) FROM information_schema.statistics WHERE table_schema = database()"
    " AND index_name = 'ix_page_x'",
    "postgresql": "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('ix_page_x') AND indisvalid",
}


def is_complete(database: Database) -> bool:
    """At head, with every statement executed exactly once."""
    if database.versions() != {"r2"} or "done" not in database.tables():
        return False
    once = effects(database) == dict.fromkeys(range(1, 7), 1)
    books = [x for (x,) in database.query("SELECT x FROM book ORDER BY id")]
    entries = [x for (x,) in database.query("SELECT x FROM entry ORDER BY x")]
    return once and books == [11, 12, 13] and entries == [1108, 1208, 1308]


def recorded(database: Database) -> list[tuple[Any, ...]]:
    """The rows of the runner's table of statements: revision, number, state."""
    schema = "alembic_job." if database.dialect == "postgresql" else ""
    try:
        return database.query(f"SELECT revision, number, state FROM {schema}alembic_job_statement ORDER BY 1, 2")
    except Exception as error:
        if any(word in str(error) for word in ("doesn't exist", "does not exist", "no such table")):
            return []
        raise


def hold_list_against(listed: Sequence[dict[str, Any]], there: dict[int, int], order: Sequence[int]) -> None:
    """What ``revision_half_done`` lists as done is there, and what it does not list is not."""
    states = {one["statement_number"]: one["state"] for one in listed}
    for number, effect in enumerate(order, 1):
        state = states.get(number, "new")
        if state == "done":
            assert there[effect] == 1, f"statement {number} is said to be done; {states}, {there}"
        elif state != "started":
            assert there[effect] == 0, f"statement {number} is said to be {state}; {states}, {there}"


# --- others that are in the way -----------------------------------------------------------------------

_BLOCKS = {
    "mariadb": {
        1: "CREATE TABLE loan AS SELECT SLEEP(60)",  # nothing else locks a table that is not there
        2: "SELECT * FROM book FOR UPDATE",
        3: "SELECT * FROM shelf",
        4: "SELECT * FROM book FOR UPDATE",
        5: "SELECT * FROM page",
        6: "SELECT * FROM entry FOR UPDATE",
    },
    "postgresql": {
        1: "LOCK TABLE author IN ROW EXCLUSIVE MODE",
        2: "LOCK TABLE book IN SHARE MODE",
        3: "LOCK TABLE shelf IN ACCESS SHARE MODE",
        4: "SELECT * FROM book FOR UPDATE",
        5: "LOCK TABLE page IN ROW EXCLUSIVE MODE",
        6: "LOCK TABLE entry IN SHARE MODE",
    },
}
_WAITS = {  # for a lock; InnoDB renews innodb_trx only when nobody has read it for 0.1 s
    "mariadb": "SELECT 1 FROM information_schema.processlist WHERE id = {id} AND state LIKE 'Waiting for%lock'"
    " UNION SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = {id} AND trx_state = 'LOCK WAIT'",
    "postgresql": "SELECT 1 FROM pg_stat_activity WHERE pid = {id} AND wait_event_type = 'Lock'",
}


@contextlib.contextmanager
def _in_the_way(database: Database, effect: int) -> Iterator[None]:
    sql = _BLOCKS[database.dialect][effect]
    connection = database.connect()
    try:
        cursor = connection.cursor()
        if "SLEEP" in sql:
            number = connection.thread_id()
            threading.Thread(target=_quietly, args=(cursor.execute, sql), daemon=True).start()
            sleeping = f"SELECT 1 FROM information_schema.processlist WHERE id = {number} AND state = 'User sleep'"
            _until(lambda: database.query(sleeping), "the other session's sleep")
            yield
            with contextlib.suppress(Exception):  # its server was killed
                database.execute(f"KILL {number}")
            return
        cursor.execute("BEGIN")
        cursor.execute(sql)
        yield
    finally:
        with contextlib.suppress(Exception):  # its server was killed
            connection.close()


def _quietly(execute: Callable[[str], object], sql: str) -> None:
    with contextlib.suppress(Exception):
        execute(sql)


def _until(true: Callable[[], object], what: str, timeout_s: float = 20, *, every_s: float = 0.01) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"{timeout_s} s went by without {what}"
        time.sleep(every_s)


# --- a case -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """What the seed decided: where exactly the run stops, who is killed, and whether the next run comes at once."""

    halt: str
    how: str
    at_once: bool

    def __str__(self) -> str:
        return f"stopped at {self.halt!r}, killed: {self.how}, next run {'at once' if self.at_once else 'later'}"


def draw(seed: int, point: Point, mode: str, *, waits: bool = True) -> Draw:
    """For this point and mode, from the seed. ``waits``: whether a statement can be made to wait."""
    source = random.Random(f"{seed} {point.name} {mode}")
    halts = [halt for halt in point.halts if waits or not halt.startswith("waiting")]
    return Draw(source.choice(halts), source.choice(HOWS[mode]), source.random() < 0.5)


@dataclass
class Outcome:
    """How a case ended."""

    there: dict[int, int]  # after the kill
    states: dict[int, str]  # what was recorded then
    runs: list[Result] = field(default_factory=list)

    @property
    def last(self) -> Result:
        """The run that ended it."""
        return self.runs[-1]


StartJob = Callable[..., Job]


@dataclass
class Case:
    """One kill. ``server`` is killed where the mode says so; None for SQLite."""

    server: Server | None
    database: Database
    project: Project
    start_job: StartJob
    order: Sequence[int] = PLAIN_ORDER

    def run(self, **env: str) -> Job:
        """Start ``upgrade``."""
        return self.start_job(
            "upgrade",
            cwd=self.project.path,
            env={
                "ALEMBIC_JOB_DATABASE_URL": self.database.url,
                "ALEMBIC_JOB_WAIT_TIMEOUT": "60s",
                **env,
            },
        )

    def play(self, mode: str, drawn: Draw) -> Outcome:
        """Kill, and run again until it is settled. Asserts that everything that is said on the way is true."""
        directory = self.project.path
        waits = drawn.halt.startswith("waiting")
        stop_at = drawn.halt.replace("waiting", "sent")
        job = self.run(HALT_AT=stop_at, HALT_DIR=str(directory))
        try:
            _until(lambda: (directory / "reached").exists() or job.process.poll() is not None, "the point")
            assert (directory / "reached").exists(), f"the run ended before the point\n{job.stdout}{job.stderr}"
            worker, session = (directory / "reached").read_text().split()
            with contextlib.ExitStack() as blocking:
                if waits:
                    blocking.enter_context(_in_the_way(self.database, int(drawn.halt.split()[1])))
                    (directory / "go").touch()
                    assert self.server
                    ask = _WAITS[self.server.dialect].format(id=session)
                    _until(
                        lambda: self.server and self.server.query(ask),
                        f"session {session} waiting for a lock at {drawn.halt}",
                        every_s=0.15,
                    )
                self._kill(mode, drawn, job, int(worker), session)
                (directory / "go").touch()
                if isinstance(self.server, PrivateServer) and mode == "server":
                    self.server.start()
                if drawn.at_once and mode == "process":  # the session that is left behind may still execute it
                    again = self.run()
                    if waits:
                        time.sleep(0.3)
                    blocking.close()
                    return self._settle(mode, job, again)
            return self._settle(mode, job, None)
        finally:
            job.kill()

    def _settle(self, mode: str, job: Job, again: Job | None) -> Outcome:
        dead = job.finish(60, complete=False, stderr=True)
        if again is None:
            self._sessions_are_gone()
        outcome = Outcome(
            effects(self.database),
            {number: state for revision, number, state in recorded(self.database) if revision == "r1"},
        )
        if again is None:
            self._hold_end_against(dead, outcome)
        for _ in range(3):
            there = effects(self.database)
            result = (again or self.run()).finish(90)
            if again is None:
                for event in result.of("revision_half_done"):
                    if event["revision"] == "r1":
                        hold_list_against(event["statements"], there, self.order)
            again = None
            outcome.runs.append(result)
            if not result.finished["retryable"]:
                break
        return outcome

    def _hold_end_against(self, dead: Result, outcome: Outcome) -> None:
        """What the harmed run could still say of r1 is so."""
        for failed in dead.of("revision_failed"):
            if failed["revision"] != "r1":
                continue
            said = {self.order[one["statement_number"] - 1] for one in failed["durable_statements"]}
            there = {effect for effect, times in outcome.there.items() if times}
            if self.database.dialect == "postgresql" and self.database.query("SELECT to_regclass('ix_page_x')")[0][0]:
                there.add(5)  # invalid, maybe, and there
            assert said <= there, f"said to be in the database: {said}, there: {there}\n{dead.stdout}"

    def _kill(self, mode: str, drawn: Draw, job: Job, worker: int, session: str) -> None:
        if mode == "process":
            if drawn.how == "the worker":
                os.kill(worker, signal.SIGKILL)
            elif drawn.how == "the parent":
                os.kill(job.pid, signal.SIGKILL)
            else:
                signal_tree(job.pid, signal.SIGKILL)
        elif mode == "session":
            assert self.server
            for one in [session] if drawn.how == "the migrating one" else self._sessions():
                with contextlib.suppress(Exception):  # it left by itself
                    self.server.admin(_END[self.server.dialect].format(id=one))
        else:
            assert isinstance(self.server, PrivateServer)
            self.server.kill()

    def _sessions(self) -> list[str]:
        if self.server is None or self.database.login is None:
            return []
        name = self.database.login.name
        return [str(one) for (one,) in self.server.query(_SESSIONS[self.server.dialect].format(name=name))]

    def _sessions_are_gone(self) -> None:
        """So that what is in the database does not change any more."""
        _until(lambda: not self._sessions(), "the end of all sessions of the run", 70)


_SESSIONS = {
    "mariadb": "SELECT id FROM information_schema.processlist WHERE user = '{name}'",
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE usename = '{name}'",
}
_END = {"mariadb": "KILL {id}", "postgresql": "SELECT pg_terminate_backend({id})"}
