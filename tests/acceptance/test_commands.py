"""What each command does, and what the projects of Alembic's many ways need."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alembic
import pytest

from tests import job as process
from tests.acceptance.expect import PROJECTS, URL, applied_nothing, refused
from tests.databases import Database, sqlite_database
from tests.job import Result, Revision, creates, linear, make_project

Run = Callable[..., Result]
BRANCHES = PROJECTS / "branches_with_depends_on"
TWO_HEADS = PROJECTS / "two_heads"
READS_PYPROJECT = tuple(map(int, alembic.__version__.split(".")[:2])) >= (1, 16)


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    return sqlite_database(tmp_path / "database.sqlite")


def stamped(database: Database, *revisions: str) -> Database:
    """Let the version table hold these rows, without Alembic."""
    database.execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        *(f"INSERT INTO alembic_version VALUES ('{revision}')" for revision in revisions),
    )
    return database


# --- plan -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "targets", "versions"),
    [
        (None, ("heads",), {"b002", "c001"}),
        ("a002", ("heads",), {"b002", "c001"}),
        ("b001", ("billing@head",), {"b002"}),
        (None, ("a002", "c0"), {"c001"}),  # which contains a002
        (None, ("b001+1",), {"b002"}),
        (None, ("accounts@a002", "billing@+1"), {"a002", "b001"}),
    ],
)
def test_plan_names_what_upgrade_does_in_that_order(
    run_job: Run, sqlite: Database, first: str | None, targets: tuple[str, ...], versions: set[str]
) -> None:
    env = {URL: sqlite.url, "ALEMBIC_JOB_TARGET": first or ""}
    if first:
        run_job(cwd=BRANCHES, env=env)
    before = sqlite.tables()
    plan = run_job("plan", *targets, cwd=BRANCHES, env=env)
    assert (plan.exit_code, plan.finished["outcome"], sqlite.tables()) == (0, "reported", before)
    applied_nothing(plan)
    planned = [pending["revision"] for pending in plan.one("plan_ready")["pending"]]
    upgrade = run_job("upgrade", *targets, cwd=BRANCHES, env=env)
    assert upgrade.exit_code == 0
    assert [event["revision"] for event in upgrade.of("revision_started")] == planned
    assert upgrade.finished["applied"] == planned
    assert [event["position"] for event in upgrade.of("revision_started")] == list(range(1, len(planned) + 1))
    assert sqlite.versions() == versions == set(upgrade.finished["to"])


def test_several_targets_may_stand_in_the_environment(run_job: Run, sqlite: Database) -> None:
    env = {URL: sqlite.url, "ALEMBIC_JOB_TARGET": " a002  billing@b001 "}
    plan = run_job("plan", "--exit-code", cwd=BRANCHES, env=env)
    assert (plan.exit_code, plan.finished["exit_name"], plan.finished["outcome"]) == (3, "pending", "reported")
    ready = plan.one("plan_ready")
    assert (plan.one("run_started")["target"], ready["target"]) == (["a002", "billing@b001"], ["a002", "b001"])
    assert sorted(pending["revision"] for pending in ready["pending"]) == ["a001", "a002", "b001"]
    assert ready["pending"][0]["summary"] == "Create accounts"
    assert ready["pending"][0]["path"].endswith("migrations/versions/a001_create_accounts.py")
    assert ready["heads"] == ["b002", "c001"]  # c001 depends on the head a004, so that is not stored


def test_the_sql_of_a_plan_does_what_upgrade_does(run_job: Run, sqlite: Database, tmp_path: Path) -> None:
    run_job(cwd=BRANCHES, env={URL: sqlite.url})
    by_hand = sqlite_database(tmp_path / "by_hand.sqlite")
    for target in ("a002", "heads"):  # from nothing, and from where it is then
        plan = run_job("plan", target, "--sql", cwd=BRANCHES, env={URL: by_hand.url})
        assert plan.exit_code == 0
        sqlite3.connect(by_hand.path).executescript("\n".join(event["sql"] for event in plan.of("sql_planned")))
    theirs = "FROM sqlite_master WHERE tbl_name NOT LIKE 'alembic_job_%' ORDER BY name"
    schema = f"SELECT name, replace(sql, char(9), '    ') {theirs}"
    assert by_hand.query(schema) == sqlite.query(schema)
    assert by_hand.versions() == sqlite.versions()
    assert sorted(event["revision"] for event in plan.of("sql_planned")) == ["a003", "a004", "b001", "b002", "c001"]


def test_the_sql_from_a_revision_needs_no_database(run_job: Run) -> None:
    env = {URL: "postgresql+psycopg2://user@localhost:1/name"}
    plan = run_job("plan", "a002", "--sql", "--from", "a001", cwd=BRANCHES, env=env)
    assert (plan.exit_code, plan.names[-1]) == (0, "run_finished")
    assert not plan.of("database_ready")
    sql = "".join(event["sql"] for event in plan.of("sql_planned"))
    assert "CREATE TABLE emails" in sql and "SET version_num='a002'" in sql
    assert "CREATE TABLE accounts" not in sql
    refused(run_job("plan", "--from", "a001", cwd=BRANCHES, env=env), 2, "config_invalid", "--from", "--sql")


def test_long_sql_comes_in_several_lines(run_job: Run, tmp_path: Path) -> None:
    long = "-- " + "0123456789" * 4000
    project = make_project(tmp_path, [Revision("r1", upgrade=f'op.execute("""{long}""")')])
    plan = run_job("plan", "--sql", "--from", "base", cwd=project.path, env={URL: "sqlite:////none/x.db"})
    pieces = [event["sql"] for event in plan.of("sql_planned") if event["revision"] == "r1"]
    assert plan.exit_code == 0 and len(pieces) > 3
    assert long in "".join(pieces)


# --- looking ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "state", "count"),
    [
        (None, "empty", 3),
        (["CREATE TABLE customers (id INTEGER)"], "unmanaged", 3),
        (["CREATE TABLE alembic_version (version_num VARCHAR(32))"], "empty", 3),
        (["0001"], "behind", 2),
        (["0002", "0003"], "current", 0),
        (["gone"], "unknown", 0),
    ],
    ids=["no file", "unmanaged", "no rows", "behind", "current", "unknown"],
)
def test_status_tells_the_state_of_every_database(
    run_job: Run, sqlite: Database, statements: list[str] | None, state: str, count: int
) -> None:
    current: list[str] = []
    if statements and statements[0].startswith("CREATE"):
        sqlite.execute(*statements)
    elif statements:
        current = statements
        stamped(sqlite, *statements)
    status = run_job("status", cwd=TWO_HEADS, env={URL: sqlite.url})
    assert (status.exit_code, status.finished["outcome"], status.finished["to"]) == (0, "reported", current)
    ready = status.one("plan_ready")
    assert (ready["state"], ready["current"], ready["heads"]) == (state, current, ["0002", "0003"])
    assert (ready["count"], len(ready["pending"])) == (count, count)
    assert bool(sqlite.path and sqlite.path.exists()) == (statements is not None)


@pytest.mark.parametrize(
    ("at", "code", "name"),
    [("0001", 3, "pending"), ("0003", 0, "ok"), ("gone", 30, "revision_unknown")],
)
def test_status_with_exit_code_tells_whether_there_is_something_to_do(
    run_job: Run, sqlite: Database, at: str, code: int, name: str
) -> None:
    status = run_job("status", "0003", "--exit-code", cwd=TWO_HEADS, env={URL: stamped(sqlite, at).url})
    assert (status.exit_code, status.finished["exit_name"]) == (code, name)


def test_current_tells_the_revisions_of_the_database(run_job: Run, sqlite: Database) -> None:
    stamped(sqlite, "a002", "b001")
    current = run_job("current", cwd=BRANCHES, env={URL: sqlite.url})
    listed = {event["revision"]: event for event in current.of("revision_listed")}
    assert (current.exit_code, set(listed)) == (0, {"a002", "b001"})
    assert (listed["b001"]["depends_on"], listed["b001"]["branch_labels"]) == (["a001"], ["billing"])
    assert not listed["b001"]["is_head"]
    assert current.finished["to"] == ["a002", "b001"]


def test_heads_and_history_need_no_database(run_job: Run) -> None:
    heads = run_job("heads", cwd=BRANCHES)
    assert (heads.exit_code, heads.finished["outcome"]) == (0, "reported")
    assert [(event["revision"], event["is_head"]) for event in heads.of("revision_listed")] == [
        ("a004", True),
        ("b002", True),
        ("c001", True),
    ]
    history = run_job("history", cwd=BRANCHES).of("revision_listed")
    seen: set[str] = set()
    for event in history:
        assert seen.issuperset(event["parents"] + event["depends_on"]), f"{event['revision']} comes before its parents"
        seen.add(event["revision"])
    assert seen == {"a001", "a002", "a003", "a004", "b001", "b002", "c001"}
    merge = next(event for event in history if event["revision"] == "a004")
    assert (merge["parents"], merge["summary"]) == (["a002", "a003"], "Merge emails and phones")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("status",), 0),
        (("plan",), 0),
        (("plan", "--sql"), 0),
        (("current",), 0),
        (("wait", "--timeout", "0"), 22),
        (("downgrade", "base", "--yes"), 0),
    ],
)
def test_a_sqlite_file_that_does_not_exist_is_an_empty_database_and_stays_away(
    run_job: Run, tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    (tmp_path / "data").mkdir()
    result = run_job(*arguments, cwd=TWO_HEADS, env={URL: f"sqlite:///{tmp_path}/data/database.sqlite"})
    assert result.exit_code == code
    assert not list((tmp_path / "data").iterdir())


# --- stamp, downgrade -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "targets", "after"),
    [
        (None, ("heads",), {"b002", "c001"}),
        (None, ("a00", "b001"), {}),
        (None, ("a002", "b001"), {"a002", "b001"}),
        (("a002", "b001"), ("a004",), {"a004", "b001"}),
        (None, ("a001", "a002"), {"a002"}),
        (("b002", "c001"), ("b001",), {"b001", "c001"}),
        (("b002", "c001"), ("base",), set()),
    ],
)
def test_stamp_moves_the_version_and_runs_nothing(
    run_job: Run, sqlite: Database, before: tuple[str, ...] | None, targets: tuple[str, ...], after: set[str]
) -> None:
    if before:
        stamped(sqlite, *before)
    result = run_job("stamp", *targets, cwd=BRANCHES, env={URL: sqlite.url})
    if after == {}:
        refused(result, 32, "target_invalid", "'a00'", "a001")
        return
    assert (result.exit_code, result.finished["outcome"]) == (0, "stamped"), result.finished
    assert sqlite.versions() == after == set(result.finished["to"])
    assert result.finished["from"] == sorted(before or ())
    assert sqlite.tables() == {"alembic_version"}
    applied_nothing(result)


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The branches, applied: a file to copy."""
    path = tmp_path_factory.mktemp("upgraded") / "database.sqlite"
    result = process.run_job("upgrade", cwd=BRANCHES, env={URL: f"sqlite:///{path}"})
    assert result.exit_code == 0
    return path


