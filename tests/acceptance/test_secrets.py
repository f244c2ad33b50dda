"""No password, no bound parameter and no row value in any output, however it got there."""

from __future__ import annotations

import ast
import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from tests.databases import AWKWARD_PASSWORD, Database, Server
from tests.job import Project, Result, Revision, make_project

PROJECTS = Path(__file__).parents[1] / "projects"
FORMATS = pytest.mark.parametrize("log_format", ["json", "text"])
SERVERS = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
BOUND, LITERAL, ROW = "bound-4711", "literal-4712", "row-4713"

Run = Callable[..., Result]


def writings(secret: str) -> set[str]:
    """The ways in which a program may write it."""
    plain = {secret, repr(secret)[1:-1], repr(secret.encode())[2:-1], ascii(secret)[1:-1], json.dumps(secret)[1:-1]}
    plain |= {quote(secret), quote(secret, safe=""), quote_plus(secret), quote(secret, safe=" +")}
    return plain | {one.replace("%", "%%") for one in plain} | {base64.b64encode(secret.encode()).decode()}


@pytest.fixture
def leakless(run_job: Run, tmp_path: Path) -> Callable[..., Result]:
    """Run the job, and look for the secret in all that it left."""

    def run(*arguments: str, secret: str, cwd: Path, env: dict[str, str], exit_code: int = 0) -> Result:
        log = tmp_path / "termination.log"
        settings = {"ALEMBIC_JOB_LOG_LEVEL": "debug", "ALEMBIC_JOB_TERMINATION_LOG": str(log), **env}
        result = run_job(*arguments, cwd=cwd, env=settings)
        assert result.exit_code == exit_code, result.stdout
        left = result.stdout + log.read_text()
        for event in result.events:
            left += "".join(_texts(event))  # as they were before JSON escaped them
        for written in writings(secret):
            assert written not in left, f"{written} is in the output"
        return result

    return run


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value + "\n"
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


@FORMATS
@pytest.mark.parametrize("fails", [False, True])
def test_a_project_that_prints_its_url_in_every_way_gives_nothing_away(
    log_format: str, fails: bool, awkward_database: Database, leakless: Run
) -> None:
    env = {"ALEMBIC_JOB_DATABASE_URL": awkward_database.url, "ALEMBIC_JOB_LOG_FORMAT": log_format}
    partial = 41 if awkward_database.dialect == "mariadb" else 40
    result = leakless(
        "upgrade",
        secret=AWKWARD_PASSWORD[awkward_database.dialect],
        cwd=PROJECTS / "prints_url",
        env=env | ({"FAIL": "1"} if fails else {}),
        exit_code=partial if fails else 0,
    )
    assert "migrating ***" in result.stdout
    assert BOUND not in result.stdout
    assert LITERAL not in result.stdout


@FORMATS
@SERVERS
def test_an_ordinary_password_is_hidden_too(log_format: str, database: Database, leakless: Run) -> None:
    assert database.login
    env = {"ALEMBIC_JOB_DATABASE_URL": database.url, "ALEMBIC_JOB_LOG_FORMAT": log_format}
    leakless("upgrade", secret=database.login.password, cwd=PROJECTS / "prints_url", env=env)


# --- wherever the password comes from ---------------------------------------------------------------


def from_ini(database: Database, project: Project, folder: Path) -> dict[str, str]:
    text = project.ini.read_text()
    url = database.url.replace("%", "%%")
    project.ini.write_text(re.sub(r"(?m)^sqlalchemy\.url = .*$", lambda _: f"sqlalchemy.url = {url}", text))
    return {}


def from_parts(database: Database, project: Project, folder: Path) -> dict[str, str]:
    assert database.login
    login = database.login
    parts = {
        "DRIVER": database.url.partition(":")[0],
        "HOST": login.host,
        "PORT": str(login.port),
        "USER": login.user,
        "PASSWORD": login.password,
        "NAME": login.name,
    }
    return {f"ALEMBIC_JOB_DB_{name}": value for name, value in parts.items()}


