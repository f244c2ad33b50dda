"""docs/credentials.md: TLS as its table says, and tokens that a sidecar writes, against real servers."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alembic
import pytest
import yaml

from tests import servers
from tests.acceptance.expect import URL, refused
from tests.databases import Database, Server
from tests.job import Job, Project, Result, Revision, linear, make_project

PAGE = (Path(__file__).parents[2] / "docs" / "credentials.md").read_text(encoding="utf-8")
Run = Callable[..., Result]

# Our own connection holds the lock, and env.py's runs this: both are seen, as the same user.
ENCRYPTED = {
    "mariadb": "SHOW STATUS LIKE 'Ssl_version'",
    "postgresql": "SELECT min(version) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = current_user",
}


@dataclass(frozen=True)
class Row:
    """A row of the table of TLS options."""

    driver: str
    query: str
    env: dict[str, str]

    @property
    def dialect(self) -> str:
        return "mariadb" if self.driver.startswith("mysql") else "postgresql"


def rows_of_the_table() -> list[Row]:
    found = []
    for drivers, query, env in re.findall(r"^\| (`[^|]*`) \| `\?([^`]*)`([^|]*) \|", PAGE, re.MULTILINE):
        variables = dict(re.findall(r"`(\w+)=([^`]*)`", env))
        found += [Row(driver, query, variables) for driver in re.findall(r"`([^`]+)`", drivers)]
    return [row for row in found if row.driver != "postgresql+psycopg2"]  # not beside the newest SQLAlchemy here


ROWS = rows_of_the_table()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Two certificates that servers made for themselves, both for 127.0.0.1 and no other name; the keys beside them."""
    folder = Path(tempfile.mkdtemp(prefix="alembic-job-test-tls-", dir="/tmp"))
    for name in ("ca", "other"):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=db.example"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the servers are other users of the system
    yield folder
    shutil.rmtree(folder)


def _with_tls(dialect: str, folder: Path) -> dict[str, object]:
    if dialect == "mariadb":
        return {"ssl_cert": folder / "ca.pem", "ssl_key": folder / "ca.key"}
    key = folder / "postgresql.key"
    shutil.copy(folder / "ca.key", key)
    key.chmod(0o600)  # it demands that
    if key.owner() == "root":
        shutil.chown(key, servers.KINDS["postgresql"].os_user)
    return {"ssl": "on", "ssl_cert_file": folder / "ca.pem", "ssl_key_file": key}


def _server(dialect: str, folder: Path) -> Iterator[Server]:
    started = servers.private_server(dialect, **_with_tls(dialect, folder))
    yield Server(dialect, started.login)
    started.discard()


@pytest.fixture(scope="module")
def mariadb_tls(folder: Path) -> Iterator[Server]:
    yield from _server("mariadb", folder)


@pytest.fixture(scope="module")
def postgresql_tls(folder: Path) -> Iterator[Server]:
    yield from _server("postgresql", folder)


def database_of(server: Server) -> Database:
    """A database whose user may not come in clear, where the server knows such a thing."""
    database = server.new_database()
    assert database.login
    if server.dialect == "mariadb":
        server.admin(f"ALTER USER '{database.login.user}'@'%' REQUIRE SSL")
    return database


def project_for(tmp_path: Path, row: Row) -> Project:
    template = Path(alembic.__file__).parent / "templates" / "async" / "env.py"
    is_async = row.driver in ("mysql+asyncmy", "postgresql+asyncpg")
    said = f'print("over", op.get_bind().exec_driver_sql("{ENCRYPTED[row.dialect]}").fetchall()[0][-1])'
    return make_project(tmp_path, [Revision("r1", None, said)], env=template.read_text() if is_async else None)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.driver)