@pytest.mark.parametrize(
    ("target", "undone", "versions"),
    [
        ("base", 7, set()),
        ("billing@base", 2, {"c001"}),
        ("billing@-1", 1, {"b001", "c001"}),
        ("b001", 1, {"b001", "c001"}),
        ("b002-1", 1, {"b001", "c001"}),
        ("a00", 0, None),
        ("-1", 0, None),
        ("billing@-9", 0, None),
        ("nowhere", 0, None),
    ],
)
def test_downgrade_goes_to_the_target_or_nowhere(
    run_job: Run, sqlite: Database, upgraded: Path, target: str, undone: int, versions: set[str] | None
) -> None:
    assert sqlite.path
    shutil.copy(upgraded, sqlite.path)
    tables = sqlite.tables()
    result = run_job("downgrade", target, "--yes", cwd=BRANCHES, env={URL: sqlite.url})
    if versions is None:
        refused(result, 32, "target_invalid", target)
        assert (sqlite.tables(), sqlite.versions()) == (tables, {"b002", "c001"})
        return
    assert (result.exit_code, result.finished["outcome"]) == (0, "downgraded")
    planned = [pending["revision"] for pending in result.one("plan_ready")["pending"]]
    assert result.finished["applied"] == planned and len(planned) == undone
    assert sqlite.versions() == versions == set(result.finished["to"])


