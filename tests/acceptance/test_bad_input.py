"""Bad input, each with its exit code, one clear sentence, a hint, and nothing changed."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.expect import PROJECTS, URL, applied_nothing, refused
from tests.databases import Database, Login, Server, sqlite_database
from tests.job import Job, Result, Revision, linear, make_project, start
from tests.servers import PrivateServer

Run = Callable[..., Result]
SERVERS = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    return sqlite_database(tmp_path / "database.sqlite")


def server_of(database: Database, request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(f"{database.dialect}_server")
    return server


def login_of(database: Database) -> Login:
    assert database.login is not None
    return database.login


# --- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "env", "facts"),
    [
        ({}, {}, ("no alembic.ini, migrations/alembic.ini or pyproject.toml",)),
        ({}, {"CONFIG": "other.ini"}, ("no Alembic configuration", "/other.ini")),
        ({"alembic.ini": "[alembic]\n"}, {}, ("script_location",)),
        ({"alembic.ini": "[alembic]\nscript_location = gone\n"}, {}, ("gone",)),
        ({"alembic.ini": "script_location = migrations\n"}, {}, ("alembic.ini cannot be read", "no section headers")),
        ({"alembic.ini": "[alembic]\nscript_location = %(no)s\n"}, {}, ("alembic.ini cannot be read", "'no'")),
        ({"alembic.ini": "[alembic]\n"}, {"SECTION": "other"}, ("other",)),
        ({"pyproject.toml": "[tool.alembic\n"}, {}, ("pyproject.toml",)),
    ],
    ids=["none", "no such file", "no location", "no such folder", "no ini file", "interpolation", "section", "toml"],
)
def test_without_a_usable_configuration_nothing_happens(
    run_job: Run,
    sqlite: Database,
    tmp_path: Path,
    files: dict[str, str],
    env: dict[str, str],
    facts: tuple[str, ...],
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    result = run_job("upgrade", env={URL: sqlite.url, **{f"ALEMBIC_JOB_{name}": text for name, text in env.items()}})
    refused(result, 2, "config_invalid", *facts)
    assert sqlite.path and not sqlite.path.exists()


def test_without_a_database_url_the_hint_names_the_variables(run_job: Run) -> None:
    result = run_job(cwd=PROJECTS / "two_heads")
    refused(result, 2, "config_invalid", "No database is configured")
    assert URL in result.finished["hint"] and "ALEMBIC_JOB_DB_HOST" in result.finished["hint"]


NO_URL = "not of the form dialect+driver://"


@pytest.mark.parametrize(
    ("url", "fact"),
    [
        ("just a secret-word", NO_URL),
        ("mysql+pymysql://user:secret-word@host:33o6/name", "the port is not a number"),
        ("mysql+pymysql://user:pass@secret-word@host/name", "more than one '@'"),
        ("mysql+pymysql://user:secret-word@host", "names no database"),
        ("postgres://user:secret-word@host/name", "'postgres' databases are not supported"),
        ("driver://user:secret-word@host/name", "'driver' databases are not supported"),
        ("sqlite://", "in-memory"),
    ],
)
def test_a_malformed_url_is_told_without_showing_it(run_job: Run, url: str, fact: str) -> None:
    result = run_job(cwd=PROJECTS / "two_heads", env={URL: url})
    refused(result, 2, "config_invalid", URL, fact)
    assert result.names == ["settings_invalid", "run_finished"]
    assert "secret-word" not in result.stdout


def test_an_unusable_url_of_the_configuration_is_told(run_job: Run, tmp_path: Path) -> None:
    project = make_project(tmp_path, linear(1), ini={"sqlalchemy.url": "driver://user:pass@localhost/dbname"})
    refused(run_job(cwd=project.path), 2, "config_invalid", "sqlalchemy.url", "'driver://'")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b""], ids=["missing", "not text", "empty"])
def test_a_url_file_that_cannot_be_read_is_named(run_job: Run, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content)
    result = run_job(cwd=PROJECTS / "two_heads", env={f"{URL}_FILE": str(file)})
    refused(result, 2, "config_invalid", URL)
    if content != b"":
        assert f"{file} cannot be read" in result.finished["error"]


def test_the_url_and_its_parts_together_are_a_mistake(run_job: Run, sqlite: Database) -> None:
    result = run_job(cwd=PROJECTS / "two_heads", env={URL: sqlite.url, "ALEMBIC_JOB_DB_HOST": "db"})
    refused(result, 2, "config_invalid", URL, "together with ALEMBIC_JOB_DB_HOST")
    assert sqlite.path and not sqlite.path.exists()


def test_all_mistakes_are_reported_together_and_before_anything_else(run_job: Run) -> None:
    wrong = {
        "DATABASE_URL": "oracle://db/name",
        "DB_PORT": "many",
        "WAIT_TIMEOUT": "soon",
        "LOCK": "maybe",
        "HEARTBEAT": "0",
        "TARGET": "+1",
        "SECRETS_DIR": "/no/such/folder",
    }
    result = run_job(cwd=PROJECTS / "two_heads", env={f"ALEMBIC_JOB_{name}": text for name, text in wrong.items()})
    refused(result, 2, "config_invalid", "'soon' is no duration", "'+1' is relative", "'oracle'")
    assert result.names == ["settings_invalid", "run_finished"]
    problems = result.one("settings_invalid")["problems"]
    assert {problem["variable"] for problem in problems} == {f"ALEMBIC_JOB_{name}" for name in wrong}
    assert all(problem["problem"] and problem["hint"] for problem in problems)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("upgarde",), "upgarde"),
        (("upgrade", "--no-such-option"), "--no-such-option"),
        (("downgrade",), "TARGET"),
        (("stamp",), "target"),
        (("plan", "--lock-timeout", "soon"), "'soon' is no duration"),
    ],
)
def test_a_mistake_on_the_command_line_is_reported_like_one_in_the_environment(
    run_job: Run, sqlite: Database, arguments: tuple[str, ...], fact: str
) -> None:
    result = run_job(*arguments, cwd=PROJECTS / "two_heads", env={URL: sqlite.url})
    refused(result, 2, "config_invalid", fact)
    assert result.names == ["settings_invalid", "run_finished"]


def test_an_unknown_variable_is_doubtful_and_the_run_goes_on(run_job: Run, sqlite: Database) -> None:
    env = {
        URL: sqlite.url,
        "ALEMBIC_JOB_WAIT_TIMOUT": "3s",
        "ALEMBIC_JOB_XYZZY": "1",
        "ALEMBIC_JOB_SERVICE_HOST": "10.0.0.1",  # a Service called alembic-job makes Kubernetes set these
        "ALEMBIC_JOB_PORT_80_TCP": "tcp://10.0.0.1:80",
    }
    result = run_job(cwd=PROJECTS / "two_heads", env=env)
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded")
    doubts = {problem["variable"]: problem["hint"] for problem in result.one("settings_doubtful")["problems"]}
    assert set(doubts) == {"ALEMBIC_JOB_WAIT_TIMOUT", "ALEMBIC_JOB_XYZZY"}
    assert "ALEMBIC_JOB_WAIT_TIMEOUT" in doubts["ALEMBIC_JOB_WAIT_TIMOUT"]
    assert "Did you mean" not in doubts["ALEMBIC_JOB_XYZZY"]


# --- login ------------------------------------------------------------------------------------------


@SERVERS
def test_a_wrong_password_is_refused_at_once(run_job: Run, database: Database) -> None:
    login = login_of(database)
    url = database.url.replace(login.password, "not-the-password")
    result = run_job("upgrade", cwd=PROJECTS / "two_heads", env={URL: url})
    refused(result, 11, "login_refused", login.user)
    assert not result.of("database_waiting") and result.finished["duration_s"] < 10
    assert "RETRY_REFUSED_FOR" in result.finished["hint"]
    assert "not-the-password" not in result.stdout
    assert database.tables() == set()


@SERVERS
def test_an_unknown_database_is_told_by_its_name(
    run_job: Run, database: Database, request: pytest.FixtureRequest
) -> None:
    login = login_of(database)
    missing = f"{login.name}_gone"
    if database.dialect == "mariadb":  # who has no right to it is told just that, see below
        server_of(database, request).admin(f"GRANT ALL ON {missing}.* TO {login.user}@'%'")
    result = run_job("upgrade", cwd=PROJECTS / "two_heads", env={URL: f"{database.url}_gone"})
    refused(result, 12, "database_missing", missing)
    assert not result.of("database_waiting")


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_database_that_the_user_has_no_right_to_is_permission_denied(run_job: Run, database: Database) -> None:
    result = run_job("upgrade", cwd=PROJECTS / "two_heads", env={URL: f"{database.url}_gone"})
    refused(result, 13, "permission_denied", f"{login_of(database).name}_gone")


def test_a_sqlite_file_in_a_missing_folder_is_database_missing(run_job: Run, tmp_path: Path) -> None:
    result = run_job("upgrade", cwd=PROJECTS / "two_heads", env={URL: f"sqlite:///{tmp_path}/gone/database.sqlite"})
    refused(result, 12, "database_missing", f"{tmp_path}/gone")
    assert not (tmp_path / "gone").exists()


def test_a_file_that_is_no_sqlite_database_is_left_alone(run_job: Run, sqlite: Database) -> None:
    assert sqlite.path
    sqlite.path.write_text("no database " * 1000)
    result = run_job("upgrade", cwd=PROJECTS / "two_heads", env={URL: sqlite.url})
    refused(result, 2, "config_invalid", "not a database")
    assert sqlite.path.read_text() == "no database " * 1000


@pytest.mark.parametrize(
    ("database", "driver", "module", "package"),
    [
        ("mariadb", "mysql+mysqldb", "MySQLdb", "mysqlclient"),
        ("postgresql", "postgresql+asyncpg", "asyncpg", "asyncpg"),
    ],
    indirect=["database"],
)
def test_a_driver_of_env_py_that_is_not_installed_is_named(
    run_job: Run, database: Database, tmp_path: Path, driver: str, module: str, package: str
) -> None:
    not_installed(tmp_path / "shadow", module)
    env = {URL: login_of(database).url(driver), "PYTHONPATH": str(tmp_path / "shadow")}
    result = run_job("upgrade", cwd=PROJECTS / "two_heads", env=env)
    refused(result, 2, "config_invalid", "not installed", module)
    assert f"pip install {package}" in result.finished["hint"]
    assert database.tables() == set()


def test_a_driver_of_the_job_itself_that_is_not_installed_is_named(run_job: Run, tmp_path: Path) -> None:
    not_installed(tmp_path / "shadow", "psycopg")
    env = {URL: "postgresql+psycopg2://user@localhost:1/name", "PYTHONPATH": str(tmp_path / "shadow")}
    result = run_job("upgrade", cwd=PROJECTS / "two_heads", env=env)
    refused(result, 2, "config_invalid", "not installed", "psycopg")
    assert "alembic-job[postgresql]" in result.finished["hint"]


def not_installed(folder: Path, module: str) -> None:
    """Make an import fail as it does where the module is missing."""
    folder.mkdir()
    (folder / f"{module}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{module}'\", name='{module}')\n"
    )


@pytest.mark.parametrize("way", ["url", "url file", "parts", "password file", "secrets dir"])
def test_every_special_character_may_be_in_a_password(
    run_job: Run, awkward_database: Database, tmp_path: Path, way: str
) -> None:
    login = login_of(awkward_database)
    (tmp_path / "url").write_text(awkward_database.url + "\n")
    (tmp_path / "password").write_text(login.password + "\n")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "DB_PASSWORD").write_text(login.password)
    parts = {
        "ALEMBIC_JOB_DB_DRIVER": awkward_database.url.partition(":")[0],
        "ALEMBIC_JOB_DB_HOST": login.host,
        "ALEMBIC_JOB_DB_PORT": str(login.port),
        "ALEMBIC_JOB_DB_USER": login.user,
        "ALEMBIC_JOB_DB_NAME": login.name,
    }
    env = {
        "url": {URL: awkward_database.url},
        "url file": {f"{URL}_FILE": str(tmp_path / "url")},
        "parts": {**parts, "ALEMBIC_JOB_DB_PASSWORD": login.password},
        "password file": {**parts, "ALEMBIC_JOB_DB_PASSWORD_FILE": str(tmp_path / "password")},
        "secrets dir": {**parts, "ALEMBIC_JOB_SECRETS_DIR": str(tmp_path / "secrets")},
    }[way]
    result = run_job("upgrade", cwd=PROJECTS / "two_heads", env=env)
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded"), result.finished
    assert awkward_database.versions() == {"0002", "0003"}
    assert login.password not in result.stdout


# --- rights -----------------------------------------------------------------------------------------


@SERVERS
@pytest.mark.parametrize("at", [None, "0001"], ids=["empty", "behind"])
def test_a_user_who_may_only_read_changes_nothing(
    run_job: Run, database: Database, request: pytest.FixtureRequest, at: str | None
) -> None:
    project = PROJECTS / "two_heads"
    if at:
        assert run_job("upgrade", at, cwd=project, env={URL: database.url}).exit_code == 0
    before = database.tables()
    reader = reader_of(database, server_of(database, request))
    env = {URL: reader.url(database.url.partition(":")[0])}
    result = run_job("upgrade", cwd=project, env=env)
    refused(result, 13, "permission_denied", "denied")
    assert (result.finished["applied"], result.finished["to"]) == ([], [at] if at else [])
    assert (database.tables(), database.versions()) == (before, {at} if at else set())
    status = run_job("status", cwd=project, env=env)
    assert (status.exit_code, status.one("plan_ready")["count"]) == (0, 2 if at else 3)


def reader_of(database: Database, server: Server) -> Login:
    """Make a user who may read everything in the database and change nothing."""
    login = login_of(database)
    reader = Login(login.host, login.port, f"{login.user}_r", login.password, login.name)
    if database.dialect == "mariadb":
        server.admin(
            f"CREATE USER {reader.user}@'%' IDENTIFIED BY '{reader.password}'",
            f"GRANT SELECT ON {login.name}.* TO {reader.user}@'%'",
        )
    else:
        server.admin(
            f"CREATE ROLE {reader.user} LOGIN PASSWORD '{reader.password}' IN ROLE pg_read_all_data",
            f"GRANT CONNECT ON DATABASE {login.name} TO {reader.user}",
        )
    return reader


@pytest.mark.parametrize("dialect", ["mariadb", "postgresql"])
def test_a_replica_is_waited_for_and_then_told(
    run_job: Run, private_server: Callable[..., PrivateServer], request: pytest.FixtureRequest, dialect: str
) -> None:
    if dialect == "mariadb":
        server: Server = private_server("mariadb")
        database = server.new_database()
        server.admin("SET GLOBAL read_only = 1")
    else:
        server = request.getfixturevalue("postgresql_server")
        database = server.new_database()
        server.admin(f"ALTER DATABASE {login_of(database).name} SET default_transaction_read_only = on")
    env = {URL: database.url, "ALEMBIC_JOB_WAIT_TIMEOUT": "1s"}
    result = run_job("upgrade", cwd=PROJECTS / "two_heads", env=env)
    refused(result, 14, "database_read_only", "read_only")
    assert result.of("database_waiting")  # a failover may end
    assert database.tables() == set()
    looking = run_job("status", cwd=PROJECTS / "two_heads", env=env)
    assert (looking.exit_code, looking.one("plan_ready")["state"]) == (0, "empty")


# --- env.py -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("project", "code", "name", "facts"),
    [
        ("env_raises", 2, "config_invalid", ("RuntimeError", "no SECRET_KEY", "migrations/env.py, line")),
        ("env_exits_nonzero", 2, "config_invalid", ("env.py exited with 3",)),
        ("env_exits_zero", 45, "target_not_reached", ("without running any migrations",)),
        ("env_runs_nothing", 45, "target_not_reached", ("without running any migrations",)),
        ("missing_upgrade", 2, "config_invalid", ("migrations/versions/0002_create_pears.py", "no function upgrade()")),
        ("no_script_location", 2, "config_invalid", ("section [alembic]", "script_location")),
        ("revision_syntax_error", 2, "config_invalid", ("SyntaxError", "0002_create_pears.py, line 10")),
        ("duplicate_ids", 33, "history_invalid", ("0002", "0002_create_pears.py", "0002_create_plums.py")),
        ("missing_parent", 33, "history_invalid", ("0002", "0003", "not present")),
        ("cycle", 33, "history_invalid", ("Cycle", "0001", "0002", "0003")),
    ],
)
def test_a_broken_project_is_refused_before_any_revision(
    run_job: Run, sqlite: Database, project: str, code: int, name: str, facts: tuple[str, ...]
) -> None:
    result = run_job("upgrade", cwd=PROJECTS / project, env={URL: sqlite.url})
    refused(result, code, name, *facts)
    applied_nothing(result)
    assert sqlite.tables() == set()


def test_only_revisions_that_are_to_run_need_the_function(run_job: Run, sqlite: Database, tmp_path: Path) -> None:
    project, env = PROJECTS / "missing_upgrade", {URL: sqlite.url}
    assert run_job("upgrade", "0001", cwd=project, env=env).finished["applied"] == ["0001"]
    refused(run_job("upgrade", cwd=project, env=env), 2, "config_invalid", "0002_create_pears.py", "upgrade()")
    assert run_job("stamp", "0002", cwd=project, env=env).exit_code == 0
    assert run_job("upgrade", cwd=project, env=env).finished["outcome"] == "up_to_date"
    down = run_job("downgrade", "0001", "--yes", cwd=project, env=env)
    refused(down, 2, "config_invalid", "0002_create_pears.py", "downgrade()")
    assert down.finished["revision"] == "0002"
    assert sqlite.versions() == {"0002"}


LONG = "0002_create_pears_for_the_new_shop_in_town"


@pytest.mark.parametrize("at", ["nothing", "0001"])
def test_an_identifier_that_the_version_table_has_no_room_for_is_refused_before_anything_runs(
    run_job: Run, database: Database, at: str
) -> None:
    project, env = PROJECTS / "long_revision_id", {URL: database.url}
    if at == "0001":
        assert run_job("upgrade", at, cwd=project, env=env).exit_code == 0
    before = database.tables()
    result = run_job("upgrade", cwd=project, env=env)
    if database.dialect != "sqlite":  # which has no lengths, so that plain Alembic gets through, too
        refused(result, 2, "config_invalid", LONG, "42 characters", "version_num of alembic_version", "room for 32")
        applied_nothing(result)
        assert (result.finished["revision"], database.tables()) == (LONG, before)
        refused(run_job("stamp", LONG, cwd=project, env=env), 2, "config_invalid", LONG)
        database.execute(re.findall(r"(?:ALTER|CREATE) [^;]+", result.finished["hint"])[0])
        result = run_job("upgrade", cwd=project, env=env)
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded"), result.finished
    assert database.versions() == {LONG}


def test_a_version_table_with_more_room_than_alembic_makes_is_believed(
    run_job: Run, database: Database, tmp_path: Path
) -> None:
    kind = {"mariadb": "TEXT", "postgresql": "TEXT", "sqlite": "VARCHAR(3)"}[database.dialect]
    database.execute(f"CREATE TABLE alembic_version (version_num {kind} NOT NULL)")
    result = run_job("upgrade", cwd=PROJECTS / "long_revision_id", env={URL: database.url})
    assert (result.exit_code, database.versions()) == (0, {LONG})


@pytest.mark.parametrize("command", ["upgrade", "status", "plan", "heads"])
def test_a_directory_with_no_alembic_in_it_is_told_as_that(run_job: Run, sqlite: Database, command: str) -> None:
    result = run_job(command, env={URL: sqlite.url})
    refused(result, 2, "config_invalid", "There is no alembic.ini")
    assert "ALEMBIC_JOB_CONFIG" in result.finished["hint"]


def test_a_history_whose_newest_file_was_deleted_is_told_with_the_facts(run_job: Run, sqlite: Database) -> None:
    sqlite.execute(
        "CREATE TABLE apples (id INTEGER)",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('0002')",
    )
    result = run_job(cwd=PROJECTS / "newest_file_deleted", env={URL: sqlite.url})
    refused(result, 30, "revision_unknown", "The database is at 0002", "1 revision of this image", "head: 0001")
    assert (result.finished["revision"], result.finished["from"], result.finished["to"]) == ("0002", ["0002"], ["0002"])
    assert (sqlite.versions(), sqlite.tables()) == ({"0002"}, {"apples", "alembic_version"})


def test_an_env_py_that_hides_the_failure_of_a_revision_is_not_believed(run_job: Run, sqlite: Database) -> None:
    result = run_job("upgrade", cwd=PROJECTS / "env_swallows_error", env={URL: sqlite.url})
    refused(result, 45, "target_not_reached", "0002", "no such table")
    assert result.finished["applied"] == ["0001"]
    assert sqlite.versions() == {"0001"}


def test_what_a_hidden_failure_leaves_in_the_database_decides_the_exit_code(
    run_job: Run, database: Database, tmp_path: Path
) -> None:
    env = (PROJECTS / "env_swallows_error" / "migrations" / "env.py").read_text()
    half = 'op.create_table("half", sa.Column("id", sa.Integer))\nop.execute("ALTER TABLE no_such_table ADD a INT")'
    project = make_project(tmp_path, [Revision("r1", upgrade=half)], env=env)
    result = run_job("upgrade", cwd=project.path, env={URL: database.url})
    if database.dialect == "postgresql":
        refused(result, 45, "target_not_reached", "r1", "no_such_table")
        assert database.tables() == set()
    else:
        refused(result, 41, "revision_partial", "r1", "no_such_table", "statement 1")
        assert "half" in database.tables()
        durable = result.one("revision_failed")["durable_statements"]
        assert [statement["statement_number"] for statement in durable] == [1]
    assert result.finished["to"] == [] and database.versions() == set()


def test_an_env_py_that_prints_megabytes_does_not_get_in_the_way(
    run_job: Run, sqlite: Database, tmp_path: Path
) -> None:
    stock = make_project(tmp_path / "stock").env.read_text()
    loud = 'import sys\nfor _ in range(300):\n    print("x" * 3000)\n    print("y" * 3000, file=sys.stderr)\n'
    project = make_project(tmp_path, linear(1), env=loud + stock)
    result = run_job("upgrade", cwd=project.path, env={URL: sqlite.url})
    assert (result.exit_code, sqlite.versions()) == (0, {"r1"})
    texts = [event["text"] for event in result.of("user_output")]
    assert texts.count("x" * 3000) == texts.count("y" * 3000) == 600  # the look, and the run


# --- targets and revisions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "code", "name", "facts"),
    [
        ("head", 31, "multiple_heads", ("'head'", "2 heads", "0002, 0003")),
        ("0009", 32, "target_invalid", ("'0009'", "3 revisions")),
        ("000", 32, "target_invalid", ("'000'", "0001", "0002", "0003")),
        ("pears@head", 32, "target_invalid", ("'pears@head'",)),
        ("0001+1", 32, "target_invalid", ("'0001+1'", "more than one branch")),
        ("0002+3", 32, "target_invalid", ("'0002+3'", "not that many")),
        ("0001-3", 32, "target_invalid", ("'0001-3'", "not that many")),
        ("@", 32, "target_invalid", ("'@'",)),
    ],
)
def test_a_target_that_names_no_single_revision_is_refused(
    run_job: Run, sqlite: Database, target: str, code: int, name: str, facts: tuple[str, ...]
) -> None:
    result = run_job("upgrade", target, cwd=PROJECTS / "two_heads", env={URL: sqlite.url})
    refused(result, code, name, *facts)
    applied_nothing(result)
    assert sqlite.tables() == set()


@pytest.mark.parametrize("target", ["+1", "branch@+2", "0001 +1"])
def test_a_relative_target_in_the_environment_is_refused(run_job: Run, sqlite: Database, target: str) -> None:
    result = run_job(cwd=PROJECTS / "two_heads", env={URL: sqlite.url, "ALEMBIC_JOB_TARGET": target})
    relative = target.rpartition(" ")[2]
    refused(result, 2, "config_invalid", "ALEMBIC_JOB_TARGET", f"'{relative}' is relative", "a retry would repeat it")


def test_a_blank_target_is_not_taken_for_nothing_to_do(run_job: Run, sqlite: Database) -> None:
    project = PROJECTS / "two_heads"
    blank = run_job(cwd=project, env={URL: sqlite.url, "ALEMBIC_JOB_TARGET": " "})
    refused(blank, 2, "config_invalid", "ALEMBIC_JOB_TARGET")
    refused(run_job("upgrade", "", cwd=project, env={URL: sqlite.url}), 32, "target_invalid", "''")


def test_a_relative_target_as_an_argument_is_one_step(run_job: Run, sqlite: Database) -> None:
    result = run_job("upgrade", "+1", cwd=PROJECTS / "two_heads", env={URL: sqlite.url})
    assert (result.exit_code, result.finished["applied"]) == (0, ["0001"])


def test_a_database_at_a_revision_that_the_image_does_not_hold_is_left_alone(
    run_job: Run, sqlite: Database, tmp_path: Path
) -> None:
    project = make_project(tmp_path, linear(2))
    env = {URL: sqlite.url, "ALEMBIC_JOB_LEDGER": "false"}
    run_job("upgrade", cwd=project.path, env=env)
    project.remove("r2")
    for arguments in (["upgrade"], ["stamp", "r1"], ["downgrade", "base", "--yes"], ["wait"]):
        result = run_job(*arguments, cwd=project.path, env=env)
        refused(result, 30, "revision_unknown", "r2", "1 revision", "r1")
        assert result.finished["revision"] == "r2"
        assert (sqlite.versions(), "t2" in sqlite.tables()) == ({"r2"}, True)


def test_a_downgrade_without_yes_is_refused_before_the_database_is_asked(run_job: Run) -> None:
    env = {URL: "mysql+pymysql://user@localhost:1/name"}
    result = run_job("downgrade", "base", cwd=PROJECTS / "two_heads", env=env)
    refused(result, 32, "target_invalid", "--yes")
    assert "alembic-job downgrade base --yes" in result.finished["hint"]


# --- the run ----------------------------------------------------------------------------------------

FULL = """
import sqlalchemy as sa
from alembic import context

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.pool.NullPool)
sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 40"))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.mark.parametrize(
    ("before", "code", "name"),
    [("", 40, "revision_failed"), ('op.create_table("b", sa.Column("id", sa.Integer))\n', 41, "revision_partial")],
    ids=["nothing before", "a table before"],
)
def test_a_full_disk_is_told_with_what_it_left(
    run_job: Run, sqlite: Database, tmp_path: Path, before: str, code: int, name: str
) -> None:
    fill = """for _ in range(100): op.execute("INSERT INTO a VALUES (randomblob(4000))")"""
    project = make_project(
        tmp_path,
        [
            Revision("r1", upgrade='op.create_table("a", sa.Column("data", sa.LargeBinary))'),
            Revision("r2", "r1", upgrade=before + fill),
        ],
        env=FULL,
    )
    result = run_job("upgrade", cwd=project.path, env={URL: sqlite.url})
    refused(result, code, name, "r2", "full")
    assert (result.finished["applied"], result.finished["to"]) == (["r1"], ["r1"])
    assert sqlite.versions() == {"r1"}
    assert sqlite.query("SELECT count(*) FROM a") == [(0,)]
    assert ("b" in sqlite.tables()) == bool(before)
    durable = [one["statement_number"] for one in result.one("revision_failed")["durable_statements"]]
    assert durable == ([1] if before else [])