def test_each_driver_is_encrypted_and_verified_as_the_table_says(
    row: Row, request: pytest.FixtureRequest, folder: Path, tmp_path: Path, run_job: Run
) -> None:
    database = database_of(request.getfixturevalue(f"{row.dialect}_tls"))
    assert database.login
    project = project_for(tmp_path, row)

    def run(ca: str, host: str = "127.0.0.1") -> Result:
        def here(text: str) -> str:
            return text.replace("/run/secrets/database/ca.pem", str(folder / ca))

        assert database.login
        url = database.login.url(row.driver).replace("127.0.0.1", host) + "?" + here(row.query)
        return run_job(cwd=project.path, env={URL: url, **{name: here(value) for name, value in row.env.items()}})

    result = run("ca.pem")
    assert result.exit_code == 0, result.stdout
    assert [event["text"][:8] for event in result.of("user_output") if "over" in event["text"]] == ["over TLS"]
    refused(run("other.pem"), 13, "permission_denied", "certificate")  # of another authority
    refused(run("ca.pem", "localhost"), 13, "permission_denied", "certificate")  # of another host


def test_the_table_has_a_row_for_each_driver_that_is_installed_here() -> None:
    drivers = {"mysql+pymysql", "mysql+asyncmy", "postgresql+psycopg", "postgresql+asyncpg"}
    assert {row.driver for row in ROWS} == drivers
    assert "`mysql+aiomysql`" in PAGE


# --- tokens -------------------------------------------------------------------------------------------


def manifest_with(container: str) -> dict[str, Any]:
    for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for document in yaml.safe_load_all(block):
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            for one in pod.get("initContainers", []):
                if one["name"] == container:
                    return {"pod": pod, "container": one}
    raise AssertionError(f"no manifest with a container {container!r}")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_token_that_a_sidecar_writes_anew_is_used_for_the_next_login(
    database: Database, postgresql_server: Server, tmp_path: Path, start_job: Callable[..., Job]
) -> None:
    """The sidecar's own lines run, with a stand-in for ``aws`` that prints what the database takes for a token now."""
    found = manifest_with("token")
    [migrate] = found["pod"]["containers"]
    assert found["container"]["restartPolicy"] == "Always"
    assert found["container"]["startupProbe"]["exec"]["command"] == ["test", "-s", "/token/password"]
    variables = {one["name"]: one.get("value") for one in migrate["env"]}
    assert variables["ALEMBIC_JOB_DB_PASSWORD_FILE"] == "/token/password"
    [script] = found["container"]["args"]
    token, programs = tmp_path / "token", tmp_path / "programs"
    token.mkdir()
    programs.mkdir()
    (programs / "aws").write_text(f"#!/bin/sh\n[ \"$1 $2\" = 'rds generate-db-auth-token' ] && cat {tmp_path}/now\n")
    (programs / "aws").chmod(0o755)
    login = database.login
    assert login
    (tmp_path / "now").write_text("yesterdays-token/?Action=connect&X-Amz-Signature=%2F\n")
    sidecar = subprocess.Popen(
        ["sh", "-c", script.replace("/token/", f"{token}/").replace("sleep 600", "sleep 0.2")],
        env={"PATH": f"{programs}:/usr/bin:/bin", **{one["name"]: "x" for one in found["container"]["env"]}},
    )
    try:
        deadline = time.monotonic() + 10
        while not (token / "password").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        env = {
            "ALEMBIC_JOB_DB_DRIVER": database.url.partition(":")[0],
            "ALEMBIC_JOB_DB_HOST": login.host,
            "ALEMBIC_JOB_DB_PORT": str(login.port),
            "ALEMBIC_JOB_DB_USER": login.user,
            "ALEMBIC_JOB_DB_NAME": login.name,
            "ALEMBIC_JOB_DB_PASSWORD_FILE": str(token / "password"),
            "ALEMBIC_JOB_RETRY_REFUSED_FOR": variables["ALEMBIC_JOB_RETRY_REFUSED_FOR"],
        }
        job = start_job("upgrade", cwd=make_project(tmp_path, linear(2)).path, env=env)
        job.wait_for("database_waiting")
        todays = "db.example:5432/?Action=connect&DBUser=x&X-Amz-Signature=%2Fa+b"  # as it is, not percent-encoded
        postgresql_server.admin(f"ALTER ROLE {login.user} PASSWORD '{todays}'")
        (tmp_path / "now").write_text(todays + "\n")
        result = job.finish()
        sidecar.terminate()
        assert sidecar.wait(5) == 0  # by its trap: as PID 1 it would not end of the signal itself
    finally:
        sidecar.kill()
        sidecar.wait()
    assert (result.exit_code, result.finished["to"]) == (0, ["r2"]), result.stdout
    assert todays not in result.stdout