def test_upgrade_to_what_is_contained_already_changes_nothing(run_job: Run, sqlite: Database, upgraded: Path) -> None:
    assert sqlite.path
    shutil.copy(upgraded, sqlite.path)
    for target in ("a001", "base", "heads"):
        result = run_job("upgrade", target, cwd=BRANCHES, env={URL: sqlite.url})
        assert (result.exit_code, result.finished["outcome"]) == (0, "up_to_date")
        assert sqlite.versions() == {"b002", "c001"}


# --- config, options --------------------------------------------------------------------------------


def test_config_tells_every_setting_with_its_source_and_no_secret(run_job: Run, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pass-word-4711")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "IMAGE").write_text("registry/shop:7")
    env = {
        "ALEMBIC_JOB_DB_DRIVER": "postgresql+psycopg",
        "ALEMBIC_JOB_DB_HOST": "db",
        "ALEMBIC_JOB_DB_NAME": "shop",
        "ALEMBIC_JOB_DB_PASSWORD_FILE": str(tmp_path / "password"),
        "ALEMBIC_JOB_SECRETS_DIR": str(tmp_path / "secrets"),
        "ALEMBIC_JOB_WAIT_TIMEOUT": "90",
    }
    result = run_job("config", "--lock-timeout", "1h", "-x", "a=1", env=env)
    assert (result.exit_code, result.finished["outcome"]) == (0, "reported")
    told = {event["variable"]: (event["value"], event["source"]) for event in result.of("setting_listed")}
    assert told["ALEMBIC_JOB_DB_PASSWORD"] == ("***", "ALEMBIC_JOB_DB_PASSWORD_FILE")
    assert told["ALEMBIC_JOB_DB_HOST"] == ("db", "environment")
    assert told["ALEMBIC_JOB_IMAGE"] == ("registry/shop:7", f"{tmp_path}/secrets/IMAGE")
    assert told["ALEMBIC_JOB_WAIT_TIMEOUT"] == ("90s", "environment")
    assert told["ALEMBIC_JOB_LOCK_TIMEOUT"] == ("1h", "option --lock-timeout")
    assert told["ALEMBIC_JOB_X"] == ("a=1", "option --x")
    assert told["ALEMBIC_JOB_TARGET_TIMEOUT"] == ("15m", "default")
    assert told["ALEMBIC_JOB_DATABASE_URL"][1] == "ALEMBIC_JOB_DB_*"
    assert "pass-word" not in result.stdout
    properties = run_job("config", "--schema").one("settings_schema")["schema"]["properties"]
    assert set(told) <= set(properties)


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({URL: "mysql://user:pass-word@db/name", "DATABASE_URL": "mysql://other/name"}, "environment"),
        ({"DATABASE_URL": "mysql://user:pass-word@db/name"}, "DATABASE_URL"),
        ({}, "sqlalchemy.url"),
    ],
)
def test_config_tells_the_url_that_counts(run_job: Run, tmp_path: Path, given: dict[str, str], source: str) -> None:
    project = make_project(tmp_path, ini={"sqlalchemy.url": "mysql://user:pass-word@db/name"})
    result = run_job("config", cwd=project.path, env=given)
    told = next(event for event in result.of("setting_listed") if event["variable"] == URL)
    assert (told["value"], told["source"]) == ("mysql://user@db/name", source)
    assert "pass-word" not in result.stdout


