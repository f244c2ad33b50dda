"""A node that vanishes says no word: its packets are dropped, and its sessions would keep their locks for hours.

As root, with a network namespace as the node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import job as process
from tests.acceptance.expect import URL
from tests.job import Job, Revision, linear, make_project
from tests.servers import PrivateServer

pytestmark = pytest.mark.parametrize("dialect", ["mariadb", "postgresql"])


def ip(*arguments: str) -> None:
    if shutil.which("ip") is None:
        subprocess.run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", "iproute2"], check=True)
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30)


@dataclass(frozen=True)
class Node:
    """A host of its own, behind a cable that can be pulled."""

    name: str
    cable: str
    server_address: str

    def pull_the_cable(self) -> None:
        ip("link", "set", self.cable, "down")


@pytest.fixture
def node(dialect: str) -> Iterator[Node]:
    number = 1 if dialect == "mariadb" else 2
    name = f"ajt{os.getpid() % 100_000}{number}"  # an interface's name has room for 15
    cable, ours = f"{name}a", f"10.213.{number}.1"
    ip("netns", "add", name)
    try:
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("address", "add", f"{ours}/30", "dev", cable)
        ip("link", "set", cable, "up")
        ip("-n", name, "address", "add", f"10.213.{number}.2/30", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        yield Node(name, cable, ours)
    finally:
        ip("netns", "delete", name)


def test_its_keys_are_free_within_two_minutes(
    tmp_path: Path,
    dialect: str,
    node: Node,
    private_server: Callable[..., PrivateServer],
    start_job: Callable[..., Job],
    request: pytest.FixtureRequest,
) -> None:
    if dialect == "mariadb":
        server = private_server(dialect, bind_address="0.0.0.0")
    else:
        rules = Path(tempfile.mkdtemp(dir="/tmp"), "hba")  # not below a folder that is root's alone
        rules.write_text("host all all 0.0.0.0/0 scram-sha-256\n")
        rules.parent.chmod(0o755)
        request.addfinalizer(lambda: shutil.rmtree(rules.parent))
        server = private_server(dialect, listen_addresses="*", hba_file=rules)
    database = server.new_database()
    statement = "SELECT SLEEP(4)" if dialect == "mariadb" else "SELECT pg_sleep(4)"
    slow = Revision("r1", upgrade=f'op.execute("{statement}")\nif not os.path.exists("again"):\n    time.sleep(600)')
    project = make_project(tmp_path, [slow, *linear(2)[1:]])
    there = database.url.replace("127.0.0.1", node.server_address)

    command = ["ip", "netns", "exec", node.name, str(process.SCRIPTS / "alembic-job"), "upgrade"]
    vanished = process.start(command, cwd=project.path, env={URL: there})
    try:
        vanished.wait_for("revision_started")
        time.sleep(1)
        node.pull_the_cable()
        since = time.monotonic()
        (project.path / "again").touch()
        env = {URL: database.url, "ALEMBIC_JOB_LOCK_TIMEOUT": "130s", "ALEMBIC_JOB_HEARTBEAT": "5s"}
        result = start_job("upgrade", cwd=project.path, env=env).finish(150)
        assert (result.exit_code, result.finished["applied"]) == (0, ["r1", "r2"])
        assert result.of("lock_waiting")
        print(f"free after {time.monotonic() - since:.0f} s")
        assert time.monotonic() - since < 120
    finally:
        vanished.kill()
