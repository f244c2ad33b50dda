"""A fleet of runs starts at the same moment; one migrates, and the others wait for it.

Two cores cannot start some hundred processes at once, so they are forked from a warm one and held at a barrier.
What is measured are real runs, each two processes: ``main()`` of the console script, from its first line on.
The migration goes on until the last run has come to wait, and then for so many seconds more.

``python -m tests.chaos.fleet --waiters 300 --max-connections 100`` prints the figures, and fails where they
are not as promised.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.chaos.page import paste
from tests.databases import Server
from tests.job import Revision, make_project
from tests.processes import signal_tree
from tests.servers import free_port, private_server
from tests.warm import Start, become, opened, warm_up

LEAVE_S = 5.0  # the last one, after the winner
START_S, END_S = 240.0, 60.0
_TICK_S = 0.005


@dataclass(frozen=True)
class Figures:
    """What was seen."""

    runs: int
    outcomes: dict[str, int]
    max_connections: int
    refused: int  # logins for which there was no room, and which were tried again
    all_waited_after_s: float
    waited_together_s: float
    connections_at_the_start: int  # peaks
    connections_while_waiting: int
    connections_at_the_end: int
    left_first_s: float
    left_p50_s: float
    left_p99_s: float
    left_last_s: float
    problems: list[str]  # a run may well end some milliseconds before the one that has just committed for it

    def __str__(self) -> str:
        """For people, and for the docs."""
        return "\n".join(
            [
                "| | |",
                "| --- | --- |",
                f"| runs, started at the same moment | {self.runs} |",
                f"| ended | {', '.join(f'{count} {name}' for name, count in sorted(self.outcomes.items()))} |",
                f"| `max_connections` | {self.max_connections} |",
                f"| all of them were waiting after | {self.all_waited_after_s:.1f} s |",
                f"| logins that found no room meanwhile, and were tried again | {self.refused} |",
                f"| most connections while all started | {self.connections_at_the_start} |",
                f"| most while all waited, for {self.waited_together_s:.0f} s | {self.connections_while_waiting} |",
                f"| most after the end of the one that migrated | {self.connections_at_the_end} |",
                f"| after its end, the first of the others left | {self.left_first_s:.2f} s |",
                f"| p50 | {self.left_p50_s:.2f} s |",
                f"| p99 | {self.left_p99_s:.2f} s |",
                f"| the last | {self.left_last_s:.2f} s |",
            ]
        )


class Fleet:
    """The runs, by their process ids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pids: list[int] = []
        self.ended: dict[int, tuple[float, int]] = {}
        self._read, self._write = os.pipe()

    def add(self, start: Start) -> None:
        """One more, which stands at the barrier."""
        pid = os.fork()
        if pid == 0:
            os.close(self._write)
            os.read(self._read, 1)  # until the last writer closes it
            become(start, opened(start))
        self.pids.append(pid)

    def go(self) -> None:
        """Open the barrier."""
        os.close(self._read)
        os.close(self._write)

    def reap(self) -> None:
        """Note who has ended, when, and how."""
        while len(self.ended) < len(self.pids):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self.ended[pid] = (time.monotonic(), os.waitstatus_to_exitcode(status))

    def events(self, number: int) -> list[dict[str, Any]]:
        """What a run said."""
        path = self.folder / f"{number}.out"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def has_said(self, number: int, name: str) -> bool:
        """Whether there is such an event."""
        path = self.folder / f"{number}.out"
        return path.exists() and f'"event": "{name}"' in path.read_text()

    def kill(self) -> None:
        """Leave nothing."""
        for pid in self.pids:
            if pid not in self.ended:
                signal_tree(pid, signal.SIGKILL)
        while len(self.ended) < len(self.pids):
            self.reap()
            time.sleep(_TICK_S)


def sail(waiters: int, max_connections: int, seconds: float) -> Figures:
    """Start them all, and watch."""
    warm_up()
    extra_port = free_port()
    server = private_server("mariadb", max_connections=max_connections, extra_port=extra_port)
    folder = Path(tempfile.mkdtemp(prefix="fleet-"))
    fleet = Fleet(folder)
    try:
        url = server.new_database().url
        wait_for_go = f'while not os.path.exists({str(folder / "go")!r}):\n    op.execute("SELECT SLEEP(0.1)")'
        create = 'op.create_table("t{}", sa.Column("id", sa.Integer, primary_key=True))\n'
        project = make_project(
            folder,
            [Revision("r1", upgrade=create.format(1) + wait_for_go), Revision("r2", "r1", upgrade=create.format(2))],
        )
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "ALEMBIC_JOB_LOG_FORMAT": "json",
            "ALEMBIC_JOB_DATABASE_URL": url,
        }
        for number in range(waiters + 1):
            files = (str(folder / f"{number}.out"), str(folder / f"{number}.err"))
            fleet.add(Start(["upgrade"], env, str(project.path), *files))
        with Server("mariadb", replace(server.login, port=extra_port)).connected() as watching:
            return _watch(fleet, watching, max_connections, seconds)
    finally:
        fleet.kill()
        server.discard()


