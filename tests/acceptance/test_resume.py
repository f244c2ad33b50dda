"""A revision that failed half way goes on behind what it left, once the cause is gone; or says truly why it cannot.

Each story is told in the test's own process. A file named ``stop`` beside alembic.ini is the cause: it is no part of
the revision, so that removing it changes nothing that is recorded.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from runner.errors import RevisionPartial, RevisionUnresolved
from runner.events import LedgerUnavailable, RevisionHalfDone
from runner.resuming import Progress
from tests import story
from tests.acceptance.expect import URL
from tests.databases import Database, Server
from tests.integration.test_truth import ASYNC_ENV, ENVS, env
from tests.job import Project, Result, Revision, make_project
from tests.story import Story

MARIADB = pytest.mark.parametrize("database", ["mariadb"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
STOP = "if os.path.exists('stop'): raise RuntimeError('stop here')\n"
BOX = 'op.create_table("box", sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Integer))\n'
LAST = 'op.create_table("last", sa.Column("id", sa.Integer))\n'
BIND = "bind = op.get_bind()\n"


def project_of(tmp_path: Path, body: str, downgrade: str = "", **fields: Any) -> Project:
    """One revision, r1, of this body."""
    return make_project(tmp_path, [Revision("r1", None, upgrade=body, downgrade=downgrade)], **fields)


def stopped(project: Project, database: Database, **environment: str) -> Story:
    """Run into the cause, and remove it."""
    stop = project.path / "stop"
    stop.touch()
    said = story.upgrade(project, database, **environment)
    assert said.exit_code == 41, str(said)
    stop.unlink()
    return said


def resumed(project: Project, database: Database, **environment: str) -> Story:
    """Run again, to the end."""
    said = story.upgraded(project, database, **environment)
    [half] = said.of(RevisionHalfDone)
    assert half.resumed
    assert database.versions() == {"r1"}
    assert recorded(database) == []
    return said


def unresolved(project: Project, database: Database, *why: str, **environment: str) -> RevisionHalfDone:
    """Run again, to a 42 that says why; and what it lists."""
    said = story.upgrade(project, database, **environment)
    assert isinstance(said.error, RevisionUnresolved), str(said)
    for fact in why:
        assert fact in str(said.error), str(said)
    assert "\n" not in str(said.error)
    assert said.error.hint and "alembic-job resolve r1 --rolled-back" in said.error.hint
    last = said.of(RevisionHalfDone)[-1]
    assert not last.resumed
    return last


def states(half: RevisionHalfDone) -> dict[int, str]:
    return {one["statement_number"]: one["state"] for one in half.statements}


def recorded(database: Database) -> list[tuple[Any, ...]]:
    schema = "alembic_job." if database.dialect == "postgresql" else ""
    try:
        return database.query(f"SELECT revision, number, state FROM {schema}alembic_job_statement ORDER BY 1, 2")
    except Exception as error:
        assert any(word in str(error) for word in ("doesn't exist", "does not exist", "no such table")), error
        return []


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """As if the first run were killed between a DDL statement and what is written of its end."""
    monkeypatch.setattr(Progress, "_done", lambda self, marks: None)
    return monkeypatch.undo


# --- what goes on by itself ---------------------------------------------------------------------------


@MARIADB
def test_when_the_rows_in_the_way_are_gone_the_run_goes_on_at_the_statement_that_failed(
    tmp_path: Path, database: Database
) -> None:
    body = BOX + (
        'op.execute("INSERT INTO box (x) VALUES (1), (1), (2)")\n'
        'op.create_unique_constraint("one_x", "box", ["x"])\nop.execute("UPDATE box SET x = x + 10")\n'
    )
    project = project_of(tmp_path, body)
    said = story.upgrade(project, database)
    assert isinstance(said.error, RevisionPartial)
    assert "failed at statement 3" in str(said.error) and "statements 1, 2" in str(said.error)
    assert said.error.hint and "Remove the cause and run again" in said.error.hint
    [failed] = said.failed
    assert (failed.statement_number, failed.code) == (3, "1062")

    again = story.upgrade(project, database)
    assert again.exit_code == 41, "the cause is still there"
    assert "statements 1, 2" in str(again.error)

    database.execute("DELETE FROM box WHERE id = 2")
    resumed(project, database)
    assert database.query("SELECT id, x FROM box ORDER BY id") == [(1, 11), (3, 12)]


@MARIADB
def test_a_loop_that_goes_on_while_rows_were_changed_takes_as_many_turns_as_before(
    tmp_path: Path, database: Database
) -> None:
    body = (
        BOX
        + BIND
        + textwrap.dedent("""
        op.execute("INSERT INTO box (x) VALUES (1), (1), (1), (1), (1)")
        turns = 0
        while bind.execute(sa.text("DELETE FROM box LIMIT 2")).rowcount:
            turns += 1
        op.execute("CREATE TABLE turns (n INTEGER)")
    """)
        + STOP
        + 'op.execute(f"INSERT INTO turns VALUES ({turns})")\n'
    )
    project = project_of(tmp_path, body)
    stopped(project, database)
    database.execute("INSERT INTO box (x) VALUES (9)")  # it is not deleted: those turns are over
    resumed(project, database)
    assert database.query("SELECT n FROM turns") == [(3,)]
    assert database.query("SELECT x FROM box") == [(9,)]


@MARIADB
@pytest.mark.parametrize("key", ["inserted_primary_key[0]", "lastrowid"])
def test_a_key_that_the_server_gave_is_the_same_again(tmp_path: Path, database: Database, key: str) -> None:
    body = (
        BOX
        + BIND
        + textwrap.dedent(f"""
        op.create_table("lid", sa.Column("box", sa.Integer))
        columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Integer)
        table = sa.Table("box", sa.MetaData(), *columns)
        op.execute("INSERT INTO box (id, x) VALUES (41, 0)")
        key = bind.execute(table.insert().values(x=7)).{key}
        op.execute("CREATE TABLE commits (n INTEGER)")
    """)
        + STOP
        + 'bind.execute(sa.text("INSERT INTO lid VALUES (:box)"), {"box": key})\n'
    )
    project = project_of(tmp_path, body)
    stopped(project, database)
    resumed(project, database)
    assert database.query("SELECT box.x FROM lid JOIN box ON box.id = lid.box") == [(7,)]
    assert database.query("SELECT count(*) FROM box") == [(2,)]


@MARIADB
def test_many_rows_at_once_are_there_once(tmp_path: Path, database: Database) -> None:
    body = (
        BOX
        + BIND
        + textwrap.dedent("""
        box = sa.table("box", sa.column("x"))
        op.bulk_insert(box, [{"x": n} for n in range(100)])
        bind.execute(sa.text("INSERT INTO box (x) VALUES (:x)"), [{"x": 100}, {"x": 101}])
        op.execute("CREATE TABLE commits (n INTEGER)")
    """)
        + STOP
        + LAST
    )
    project = project_of(tmp_path, body)
    stopped(project, database)
    resumed(project, database)
    assert [x for (x,) in database.query("SELECT x FROM box ORDER BY x")] == list(range(102))


@MARIADB
def test_reads_settings_and_temporary_tables_are_executed_again(tmp_path: Path, database: Database) -> None:
    body = (
        BOX
        + BIND
        + textwrap.dedent("""
        op.execute("SET @five = 5")
        op.execute("CREATE TEMPORARY TABLE some (x INTEGER)")
        op.execute("INSERT INTO some VALUES (1), (2)")
        op.execute("INSERT INTO box (x) SELECT x FROM some")
        count = bind.execute(sa.text("SELECT count(*) FROM box")).scalar()
        op.execute("ALTER TABLE box ADD y INTEGER")
    """)
        + STOP
        + 'op.execute(f"INSERT INTO box (x, y) SELECT x + @five, {count} FROM some")\n'
    )
    project = project_of(tmp_path, body)
    stopped(project, database)
    resumed(project, database)
    expected = [(1, None), (2, None), (6, 2), (7, 2)]
    assert database.query("SELECT x, y FROM box ORDER BY x") == expected


AWKWARD = 'it\'s \\ a "quote", 100 % of %(it)s, :not_bound, é and \U0001f600\n'


@MARIADB
def test_text_that_nobody_quotes_by_hand_is_kept_as_it_was(tmp_path: Path, database: Database) -> None:
    body = (
        BIND
        + textwrap.dedent(f"""
        op.execute("CREATE TABLE box (x TEXT) DEFAULT CHARACTER SET utf8mb4")
        bind.execute(sa.text("INSERT INTO box VALUES (:x)"), {{"x": {AWKWARD!r}}})
        bind.exec_driver_sql("INSERT INTO box VALUES ('it''s \\\\\\\\ \U0001f600')")
        op.execute("CREATE TABLE commits (n INTEGER)")
    """)
        + STOP
        + LAST
    )
    project = project_of(tmp_path, body)
    stopped(project, database)
    resumed(project, database)
    assert database.query("SELECT x FROM box ORDER BY length(x)") == [("it's \\ \U0001f600",), (AWKWARD,)]


@MARIADB
def test_a_statement_of_half_a_megabyte_is_recorded_and_left_out(tmp_path: Path, database: Database) -> None:
    body = (
        BOX
        + textwrap.dedent("""
        op.execute("INSERT INTO box (x) VALUES " + ", ".join(f"({n})" for n in range(60000)))
        comment = "c" * 60000
        op.execute(f"ALTER TABLE box ADD y INTEGER /* {comment} */")
    """)
        + STOP
        + LAST
    )
    project = project_of(tmp_path, body)
    stopped(project, database)
    resumed(project, database)
    assert database.query("SELECT count(*), max(x) FROM box") == [(60000, 59999)]


@MARIADB
@pytest.mark.parametrize(
    ("before", "ddl"),
    [
        ("", 'op.create_table("order", sa.Column("select", sa.Integer))'),
        (BOX, 'op.drop_table("box")'),
        (BOX, 'op.add_column("box", sa.Column("key; drop", sa.Integer))'),
        (BOX, 'op.create_index("the index", "box", ["x"])'),
        (BOX, 'op.alter_column("box", "x", new_column_name="group", existing_type=sa.Integer)'),
        (BOX, 'op.drop_column("box", "x")'),
        (BOX, 'op.rename_table("box", "Order.By")'),
        (BOX, 'op.execute("ALTER TABLE `box` ADD CONSTRAINT `positive x` CHECK (x > 0)")'),
        (BOX, 'op.execute("CREATE VIEW seen AS SELECT x FROM box")'),
        (BOX, 'op.execute("CREATE TRIGGER plus BEFORE INSERT ON box FOR EACH ROW SET NEW.x = NEW.x + 1")'),
    ],
)
@pytest.mark.parametrize("reached", [True, False], ids=["executed", "not executed"])
def test_ddl_in_doubt_is_looked_up(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, before: str, ddl: str, reached: bool
) -> None:
    """Killed right behind it, or right before: the database tells which."""
    project = project_of(tmp_path, before + "\nsys.flags  # here\n" + ddl + "\n" + STOP + LAST)
    count = before.count("op.")

    done = Progress._done
    monkeypatch.setattr(Progress, "_done", lambda self, marks: done(self, [m for m in marks if m.number <= count]))
    if not reached:  # the table says that it was begun, and it was not sent
        failed = Progress.failed
        monkeypatch.setattr(Progress, "failed", lambda self, *, answered: failed(self, answered=False))
        monkeypatch.setattr(Progress, "before", _raising_after(Progress.before, count + 1))
        assert story.upgrade(project, database).exit_code in (40, 41)
    else:
        stopped(project, database)
    assert recorded(database)[-1] == ("r1", count + 1, "started")
    monkeypatch.undo()
    said = story.upgraded(project, database)
    assert said.of(RevisionHalfDone)[-1].resumed
    assert recorded(database) == [] and "last" in database.tables()


def _raising_after(before: Callable[..., Any], number: int) -> Callable[..., Any]:
    def raising(self: Progress, sent: int, *arguments: Any, **named: Any) -> Any:
        found = before(self, sent, *arguments, **named)
        if sent == number:
            raise RuntimeError("killed here")
        return found

    return raising


@MARIADB
@pytest.mark.parametrize("env_py", ENVS.values(), ids=ENVS.keys())
def test_however_env_py_begins_its_transaction_the_run_goes_on(tmp_path: Path, database: Database, env_py: str) -> None:
    body = BOX + 'op.execute("INSERT INTO box (x) VALUES (1)")\nop.add_column("box", sa.Column("y", sa.Integer))\n'
    body += 'op.execute("UPDATE box SET x = x + 10")\n' + STOP + LAST
    project = project_of(tmp_path, body, env=env_py)
    stopped(project, database)
    resumed(project, database)
    assert database.query("SELECT x FROM box") == [(11,)]


ASYNC = [] if version("sqlalchemy").startswith("1.") else ["mysql+aiomysql", "mysql+asyncmy"]


@MARIADB
@pytest.mark.parametrize("driver", [*ASYNC, "mysql+pymysql"])
def test_any_driver_replays_counts_and_keys(tmp_path: Path, database: Database, driver: str) -> None:
    body = (
        BOX
        + BIND
        + textwrap.dedent("""
        columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Integer)
        table = sa.Table("box", sa.MetaData(), *columns)
        key = bind.execute(table.insert().values(x=7)).inserted_primary_key[0]
        count = bind.execute(table.update().values(x=8)).rowcount
        op.execute("CREATE TABLE told (id INTEGER, n INTEGER)")
    """)
        + STOP
        + 'op.execute(f"INSERT INTO told VALUES ({key}, {count})")\n'
    )
    project = project_of(tmp_path, body, **({} if driver == "mysql+pymysql" else {"env": ASYNC_ENV}))
    environment = {"DATABASE_URL": database.url.replace("mysql+pymysql", driver)}
    stopped(project, database, **environment)
    resumed(project, database, **environment)
    assert database.query("SELECT told.n, box.x FROM told JOIN box USING (id)") == [(1, 8)]


@MARIADB
def test_several_statements_in_one_text_are_one(tmp_path: Path, database: Database) -> None:
    several = "INSERT INTO box (x) VALUES (1); INSERT INTO box (x) VALUES (2)"
    body = BOX + f'op.execute("{several}")\nop.execute("CREATE TABLE commits (n INTEGER)")\n' + STOP + LAST
    project = project_of(tmp_path, body, env=env(engine=', connect_args={"client_flag": 65536}'))
    stopped(project, database)
    said = story.upgrade(project, database)
    if said.exit_code == 42:  # what cannot be decided is not guessed
        assert states(said.of(RevisionHalfDone)[-1])[2] in ("started", "done")
    else:
        assert said.exit_code == 0, str(said)
    assert database.query("SELECT x FROM box ORDER BY x") == [(1,), (2,)]


@MARIADB
@pytest.mark.parametrize("engine", ["MyISAM", "Aria", "MEMORY"])
def test_rows_of_an_engine_without_transactions_are_recorded_by_themselves(
    tmp_path: Path, database: Database, engine: str
) -> None:
    body = f'op.execute("CREATE TABLE box (x INTEGER) ENGINE={engine}")\n'
    body += 'op.execute("INSERT INTO box VALUES (1)")\n' + STOP + 'op.execute("UPDATE box SET x = x + 10")\n' + LAST
    project = project_of(tmp_path, body)
    stopped(project, database)
    assert recorded(database) == [("r1", 1, "done"), ("r1", 2, "done")], "a rollback did not take it"
    resumed(project, database)
    assert database.query("SELECT x FROM box") == [(11,)]


@MARIADB
@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("LOCK TABLES box WRITE", "UNLOCK TABLES"),
        ("START TRANSACTION", "COMMIT"),
        ("BEGIN", "ALTER TABLE box ADD y INTEGER"),
    ],
)
def test_what_a_bracket_of_the_revision_s_own_holds_is_there_once(
    tmp_path: Path, database: Database, begin: str, end: str
) -> None:
    body = BOX + f'op.execute("{begin}")\nop.execute("INSERT INTO box (x) VALUES (1)")\nop.execute("{end}")\n'
    project = project_of(tmp_path, body + STOP + LAST)
    stopped(project, database)
    resumed(project, database)
    assert database.query("SELECT x FROM box") == [(1,)]


@MARIADB
def test_within_a_bracket_of_the_revision_s_own_nobody_can_tell(tmp_path: Path, database: Database) -> None:
    body = BOX + 'op.execute("START TRANSACTION")\nop.execute("INSERT INTO box (x) VALUES (1)")\n' + STOP
    body += 'op.execute("COMMIT")\n'
    project = project_of(tmp_path, body)
    stopped(project, database)
    there = bool(database.query("SELECT x FROM box"))
    said = story.upgrade(project, database)
    if said.exit_code == 42:
        assert states(said.of(RevisionHalfDone)[-1]) in ({1: "done", 3: "started"}, {1: "done", 2: "started"})
        assert bool(database.query("SELECT x FROM box")) == there
    else:
        assert database.query("SELECT x FROM box") == [(1,)]


@POSTGRESQL
@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg"] if ASYNC else ["postgresql+psycopg2"])
def test_on_postgresql_an_autocommit_block_is_resumed(tmp_path: Path, database: Database, driver: str) -> None:
    body = (
        BOX
        + textwrap.dedent("""
        op.execute("INSERT INTO box (x) VALUES (1)")
        with op.get_context().autocommit_block():
            op.create_index("ix", "box", ["x"], postgresql_concurrently=True)
            op.execute("CREATE TABLE other (x INTEGER)")
        op.execute("UPDATE box SET x = x + 10")
    """)
        + STOP
        + LAST
    )
    project = project_of(tmp_path, body, **({"env": ASYNC_ENV} if driver.endswith("asyncpg") else {}))
    environment = {"DATABASE_URL": database.url.replace(database.url.partition(":")[0], driver)}
    stopped(project, database, **environment)
    assert [number for _, number, state in recorded(database) if state == "done"] == [1, 2, 3, 4]
    assert database.query("SELECT x FROM box") == [(1,)]
    resumed(project, database, **environment)
    assert database.query("SELECT x FROM box") == [(11,)]


def test_a_downgrade_that_failed_half_way_is_resumed_too(
    tmp_path: Path, mariadb_server: Server, run_job: Callable[..., Result]
) -> None:
    database = mariadb_server.new_database()
    down = 'op.execute("UPDATE box SET x = x + 10")\nop.drop_table("last")\n' + STOP
    down += 'op.execute("UPDATE box SET x = x + 100")\nop.drop_column("box", "y")\n'
    up = BOX + 'op.execute("INSERT INTO box (x) VALUES (1)")\nop.add_column("box", sa.Column("y", sa.Integer))\n' + LAST
    r0 = Revision("r0", None)
    project = make_project(tmp_path, [r0, Revision("r1", "r0", upgrade=up, downgrade=down)])
    options: Mapping[str, Any] = {"cwd": project.path, "env": {URL: database.url}}
    assert run_job("upgrade", **options).exit_code == 0
    (project.path / "stop").touch()
    failed = run_job("downgrade", "r0", "--yes", **options)
    assert failed.exit_code == 41
    (project.path / "stop").unlink()
    status = run_job("status", **options)
    assert status.exit_code == 0 and database.versions() == {"r1"}
    upwards = run_job("upgrade", **options)
    assert (upwards.exit_code, upwards.finished["outcome"]) in ((0, "up_to_date"), (42, "failed"))
    again = run_job("downgrade", "r0", "--yes", **options)
    assert again.exit_code == 0, again.stdout
    assert again.one("revision_half_done")["resumed"]
    assert database.query("SELECT x FROM box") == [(111,)] and database.versions() == {"r0"}
    database.execute("DROP TABLE box")
    assert run_job("upgrade", **options).exit_code == 0
    assert database.query("SELECT x FROM box") == [(1,)]


@MARIADB
def test_what_was_resumed_can_be_undone_and_done_again(
    tmp_path: Path, database: Database, run_job: Callable[..., Result]
) -> None:
    body = BOX + 'op.execute("INSERT INTO box (x) VALUES (1)")\n' + LAST + STOP
    project = project_of(tmp_path, body, downgrade='op.drop_table("box")\nop.drop_table("last")')
    stopped(project, database)
    resumed(project, database)
    options: Mapping[str, Any] = {"cwd": project.path, "env": {URL: database.url}}
    assert run_job("downgrade", "base", "--yes", **options).exit_code == 0
    assert database.tables() <= {"alembic_version"}
    assert run_job("upgrade", **options).exit_code == 0
    assert database.query("SELECT x FROM box") == [(1,)]


@MARIADB
def test_the_ledger_has_a_row_for_each_of_the_two_runs(tmp_path: Path, database: Database) -> None:
    project = project_of(tmp_path, BOX + STOP + LAST)
    stopped(project, database)
    resumed(project, database)
    rows = database.query("SELECT revision, status FROM alembic_job_ledger ORDER BY started")
    assert rows == [("r1", "failed"), ("r1", "committed")]


@pytest.mark.parametrize("database", ["mariadb", "sqlite"], indirect=True)
def test_what_was_read_before_the_statement_that_failed_is_read_again(tmp_path: Path, database: Database) -> None:
    """The cause was in the rows: who goes on with what they were when it failed has not seen it removed."""
    body = BOX + (
        'op.execute("CREATE TABLE seen (total INTEGER)")\n'
        'op.get_bind().exec_driver_sql("INSERT INTO box (x) VALUES (1), (1)")\nop.execute("COMMIT")\n'
        'total = op.get_bind().execute(sa.text("SELECT sum(x) FROM box")).scalar()\n'
        'op.create_index("one_x", "box", ["x"], unique=True)\n'
        'op.execute(f"INSERT INTO seen VALUES ({int(total)})")\n'
    )
    if database.dialect == "sqlite":
        body = body.replace('op.execute("COMMIT")', "op.get_bind().connection.commit()")
    project = project_of(tmp_path, body + STOP + LAST)
    assert story.upgrade(project, database).exit_code == 41
    database.execute("DELETE FROM box WHERE id = 2")
    stopped(project, database)  # further on by now, and told there what it read this time
    resumed(project, database)
    assert database.query("SELECT total FROM seen") == [(1,)]


@pytest.mark.parametrize("database", ["mariadb", "sqlite"], indirect=True)
def test_the_number_of_the_last_row_is_the_one_of_the_revision_s_own(tmp_path: Path, database: Database) -> None:
    last = {"mariadb": "LAST_INSERT_ID()", "sqlite": "last_insert_rowid()"}[database.dialect]
    body = BOX + (
        'op.execute("CREATE TABLE child (box INTEGER)")\n'
        'op.execute("INSERT INTO box (id, x) VALUES (40, 0)")\nop.execute("INSERT INTO box (x) VALUES (1)")\n'
        f'op.execute("INSERT INTO child VALUES ({last})")\n'
    )
    story.upgraded(project_of(tmp_path, body), database)
    assert database.query("SELECT box FROM child") == [(41,)]


@pytest.mark.parametrize("database", ["mariadb", "sqlite"], indirect=True)
def test_a_record_of_what_somebody_has_undone_is_not_believed(tmp_path: Path, database: Database) -> None:
    project = project_of(tmp_path, BOX + STOP + LAST)
    stopped(project, database)
    database.execute("DROP TABLE box")
    unresolved(project, database, "Statement 1 is recorded as done, and the database is as it was before it")


@MARIADB
def test_what_a_variable_took_out_of_a_table_is_for_a_person(tmp_path: Path, database: Database) -> None:
    body = BOX + 'op.execute("INSERT INTO box (x) VALUES (1)")\nop.execute("SET @old = (SELECT max(x) FROM box)")\n'
    body += 'op.execute("UPDATE box SET x = 2")\nop.execute("CREATE TABLE h (x INTEGER)")\n'
    project = project_of(tmp_path, body + STOP + 'op.execute("INSERT INTO h VALUES (@old)")\n')
    stopped(project, database)
    unresolved(project, database, "nobody kept", "SET @old")


@POSTGRESQL
def test_a_query_that_nobody_kept_the_answer_of_is_told_in_one_line(tmp_path: Path, database: Database) -> None:
    body = BOX + "with op.get_context().autocommit_block():\n    bind = op.get_bind()\n"
    body += '    bind.execute(sa.select(sa.func.max(sa.column("x"))).select_from(sa.table("box")))\n'  # in two lines
    body += '    op.execute("INSERT INTO box (x) VALUES (1)")\n    ' + STOP
    project = project_of(tmp_path, body)
    stopped(project, database)
    unresolved(project, database, "nobody kept: SELECT max(x) AS max_1 FROM box.")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_stamp_over_what_is_half_done_says_so(
    tmp_path: Path, database: Database, run_job: Callable[..., Result]
) -> None:
    project = project_of(tmp_path, BOX + STOP + LAST)
    stopped(project, database)
    result = run_job("stamp", "r1", cwd=project.path, env={URL: database.url})
    half = result.one("revision_half_done")
    assert (result.exit_code, half["level"], half["resumed"]) == (0, "warning", False)
    assert [one["state"] for one in half["statements"]] == ["done"]


@MARIADB
def test_a_long_answer_has_to_be_the_same(tmp_path: Path, database: Database) -> None:
    """It is not kept: rows that were moved since are not read as if they had always been elsewhere."""
    values = ", ".join(f"({number})" for number in range(5000))
    body = BOX + f'op.execute("INSERT INTO box (x) VALUES {values}")\n' + BIND
    body += 'rows = bind.execute(sa.text("SELECT id, x FROM box")).fetchall()\n'
    body += 'op.execute("UPDATE box SET x = NULL")\n' + LAST + STOP
    project = project_of(tmp_path, body + 'bind.execute(sa.text("INSERT INTO last VALUES (1)"))\n')
    stopped(project, database)
    unresolved(project, database, "A query with a long answer has another one now")


# --- what only a person can settle --------------------------------------------------------------------


@MARIADB
def test_resume_off_leaves_it_to_a_person(tmp_path: Path, database: Database) -> None:
    project = project_of(tmp_path, BOX + STOP + LAST)
    stopped(project, database)
    half = unresolved(project, database, "ALEMBIC_JOB_RESUME is off", RESUME="off")
    assert states(half) == {1: "done"} and database.tables() >= {"box"}
    resumed(project, database)


@MARIADB
def test_a_file_that_was_edited_is_another_revision(tmp_path: Path, database: Database) -> None:
    project = project_of(tmp_path, BOX + STOP + LAST)
    stopped(project, database)
    project.add(Revision("r1", None, upgrade=BOX + LAST))
    half = unresolved(project, database, "r1_r1.py", "was changed since")
    assert states(half) == {1: "done"}
    assert "last" not in database.tables()


def reads_what(body: str) -> str:
    """What the body sends depends on a file that is no part of it, as it may on the time or a variable."""
    return BIND + "what = open('what').read()\n" + body


@MARIADB
def test_a_statement_that_differs_now_is_shown_beside_the_one_of_before(tmp_path: Path, database: Database) -> None:
    body = reads_what(BOX + 'op.execute(f"CREATE TABLE {what} (x INTEGER)")\n' + STOP + LAST)
    project = project_of(tmp_path, body)
    (project.path / "what").write_text("one")
    stopped(project, database)
    (project.path / "what").write_text("two")
    half = unresolved(project, database, "Statement 2 is another one now")
    assert states(half) == {1: "done", 2: "done"}
    second = half.statements[1]
    assert second["sql"] and "CREATE TABLE one" in second["sql"]
    assert second["now"] and "CREATE TABLE two" in second["now"]
    assert "two" not in database.tables() and "one" in database.tables()


@MARIADB
def test_a_parameter_that_differs_now_is_a_statement_that_differs(tmp_path: Path, database: Database) -> None:
    insert = 'bind.execute(sa.text("INSERT INTO box (x) VALUES (:now)"), {"now": int(what)})\n'
    project = project_of(tmp_path, reads_what(BOX + insert + 'op.execute("CREATE TABLE commits (n INTEGER)")\n' + STOP))
    (project.path / "what").write_text("111222")
    stopped(project, database)
    (project.path / "what").write_text("333444")
    half = unresolved(project, database, "Statement 2 has other values or parameters now")
    assert "111222" not in repr(half) and "333444" not in repr(half), "no bound parameter is told"
    assert database.query("SELECT x FROM box") == [(111222,)]


@MARIADB
def test_a_revision_that_catches_every_exception_does_not_hide_it(tmp_path: Path, database: Database) -> None:
    body = reads_what(BOX + 'op.execute("CREATE TABLE commits (n INTEGER)")\n' + STOP + LAST)
    body = body.replace(
        'op.execute("CREATE',
        'try:\n    op.execute(f"CREATE TABLE {what} (n INTEGER)")\nexcept Exception:\n    pass\nop.execute("CREATE',
    )
    project = project_of(tmp_path, body)
    (project.path / "what").write_text("one")
    stopped(project, database)
    (project.path / "what").write_text("two")
    unresolved(project, database, "Statement 2 is another one now")
    assert database.tables() & {"two", "last"} == set()


@MARIADB
def test_a_revision_that_sends_fewer_statements_now_is_not_complete(tmp_path: Path, database: Database) -> None:
    body = reads_what(BOX + 'if what == "more":\n    op.execute("CREATE TABLE more (x INTEGER)")\n' + STOP)
    project = project_of(tmp_path, body)
    (project.path / "what").write_text("more")
    stopped(project, database)
    (project.path / "what").write_text("less")
    half = unresolved(project, database, "Now it sends no statement 2")
    assert states(half) == {1: "done", 2: "done"} and half.statements[1]["now"] is None
    assert database.versions() == set()


@MARIADB
def test_rows_that_a_statement_gave_back_cannot_be_given_again(tmp_path: Path, database: Database) -> None:
    body = BOX + BIND + 'one = bind.execute(sa.text("INSERT INTO box (x) VALUES (1) RETURNING id")).scalar()\n'
    project = project_of(tmp_path, body + 'op.execute("CREATE TABLE commits (n INTEGER)")\n' + STOP + LAST)
    stopped(project, database)
    half = unresolved(project, database, "Statement 2 gave rows, which nobody kept")
    assert states(half) == {1: "done", 2: "done", 3: "done"}
    assert database.query("SELECT x FROM box") == [(1,)]


@MARIADB
def test_what_a_procedure_did_nobody_can_tell(tmp_path: Path, database: Database) -> None:
    body = BOX + 'op.execute("CREATE PROCEDURE fill() INSERT INTO box (x) VALUES (1)")\nop.execute("CALL fill()")\n'
    project = project_of(tmp_path, body + 'op.execute("CREATE TABLE commits (n INTEGER)")\n' + STOP + LAST)
    stopped(project, database)
    half = unresolved(project, database, "statement 3")
    assert states(half) == {1: "done", 2: "done", 3: "started", 4: "done"}
    assert database.query("SELECT x FROM box") == [(1,)]


@MARIADB
def test_a_change_by_another_hand_is_not_taken_for_the_statement(
    tmp_path: Path, database: Database, forgetful: Callable[[], None]
) -> None:
    r0 = Revision("r0", None, upgrade=BOX)
    body = 'op.add_column("box", sa.Column("y", sa.Integer))\n' + STOP + LAST
    project = make_project(tmp_path, [r0, Revision("r1", "r0", upgrade=body)])
    story.upgraded(project, database, "r0")
    stopped(project, database)
    forgetful()
    database.execute("ALTER TABLE box ADD z INTEGER")
    half = unresolved(project, database, "Whether statement 1 was executed, the database does not tell")
    assert states(half) == {1: "started"}


@MARIADB
@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE alembic_job_statement SET state = 'perhaps'",
        "UPDATE alembic_job_statement SET layout = 99",
        "UPDATE alembic_job_statement SET before_it = '{'",
        "ALTER TABLE alembic_job_statement DROP digest",
        "DROP TABLE alembic_job_statement; CREATE TABLE alembic_job_statement (x INTEGER)",
    ],
)
def test_a_table_of_statements_that_cannot_be_relied_on_is_a_42_and_no_crash(
    tmp_path: Path, database: Database, edit: str
) -> None:
    project = project_of(tmp_path, BOX + STOP + LAST)
    stopped(project, database)
    database.execute(*edit.split("; "))
    said = story.upgrade(project, database)
    assert isinstance(said.error, RevisionUnresolved), str(said)
    assert "alembic_job_statement" in str(said.error) and said.error.hint
    assert "last" not in database.tables()


# --- where nothing is recorded ------------------------------------------------------------------------


@MARIADB
def test_without_the_ledger_there_is_no_table_of_our_own(tmp_path: Path, database: Database) -> None:
    project = project_of(tmp_path, BOX + STOP + LAST)
    said = stopped(project, database, LEDGER="false")
    assert isinstance(said.error, RevisionPartial) and said.error.hint and "goes on behind" not in said.error.hint
    assert not [name for (name,) in database.query("SHOW TABLES") if name.startswith("alembic_job")]
    assert story.upgrade(project, database, LEDGER="false").exit_code in (34, 40)


def test_a_user_who_may_not_create_tables_runs_as_before_with_a_warning(tmp_path: Path, mariadb_server: Server) -> None:
    database = mariadb_server.new_database()
    assert database.login
    database.execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "CREATE TABLE box (id INTEGER, x INTEGER)",
    )
    name = database.login.name
    mariadb_server.admin(f"REVOKE CREATE ON {name}.* FROM {name}@'%'")
    body = 'op.add_column("box", sa.Column("y", sa.Integer))\nop.execute("INSERT INTO box (x) VALUES (1)")\n'
    project = project_of(tmp_path, body)
    said = story.upgraded(project, database)
    assert said.of(LedgerUnavailable) and database.versions() == {"r1"}
    assert database.query("SELECT x FROM box") == [(1,)]


@MARIADB
def test_two_histories_in_one_database_do_not_take_each_other_s_record(tmp_path: Path, database: Database) -> None:
    other_env = env(configure=', version_table="other_version"')
    one = project_of(tmp_path / "one", BOX + STOP + LAST)
    other = project_of(
        tmp_path / "other", BOX.replace("box", "other_box") + STOP + LAST.replace("last", "other_last"), env=other_env
    )
    stopped(one, database)
    stopped(other, database, ON_UNMANAGED="upgrade")
    assert len(recorded(database)) == 2
    said = story.upgraded(one, database)
    assert len(said.of(RevisionHalfDone)) == 1 and len(recorded(database)) == 1
    said = story.upgraded(other, database, ON_UNMANAGED="upgrade")
    assert len(said.of(RevisionHalfDone)) == 1 and recorded(database) == []
    assert database.tables() >= {"box", "last", "other_box", "other_last"}


_TWO = """
import os
from alembic import context
from sqlalchemy import create_engine, pool