def test_help_shows_the_variable_beside_each_option(run_job: Run) -> None:
    said = run_job("upgrade", "--help", plain=True)
    assert (said.exit_code, said.stderr) == (0, "")
    for option, variable in (("--wait-timeout", "WAIT_TIMEOUT"), ("--lock-timeout", "LOCK_TIMEOUT"), ("-n", "SECTION")):
        assert option in said.stdout and f"[ALEMBIC_JOB_{variable}]" in "".join(said.stdout.split("\n"))
    assert "password" not in said.stdout.lower() and "--database-url" not in said.stdout


# --- projects ---------------------------------------------------------------------------------------


def test_a_pyproject_is_read_where_alembic_reads_it(run_job: Run, sqlite: Database) -> None:
    result = run_job(cwd=PROJECTS / "pyproject_config", env={URL: sqlite.url})
    if READS_PYPROJECT:
        assert (result.exit_code, len(result.of("revision_started"))) == (0, len(result.finished["applied"]))
        assert sqlite.versions() == set(result.finished["to"]) != set()
    else:
        refused(result, 2, "config_invalid", "pyproject.toml", "does not read it")
        assert "1.16" in result.finished["hint"]


def test_a_script_location_serves_for_a_configuration(run_job: Run, sqlite: Database, tmp_path: Path) -> None:
    location = PROJECTS / "no_config_file" / "migrations"
    env = {URL: sqlite.url, "ALEMBIC_JOB_SCRIPT_LOCATION": str(location)}
    result = run_job(cwd=tmp_path, env=env)
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded")
    assert sqlite.versions() == set(result.finished["to"]) != set()


