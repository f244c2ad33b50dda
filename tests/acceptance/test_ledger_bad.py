"""Bad input: ledgers that somebody edited, that contradict the version table, or that cannot be written any more."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.test_ledger import SERVERS, ends, environment, name_of, rows
from tests.acceptance.test_ledger_told import edit
from tests.databases import Database, sqlite_database
from tests.job import SCRIPTS, Project, Result, Revision, creates, linear, make_project, start
from tests.servers import Local, PrivateServer, install

Run = Callable[..., Result]
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def project(tmp_path: Path, database: Database, run_job: Run) -> Project:
    """At r2 of three, as the ledger says, too."""
    made = make_project(tmp_path, linear(3))
    assert run_job("upgrade", "r2", cwd=made.path, env=environment(database)).exit_code == 0
    return made


def goes_on(project: Project, database: Database, run_job: Run, *, warned: bool) -> None:
    """Every command that reads the ledger does what it is for, with one warning at the most."""
    for command in ("runs", "status", "wait", "upgrade"):
        target = () if command == "runs" else ("r2",) if command == "wait" else ("r3",)
        result = run_job(command, *target, cwd=project.path, env=environment(database))
        assert result.exit_code == 0, result.stdout
        assert len(result.of("ledger_unavailable")) == int(warned), result.stdout
    assert (result.finished["outcome"], result.finished["count"]) == ("upgraded", 1)
    assert database.versions() == {"r3"}
    assert "t3" in database.tables()


# --- edited by hand -----------------------------------------------------------------------------------

WORDS = '\'; DROP TABLE t1; -- "x" \\\\ [1, {"a": 2}] 5e999 \u2713'
TEXTS = ("parents", "depends_on", "summary", "path", "sha256", "status", "code", "error", "image", "pod", "hostname")
TEXTS += ("db_user", "runner_version", "session", "command", "direction", "run_id")
TIMES = ("started", "ended")


def quoted(database: Database, text: str) -> str:
    text = text.replace("'", "''")
    return "'" + (text.replace("\\", "\\\\") if database.dialect == "mariadb" else text) + "'"


def test_words_in_every_column_are_shown_and_harm_nothing(project: Project, database: Database, run_job: Run) -> None:
    lengths = {"status": 16, "direction": 16, "command": 32, "runner_version": 32}
    edits = [f"{name} = {quoted(database, WORDS[: lengths.get(name, 60)])}" for name in TEXTS]
    edits += [f"{name} = 99999999999999" for name in TIMES]
    database.execute(f"UPDATE {name_of(database)} SET {', '.join(edits)} WHERE revision = 'r2'")
    result = run_job("runs", cwd=project.path, env=environment(database))
    row = next(row for row in result.of("ledger_listed") if row["revision"] == "r2")
    assert (row["state"], row["image"], row["started"], row["parents"]) == (WORDS[:16], WORDS, None, [])
    goes_on(project, database, run_job, warned=False)
    assert "t1" in database.tables()


def test_nothing_in_any_column_that_may_be_empty_harms_nothing(
    project: Project, database: Database, run_job: Run
) -> None:
    optional = [name for name in (*TEXTS, *TIMES, "duration_s") if name not in ("status", "direction", "run_id")]
    database.execute(f"UPDATE {name_of(database)} SET {', '.join(f'{name} = NULL' for name in optional)}")
    goes_on(project, database, run_job, warned=False)
    listed = run_job("runs", cwd=project.path, env=environment(database)).of("ledger_listed")
    assert [row["revision"] for row in listed] == ["r1", "r2", "r3"]  # what has no time is oldest


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_is_no_number_for_people_is_none(project: Project, database: Database, run_job: Run) -> None:
    database.execute(f"UPDATE {name_of(database)} SET duration_s = 'NaN', started = 'NaN', ended = 'NaN'")
    assert run_job("runs", cwd=project.path, env=environment(database)).of("ledger_listed")[0]["duration_s"] is None
    goes_on(project, database, run_job, warned=False)


@SQLITE
@pytest.mark.parametrize("garbage", ["x'00ff'", "'words'", "-1", "1e300", "NULL", "''"])
def test_a_table_without_types_and_keys_holds_anything_in_any_column_and_twice(
    project: Project, database: Database, run_job: Run, garbage: str
) -> None:
    named = columns(database)
    name = name_of(database)
    kept = {"version_table": "'alembic_version'", "version_schema": "'main'", "layout": "1"}
    values = ", ".join(kept.get(column, garbage) for column in named)
    database.execute(
        f"DROP TABLE {name}",
        f"CREATE TABLE {name} ({', '.join(named)})",
        f"INSERT INTO {name} VALUES ({values})",
        f"INSERT INTO {name} VALUES ({values})",
    )
    result = run_job("runs", cwd=project.path, env=environment(database))
    assert len(result.of("ledger_listed")) == 2
    goes_on(project, database, run_job, warned=False)


@SQLITE
def test_a_layout_that_is_no_number_is_not_known(project: Project, database: Database, run_job: Run) -> None:
    database.execute(f"UPDATE {name_of(database)} SET layout = 'mine'")
    goes_on(project, database, run_job, warned=True)
    assert len(rows(database)) == 2


def columns(database: Database) -> list[str]:
    with contextlib.closing(database.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT * FROM {name_of(database)}")
        return [column[0] for column in cursor.description]


@SERVERS
def test_a_table_of_text_columns_that_may_all_be_empty_is_one_warning_at_the_most(
    project: Project, database: Database, run_job: Run
) -> None:
    name = name_of(database)
    named = columns(database)
    database.execute(
        f"DROP TABLE {name}",
        f"CREATE TABLE {name} ({', '.join(f'{column} TEXT' for column in named)})",
        f"INSERT INTO {name} (version_table, version_schema, revision) VALUES (NULL, NULL, NULL)",
        f"INSERT INTO {name} (run_id, number, status, revision) VALUES ('x', 'y', 'started', 'r2')",
        f"INSERT INTO {name} (run_id, number, status, revision) VALUES ('x', 'y', 'started', 'r2')",
    )
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["count"]) == (0, 1), result.stdout
    assert len(result.of("ledger_unavailable")) <= 1
    assert database.versions() == {"r3"}


def test_what_is_no_table_of_ours_at_all_is_a_warning(project: Project, database: Database, run_job: Run) -> None:
    name = name_of(database)
    database.execute(f"DROP TABLE {name}", f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, layout INTEGER)")
    goes_on(project, database, run_job, warned=True)


def test_a_view_in_its_place_is_a_warning(project: Project, database: Database, run_job: Run) -> None:
    name = name_of(database)
    database.execute(f"DROP TABLE {name}", f"CREATE VIEW {name} AS SELECT 1 AS layout")
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["count"]) == (0, 1), result.stdout
    assert len(result.of("ledger_unavailable")) == 1


# --- in contradiction to the version table ------------------------------------------------------------


def test_a_ledger_that_says_more_than_the_version_table_does_not_count(
    project: Project, database: Database, run_job: Run
) -> None:
    # Somebody restored the database from a backup, say, and kept the ledger.
    database.execute("UPDATE alembic_version SET version_num = 'r1'", "DROP TABLE t2")
    edit(project, "r2")  # which is not applied there
    fail = environment(database, ALEMBIC_JOB_ON_EDITED="fail")
    assert run_job("status", cwd=project.path, env=fail).one("plan_ready")["pending"][0]["revision"] == "r2"
    result = run_job("upgrade", cwd=project.path, env=fail)
    assert (result.exit_code, result.finished["applied"]) == (0, ["r2", "r3"]), result.stdout
    assert not result.of("revision_edited")
    assert database.tables() >= {"t1", "t2", "t3"}
    assert [row["revision"] for row in rows(database)] == ["r1", "r2", "r2", "r3"]


@pytest.mark.parametrize("edit_by_hand", ["UPDATE {} SET status = 'rolled_back'", "DELETE FROM {}"])
def test_a_ledger_that_says_less_than_the_version_table_does_not_count(
    project: Project, database: Database, run_job: Run, edit_by_hand: str
) -> None:
    database.execute(edit_by_hand.format(name_of(database)))
    result = run_job("upgrade", "r2", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["outcome"]) == (0, "up_to_date")
    goes_on(project, database, run_job, warned=False)
    assert run_job("downgrade", "r1", "--yes", cwd=project.path, env=environment(database)).exit_code == 0
    assert database.versions() == {"r1"}


def test_a_ledger_of_a_newer_database_proves_nothing_of_a_restored_one(
    project: Project, database: Database, run_job: Run
) -> None:
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    database.execute("UPDATE alembic_version SET version_num = 'r1'", "DROP TABLE t2", "DROP TABLE t3")
    project.remove("r3")
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded"), result.stdout
    assert database.versions() == {"r2"}


# --- clocks -------------------------------------------------------------------------------------------


def _faketime() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


@pytest.fixture(scope="module")
def faketime() -> dict[str, str]:
    """What shifts the clock of a process; Debian's ``faketime``."""
    if _faketime() is None:
        install(_faketime, "faketime")
    library = _faketime()
    assert library, "Debian's package faketime is needed"
    return {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@SERVERS
def test_hosts_whose_clocks_are_wrong_write_the_time_of_the_server(
    tmp_path: Path, database: Database, run_job: Run, faketime: dict[str, str]
) -> None:
    project = make_project(tmp_path, linear(3))
    began = time.time()
    for target, shift in (("r1", "+2d"), ("r2", "-30d"), ("r3", "+0")):
        shifted = environment(database, f"host{shift}", FAKETIME=shift, **faketime)
        result = run_job("upgrade", target, cwd=project.path, env=shifted)
        assert result.exit_code == 0, result.stdout
        if shift == "+2d":
            assert result.finished["time"] > time.strftime("%Y-%m-%d", time.gmtime(began + 86400))  # it is shifted
    for row in rows(database):
        assert began - 5 < row["started"] <= row["ended"] < time.time() + 5
        assert 0 <= row["duration_s"] < 60
    listed = run_job("runs", cwd=project.path, env=environment(database)).of("ledger_listed")
    assert [(row["revision"], row["image"]) for row in listed] == [
        ("r1", "host+2d"),
        ("r2", "host-30d"),
        ("r3", "host+0"),
    ]
    # And the last word on a revision is the last by that clock.
    behind = environment(database, FAKETIME="-30d", **faketime)
    assert run_job("downgrade", "r2", "--yes", cwd=project.path, env=behind).exit_code == 0
    edit(project, "r3")
    assert not run_job("status", cwd=project.path, env=environment(database)).of("revision_edited")


# --- a full disk --------------------------------------------------------------------------------------


def with_a_long_summary(project: Project, revision: str) -> None:
    """So that the row of the ledger is longer than what is free in the pages that are there."""
    path = next(project.versions.glob(f"{revision}_*.py"))
    path.write_text(path.read_text().replace(f"revision {revision}", "no room for this " * 300))


def test_a_sqlite_file_that_cannot_grow_any_more(tmp_path: Path, run_job: Run) -> None:
    """The kernel refuses every write behind the end of the file, as it does on a full disk."""
    database = sqlite_database(tmp_path / "full.sqlite")
    project = make_project(tmp_path, linear(1))
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    project.add(Revision("r2", "r1"), Revision("r3", "r2"))  # which need no more pages than are there
    with_a_long_summary(project, "r2")
    assert database.path
    limit = f"--fsize={database.path.stat().st_size}"
    job = start(
        ["prlimit", limit, str(SCRIPTS / "alembic-job"), "upgrade"], cwd=project.path, env=environment(database)
    )
    try:
        result = job.finish()
    finally:
        job.kill()
    assert (result.exit_code, result.finished["applied"]) == (0, ["r2", "r3"]), result.stdout
    assert "alembic_job_ledger cannot be written" in result.one("ledger_unavailable")["error"]
    assert database.versions() == {"r3"}
    assert database.query("PRAGMA integrity_check") == [("ok",)]
    assert ends(database) == [("r1", "committed")]


# Until the ledger's file is longer than each that the server has to write to besides: its log, above all.
GROWN = 48 * 1024 * 1024
SETTINGS: dict[str, dict[str, object]] = {
    "mariadb": {"innodb_log_file_size": 4 * 1024 * 1024},
    "postgresql": {"autovacuum": "off"},  # which would find room for a row or two
}
FULL = {"mariadb": "is full", "postgresql": "File too large"}


@pytest.mark.parametrize("dialect", ["mariadb", "postgresql"])
def test_a_server_whose_ledger_cannot_grow_any_more(
    tmp_path: Path, private_server: Callable[..., PrivateServer], run_job: Run, dialect: str
) -> None:
    """No file of the server may become longer than the ledger's is: for that one the disk is full."""
    server = private_server(dialect, **SETTINGS[dialect])
    database = server.new_database()
    project = make_project(tmp_path, linear(1))
    assert run_job("upgrade", cwd=project.path, env=environment(database)).exit_code == 0
    if dialect == "postgresql":  # else what is long would go elsewhere
        for column in ("summary", "error"):
            database.execute(f"ALTER TABLE {name_of(database)} ALTER COLUMN {column} SET STORAGE PLAIN")
    fill(database, rows=GROWN // 8192 - 100)
    server.stop()
    assert isinstance(server.runtime, Local)
    server.runtime.longest_file = GROWN
    server.start()
    for at_once in (50, 1):
        with pytest.raises(Exception, match=FULL[dialect]):
            for _ in range(1000):
                fill(database, rows=at_once)

    # More rows than find room in the pages that are there.
    many = [Revision(f"r{number}", f"r{number - 1}") for number in range(2, 60)]
    project.add(*many, creates("last", "r60", "r59"))
    for revision in many:
        with_a_long_summary(project, revision.id)
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["count"]) == (0, 59), result.stdout
    warning = result.one("ledger_unavailable")
    assert "alembic_job_ledger cannot be written" in warning["error"] and FULL[dialect] in warning["error"]
    assert database.versions() == {"r60"}
    assert database.tables() == {"alembic_version", "t1", "last"}
    assert run_job("status", cwd=project.path, env=environment(database)).exit_code == 0


def fill(database: Database, *, rows: int) -> None:
    """Rows of another application, each of which takes about a page."""
    name = name_of(database)
    series = f"generate_series(1, {rows}) AS s (n)" if database.dialect == "postgresql" else f"seq_1_to_{rows} AS s"
    number = "n" if database.dialect == "postgresql" else "seq"
    database.execute(
        f"INSERT INTO {name} (run_id, number, layout, version_table, direction, revision, status, error)"
        f" SELECT 'other', coalesce((SELECT max(number) FROM {name}), 0) + {number}, 1, 'other', 'upgrade', 'x',"
        f" 'committed', repeat('x', 7000) FROM {series}"
    )
