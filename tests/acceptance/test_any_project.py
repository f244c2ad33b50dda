"""Projects of every make, untouched: where their database is, is for them to say."""

from __future__ import annotations

import signal
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.expect import refused
from tests.databases import Database, sqlite_database
from tests.job import Job, Project, Result, Revision, linear, make_project

Run = Callable[..., Result]

OWN_ENGINE = """
    import os
    from alembic import context
    from sqlalchemy import create_engine, event, pool

    engine = {engine}
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=None)
        with context.begin_transaction():
            context.run_migrations()
"""


def own_engine(engine: str) -> str:
    return textwrap.dedent(OWN_ENGINE.format(engine=engine))


def went_up_and_stays(run_job: Run, project: Project, count: int, **environment: str) -> Result:
    """It upgrades, and says of a second run that there is nothing to do."""
    result = run_job("upgrade", cwd=project.path, env=environment)
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded"), result.stdout
    assert result.finished["count"] == count
    again = run_job("upgrade", cwd=project.path, env=environment)
    assert (again.exit_code, again.finished["outcome"]) == (0, "up_to_date"), again.stdout
    return result


# --- no URL, or one of env.py's own -------------------------------------------------------------------


def test_without_a_url_env_py_is_asked_where_to_go(tmp_path: Path, database: Database, run_job: Run) -> None:
    env = own_engine('create_engine(os.environ["APP_DB"], poolclass=pool.NullPool)')
    project = make_project(tmp_path, linear(3), env=env)
    result = went_up_and_stays(run_job, project, 3, APP_DB=database.url)
    assert result.one("run_started")["url_source"] is None
    assert result.one("database_ready")["dialect"] == database.dialect.replace("mariadb", "mysql")
    assert result.one("lock_acquired")["lock_kind"] != "none"


def test_the_url_of_the_ini_is_a_hint_that_env_py_may_leave(tmp_path: Path, run_job: Run) -> None:
    database = sqlite_database(tmp_path / "real.sqlite")
    env = own_engine('create_engine(os.environ["APP_DB"])')
    project = make_project(tmp_path, linear(2), env=env, ini={"sqlalchemy.url": "postgresql://nobody@127.0.0.1:1/no"})
    went_up_and_stays(run_job, project, 2, APP_DB=database.url)


