"""``wait`` with the login of the application, which may change rows and no tables."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.acceptance.expect import URL
from tests.databases import Database, Login, Server
from tests.job import Job, Project, Result, linear, make_project

Run = Callable[..., Result]
Start = Callable[..., Job]


@pytest.fixture(params=["mariadb", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server.new_database()


@pytest.fixture
def application(database: Database, request: pytest.FixtureRequest) -> str:
    """The URL of a user who may do with the rows of all tables, those to come too, what he likes."""
    server: Server = request.getfixturevalue(f"{database.dialect}_server")
    owner = database.login
    assert owner
    login = Login(owner.host, owner.port, f"{owner.user}_a", owner.password, owner.name)
    if database.dialect == "mariadb":
        server.admin(
            f"CREATE USER {login.user}@'%' IDENTIFIED BY '{login.password}'",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {login.name}.* TO {login.user}@'%'",
        )
    else:
        server.admin(
            f"CREATE ROLE {login.user} LOGIN PASSWORD '{login.password}'",
            f"GRANT CONNECT ON DATABASE {login.name} TO {login.user}",
        )
        database.execute(
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {login.user}"
        )
    return login.url(database.url.partition(":")[0])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, linear(2))


def test_it_sees_that_the_target_is_there(database: Database, application: str, project: Project, run_job: Run) -> None:
    assert run_job("upgrade", cwd=project.path, env={URL: database.url}).exit_code == 0
    result = run_job("wait", cwd=project.path, env={URL: application})
    assert (result.exit_code, result.finished["outcome"]) == (0, "ready"), result.stdout
    assert result.finished["to"] == ["r2"]


def test_it_sees_the_target_come_to_an_empty_database(
    database: Database, application: str, project: Project, start_job: Start, run_job: Run
) -> None:
    waits = start_job("wait", cwd=project.path, env={URL: application})
    waits.wait_for("plan_ready")
    time.sleep(1)
    assert run_job("upgrade", cwd=project.path, env={URL: database.url}).exit_code == 0
    assert waits.finish().finished["outcome"] == "ready"


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_it_sees_that_the_database_is_ahead_of_an_older_image(
    database: Database, application: str, project: Project, run_job: Run
) -> None:
    assert rolled_back(database, project, run_job) == {"r3"}
    result = run_job("wait", cwd=project.path, env={URL: application})
    assert (result.exit_code, result.finished["outcome"]) == (0, "ahead"), result.stdout


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_it_is_told_which_right_it_lacks_to_see_that_on_postgresql(
    database: Database, application: str, project: Project, run_job: Run
) -> None:
    assert rolled_back(database, project, run_job) == {"r3"}
    result = run_job("wait", cwd=project.path, env={URL: application})
    assert (result.exit_code, result.finished["exit_name"]) == (30, "revision_unknown")
    hint = result.one("ledger_unavailable")["hint"]
    assert "create" not in hint.lower()
    grants = re.findall(r"GRANT [^;]*;", hint)
    assert len(grants) == 2
    user = urlsplit(application).username or ""
    database.execute(*(grant.replace("…", user) for grant in grants))
    result = run_job("wait", cwd=project.path, env={URL: application})
    assert (result.exit_code, result.finished["outcome"]) == (0, "ahead"), result.stdout
    assert not result.of("ledger_unavailable")


def rolled_back(database: Database, project: Project, run_job: Run) -> set[str]:
    """Migrate, and take the newest file away, as an older image lacks it; answer where the database is."""
    project.add(*linear(3)[2:])
    assert run_job("upgrade", cwd=project.path, env={URL: database.url}).exit_code == 0
    project.remove("r3")
    shutil.rmtree(project.versions / "__pycache__", ignore_errors=True)
    return database.versions()
