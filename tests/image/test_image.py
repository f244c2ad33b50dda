"""The image as an orchestrator runs it: read-only, as uid 10001, without capabilities, against MariaDB."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner import __version__
from tests import job
from tests.databases import Database, Server
from tests.image.containers import BOOKSHOP, DOCKER, HEAD, ROOT, Container, built, docker
from tests.job import Revision, creates, make_project

HARDENED = ["--network", "host", "--read-only", "--user", "10001", "--cap-drop", "ALL"]
HARDENED += ["--security-opt", "no-new-privileges"]

Start = Callable[..., "Container"]


@pytest.fixture
def start(image: str) -> Iterator[Start]:
    """Start the image, hardened and with a project mounted at /app; removed at the end."""
    started: list[Container] = []

    def start(
        *arguments: str,
        database: str | Database | None = None,
        env: dict[str, str] | None = None,
        project: Path | None = BOOKSHOP,
        options: list[str] | None = None,
        image: str = image,
        plain: bool = False,
    ) -> Container:
        variables = {"ALEMBIC_JOB_DATABASE_URL": getattr(database, "url", database), **(env or {})}
        given = [f"--env={name}={value}" for name, value in variables.items() if value is not None]
        mount = [f"--volume={project}:/app:ro"] if project else []
        command = [*HARDENED, *given, *mount, *(options or []), image, *arguments]
        started.append(Container(command, plain=plain))
        return started[-1]

    yield start
    for container in started:
        container.remove()


@pytest.fixture
def run(start: Start) -> Callable[..., job.Result]:
    """Run the image to its end."""

    def run(*arguments: str, **options: Any) -> job.Result:
        return start(*arguments, **options).job.finish()

    return run


@pytest.fixture
def shell(image: str) -> Callable[[str], str]:
    """Run a shell command in the image, and return what it printed."""
    return lambda script: docker("run", "--rm", *HARDENED, "--entrypoint", "sh", image, "-c", script)


@pytest.fixture
def bookshop(mariadb_server: Server) -> Database:
    """An empty database."""
    return mariadb_server.new_database()


def test_the_first_run_upgrades_and_the_second_has_nothing_to_do(run, bookshop):
    first = run("upgrade", database=bookshop)
    assert (first.exit_code, first.finished["outcome"]) == (0, "upgraded")
    assert bookshop.versions() == {HEAD}

    second = run(database=bookshop)
    assert (second.exit_code, second.finished["outcome"]) == (0, "up_to_date")
    assert "lock_acquired" not in second.names


def test_a_wrong_password_is_11(run, bookshop):
    url = replace(bookshop.login, password="wrong").url("mysql+pymysql")
    assert run("upgrade", database=url).exit_code == 11


def test_an_unknown_database_is_12(run, mariadb_server):
    url = replace(mariadb_server.login, name="nowhere").url("mysql+pymysql")
    assert run("upgrade", database=url).exit_code == 12


def test_wait_gives_up_on_a_database_that_stays_behind_and_accepts_one_that_is_there(run, bookshop):
    behind = run("wait", database=bookshop, env={"ALEMBIC_JOB_TARGET_TIMEOUT": "2s"})
    assert behind.exit_code == 22
    assert bookshop.tables() == set()

    assert run("upgrade", database=bookshop).exit_code == 0
    assert run("wait", database=bookshop).exit_code == 0


def test_docker_stop_ends_a_wait_for_a_database_at_once(start):
    container = start("upgrade", database="mysql+pymysql://nobody:nothing@127.0.0.1:9/nowhere")
    container.job.wait_for("database_waiting")

    assert container.stop(grace_s=10) < 5

    result = container.job.finish()
    assert result.exit_code == 143
    assert result.finished["outcome"] == "interrupted"


def test_docker_stop_lets_the_running_revision_finish_and_starts_no_other(start, bookshop, tmp_path):
    slow = Revision("slow", upgrade='op.execute("SELECT SLEEP(4)"); op.execute("CREATE TABLE first (id INT)")')
    project = make_project(tmp_path, [slow, creates("second", "next", "slow")])
    container = start("upgrade", database=bookshop, project=project.path)
    container.job.wait_for("revision_started", revision="slow")

    assert container.stop(grace_s=30) < 10

    result = container.job.finish()
    assert (result.exit_code, result.finished["outcome"]) == (143, "interrupted")
    assert result.finished["applied"] == ["slow"]
    assert bookshop.versions() == {"slow"}
    assert bookshop.tables() == {"alembic_version", "first"}


def test_the_termination_log_says_why_the_run_failed(run, bookshop, tmp_path):
    log = tmp_path / "termination-log"
    log.touch()
    log.chmod(0o666)  # as kubelet makes it

    url = replace(bookshop.login, password="wrong").url("mysql+pymysql")
    run("upgrade", database=url, options=[f"--volume={log}:/dev/termination-log"])

    assert len(log.read_bytes()) <= 1024
    said = json.loads(log.read_text())
    assert list(said) == ["error", "hint", "exit_name", "exit_code", "revision"]
    assert (said["exit_name"], said["exit_code"]) == ("login_refused", 11)


def test_any_other_user_id_works_too(run, bookshop):
    assert run("upgrade", database=bookshop, options=["--user=1000620000:0"]).exit_code == 0


def test_help_needs_no_project(start):
    result = start("--help", project=None, plain=True).job.finish()
    assert result.exit_code == 0
    assert "ALEMBIC_JOB_WAIT_TIMEOUT" in result.stdout


def test_a_terminal_gets_text(start, bookshop):
    result = start("upgrade", database=bookshop, options=["--tty"], plain=True).job.finish()
    assert result.exit_code == 0
    assert HEAD in result.stdout
    assert not any(line.startswith("{") for line in result.stdout.splitlines())


def test_the_user_is_10001_and_has_a_name(shell):
    assert shell("id -u; id -un; python -c 'import getpass; print(getpass.getuser())'").split() == [
        "10001",
        "alembic-job",
        "alembic-job",
    ]


def test_the_image_itself_names_a_numeric_user(image):
    # Kubernetes cannot tell that a name is not root's, and refuses it with runAsNonRoot.
    assert docker("image", "inspect", "--format", "{{.Config.User}}", image) == "10001:10001"


def test_no_build_tools_and_no_leftovers_of_pip_are_in_the_image(shell):
    assert shell("command -v gcc cc make git; ls -d /root/.cache /src /wheels 2>/dev/null; true") == ""
    assert shell("ls /opt/alembic-job/lib/python3*/site-packages | grep -E '^(pip|setuptools)'; true") == ""


def test_everything_is_compiled_since_a_read_only_root_never_will_be(shell):
    loaded = shell("cd /tmp; python -v -c 'import alembic.command, pymysql, psycopg' 2>&1")
    assert "code object from" in loaded
    assert re.findall(r"^# code object from '([^']*\.py)'", loaded, re.MULTILINE) == []


def test_the_labels_tell_what_the_image_is(image):
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
    said = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert said["title"] == "alembic-job"
    assert said["licenses"] == "Apache-2.0"
    assert said["version"] == __version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", said["created"])
    assert {"description", "revision", "base.name"} <= said.keys()


def test_the_entrypoint_says_so_when_the_program_is_missing(image):
    command = [DOCKER, "run", "--rm", *HARDENED, "--env=PATH=/usr/bin:/bin", image]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no alembic-job on PATH" in done.stderr


# --- docs/images.md: what it shows is what is built here


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """The bookshop as a build context of its own."""
    return Path(shutil.copytree(BOOKSHOP, tmp_path / "bookshop"))


@pytest.fixture(scope="session")
def shown(image: str) -> list[str]:
    """The Dockerfiles that the page shows, with the image under test in place of the released one."""
    page = (ROOT / "docs" / "images.md").read_text()
    blocks = re.findall(r"^```dockerfile\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [block.replace(f"alembic-job:{__version__}", image) for block in blocks]


def test_the_project_can_be_copied_into_an_image_on_top(run, bookshop, shown, context):
    image = built("copied", shown[0], context)
    assert run(database=bookshop, project=None, image=image).exit_code == 0
    assert bookshop.versions() == {HEAD}


def test_pip_install_on_top_replaces_the_versions_that_the_program_runs_with(run, bookshop, shown, context):
    (context / "requirements.txt").write_text("sqlalchemy==2.0.44\n")
    image = built("installed", shown[1], context)
    result = run(database=bookshop, project=None, image=image)
    assert result.exit_code == 0
    assert result.one("run_started")["sqlalchemy"] == "2.0.44"


def test_an_existing_image_keeps_its_own_pins(run, bookshop, shown, context):
    app = built(
        "app",
        f"FROM {os.environ['TEST_BASE_IMAGE']}\n"
        "RUN pip install --no-cache-dir sqlalchemy==2.0.44 alembic==1.16.5\n"
        "WORKDIR /srv\n"
        "COPY . .\n"
        'ENTRYPOINT ["python3", "-c", "import bookshop"]\n',
        context,
    )
    image = built("inside", shown[2].replace("bookshop:1.4.2", app), context)
    options = {"project": None, "image": image, "options": ["--entrypoint=alembic-job.sh"]}

    heads = run("heads", **options)
    assert heads.exit_code == 0
    assert HEAD in heads.stdout

    upgrade = run("upgrade", database=bookshop, **options)
    assert upgrade.exit_code == 0
    started = upgrade.one("run_started")
    assert (started["sqlalchemy"], started["alembic"]) == ("2.0.44", "1.16.5")
    assert bookshop.versions() == {HEAD}