def test_what_env_py_connects_with_besides_the_url_is_used_too(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    if database.path:
        engine = f"create_engine({database.url!r}, connect_args={{'timeout': 3}})"
    else:  # the password comes at the last moment, as a token of a cloud does
        url = database.url
        engine = f"""create_engine({url!r}.replace(":" + os.environ["SECRET"] + "@", "@"), poolclass=pool.NullPool)
    @event.listens_for(engine, "do_connect")
    def token(dialect, record, arguments, parameters):
        parameters["password"] = os.environ["SECRET"]
"""
    project = make_project(tmp_path, linear(2), env=own_engine(engine))
    secret = database.login.password if database.login else "x"
    result = went_up_and_stays(run_job, project, 2, SECRET=secret or "x")
    if secret and len(secret) > 2:
        assert secret not in result.stdout


def test_a_database_that_env_py_alone_knows_is_waited_for(tmp_path: Path, run_job: Run) -> None:
    env = own_engine('create_engine("mysql+pymysql://nobody:secret-word@127.0.0.1:1/none")')
    project = make_project(tmp_path, linear(1), env=env)
    result = run_job("upgrade", cwd=project.path, env={"ALEMBIC_JOB_WAIT_TIMEOUT": "2s"})
    refused(result, 10, "database_unreachable", "127.0.0.1")
    assert result.of("database_waiting")
    assert "secret-word" not in result.stdout


def test_nothing_says_where_the_database_is(tmp_path: Path, run_job: Run) -> None:
    project = make_project(tmp_path, linear(1), ini={"sqlalchemy.url": ""})
    refused(run_job("upgrade", cwd=project.path), 2, "config_invalid", "No database is configured")


def with_creator(database: Database) -> str:
    """An env.py whose engine tells nothing of where it connects to."""
    if database.path:
        return own_engine(
            f"create_engine('sqlite://', creator=lambda: __import__('sqlite3').connect({str(database.path)!r}))"
        )
    login = database.login
    assert login
    scheme = database.url.partition("://")[0]
    driver = scheme.partition("+")[2]
    name = "database" if driver == "pymysql" else "dbname"
    connect = (
        f"__import__({driver!r}).connect(host={login.host!r}, port={login.port}, user={login.user!r},"
        f" password={login.password!r}, {name}={login.name!r})"
    )
    return own_engine(f"create_engine('{scheme}://', poolclass=pool.NullPool, creator=lambda: {connect})")


def test_with_creator_the_lock_is_taken_on_env_pys_own_connection(
    tmp_path: Path, database: Database, run_job: Run
) -> None:
    project = make_project(tmp_path, linear(3), env=with_creator(database))
    result = went_up_and_stays(run_job, project, 3)
    assert "creator" in result.one("lock_acquired")["reason"]
    assert database.versions() == {"r3"}


def test_three_runs_with_creator_race_and_one_does_the_work(
    tmp_path: Path, database: Database, start_job: Callable[..., Job]
) -> None:
    slow = [in_both(number, "time.sleep(0.4)") for number in (1, 2, 3)]
    project = make_project(tmp_path, slow, env=with_creator(database))
    jobs = [start_job("upgrade", cwd=project.path) for _ in range(3)]
    results = [job.finish() for job in jobs]
    assert [result.exit_code for result in results] == [0, 0, 0], [result.finished for result in results]
    assert sorted(result.finished["count"] for result in results) == [0, 0, 3]


# --- the wrong database -------------------------------------------------------------------------------


def test_env_py_that_goes_elsewhere_than_the_settings_say_is_refused(
    tmp_path: Path, database: Database, request: pytest.FixtureRequest, run_job: Run
) -> None:
    if database.path:
        other = sqlite_database(tmp_path / "other.sqlite")
        other.execute("PRAGMA user_version = 1")
    else:
        server = "mariadb_server" if "mysql" in database.url else "postgresql_server"
        other = request.getfixturevalue(server).new_database()
    project = make_project(tmp_path, linear(2), env=own_engine('create_engine(os.environ["APP_DB"])'))
    environment = {"APP_DB": other.url, "ALEMBIC_JOB_DATABASE_URL": database.url}
    refused(run_job("upgrade", cwd=project.path, env=environment), 35, "wrong_database", "env.py connected to")
    assert not other.versions() and not database.versions()


# --- what is around env.py ----------------------------------------------------------------------------

NEEDS_CONTEXT = """
    import holder
    from alembic import context

    if not holder.opened:
        raise RuntimeError("outside of the application")
    from sqlalchemy import create_engine, pool
    engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""
HOLDER = """
from contextlib import contextmanager
opened = []

@contextmanager
def around():
    opened.append(1)
    yield
    opened.clear()

@contextmanager
def fails_at_the_end():
    opened.append(1)
    yield
    raise ValueError("cannot close")

def no_context_manager():
    return 7

not_callable = 3
"""


@pytest.fixture
def in_context(tmp_path: Path) -> Project:
    project = make_project(tmp_path, linear(2), env=NEEDS_CONTEXT)
    (project.path / "holder.py").write_text(HOLDER)
    return project


def test_env_py_runs_within_the_context_of_the_settings(in_context: Project, database: Database, run_job: Run) -> None:
    around = {"ALEMBIC_JOB_CONTEXT": "holder:around", "ALEMBIC_JOB_DATABASE_URL": database.url}
    went_up_and_stays(run_job, in_context, 2, **around)


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("nowhere:around", "cannot be imported"),
        ("holder:missing", "cannot be imported"),
        ("holder:no_context_manager", "no context manager"),
        ("holder:not_callable", "cannot be called"),
        ("holder", "CONTEXT"),
    ],
)
def test_a_context_that_cannot_be_used_is_told(in_context: Project, name: str, fact: str, run_job: Run) -> None:
    url = f"sqlite:///{in_context.path}/db.sqlite"
    result = run_job("upgrade", cwd=in_context.path, env={"ALEMBIC_JOB_CONTEXT": name, "ALEMBIC_JOB_DATABASE_URL": url})
    assert (result.exit_code, result.finished["exit_name"]) == (2, "config_invalid")
    assert fact in result.finished["error"]


def test_a_context_that_fails_at_its_end_is_told_with_what_was_applied(in_context: Project, run_job: Run) -> None:
    database = sqlite_database(in_context.path / "db.sqlite")
    env = {"ALEMBIC_JOB_CONTEXT": "holder:fails_at_the_end", "ALEMBIC_JOB_DATABASE_URL": database.url}
    database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    result = run_job("upgrade", cwd=in_context.path, env=env)
    assert (result.exit_code, result.finished["error"].count("cannot close")) == (2, 1)
    assert database.versions() == set(result.finished["to"])


@pytest.mark.parametrize("what", ["connection", "engine"])
def test_an_env_py_that_demands_a_connection_gets_one(
    tmp_path: Path, database: Database, what: str, run_job: Run
) -> None:
    connect = "connection = connectable" if what == "connection" else "connection = connectable.connect()"
    env = f"""
        from alembic import context

        connectable = context.config.attributes["connection"]
        {connect}
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
        if {what!r} == "engine":
            connection.close()
    """
    project = make_project(tmp_path, linear(2), env=env)
    environment = {"ALEMBIC_JOB_INJECT_CONNECTION": what, "ALEMBIC_JOB_DATABASE_URL": database.url}
    went_up_and_stays(run_job, project, 2, **environment)


def test_env_py_may_change_the_directory_take_the_signals_and_import_from_elsewhere(
    tmp_path: Path, start_job: Callable[..., Job]
) -> None:
    database = sqlite_database(tmp_path / "db.sqlite")
    env = textwrap.dedent("""
        import os, signal, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.chdir("/")
        from alembic import context
        sys.path.insert(0, os.path.join(os.path.dirname(context.script.dir), "lib"))
    """) + own_engine('create_engine(context.config.get_main_option("sqlalchemy.url"))')
    project = make_project(tmp_path, env=env)
    (project.path / "lib").mkdir()
    (project.path / "lib" / "found_later.py").write_text("import time")
    project.add(*(in_both(n, "import found_later\nfound_later.time.sleep(1)") for n in (1, 2, 3, 4, 5)))
    job = start_job("upgrade", cwd=project.path, env={"ALEMBIC_JOB_DATABASE_URL": database.url})
    job.wait_for("revision_started")
    job.send_signal(signal.SIGTERM)
    result = job.finish()
    assert result.exit_code == 143
    assert database.versions() == set(result.finished["to"])


def test_env_py_may_run_its_migrations_in_a_thread(tmp_path: Path, database: Database, run_job: Run) -> None:
    env = """
        import threading
        from alembic import context
        from sqlalchemy import create_engine, pool

        def migrate():
            engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
            with engine.connect() as connection:
                context.configure(connection=connection)
                with context.begin_transaction():
                    context.run_migrations()

        thread = threading.Thread(target=migrate)
        thread.start()
        thread.join()
    """
    project = make_project(tmp_path, linear(3), env=env)
    result = went_up_and_stays(run_job, project, 3, ALEMBIC_JOB_DATABASE_URL=database.url)
    assert result.finished["to"] == ["r3"]
    assert database.versions() == {"r3"}


def test_version_locations_that_env_py_sets_are_used(tmp_path: Path, run_job: Run) -> None:
    database = sqlite_database(tmp_path / "db.sqlite")
    env = textwrap.dedent("""
        import os
        from alembic import context
        context.script.version_locations = [os.path.join(context.script.dir, "elsewhere")]
    """) + own_engine('create_engine(context.config.get_main_option("sqlalchemy.url"))')
    project = make_project(tmp_path, linear(3), env=env)
    project.versions.rename(project.versions.parent / "elsewhere")
    went_up_and_stays(run_job, project, 3, ALEMBIC_JOB_DATABASE_URL=database.url)


# --- several databases --------------------------------------------------------------------------------

MULTIDB = """
    from alembic import context
    from sqlalchemy import engine_from_config, pool

    names = context.config.get_main_option("databases").split(", ")
    opened = []
    try:
        for name in names:
            engine = engine_from_config(context.config.get_section(name), prefix="sqlalchemy.", poolclass=pool.NullPool)
            connection = engine.connect()
            opened.append((name, connection, connection.begin()))
        for name, connection, _ in opened:
            context.configure(connection=connection, upgrade_token=f"{name}_upgrades")
            context.run_migrations(engine_name=name)
        for _, _, transaction in opened:
            transaction.commit()
    except:
        for _, _, transaction in opened:
            transaction.rollback()
        raise
    finally:
        for _, connection, _ in opened:
            connection.close()
"""


def in_both(number: int, then: str = "pass") -> Revision:
    table = f'op.create_table("t{number}", sa.Column("id", sa.Integer))'
    return Revision(f"r{number}", f"r{number - 1}" if number > 1 else None, f"{table}\n{then}")


def of_several(tmp_path: Path, one: Database, two: Database, *revisions: Revision) -> Project:
    project = make_project(tmp_path, env=MULTIDB, ini={"databases": "users, orders"})
    with project.ini.open("a") as ini:
        ini.write(f"\n[users]\nsqlalchemy.url = {one.url}\n\n[orders]\nsqlalchemy.url = {two.url}\n")
    project.add(*revisions)
    for path in project.versions.glob("*.py"):  # as the template does, with the name of the database
        path.write_text(path.read_text().replace("def upgrade()", "def upgrade(engine_name)"))
    return project


def test_several_databases_have_a_plan_and_a_lock_each(
    tmp_path: Path, pair: tuple[Database, Database], run_job: Run
) -> None:
    project = of_several(tmp_path, *pair, in_both(1), in_both(2))
    result = run_job("upgrade", cwd=project.path)
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded"), result.stdout
    for name in ("plan_ready", "environment_connected", "lock_acquired", "lock_released"):
        assert {event["section"] for event in result.of(name)} == {"users", "orders"}
    assert [event["section"] for event in result.of("revision_started")] == ["users"] * 2 + ["orders"] * 2
    assert [database.versions() for database in pair] == [{"r2"}, {"r2"}]
    again = run_job("upgrade", cwd=project.path)
    assert (again.exit_code, again.finished["outcome"]) == (0, "up_to_date")


def test_one_of_several_databases_fails_and_what_became_of_each_is_told(
    tmp_path: Path, pair: tuple[Database, Database], run_job: Run
) -> None:
    fails = in_both(2, "if engine_name == 'orders': raise ValueError('no orders')")
    project = of_several(tmp_path, *pair, in_both(1), fails)
    result = run_job("upgrade", cwd=project.path)
    assert result.exit_code in (40, 41)
    assert [event["section"] for event in result.of("revision_failed")][-1:] == ["orders"]
    for name, database in zip(("users", "orders"), pair, strict=True):
        committed = [
            r for event in result.of("transaction_committed") if event["section"] == name for r in event["revisions"]
        ]
        assert set(committed[-1:]) == database.versions()


def test_a_command_for_one_database_names_the_several(
    tmp_path: Path, pair: tuple[Database, Database], run_job: Run
) -> None:
    project = of_several(tmp_path, *pair, in_both(1))
    result = run_job("stamp", "r1", cwd=project.path)
    refused(result, 2, "config_invalid", "users, orders")