def from_a_file(database: Database, project: Project, folder: Path) -> dict[str, str]:
    (folder / "url").write_text(database.url + "\n")
    return {"ALEMBIC_JOB_DATABASE_URL_FILE": str(folder / "url")}


def from_a_password_file(database: Database, project: Project, folder: Path) -> dict[str, str]:
    assert database.login
    (folder / "password").write_text(database.login.password)
    env = from_parts(database, project, folder)
    del env["ALEMBIC_JOB_DB_PASSWORD"]
    return {**env, "ALEMBIC_JOB_DB_PASSWORD_FILE": str(folder / "password")}


def from_the_secrets_dir(database: Database, project: Project, folder: Path) -> dict[str, str]:
    (folder / "secrets").mkdir()
    (folder / "secrets" / "DATABASE_URL").write_text(database.url)
    return {"ALEMBIC_JOB_SECRETS_DIR": str(folder / "secrets")}


SOURCES = [from_ini, from_parts, from_a_file, from_a_password_file, from_the_secrets_dir]


@pytest.mark.parametrize("source", SOURCES)
def test_a_password_is_hidden_wherever_it_comes_from(
    source: Callable[..., dict[str, str]], awkward_database: Database, tmp_path: Path, leakless: Run
) -> None:
    password = AWKWARD_PASSWORD[awkward_database.dialect]
    env_py = (PROJECTS / "prints_url" / "migrations" / "env.py").read_text()
    project = make_project(tmp_path, [Revision("r1", None, "print(op.get_bind().engine.url.password)")], env=env_py)
    env = source(awkward_database, project, tmp_path)
    result = leakless("upgrade", secret=password, cwd=project.path, env=env)
    assert any(event["text"] == "***" for event in result.of("user_output"))
    leakless("config", secret=password, cwd=project.path, env=env)


@SERVERS
def test_a_wrong_password_is_hidden(database: Database, tmp_path: Path, leakless: Run) -> None:
    assert database.login
    project = make_project(tmp_path)
    env = {"ALEMBIC_JOB_DATABASE_URL": database.url.replace(database.login.password, "wrong-battery-horse")}
    leakless("upgrade", secret="wrong-battery-horse", cwd=project.path, env=env, exit_code=11)


@pytest.mark.parametrize("url", ["mysql://u:s3cr/et@h:port/d", "nothing:s3cr/et", "oracle://u:s3cr/et@h/d"])
def test_a_malformed_url_is_not_shown(url: str, tmp_path: Path, leakless: Run) -> None:
    project = make_project(tmp_path)
    leakless("upgrade", secret="s3cr/et", cwd=project.path, env={"ALEMBIC_JOB_DATABASE_URL": url}, exit_code=2)


