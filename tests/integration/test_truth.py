"""State beats cause: whatever went wrong, what the events say of the database is true of it.

Each statement of a revision leaves something that can be looked up: a table ``e_<revision>_<n>``, or
a row ``<revision>_<n>`` in the table ``kept``. So what the run says can be held against the schema.
"""

from __future__ import annotations

import gc
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest

from tests import story
from tests.databases import Database, sqlite_database
from tests.job import Project, Revision, make_project
from tests.story import Story

_EFFECT = re.compile(r"CREATE TABLE e_(\w+)|INSERT INTO kept (?:\(what\) )?VALUES \('(\w+)'\)")


def effects(text: str) -> set[str]:
    """What the statements in this text leave, by name: ``r3_1``."""
    return {table or row for table, row in _EFFECT.findall(text)}


def present(database: Database) -> set[str]:
    tables = database.tables()
    rows = {what for (what,) in database.query("SELECT what FROM kept")} if "kept" in tables else set()
    return {name.removeprefix("e_") for name in tables if name.startswith("e_")} | rows


def of_revision(found: set[str], revision: str) -> set[str]:
    return {effect for effect in found if effect.partition("_")[0] == revision}


def ddl(name: str) -> str:
    return f'op.execute("CREATE TABLE e_{name} (id INTEGER)")\n'


def dml(name: str) -> str:
    return f"""op.execute("INSERT INTO kept VALUES ('{name}')")\n"""


def indented(*code: str) -> str:
    return textwrap.indent("".join(code), "    ")


RAISES = 'raise RuntimeError("stop here")\n'
FAILING_DDL = 'op.execute("ALTER TABLE nowhere ADD x INTEGER")\n'
FAILING_DML = 'op.execute("INSERT INTO nowhere VALUES (1)")\n'
GARBLED = 'op.execute("CREATE TABEL x")\n'

R1 = Revision("r1", None, upgrade='op.execute("CREATE TABLE kept (what VARCHAR(20))")\n' + ddl("r1_1") + dml("r1_2"))
R2 = Revision("r2", "r1", upgrade=dml("r2_1") + ddl("r2_2"))

_ENV = """
from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool{engine})
with engine.{begin}() as connection:
    context.configure(connection=connection{configure})
    with context.begin_transaction():
        context.run_migrations()
"""


def env(*, engine: str = "", begin: str = "connect", configure: str = "") -> str:
    return _ENV.format(engine=engine, begin=begin, configure=configure)


ENVS = {
    "as the template has it": env(),
    "a transaction for each migration": env(configure=", transaction_per_migration=True"),
    "a transaction of env.py's own": env(begin="begin"),
    "an engine in autocommit": env(engine=', isolation_level="AUTOCOMMIT"'),
}