def _watch(fleet: Fleet, watching: Any, max_connections: int, seconds: float) -> Figures:
    runs = len(fleet.pids)
    peaks: Counter[str] = Counter()

    def status(name: str) -> int:
        with watching.cursor() as cursor:
            cursor.execute(f"SHOW GLOBAL STATUS LIKE '{name}'")
            return int(cursor.fetchone()[1])

    def sample(phase: str) -> None:
        fleet.reap()
        peaks[phase] = max(peaks[phase], status("Threads_connected") - 1)  # without this one
        time.sleep(_TICK_S)

    began = time.monotonic()
    fleet.go()
    coming = set(range(runs))
    while coming and time.monotonic() < began + START_S:
        look_again = time.monotonic() + 0.25
        while time.monotonic() < look_again:
            sample("start")
        settled = [n for n in coming if fleet.has_said(n, "lock_waiting") or fleet.has_said(n, "revision_started")]
        coming -= {*settled, *(n for n in coming if fleet.pids[n] in fleet.ended)}
    all_waited = time.monotonic()
    while time.monotonic() < all_waited + seconds:
        sample("waiting")
    (fleet.folder / "go").touch()
    winner = next((n for n in range(runs) if fleet.has_said(n, "revision_started")), None)
    deadline = time.monotonic() + END_S
    while len(fleet.ended) < runs and time.monotonic() < deadline:
        sample("waiting" if winner is not None and fleet.pids[winner] not in fleet.ended else "end")
    refused = status("Connection_errors_max_connections")
    return _figures(fleet, winner, peaks, refused, max_connections, all_waited - began, seconds)


def _figures(
    fleet: Fleet,
    winner: int | None,
    peaks: Counter[str],
    refused: int,
    max_connections: int,
    all_waited_s: float,
    seconds: float,
) -> Figures:
    runs, outcomes, problems = len(fleet.pids), Counter[str](), []
    for number, pid in enumerate(fleet.pids):
        last = (fleet.events(number) or [{}])[-1]
        code = fleet.ended.get(pid, (0.0, None))[1]
        outcome = str(last.get("outcome", "nothing"))
        outcomes[outcome] += 1
        wanted = "upgraded" if number == winner else "up_to_date"
        if (code, outcome, last.get("to")) != (0, wanted, ["r2"]):
            problems.append(f"run {number} ended with {code}, {outcome}: {last.get('error')}")
    won_at = fleet.ended.get(fleet.pids[winner], (0.0, 0))[0] if winner is not None else 0.0
    left = sorted(at - won_at for pid, (at, _) in fleet.ended.items() if winner is None or pid != fleet.pids[winner])
    cuts = statistics.quantiles(left, n=100, method="inclusive")
    if left[-1] > LEAVE_S:
        problems.append(f"the last run left {left[-1]:.2f} s after the one that migrated, not within {LEAVE_S:.0f} s")
    return Figures(
        runs=runs,
        outcomes=dict(outcomes),
        max_connections=max_connections,
        refused=refused,
        all_waited_after_s=all_waited_s,
        waited_together_s=seconds,
        connections_at_the_start=peaks["start"],
        connections_while_waiting=peaks["waiting"],
        connections_at_the_end=peaks["end"],
        left_first_s=left[0],
        left_p50_s=cuts[49],
        left_p99_s=cuts[98],
        left_last_s=left[-1],
        problems=problems,
    )


def main(arguments: Sequence[str]) -> int:
    """Print the figures; 1 when something is not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fleet", description=__doc__)
    parser.add_argument("--waiters", type=int, default=300)
    parser.add_argument("--max-connections", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long all of them wait together")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", type=Path, help="put the figures into this page")
    options = parser.parse_args(arguments)
    figures = sail(options.waiters, options.max_connections, options.seconds)
    print(json.dumps(asdict(figures)) if options.json else figures)
    if options.markdown:
        paste(options.markdown, "fleet", str(figures))
    for problem in figures.problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