def test_the_password_of_another_engine_of_env_py_is_hidden_where_it_looks_like_a_url(
    tmp_path: Path, mariadb_server: Server, leakless: Run
) -> None:
    database = mariadb_server.new_database()
    project = make_project(
        tmp_path,
        env="""
        from alembic import context
        from sqlalchemy import create_engine, pool

        print("cache: redis://:other-s3cret@cache/0, search: https://app:other-s3cret@search/")
        engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
        with engine.connect() as connection:
            context.configure(connection=connection)
            with context.begin_transaction():
                context.run_migrations()
        """,
    )
    leakless("upgrade", secret="other-s3cret", cwd=project.path, env={"ALEMBIC_JOB_DATABASE_URL": database.url})


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_password_that_env_py_itself_connects_with_is_hidden(
    database: Database, tmp_path: Path, postgresql_server: Server, leakless: Run
) -> None:
    assert database.login
    name = database.login.name
    postgresql_server.admin(
        f"CREATE ROLE {name}_own LOGIN PASSWORD 'env-own-s3cret' IN ROLE {name}",
        f"GRANT CONNECT ON DATABASE {name} TO {name}_own",
        f"ALTER ROLE {name}_own SET role TO {name}",  # so that both own the same tables
    )
    own = database.url.replace(f"{name}:", f"{name}_own:", 1)
    own = own.replace(database.login.password, "env-own-s3cret")
    project = make_project(
        tmp_path,
        [Revision("r1", None, "print('mine is', op.get_bind().engine.url.password)")],
        env=f"""
        from alembic import context
        from sqlalchemy import create_engine, pool

        with create_engine({own!r}, poolclass=pool.NullPool).connect() as connection:
            context.configure(connection=connection)
            with context.begin_transaction():
                context.run_migrations()
        """,
    )
    try:
        result = leakless(
            "upgrade", secret="env-own-s3cret", cwd=project.path, env={"ALEMBIC_JOB_DATABASE_URL": database.url}
        )
        assert result.one("user_output")["text"] == "mine is ***"
    finally:
        postgresql_server.admin(f"DROP OWNED BY {name}_own", f"DROP ROLE {name}_own")


@pytest.mark.parametrize("password", ["x", "ok", "info", "run_finished", "upgraded"])
def test_a_password_that_is_an_ordinary_word_breaks_nothing(
    password: str, tmp_path: Path, mariadb_server: Server, run_job: Run
) -> None:
    database = mariadb_server.new_database(password=password)
    project = make_project(
        tmp_path, [Revision("r1", None, "print(op.get_context().config.get_main_option('sqlalchemy.url'))")]
    )
    result = run_job("upgrade", cwd=project.path, env={"ALEMBIC_JOB_DATABASE_URL": database.url})
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded")
    assert f":{password}@" not in result.stdout
    assert ":***@" in result.stdout


@SERVERS
def test_a_password_in_a_line_without_an_end_is_never_cut_in_two(
    database: Database, tmp_path: Path, leakless: Run
) -> None:
    assert database.login
    password = database.login.password
    body = f"""
    import random
    for number in range(300):
        sys.stdout.write({password!r} + "." * random.randint(1, 3000))
        sys.stdout.flush()
    """
    project = make_project(tmp_path, [Revision("r1", None, body)])
    env = {"ALEMBIC_JOB_DATABASE_URL": database.url}
    result = leakless("upgrade", secret=password, cwd=project.path, env=env)
    said = "".join(event["text"] for event in result.of("user_output") if event["stream"] == "stdout")
    assert re.sub(r"\.+", ".", said) == "***." * 300


# --- values -----------------------------------------------------------------------------------------

# They come from the environment: a traceback shows the lines of the file.
VALUES = """
bound, literal, row = os.environ["BOUND"], os.environ["LITERAL"], os.environ["ROW"]
people = op.create_table(
    "people", sa.Column("id", sa.Integer, primary_key=True), sa.Column("email", sa.String(50), unique=True)
)
op.bulk_insert(people, [{"id": 1, "email": bound}])
op.execute(f"INSERT INTO people (id, email) VALUES (2, '{literal}')")
op.execute(f"INSERT INTO people (id, email)\\nVALUES (3, '{row}')")
"""


def hidden(result: Result) -> None:
    for value in (BOUND, LITERAL, ROW):
        assert value not in result.stdout, f"{value} is in the output"


def values_project(tmp_path: Path, more: str = "", env: str | None = None) -> Project:
    return make_project(tmp_path, [Revision("r1", None, VALUES + more)], env=env)


def settings(database: Database, **more: str) -> dict[str, str]:
    return {
        "ALEMBIC_JOB_DATABASE_URL": database.url,
        "ALEMBIC_JOB_LOG_LEVEL": "debug",
        "BOUND": BOUND,
        "LITERAL": LITERAL,
        "ROW": ROW,
        **{f"ALEMBIC_JOB_{name}": value for name, value in more.items()},
    }