ASYNC_ENV = """
import asyncio
from alembic import context
from sqlalchemy import pool
from sqlalchemy.ext.asyncio import create_async_engine

def run(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = create_async_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()

asyncio.run(main())
"""
ASYNC_DRIVERS = (
    {} if version("sqlalchemy").startswith("1.") else {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
)


def project_with(tmp_path: Path, third: Revision, env_py: str = ENVS["as the template has it"]) -> Project:
    last = Revision("r4", third.id, upgrade=ddl("r4_1"))
    return make_project(tmp_path, [R1, R2, third, last], env=env_py)


def hold_against_the_database(said: Story, project: Project, database: Database) -> None:
    """Everything that the run says of the database is so."""
    there, rows = present(database), database.versions()
    context = f"present: {sorted(there)}, version: {rows}\n{said}"
    failed = {event.revision: event for event in said.failed}
    left = False
    for path in project.versions.glob("r*.py"):
        revision, text = path.name.partition("_")[0], path.read_text()
        mine = of_revision(there, revision[:2])
        if revision in said.applied:
            undone = {name for name in effects(text) if f"# {name} is undone" in text}
            assert mine == effects(text) - undone, f"{revision} is said to be applied; {context}"
            assert revision not in said.rolled_back, context
            continue
        reported = failed[revision].durable_statements if revision in failed else []
        names = {effect for statement in reported for effect in effects(statement["sql"])}
        assert mine == names, f"{revision} left {mine}, and is said to have left {names}; {context}"
        assert (revision in said.rolled_back) == (revision in said.started and not mine), context
        numbers = [statement["statement_number"] for statement in reported]
        assert numbers == sorted(set(numbers)), context
        left = left or bool(mine)
    assert (said.exit_code == 41) == left, context
    assert set(said.rows) == rows, context
    assert len(set(said.applied)) == len(said.applied), context
    if said.failed:
        assert sorted(said.rolled_back) == sorted({r for event in said.failed for r in event.rolled_back}), context


EVERYWHERE = ("sqlite", "mariadb", "postgresql")


@dataclass(frozen=True)
class Case:
    """A third revision that fails, and what is left of it with env.py as the template has it."""

    body: str
    sqlite: str = ""
    mariadb: str = ""
    postgresql: str | None = ""  # None: the drivers differ
    only: tuple[str, ...] = EVERYWHERE
    id: str = "r3"


def hidden(code: str) -> str:
    return "try:\n" + indented(code) + "except Exception: pass\n"


def nested(code: str, end: str) -> str:
    """Run code in a savepoint."""
    return f"nested = op.get_bind().begin_nested()\n{code}nested.{end}()\n"


COMMIT, ROLLBACK = 'op.execute("COMMIT")\n', 'op.execute("ROLLBACK")\n'
MYSQL, SERVERS = ("mariadb",), ("mariadb", "postgresql")
TEMPORARY = """op.execute("CREATE TEMPORARY TABLE scratch (what VARCHAR(20))")
op.execute("INSERT INTO scratch VALUES ('x')")
"""
BLOCK = "with op.get_context().autocommit_block():\n"

CASES = {
    "DDL, then Python raises": Case(ddl("r3_1") + RAISES, sqlite="r3_1", mariadb="r3_1"),
    "DML, then Python raises": Case(dml("r3_1") + RAISES),
    "DDL and DML, then Python raises": Case(ddl("r3_1") + dml("r3_2") + RAISES, sqlite="r3_1", mariadb="r3_1"),
    "DML and DDL, then Python raises": Case(dml("r3_1") + ddl("r3_2") + RAISES, mariadb="r3_1 r3_2"),
    "DML, DDL and DML, then Python raises": Case(dml("r3_1") + ddl("r3_2") + dml("r3_3") + RAISES, mariadb="r3_1 r3_2"),
    "only a read, then Python raises": Case('op.execute("SELECT 1")\n' + RAISES),
    "DML, then DDL fails": Case(dml("r3_1") + FAILING_DDL, mariadb="r3_1"),
    "DML, then DDL does not parse": Case(dml("r3_1") + GARBLED),
    "DML, then DDL has a name too long": Case(dml("r3_1") + f'op.execute("DROP TABLE {"x" * 70}")\n', only=SERVERS),
    "DML, then DDL is refused": Case(
        dml("r3_1") + 'op.execute("CREATE TABLE mysql.x (id INTEGER)")\n', mariadb="r3_1", only=MYSQL
    ),
    "DML, then DML fails": Case(dml("r3_1") + FAILING_DML),
    "DDL, then DML fails": Case(ddl("r3_1") + FAILING_DML, sqlite="r3_1", mariadb="r3_1"),
    "failing DDL is survived": Case(dml("r3_1") + hidden(FAILING_DDL) + RAISES, mariadb="r3_1"),
    "failing DML is survived": Case(dml("r3_1") + hidden(FAILING_DML) + ddl("r3_2") + RAISES, mariadb="r3_1 r3_2"),
    "COMMIT by hand": Case(dml("r3_1") + COMMIT + RAISES, "r3_1", "r3_1", "r3_1"),
    "COMMIT by hand, and DML": Case(dml("r3_1") + COMMIT + dml("r3_2") + RAISES, "r3_1", "r3_1", None),
    "COMMIT by hand of what had failed": Case(
        ddl("r3_1") + hidden(FAILING_DML) + COMMIT + dml("r3_2") + RAISES, only=("postgresql",)
    ),
    "ROLLBACK by hand": Case(dml("r3_1") + ROLLBACK + RAISES),
    "ROLLBACK by hand, and DDL": Case(dml("r3_1") + ROLLBACK + ddl("r3_2") + RAISES, "r3_2", "r3_2", None),
    "a savepoint rolled back": Case(
        dml("r3_1") + nested(dml("r3_2"), "rollback") + ddl("r3_3") + RAISES, mariadb="r3_1 r3_3"
    ),
    "a savepoint rolled back, and COMMIT": Case(
        dml("r3_1") + nested(dml("r3_2"), "rollback") + COMMIT + RAISES, "r3_1", "r3_1", "r3_1"
    ),
    "a savepoint released": Case(
        dml("r3_1") + nested(dml("r3_2"), "commit") + COMMIT + RAISES, "r3_1 r3_2", "r3_1 r3_2", "r3_1 r3_2"
    ),
    "a savepoint saves a failed transaction": Case(
        dml("r3_1") + nested(hidden(FAILING_DML), "rollback") + dml("r3_2") + COMMIT + RAISES,
        "r3_1 r3_2",
        "r3_1 r3_2",
        "r3_1 r3_2",
    ),
    "a temporary table": Case(dml("r3_1") + TEMPORARY + RAISES),
    "a temporary table, and COMMIT": Case(TEMPORARY + COMMIT + RAISES),
    "a prepared statement": Case(
        dml("r3_1") + """op.execute("PREPARE p FROM 'INSERT INTO kept (what) VALUES (''x'')'")\n""" + RAISES, only=MYSQL
    ),
    "DML that returns rows": Case(
        """op.execute("INSERT INTO kept (what) VALUES ('r3_1') RETURNING what")\n""" + RAISES, only=SERVERS
    ),
    "autocommit is switched on": Case(
        dml("r3_1") + 'op.execute("SET autocommit = 1")\n' + RAISES, mariadb="r3_1", only=MYSQL
    ),
    "several statements in one": Case(
        """op.execute("SELECT 1; INSERT INTO kept VALUES ('r3_1')")\n""" + COMMIT + RAISES,
        postgresql="r3_1",
        only=("postgresql",),
    ),
    "sys.exit": Case(ddl("r3_1") + "sys.exit(3)", sqlite="r3_1", mariadb="r3_1"),
    "sys.exit with 0": Case(ddl("r3_1") + "sys.exit()", sqlite="r3_1", mariadb="r3_1"),
    "sys.exit with 0 and nothing done": Case("sys.exit(0)"),
    "KeyboardInterrupt": Case(dml("r3_1") + "raise KeyboardInterrupt"),
    "GeneratorExit": Case(dml("r3_1") + "raise GeneratorExit"),
    "an autocommit block": Case(
        dml("r3_1") + BLOCK + indented(ddl("r3_2"), RAISES), postgresql="r3_1 r3_2", only=("postgresql",)
    ),
    "an autocommit block, and DML": Case(
        BLOCK + indented(ddl("r3_1")) + dml("r3_2") + RAISES, postgresql="r3_1", only=("postgresql",)
    ),
    "an autocommit block that fails": Case(
        BLOCK + indented(ddl("r3_1"), FAILING_DML), postgresql="r3_1", only=("postgresql",)
    ),
    "the version table refuses the version": Case(
        'op.execute("ALTER TABLE alembic_version ADD CONSTRAINT short CHECK (length(version_num) < 9)")\n'
        + ddl("r3_1")
        + dml("r3_2"),
        mariadb="r3_1",
        only=SERVERS,
        id="r3" + "x" * 9,
    ),
    "an error of Python with the number of a lost connection": Case("raise KeyError(2013)"),
    "a missing file": Case('open("/nowhere/rows.csv")'),
    "an error of Python with the words of a lost connection": Case('raise OSError("terminating connection")'),
}
OUR_OWN = {
    "mariadb": "DROP TABLE IF EXISTS alembic_job_ledger, alembic_job_statement",
    "postgresql": "DROP SCHEMA IF EXISTS alembic_job CASCADE",
}
EMPTYING = {"mariadb": "DROP TABLE IF EXISTS {}", "postgresql": "DROP TABLE IF EXISTS {} CASCADE"}
_made: dict[str, Database] = {}


@pytest.fixture
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Database]:
    """An empty database of this dialect; on a server the same one again, because making one takes longer."""

    def emptied(dialect: str) -> Database:
        if dialect == "sqlite":
            return sqlite_database(tmp_path / "database.sqlite")
        if dialect not in _made:
            made = request.getfixturevalue(f"{dialect}_server").new_database()
            # Without TLS, which is most of the time of a login.
            _made[dialect] = replace(made, url=made.url + ("?ssl_disabled=true" if dialect == "mariadb" else ""))
        _made[dialect].execute(OUR_OWN[dialect])
        if tables := _made[dialect].tables():
            _made[dialect].execute(EMPTYING[dialect].format(", ".join(tables)))
        return _made[dialect]

    return emptied


