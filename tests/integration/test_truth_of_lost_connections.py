"""State beats cause, when the connection, the server or env.py is lost on the way."""

from __future__ import annotations

import builtins
import contextlib
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import story
from tests.databases import Database
from tests.integration.test_truth import (
    ENVS,
    RAISES,
    ddl,
    dml,
    env,
    hold_against_the_database,
    indented,
    of_revision,
    present,
    project_with,
)
from tests.job import Revision
from tests.servers import PrivateServer

TEMPLATE = ENVS["as the template has it"]
EACH = ENVS["a transaction for each migration"]

_ELSEWHERE = """
def elsewhere(sql):
    with sa.create_engine(op.get_bind().engine.url, isolation_level="AUTOCOMMIT").connect() as other:
        other.execute(sa.text(sql))
"""
KILLED = {
    "mariadb": """
me = op.get_bind().execute(sa.text("SELECT CONNECTION_ID()")).scalar()
threading.Timer(0.3, elsewhere, [f"KILL {me}"]).start()
op.execute("UPDATE kept SET what = what WHERE SLEEP(5) = 1")
""",
    "postgresql": """
me = op.get_bind().execute(sa.text("SELECT pg_backend_pid()")).scalar()
threading.Timer(0.3, elsewhere, [f"SELECT pg_terminate_backend({me})"]).start()
op.execute("SELECT pg_sleep(5)")
""",
}
# What holds the lock is the only other session of this user.
LOCK_KILLED = {
    "mariadb": """
others = "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()"
for (one,) in op.get_bind().execute(sa.text(others)).fetchall():
    op.execute(f"KILL {one}")
""",
    "postgresql": """
op.execute(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE starts_with(application_name, 'alembic-job/') AND usename = current_user"
)
""",
}
END_ME = {"mariadb": 'f"KILL {me}"', "postgresql": 'f"SELECT pg_terminate_backend({me})"'}
ASK = {"mariadb": "SELECT CONNECTION_ID()", "postgresql": "SELECT pg_backend_pid()"}
SERVERS = ["mariadb", "postgresql"]


def third(body: str) -> Revision:
    return Revision("r3", "r2", upgrade="import threading\n" + _ELSEWHERE + body)


@pytest.mark.parametrize("env_py", [TEMPLATE, EACH], ids=["template", "each"])
@pytest.mark.parametrize(
    ("database", "before", "code"),
    [
        ("mariadb", dml("r3_1"), 43),
        ("mariadb", ddl("r3_1"), 41),
        ("mariadb", dml("r3_1") + ddl("r3_2"), 41),
        ("postgresql", ddl("r3_1") + dml("r3_2"), 43),
        ("postgresql", "with op.get_context().autocommit_block():\n" + indented(ddl("r3_1")), 41),
    ],
    indirect=["database"],
)
def test_a_session_that_the_server_kills_leaves_what_the_events_say(
    database: Database, before: str, code: int, env_py: str, tmp_path: Path
) -> None:
    project = project_with(tmp_path, third(before + KILLED[database.dialect]), env_py)
    said = story.upgrade(project, database)
    hold_against_the_database(said, project, database)
    assert said.exit_code == code, str(said)


@pytest.mark.parametrize("env_py", [TEMPLATE, EACH], ids=["template", "each"])
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_when_the_lock_is_lost_no_further_revision_starts(database: Database, env_py: str, tmp_path: Path) -> None:
    project = project_with(tmp_path, third(ddl("r3_1") + LOCK_KILLED[database.dialect]), env_py)
    said = story.upgrade(project, database)
    hold_against_the_database(said, project, database)
    assert said.started == ["r1", "r2", "r3"]
    assert said.exit_code == 21, str(said)
    whole = database.dialect == "postgresql" and env_py == TEMPLATE
    assert said.applied == ([] if whole else ["r1", "r2", "r3"])


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_session_that_is_lost_before_the_first_revision_is_no_bug_of_ours(database: Database, tmp_path: Path) -> None:
    # Found by the chaos suite, postgresql, seed 1, round 6: the server was killed when Alembic had not read a row yet.
    # The first time env.py is only looked at; the second time it migrates.
    kill = f"""
    import builtins
    builtins.runs_of_env_py = getattr(builtins, "runs_of_env_py", 0) + 1
    if builtins.runs_of_env_py == 2:
        me = connection.exec_driver_sql("{ASK[database.dialect]}").scalar()
        if hasattr(connection, "rollback"):  # SQLAlchemy 2 begins by itself
            connection.rollback()
        with engine.connect() as other:
            other.exec_driver_sql({END_ME[database.dialect]})
"""
    text = TEMPLATE.replace("    context.conf", kill + "    context.conf", 1)
    project = project_with(tmp_path, FINE, text)
    try:
        said = story.upgrade(project, database)
    finally:
        vars(builtins).pop("runs_of_env_py", None)
    assert said.exit_code == 10, str(said)
    assert database.tables() == set()