def test_statements_are_shown_without_their_literals(database: Database, tmp_path: Path, run_job: Run) -> None:
    result = run_job("upgrade", cwd=values_project(tmp_path).path, env=settings(database))
    assert result.exit_code == 0
    hidden(result)
    shown = [event["sql"] for event in result.of("statement_executed")]
    assert shown[-2:] == [
        "INSERT INTO people (id, email) VALUES (?, ?)",
        "INSERT INTO people (id, email)\nVALUES (?, ?)",
    ]
    assert "VARCHAR(50)" in shown[0]


@SQLITE
def test_full_shows_literals_and_still_no_bound_parameter(database: Database, tmp_path: Path, run_job: Run) -> None:
    fails = FAILURES["a duplicate that was bound"]
    result = run_job("upgrade", cwd=values_project(tmp_path, fails).path, env=settings(database, LOG_SQL="full"))
    assert result.exit_code == 41
    assert f"VALUES (2, '{LITERAL}')" in result.of("statement_executed")[2]["sql"]
    assert BOUND not in result.stdout


@SQLITE
def test_off_shows_no_statement(database: Database, tmp_path: Path, run_job: Run) -> None:
    project = values_project(tmp_path, "op.execute('SELECT nonsense')")
    result = run_job("upgrade", cwd=project.path, env=settings(database, LOG_SQL="off"))
    assert result.exit_code == 41
    assert [event["sql"] for event in result.of("statement_executed")] == [None] * 4
    assert result.one("revision_failed")["sql"] is None
    assert "INSERT INTO people" not in result.stdout


FAILURES = {
    "a duplicate that was bound": 'op.get_bind().execute(people.insert(), {"id": 4, "email": bound})',
    "a duplicate literal": """op.execute(f"INSERT INTO people (id, email)\\nVALUES (5, '{literal}')")""",
    "a syntax error": """op.execute(f"INSERT INTO people (id, email) VALUE (6, '{literal}' '{row}'")""",
    "a wrong type": """op.execute(f"SELECT CAST('{literal}' AS DATE) FROM no_such_table WHERE a = '{row}'")""",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_statement_shows_no_value(failure: str, database: Database, tmp_path: Path, run_job: Run) -> None:
    project = values_project(tmp_path, FAILURES[failure])
    log = tmp_path / "log"
    result = run_job("upgrade", cwd=project.path, env=settings(database, TERMINATION_LOG=str(log)))
    assert result.exit_code in (40, 41)
    hidden(result)
    assert not re.search(r"471[123]", log.read_text())


SHOWS_EVERYTHING = """
import json, logging, sys, traceback
from alembic import context
from sqlalchemy import create_engine, pool

logging.basicConfig(stream=sys.stdout, level=logging.INFO)
engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool, echo="debug")
try:
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
except Exception as error:
    traceback.print_exc()
    print(error)
    print(repr(error))
    print(json.dumps({"error": str(error)}))
    logging.getLogger("app").exception("it failed: %s", error)
    raise
"""


@pytest.mark.parametrize("failure", FAILURES)
def test_an_env_py_that_logs_everything_shows_no_value(
    failure: str, database: Database, tmp_path: Path, run_job: Run
) -> None:
    reads = 'op.get_bind().execute(sa.text("SELECT * FROM people WHERE email = :e"), {"e": bound}).fetchall()\n'
    project = values_project(tmp_path, reads + FAILURES[failure], env=SHOWS_EVERYTHING)
    result = run_job("upgrade", cwd=project.path, env=settings(database))
    assert result.exit_code in (40, 41)
    assert "INSERT INTO people" in result.stdout
    hidden(result)


def test_the_tests_know_how_python_writes_a_password() -> None:
    for secret in AWKWARD_PASSWORD.values():
        assert ast.literal_eval(repr(secret)) == secret
        assert len(writings(secret)) > 5