def test_a_version_table_of_its_own_is_found_again(run_job: Run, database: Database) -> None:
    project = PROJECTS / "custom_version_table"
    first = run_job("upgrade", "0001", cwd=project, env={URL: database.url})
    second = run_job("upgrade", cwd=project, env={URL: database.url})
    assert [run.finished["outcome"] for run in (first, second)] == ["upgraded", "upgraded"]
    assert (second.finished["from"], second.finished["to"]) == (["0001"], ["0002"])
    connected = second.of("environment_connected")[0]
    schema = "ops" if database.dialect == "postgresql" else None
    assert (connected["version_table"], connected["version_table_schema"]) == ("migrations_done", schema)
    table = "ops.migrations_done" if schema else "migrations_done"
    assert database.versions(table) == {"0002"}
    assert "alembic_version" not in database.tables()
    assert run_job("upgrade", cwd=project, env={URL: database.url}).finished["outcome"] == "up_to_date"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_with_a_transaction_per_migration_what_came_before_a_failure_stays(run_job: Run, database: Database) -> None:
    env = {URL: database.url, "FAIL": "1"}
    result = run_job(cwd=PROJECTS / "transaction_per_migration", env=env)
    refused(result, 40, "revision_failed", "0003", "no_such_table")
    assert result.of("environment_connected")[0]["transaction"] == "per-revision"
    assert (result.finished["applied"], result.finished["to"]) == (["0001", "0002"], ["0002"])
    assert result.one("revision_failed")["rolled_back"] == ["0003"]
    assert database.versions() == {"0002"} and "plums" not in database.tables()


def test_an_autocommit_block_commits_in_the_middle_of_a_revision(run_job: Run, database: Database) -> None:
    project = PROJECTS / "autocommit_block"
    failed = run_job(cwd=project, env={URL: database.url, "FAIL": "1"})
    refused(failed, 41, "revision_partial", "0002", "no_such_table")
    durable = [one["statement_number"] for one in failed.one("revision_failed")["durable_statements"]]
    assert durable == ([1, 2] if database.dialect == "postgresql" else [1, 2, 3])
    assert (failed.finished["applied"], database.versions()) == (["0001"], {"0001"})
    assert ("pears" in database.tables()) == (database.dialect != "postgresql")


def test_an_autocommit_block_in_a_good_revision_is_no_obstacle(run_job: Run, database: Database) -> None:
    result = run_job(cwd=PROJECTS / "autocommit_block", env={URL: database.url})
    assert (result.exit_code, result.finished["applied"]) == (0, ["0001", "0002"])
    assert database.versions() == {"0002"}


