"""docs/real-projects.md, from what the last run of the tests has recorded.

``python -m tests.real.table`` tells where the page says something else; ``--write`` makes it anew. Times are not
compared: they differ from run to run.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.job import Result
from tests.real.projects import PROJECTS, RESULTS, ROOT, Project
from tests.real.runs import Times

PAGE = ROOT / "docs" / "real-projects.md"
DIALECTS = {"sqlite": "SQLite", "mariadb": "MariaDB", "postgresql": "PostgreSQL"}
NONE = "\N{EN DASH}"

TEXT = """\
# Real projects

Projects from PyPI, pinned, each in a virtual environment of its own and with its files untouched. Plain Alembic
migrates one database and this program another. *Equal* means that both then hold the same tables, columns, indexes and
constraints, the same version, and as many rows in each table. Where it ended well, a second run said `up_to_date`.

`make real` does that, and fails where this page says something else than what it saw. `make real-docs` does it
several times, and writes the page. What is expected of each project stands in `tests/real/projects.py`.

{facts}

Where plain Alembic fails, so does the program, and with the same database: the revisions are the project's. It says
which statements of the revision stay.

## Time

Of the whole process, from start to end and of the processor alone, each in seconds, and in brackets the ratio:
ours to plain Alembic's. Medians of {runs} runs each, in turn, on {processors} processors with the servers beside them.
The first depends on what else the machine did; the second hardly does.

{times}
"""

Seen = dict[tuple[str, str], dict[str, Any]]


def record(project: Project, dialect: str, fact: str, times: Sequence[tuple[Times, Times]]) -> None:
    """Keep what was seen in one cell; ``times`` are pairs of ours and plain Alembic's."""
    RESULTS.mkdir(exist_ok=True)
    seen = {"project": project.name, "dialect": dialect, "fact": fact, "times": times}
    (RESULTS / f"{project.name} {dialect}.json").write_text(json.dumps(seen))


def named(result: Result) -> str:
    """The end of a run, as the contract calls it."""
    return f"`{result.finished['exit_name']}` ({result.exit_code})"


def _recorded() -> Seen:
    found = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    return {(one["project"], one["dialect"]): one for one in found}


def _row(project: Project, seen: Seen, cell: Callable[[dict[str, Any]], str], *before: str) -> str:
    cells = [cell(seen[project.name, dialect]) if dialect in project.cells else NONE for dialect in DIALECTS]
    return f"| {' | '.join([*before, *cells])} |"


def _facts_row(project: Project, seen: Seen) -> str:
    shown = f"`{project.requires[0]}`" if project.folder is None else f"an application with `{project.requires[0]}`"
    shown += f" {project.part}" if project.part else ""
    return _row(project, seen, lambda one: str(one["fact"]), shown, project.special)


def _time(one: dict[str, Any]) -> str:
    if not one["times"]:
        return NONE
    ours, plain = zip(*one["times"], strict=True)
    said = []
    for took, plain_took in zip(zip(*ours, strict=True), zip(*plain, strict=True), strict=True):
        here, there = statistics.median(took), statistics.median(plain_took)
        said.append(f"{here:.1f} to {there:.1f} ({here / there:.2f})")
    return "; ".join(said)


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *rows])


def page(seen: Seen) -> str:
    """The whole page."""
    facts = _table(["project", "what is special", *DIALECTS.values()], [_facts_row(one, seen) for one in PROJECTS])
    timed = [one for one in PROJECTS if any(seen[one.name, dialect]["times"] for dialect in one.cells)]
    times = _table(["project", *DIALECTS.values()], [_row(one, seen, _time, one.name) for one in timed])
    runs = sorted({len(one["times"]) for one in seen.values() if one["times"]})
    shown = " to ".join(map(str, runs[:1] + runs[1:][-1:]))
    return TEXT.format(facts=facts, times=times, runs=shown, processors=os.cpu_count())


def differences(seen: Seen) -> list[str]:
    """What the page says otherwise, of the projects that were all run."""
    there = PAGE.read_text().splitlines()
    run = [one for one in PROJECTS if all((one.name, dialect) in seen for dialect in one.cells)]
    return [row for one in run if (row := _facts_row(one, seen)) not in there]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(_recorded()))
    elif wrong := differences(_recorded()):
        print(
            f"{PAGE.relative_to(ROOT)} is not what was seen. 'make real-docs' writes it anew, with:", *wrong, sep="\n"
        )
        sys.exit(1)