def test_an_interrupted_run_keeps_whole_revisions_and_the_next_one_goes_on(
    start_job: Callable[..., Job], run_job: Run, sqlite: Database
) -> None:
    env = {URL: sqlite.url, "SECONDS": "0.5", "SLEEP": "python"}
    job = start_job("upgrade", cwd=PROJECTS / "slow_revisions", env=env)
    job.wait_for("user_output", text="sleeping", count=2)
    job.send_signal(signal.SIGTERM)
    result = job.finish()
    assert (result.exit_code, result.finished["exit_name"]) == (143, "interrupted")
    assert (result.finished["outcome"], result.finished["retryable"]) == ("interrupted", True)
    assert (result.finished["applied"], result.finished["to"]) == (["0001", "0002"], ["0002"])
    assert (sqlite.versions(), sqlite.query("SELECT id FROM pears")) == ({"0002"}, [(1,)])
    assert "plums" not in sqlite.tables()
    again = run_job("upgrade", cwd=PROJECTS / "slow_revisions", env={**env, "SECONDS": "0"})
    assert (again.exit_code, again.finished["applied"]) == (0, ["0003"])


@pytest.mark.parametrize("way", ["%(here)s", ".", "PYTHONPATH", "python -m runner"])
def test_a_project_with_its_own_runner_module_gets_its_own(
    run_job: Run, sqlite: Database, tmp_path: Path, way: str
) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECTS / "own_runner_module", project, ignore=shutil.ignore_patterns("__pycache__"))
    ini = project / "alembic.ini"
    env = {URL: sqlite.url}
    if way == ".":
        ini.write_text(ini.read_text().replace("%(here)s\n", ".\n"))
    if way == "PYTHONPATH":
        ini.write_text("[alembic]\nscript_location = migrations\n")
        env["PYTHONPATH"] = "."
    if way == "python -m runner":
        result = start([sys.executable, "-m", "runner", "-c", str(ini)], cwd=tmp_path, env=env).finish()
    else:
        result = run_job(cwd=project, env=env)
    assert (result.exit_code, sqlite.versions()) == (0, {"0001"}), result.finished
    assert "apples" in sqlite.tables()