for name in ("ONE", "TWO"):
    os.environ["NOW"] = name
    engine = create_engine(os.environ[name], poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""


def test_of_two_databases_the_one_that_is_half_done_is_resumed(
    tmp_path: Path, mariadb_server: Server, run_job: Callable[..., Result]
) -> None:
    one, two = mariadb_server.new_database(), mariadb_server.new_database()
    stop = STOP.replace("if ", "if os.environ['NOW'] == 'TWO' and ")
    body = BOX + 'op.execute("INSERT INTO box (x) VALUES (1)")\nop.add_column("box", sa.Column("y", sa.Integer))\n'
    project = project_of(tmp_path, body + stop + LAST, env=_TWO)
    options: Mapping[str, Any] = {"cwd": project.path, "env": {"ONE": one.url, "TWO": two.url}}
    (project.path / "stop").touch()
    assert run_job("upgrade", **options).exit_code == 41
    assert (one.versions(), two.versions()) == ({"r1"}, set())
    (project.path / "stop").unlink()
    again = run_job("upgrade", **options)
    assert again.exit_code == 0, again.stdout
    assert again.one("revision_half_done")["section"]
    for database in (one, two):
        assert database.versions() == {"r1"} and database.query("SELECT x FROM box") == [(1,)]
        assert recorded(database) == []


@pytest.mark.parametrize("database", ["mariadb", "sqlite"], indirect=True)
def test_the_last_line_of_who_looks_tells_what_is_half_done(
    tmp_path: Path, database: Database, run_job: Callable[..., Result]
) -> None:
    project = project_of(tmp_path, BOX + STOP + LAST)
    stopped(project, database)
    options: Mapping[str, Any] = {"cwd": project.path, "env": {"ALEMBIC_JOB_DATABASE_URL": database.url}}
    for command in ("status", "plan"):
        assert "the next upgrade goes on behind what is there" in run_job(command, **options).finished["hint"]
    said = run_job("status", "--resume", "off", **options).finished["hint"]
    assert said.startswith("r1 is half done") and "stops with 42: ALEMBIC_JOB_RESUME is off: with auto" in said


@pytest.mark.parametrize("database", ["mariadb", "sqlite"], indirect=True)
def test_who_says_applied_of_what_is_not_there_is_told(
    tmp_path: Path, database: Database, run_job: Callable[..., Result]
) -> None:
    project = project_of(tmp_path, BOX + 'op.execute("ALTER TABLE box ADD COLUMN x INTEGER")\n')
    options: Mapping[str, Any] = {"cwd": project.path, "env": {"ALEMBIC_JOB_DATABASE_URL": database.url}}
    assert run_job("upgrade", **options).exit_code == 41
    settled = run_job("resolve", "r1", "--applied", "--reason", "as it is", **options).finished
    assert settled["hint"].startswith("Settled: r1 is applied. But nothing is to be seen of statement 2.")


@pytest.mark.parametrize("database", ["mariadb", "sqlite"], indirect=True)
def test_who_says_rolled_back_of_what_is_still_there_is_told(
    tmp_path: Path, database: Database, run_job: Callable[..., Result]
) -> None:
    project = project_of(tmp_path, BOX + STOP + LAST)
    options: Mapping[str, Any] = {"cwd": project.path, "env": {"ALEMBIC_JOB_DATABASE_URL": database.url}}
    resolve = ("resolve", "r1", "--rolled-back", "--reason", "dropped by hand")
    stopped(project, database)
    settled = run_job(*resolve, **options).finished
    assert (settled["outcome"], settled["revision"]) == ("resolved", "r1")
    assert "But not as before it: TABLE box" in settled["hint"].replace("`", "").replace('"', "")
    database.execute("DROP TABLE box")
    stopped(project, database)
    database.execute("DROP TABLE box")
    assert "But not" not in run_job(*resolve, **options).finished["hint"]
    story.upgraded(project, database)