SAYS_WHAT_IT_GETS = """
from alembic import context
print(sorted(context.get_x_argument(as_dictionary=True).items()))
"""


@pytest.mark.parametrize("way", ["option", "environment"])
def test_env_py_gets_the_x_arguments(run_job: Run, sqlite: Database, tmp_path: Path, way: str) -> None:
    stock = make_project(tmp_path / "stock").env.read_text()
    project = make_project(tmp_path, linear(1), env=SAYS_WHAT_IT_GETS + stock)
    arguments = ("-x", "tenant=blue", "-x", "note=two words") if way == "option" else ()
    env = {URL: sqlite.url} if arguments else {URL: sqlite.url, "ALEMBIC_JOB_X": "tenant=blue 'note=two words'"}
    result = run_job("upgrade", *arguments, cwd=project.path, env=env)
    assert result.exit_code == 0
    said = {event["text"] for event in result.of("user_output")}
    assert str([("note", "two words"), ("tenant", "blue")]) in said


def test_a_section_is_a_configuration_of_its_own(run_job: Run, tmp_path: Path) -> None:
    project = make_project(tmp_path, linear(1))
    blue, red = (sqlite_database(tmp_path / f"{name}.sqlite") for name in ("blue", "red"))
    sections = [
        f"[{name}]\nscript_location = %(here)s/migrations\nsqlalchemy.url = {database.url}\n"
        for name, database in (("alembic", blue), ("red", red))
    ]
    project.ini.write_text("\n".join(sections))
    (project.path / "migrations" / "env.py").write_text(
        project.env.read_text().replace("fileConfig(config.config_file_name)", "pass")
    )
    result = run_job("upgrade", "-n", "red", cwd=project.path)
    assert (result.exit_code, result.of("environment_connected")[0]["section"]) == (0, "red")
    assert result.one("run_started")["url_source"] == "sqlalchemy.url"
    assert (red.versions(), blue.path and blue.path.exists()) == ({"r1"}, False)


# --- termination message ----------------------------------------------------------------------------

READS_THE_MESSAGE = """\
for _ in range(100):
    text = open(os.environ["ALEMBIC_JOB_TERMINATION_LOG"]).read()
    if "r2" in text:
        break
    time.sleep(0.05)
print("message:", text)
raise RuntimeError("é" * 5000)
"""


def test_the_termination_message_tells_where_the_run_is_and_then_how_it_ended(
    run_job: Run, sqlite: Database, tmp_path: Path
) -> None:
    project = make_project(tmp_path, [creates("t1", "r1"), Revision("r2", "r1", upgrade=READS_THE_MESSAGE)])
    file = tmp_path / "termination-log"
    file.touch()
    env = {URL: sqlite.url, "ALEMBIC_JOB_TERMINATION_LOG": str(file)}
    result = run_job(cwd=project.path, env=env)
    assert result.exit_code == 40
    during = next(
        event["text"].removeprefix("message: ")
        for event in result.of("user_output")
        if event["text"].startswith("message: ")
    )
    before = message(during)
    assert (before["exit_name"], before["exit_code"], before["revision"]) == (None, None, "r2")
    assert "revision r2 (2 of 2)" in before["error"] and "memory limit" in before["hint"]
    said = message(file.read_text())
    assert (said["exit_name"], said["exit_code"], said["revision"]) == ("revision_failed", 40, "r2")
    assert "é" in said["error"] and said["hint"] == result.finished["hint"]

    refusal = run_job(cwd=project.path, env={**env, URL: "nonsense"})
    said = message(file.read_text())
    assert (said["exit_name"], said["exit_code"], said["error"]) == ("config_invalid", 2, refusal.finished["error"])


def message(text: str) -> dict[str, Any]:
    """Read a termination message: short, and its fields in the order in which one reads them."""
    assert len(text.encode()) <= 1024
    said: dict[str, Any] = json.loads(text)
    assert list(said) == ["error", "hint", "exit_name", "exit_code", "revision"]
    return said
