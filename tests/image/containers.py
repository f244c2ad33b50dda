"""Containers of a real engine, which the environment names as ``docker`` finds it."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from pathlib import Path

from tests import job

ROOT = Path(__file__).parents[2]
BOOKSHOP = ROOT / "examples" / "bookshop"
HEAD = "84ba5df1c76e"
DOCKER = os.environ.get("DOCKER", "docker")


def docker(*arguments: str | Path, text: str | None = None, check: bool = True) -> str:
    """Run a docker command, and return what it printed."""
    command = [DOCKER, *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=300)
    assert not check or done.returncode == 0, f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


class Container:
    """A container that runs, with its output as ``tests.job`` reads and checks it. It stays until it is removed."""

    def __init__(self, arguments: list[str], *, plain: bool = False) -> None:
        self.name = f"alembic-job-test-{uuid.uuid4().hex[:12]}"
        client = {name: os.environ.get(name) for name in ("HOME", "DOCKER_HOST")}
        self.job = job.start([DOCKER, "run", "--name", self.name, *arguments], cwd=ROOT, env=client, plain=plain)

    def stop(self, grace_s: int) -> float:
        """Stop it as ``docker stop`` does, and return how many seconds that took."""
        began = time.monotonic()
        docker("stop", "--time", str(grace_s), self.name)
        return time.monotonic() - began

    def remove(self) -> None:
        """End it, and leave nothing."""
        docker("rm", "--force", "--volumes", self.name, check=False)
        self.job.kill()


def built(name: str, dockerfile: str, context: Path) -> str:
    """Build a Dockerfile, and return the image's tag."""
    tag = f"alembic-job-test:{name}"
    docker("build", "--network=host", "--file=-", "--tag", tag, context, text=dockerfile)
    return tag
