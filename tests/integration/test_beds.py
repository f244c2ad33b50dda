"""The servers of the tests themselves: a test run that is killed leaves neither processes nor files."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each says where its files are, and that it is under way; the last word is from within a start.
BEDS = {
    "pooler": """
server = private_server("postgresql")
pooler = start_pooler(server)
print(server.runtime._home, pooler._home, "begun", flush=True)
time.sleep(60)
""",
    "galera_while_a_node_joins": """
def start(self, settings, start=Node.start, first=[]):
    word = " begun" if first else ""
    first.append(self)
    os.write(1, f"{self._home}{word}\\n".encode())  # at once: two nodes start side by side
    start(self, settings)

Node.start = start
start_galera()
time.sleep(60)
""",
}
IMPORTS = """
import os
import time
from tests.clusters import Node, start_galera, start_pooler
from tests.servers import private_server
"""


@pytest.mark.parametrize("bed", sorted(BEDS))
def test_a_test_run_that_is_killed_leaves_neither_processes_nor_files(bed: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTS + BEDS[bed]], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            assert run.stdout
            homes: list[str] = []
            for line in run.stdout:
                *more, last = line.split()
                homes += [word for word in (*more, last) if word != "begun"]
                if last == "begun":
                    break
            assert len(homes) == 2
            assert within(30, lambda: all(processes(home) for home in homes))
        finally:
            run.kill()
    assert within(30, lambda: not [home for home in homes if Path(home).exists() or processes(home)])


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Wait until it holds, and tell whether it did in time."""
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return held


def processes(home: str) -> list[str]:
    """Return the command lines of those who work in this folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended
            continue
        if home in line:
            found.append(line)
    return found