@pytest.mark.parametrize("dialect", SERVERS)
def test_when_others_have_all_connections_env_py_gets_one_later_under_the_lock_too(
    dialect: str, private_server: Callable[..., PrivateServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Found by the fleet, 50 waiters and room for 8: who had the lock ended with 10.
    database = private_server(dialect, max_connections=10).new_database()
    held: list[Any] = []

    def take_all() -> None:
        with contextlib.suppress(Exception):
            while len(held) < 10:
                held.append(database.connect())
        threading.Timer(1, lambda: [one.close() for one in held]).start()

    runs = itertools.count(1)  # the first time env.py is only looked at; the second time it migrates
    monkeypatch.setattr("builtins.at_the_start", lambda: take_all() if next(runs) == 2 else None, raising=False)
    project = project_with(tmp_path, FINE, "at_the_start()\n" + TEMPLATE)
    said = story.upgrade(project, database)
    assert 0 < len(held) < 10, "there was room for more"
    assert said.exit_code == 0, str(said)
    assert said.applied == ["r1", "r2", "r3", "r4"]


@pytest.mark.parametrize(
    ("database", "body", "code"),
    [
        ("mariadb", dml("r3_1"), 43),
        ("mariadb", ddl("r3_1") + dml("r3_2"), 41),
        ("postgresql", ddl("r3_1") + dml("r3_2"), 43),
    ],
    indirect=["database"],
)
def test_a_commit_that_is_lost_is_not_taken_for_one(database: Database, body: str, code: int, tmp_path: Path) -> None:
    at_commit = f"""
me = op.get_bind().execute(sa.text("{ASK[database.dialect]}")).scalar()
def kill(connection):
    elsewhere({END_ME[database.dialect]})
bind = op.get_bind()
url = bind.engine.url
def elsewhere(sql):
    with sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as other:
        other.execute(sa.text(sql))
sa.event.listen(bind, "commit", kill, once=True)
"""
    project = project_with(tmp_path, third(body + at_commit), EACH)
    said = story.upgrade(project, database)
    hold_against_the_database(said, project, database)
    assert said.exit_code == code, str(said)


@pytest.mark.parametrize(
    ("dialect", "durably", "body", "code"),
    [
        ("mariadb", {"innodb_flush_log_at_trx_commit": 1}, dml("r3_1") + ddl("r3_2"), 41),
        ("postgresql", {"synchronous_commit": "on"}, ddl("r3_1"), 43),
    ],
)
def test_a_server_that_dies_leaves_what_the_events_say(
    dialect: str,
    durably: dict[str, object],
    body: str,
    code: int,
    private_server: Callable[..., PrivateServer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    server = private_server(dialect, **durably)
    database = server.new_database()
    monkeypatch.setattr("runner.place._READ_BACK_S", 0.5)
    monkeypatch.setattr("builtins.kill_the_server", server.kill, raising=False)
    project = project_with(tmp_path, third(body + "kill_the_server()\n" + dml("r3_9")), EACH)
    said = story.upgrade(project, database)
    assert said.exit_code == code, str(said)
    server.start()
    left = of_revision(present(database), "r3")
    assert left == ({"r3_1", "r3_2"} if code == 41 else set())
    assert database.versions() == {"r2"}
    monkeypatch.setattr("builtins.kill_the_server", lambda: None)
    again = story.upgrade(project, database)
    assert again.exit_code == 0, str(again)


FINE = Revision("r3", "r2", upgrade=ddl("r3_1") + dml("r3_2"))


@pytest.mark.parametrize("env_py", [*ENVS, "raises within"])
def test_when_env_py_raises_after_the_last_revision_the_events_are_true(
    database: Database, env_py: str, tmp_path: Path
) -> None:
    text = ENVS.get(env_py, TEMPLATE)
    depth = 8 if env_py == "raises within" else 4
    text = f"{text.rstrip()}\n{' ' * depth}{RAISES}"
    project = project_with(tmp_path, FINE, text)
    said = story.upgrade(project, database)
    hold_against_the_database(said, project, database)
    assert said.exit_code in (2, 41), str(said)


@pytest.mark.parametrize("env_py", ENVS)
def test_when_all_goes_well_the_events_are_true(database: Database, env_py: str, tmp_path: Path) -> None:
    project = project_with(tmp_path, FINE, ENVS[env_py])
    said = story.upgrade(project, database)
    hold_against_the_database(said, project, database)
    assert (said.exit_code, said.applied) == (0, ["r1", "r2", "r3", "r4"])


def test_an_env_py_that_runs_its_migrations_twice_is_recorded_once(database: Database, tmp_path: Path) -> None:
    text = TEMPLATE + "    with context.begin_transaction():\n        context.run_migrations()\n"
    project = project_with(tmp_path, FINE, text)
    said = story.upgrade(project, database)
    hold_against_the_database(said, project, database)
    assert (said.exit_code, said.applied) == (0, ["r1", "r2", "r3", "r4"])


def test_an_env_py_that_begins_a_transaction_and_never_commits_did_not_reach_the_target(
    database: Database, tmp_path: Path
) -> None:
    text = env(begin="connect").replace("    context.conf", "    connection.begin()\n    context.conf")
    project = project_with(tmp_path, FINE, text)
    said = story.upgrade(project, database)
    hold_against_the_database(said, project, database)
    assert said.exit_code == (45 if database.dialect == "postgresql" else 41), str(said)
