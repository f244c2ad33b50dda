"""The table of docs/half-done.md: every point at which the six statements are killed, in each of the three ways.

``python -m tests.halfdone`` prints it; ``--markdown docs/half-done.md`` puts it there. The suite draws one way to stop
the run at each point from its seed (tests/integration/test_half_done.py); this takes all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from runner.events import numbered
from tests import killing
from tests.chaos.page import paste
from tests.job import start_job
from tests.killing import AUTOCOMMIT_ORDER, DURABLE, MODES, PLAIN_ORDER, STATEMENTS, Case, Outcome, Point, draw, points
from tests.servers import PrivateServer, private_server

HEADINGS = {
    "process": "`kill -9` of the process",
    "session": "its session killed on the server",
    "server": "`kill -9` of the server",
}


@dataclass(frozen=True)
class History:
    """Whose six statements are killed."""

    title: str
    dialect: str
    autocommit: bool = False

    @property
    def order(self) -> Sequence[int]:
        return AUTOCOMMIT_ORDER if self.autocommit else PLAIN_ORDER


HISTORIES = {
    "mariadb": History("MariaDB", "mariadb"),
    "postgresql": History("PostgreSQL", "postgresql"),
    "autocommit": History("PostgreSQL, statements 2 and 3 in an autocommit block", "postgresql", autocommit=True),
}


def summary(case: Case, outcome: Outcome) -> str:
    """What was left, and how it ended; raises where that is not as it must be."""
    left = [number for number, effect in enumerate(case.order, 1) if outcome.there[effect]]
    begun = [number for number, state in outcome.states.items() if state == "started"]
    there = f"{numbered(left).partition(' ')[2]} there" if left else "nothing there"
    if len(left) == STATEMENTS and not outcome.states:
        there = "all there"
    doubt = f", {begun[0]} in doubt" if begun else ""
    if outcome.last.exit_code == 42:
        return f"{there}{doubt}: **42**"
    if outcome.last.exit_code or not killing.is_complete(case.database) or killing.recorded(case.database):
        raise SystemExit(f"{outcome}\n{outcome.last.stdout}")
    return there + doubt


def cell(history: History, server: PrivateServer, point: Point, mode: str, seed: int) -> tuple[set[str], int]:
    """All ways to stop the run at this point."""
    found: set[str] = set()
    for halt in point.halts:
        with tempfile.TemporaryDirectory() as directory:
            drawn = replace(draw(seed, point, mode), halt=halt)
            project = killing.project(Path(directory), history.dialect, autocommit=history.autocommit)
            case = Case(server, server.new_database(), project, start_job, order=history.order)
            found.add(summary(case, case.play(mode, drawn)))
            print(".", end="", file=sys.stderr, flush=True)
    return found, len(point.halts)


@contextlib.contextmanager
def server_of(history: History) -> Iterator[PrivateServer]:
    """One that keeps what it has promised, also when it is killed."""
    server = private_server(history.dialect, **DURABLE[history.dialect])
    try:
        yield server
    finally:
        server.discard()


def table(history: History, seed: int) -> str:
    """As Markdown."""
    every = points(history.order)
    with server_of(history) as server, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as several:
        wanted = [(point, mode) for mode in MODES[:2] for point in every]
        found = dict(
            zip(wanted, several.map(lambda one: cell(history, server, *one, seed), wanted), strict=True),
        )
        for point in every:  # one after the other: it ends all that runs there
            found[point, "server"] = cell(history, server, point, "server", seed)
    resumed = sum(count for _, count in found.values())
    unresolved = [point.name for (point, _), (texts, _) in found.items() if any("**42**" in text for text in texts)]
    lines = [
        f"{history.title}: {len(found)} cases, in {resumed} ways; seed {seed}."
        + (f" 42 where {', '.join(sorted(set(unresolved)))} was cut." if unresolved else " None ended with 42."),
        "",
        "| killed | " + " | ".join(HEADINGS.values()) + " |",
        "| --- | --- | --- | --- |",
    ]
    for point in every:
        cells = ["; or ".join(sorted(found[point, mode][0])) for mode in MODES]
        lines.append(f"| {point.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", choices=HISTORIES, action="append")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--markdown", type=Path, help="a page with the marks <!-- killed mariadb --> and so on")
    chosen = parser.parse_args()
    for name in chosen.history or HISTORIES:
        text = table(HISTORIES[name], chosen.seed)
        print(f"\n{text}\n")
        if chosen.markdown:
            paste(chosen.markdown, f"killed {name}", text)


if __name__ == "__main__":
    main()
