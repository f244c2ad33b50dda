"""How much memory a pod needs: ``python -m tests.image.memory IMAGE`` prints a table.

``processes``: the largest resident sets of all processes, added up, shared pages twice. ``anonymous``: what the kernel
cannot give back, of the whole container. ``runs with``: the least limit with which it ends well, in steps of 8 MiB.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.databases import Database, Server
from tests.image.containers import BOOKSHOP, Container, docker
from tests.job import linear, make_project
from tests.servers import private_server

MIB = 1 << 20
STEP = 8


def start(image: str, project: Path, database: Database, arguments: list[str], limit: int | None) -> Container:
    """Start it as the manifest does, as far as memory is concerned."""
    limits = [f"--memory={limit}m", f"--memory-swap={limit}m"] if limit else []
    env = [f"--env=ALEMBIC_JOB_DATABASE_URL={database.url}"]
    options = ["--network=host", "--read-only", "--tmpfs=/tmp", f"--volume={project}:/app:ro", *limits, *env]
    return Container([*options, image, *arguments])


def measured(container: Container) -> tuple[float, float]:
    """Watch it until it ends: both peaks, in MiB."""
    resident: dict[str, int] = {}
    anonymous = 0
    group: Path | None = None
    while container.job.process.poll() is None:
        group = group or next(_groups(container.name), None)
        if group:
            for pid in _lines(group / "cgroup.procs"):
                found = re.search(r"VmHWM:\s+(\d+)", "\n".join(_lines(Path(f"/proc/{pid}/status"))))
                resident[pid] = max(resident.get(pid, 0), int(found[1]) * 1024 if found else 0)
            stat = dict(line.split() for line in _lines(group / "memory.stat"))
            anonymous = max(anonymous, int(stat.get("total_rss") or stat.get("anon") or 0))
        time.sleep(0.005)
    return sum(resident.values()) / MIB, anonymous / MIB


def _groups(name: str) -> Iterator[Path]:
    """Where the kernel keeps the books of a container, in either version of cgroups."""
    if identity := docker("inspect", "--format", "{{.Id}}", name, check=False):
        for place in ("memory/docker/{}", "docker/{}", "system.slice/docker-{}.scope"):
            if (path := Path("/sys/fs/cgroup") / place.format(identity)).is_dir():
                yield path


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # it ended
        return []


def least(run: Callable[[int], bool], low: int, high: int) -> int:
    """The least limit with which it works, by halving: ``high`` does, ``low`` does not."""
    while high - low > STEP:
        middle = (low + high) // 2 // STEP * STEP
        low, high = (low, middle) if run(middle) else (middle, high)
    return high


def main(image: str) -> None:
    """Print the table."""
    print("| run | database | processes, MiB | anonymous, MiB | runs with, MiB |\n| --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        thousand = make_project(Path(directory), linear(1000)).path
        for dialect in ("mariadb", "postgresql"):
            server = private_server(dialect)
            try:
                full = server.new_database()
                assert _ends(start(image, thousand, full, ["upgrade"], None))
                for name, project, arguments, database in (
                    ("`upgrade`, the bookshop", BOOKSHOP, ["upgrade"], None),
                    ("`upgrade`, 1,000 revisions", thousand, ["upgrade"], None),
                    ("`upgrade`, 1,000 revisions, nothing to do", thousand, ["upgrade"], full),
                    ("`wait`, 1,000 revisions", thousand, ["wait"], full),
                    ("`wait --for connection`", thousand, ["wait", "--for", "connection"], full),
                ):
                    print(f"| {name} | {dialect} | {_cells(image, server, project, arguments, database)} |", flush=True)
            finally:
                server.discard()


def _cells(image: str, server: Server, project: Path, arguments: list[str], database: Database | None) -> str:
    def once(limit: int | None) -> Container:
        return start(image, project, database or server.new_database(), arguments, limit)

    container = once(None)
    resident, anonymous = measured(container)
    assert _ends(container)
    limit = least(lambda limit: _ends(once(limit)), 16, 256)
    return f"{resident:.0f} | {anonymous:.0f} | {limit}"


def _ends(container: Container) -> bool:
    try:
        container.job.process.wait(300)
        return container.job.process.returncode == 0
    finally:
        container.remove()


if __name__ == "__main__":
    main(sys.argv[1])