# Where DDL commits as it goes, Alembic has a transaction for each migration anyway.
SITUATIONS = [
    (dialect, name, env_py)
    for name, case in CASES.items()
    for dialect in case.only
    for env_py in ENVS
    if dialect == "postgresql" or "each migration" not in env_py
] + [
    (dialect, name, "asynchronous") for name, case in CASES.items() for dialect in case.only if dialect in ASYNC_DRIVERS
]


@pytest.mark.parametrize(("dialect", "case", "env_py"), SITUATIONS)
def test_after_a_failure_the_events_are_true(
    dialect: str,
    case: str,
    env_py: str,
    empty: Callable[[str], Database],
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    one, database = CASES[case], empty(dialect)
    if env_py == "asynchronous":
        database = replace(database, url=ASYNC_DRIVERS[dialect] + database.url[database.url.index(":") :])
    project = project_with(tmp_path, Revision(one.id, "r2", upgrade=one.body), ENVS.get(env_py, ASYNC_ENV))
    said = story.upgrade(project, database)
    hold_against_the_database(said, project, database)
    left = getattr(one, dialect)
    if env_py == "as the template has it" and left is not None:
        assert of_revision(present(database), "r3") == set(left.split()), str(said)
        assert said.exit_code == (41 if left else 40), str(said)
    if env_py == "asynchronous":  # a coroutine that nobody awaits: its connection was used when env.py had ended
        gc.collect()
        assert [str(warning.message) for warning in recwarn if "never awaited" in str(warning.message)] == []
