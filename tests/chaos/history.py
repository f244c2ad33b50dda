"""The history of a round: revisions that record themselves, and what each leaves in the database."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.databases import Database
from tests.job import Project, Revision, make_project

SHAPES = ("table", "column", "data", "table and column")
_ROWS = 3  # of each table or piece of data
_PER_MIGRATION = (
    "target_metadata=target_metadata\n",
    "target_metadata=target_metadata, transaction_per_migration=True\n",
)


@dataclass(frozen=True)
class Step:
    """One revision: what it makes, for how long it works in the database and out of it, and when it leaves its mark."""

    number: int
    shape: str
    server_s: float
    python_s: float
    mark_first: bool

    @property
    def id(self) -> str:
        """Its revision."""
        return f"r{self.number}"

    @property
    def makes_table(self) -> bool:
        """Whether it creates a table of its own; the first one does, which the others work on."""
        return self.number == 1 or "table" in self.shape

    @property
    def adds_column(self) -> bool:
        """Whether it adds a column to the first table."""
        return self.number > 1 and "column" in self.shape

    @property
    def rows(self) -> int:
        """How many rows it adds to the first table."""
        return _ROWS if self.number == 1 or self.shape == "data" else 0

    def revision(self, dialect: str) -> Revision:
        """The file to write."""
        n = self.number
        pause = {
            "mariadb": f'op.execute("SELECT SLEEP({self.server_s:.3f})")',
            "postgresql": f'op.execute("SELECT pg_sleep({self.server_s:.3f})")',
        }.get(dialect, f"time.sleep({self.server_s:.3f})")
        mark = f'op.execute("INSERT INTO marks (number) VALUES ({n})")'
        body = []
        if n == 1:
            body += ['op.create_table("marks", sa.Column("number", sa.Integer))']
        if self.mark_first:
            body += [mark]
        if self.makes_table:
            columns = 'sa.Column("id", sa.Integer, primary_key=True), sa.Column("made_by", sa.Integer)'
            body += [f'op.create_table("t{n}", {columns})']
        body += [pause]
        if self.adds_column:
            body += [f'op.add_column("t1", sa.Column("c{n}", sa.Integer))']
        if self.rows:
            values = ", ".join(f"({n * 100 + one}, {n})" for one in range(self.rows))
            body += [f'op.execute("INSERT INTO t1 (id, made_by) VALUES {values}")']
        body += [f"time.sleep({self.python_s:.3f})"]
        if not self.mark_first:
            body += [mark]
        lines = "\n".join(f"    {line}" for line in body)
        return Revision(
            self.id,
            f"r{n - 1}" if n > 1 else None,
            upgrade=f"import recorder\nwith recorder.execution(op.get_bind(), {self.id!r}):\n{lines}",
        )


@dataclass(frozen=True)
class Images:
    """The same project as three images hold it: one revision fewer, as it is, and one more."""

    steps: tuple[Step, ...]  # of the newest
    per_migration: bool
    older: Project
    usual: Project
    newer: Project

    def project(self, image: str) -> Project:
        """The project of an image."""
        return {"older": self.older, "usual": self.usual, "newer": self.newer}[image]

    def head(self, image: str) -> int:
        """The number of the last revision that an image holds."""
        return len(self.steps) - {"older": 2, "usual": 1, "newer": 0}[image]


def draw(chance: random.Random) -> tuple[list[Step], bool]:
    """Four to six revisions, and one more for the newer image; and whether each has a transaction of its own."""
    steps = []
    count = chance.randint(4, 6) + 1
    long = chance.randint(1, count - 1) if chance.random() < 0.4 else 0  # of whose middle there is enough to be hit
    for number in range(1, count + 1):
        whole_s = chance.uniform(1.0, 1.5) if number == long else chance.uniform(0.05, 0.5)
        server_s = whole_s * (0.9 if number == long else chance.random())
        steps.append(
            Step(
                number,
                "table" if number == 1 else chance.choice(SHAPES),
                server_s,
                whole_s - server_s,
                mark_first=number > 1 and chance.random() < 0.3,
            )
        )
    return steps, chance.random() < 0.5


def write(folder: Path, dialect: str, steps: Sequence[Step], *, per_migration: bool) -> Images:
    """Write the three projects."""
    made = {}
    revisions = [step.revision(dialect) for step in steps]
    for image, missing in (("older", 2), ("usual", 1), ("newer", 0)):
        project = make_project(folder / image, revisions[: len(revisions) - missing])
        shutil.copy(Path(__file__).with_name("recorder.py"), project.path)
        if per_migration:
            text = project.env.read_text()
            assert _PER_MIGRATION[0] in text
            project.env.write_text(text.replace(*_PER_MIGRATION))
        made[image] = project
    return Images(tuple(steps), per_migration, made["older"], made["usual"], made["newer"])


@dataclass(frozen=True)
class Found:
    """What is in the database: its version rows, and of each revision how much, and its marks."""

    versions: tuple[str, ...]
    parts: dict[int, str]  # by number: "whole", "part", "too much" or "none"
    marks: dict[int, int]  # how many executions left one

    @property
    def at(self) -> int:
        """The number of the version; the histories are linear."""
        return max((int(row[1:]) for row in self.versions), default=0)


def look(database: Database, steps: Sequence[Step]) -> Found:
    """Read the database, as its own user."""
    tables = database.tables()
    versions = (
        [row for (row,) in database.query("SELECT version_num FROM alembic_version")]
        if "alembic_version" in tables
        else []
    )
    marked = database.query("SELECT number, count(*) FROM marks GROUP BY number") if "marks" in tables else []
    made = database.query("SELECT made_by, count(*) FROM t1 GROUP BY made_by") if "t1" in tables else []
    rows = {int(number): int(count) for number, count in made}
    columns = _columns(database) if "t1" in tables else set()
    parts, marks = {}, {int(number): int(count) for number, count in marked}
    for step in steps:
        n = step.number
        wanted, there = [], []
        if n == 1:
            wanted, there = ["marks"], ["marks"] * ("marks" in tables)
        if step.makes_table:
            wanted += ["table"]
            there += ["table"] * (f"t{n}" in tables)
        if step.adds_column:
            wanted += ["column"]
            there += ["column"] * (f"c{n}" in columns)
        wanted += ["row"] * step.rows + ["mark"]
        there += ["row"] * rows.get(n, 0) + ["mark"] * marks.get(n, 0)
        parts[n] = _how_much(Counter(there), Counter(wanted))
    return Found(tuple(versions), parts, marks)


def undo(database: Database, step: Step) -> None:
    """Take out by hand what is there of a revision, as a person does before ``resolve --rolled-back``."""
    tables = database.tables()
    gone = [f"t{step.number}"] * step.makes_table + ["marks"] * (step.number == 1)
    sql = [f"DROP TABLE {table}" for table in gone if table in tables]
    if step.adds_column and f"c{step.number}" in _columns(database):
        sql.append(f"ALTER TABLE t1 DROP COLUMN c{step.number}")
    if step.number > 1:
        sql += [f"DELETE FROM t1 WHERE made_by = {step.number}", f"DELETE FROM marks WHERE number = {step.number}"]
    for one in sql:
        database.execute(one)


def _how_much(there: Counter[str], wanted: Counter[str]) -> str:
    if not there:
        return "none"
    return "whole" if there == wanted else "too much" if there - wanted else "part"


def _columns(database: Database) -> set[str]:
    if database.dialect == "sqlite":
        return {str(row[1]) for row in database.query("PRAGMA table_info(t1)")}
    schema = "database()" if database.dialect == "mariadb" else "current_schema()"
    sql = f"SELECT column_name FROM information_schema.columns WHERE table_name = 't1' AND table_schema = {schema}"
    return {str(name) for (name,) in database.query(sql)}
