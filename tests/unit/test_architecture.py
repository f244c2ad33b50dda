"""What may import what, and other rules that no linter knows."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner import schema

PACKAGE = Path(schema.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a module may import those before it. On one line: neither imports the other.
LAYERS = """
version
model
plugin hooks
errors
events
url
masking sidecar
statements
tables
database.dialect
database.mysql database.postgresql database.sqlite
database
answers settings
stopping
report watching
schema worker wait
screen
keys lease pen history
halves ledger
resuming
lock flight
job engines host
seam diagnosis shape ahead settling
place states
planfile discovery
scratch
fence recording
applying
retrying
project
guards unfinished
running
baseline flow looking drift doctor resolving
authoring
cli
""".strip().splitlines()
HEIGHT = {module: height for height, line in enumerate(LAYERS) for module in line.split()}
DOORS = {"", "__main__"}  # the package itself and `python -m runner`


def name_of(path: Path) -> str:
    """``database.mysql`` of ``runner/database/mysql.py``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[tuple[int, str]]:
    """How many dots, and what: every import statement of the file, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = node.module or ""
            found += [(node.level, f"{whole}.{alias.name}".strip(".")) for alias in node.names]
    return found


def own_imports(path: Path) -> set[str]:
    """The modules of this package that the file imports."""
    folder = [*name_of(path).split("."), ""] if path.name == "__init__.py" else name_of(path).split(".")
    found = set()
    for dots, what in imports(path):
        if not dots:
            continue
        parts = [*filter(None, folder[: len(folder) - dots]), *what.split(".")]
        candidates = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        found.add(next((name for name in candidates if name in HEIGHT), what))
    return found


def test_every_module_has_its_place_in_the_order() -> None:
    assert {name_of(path) for path in FILES} == set(HEIGHT) | DOORS


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p) not in DOORS], ids=name_of)
def test_a_module_imports_only_from_below(path: Path) -> None:
    mine = HEIGHT[name_of(path)]
    assert {name for name in own_imports(path) if HEIGHT[name] >= mine} == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_package_is_imported_by_relative_names_alone(path: Path) -> None:
    # Else a project's own "runner" would come in its place.
    absolute = {what for dots, what in imports(path) if not dots}
    assert not {what for what in absolute if what.partition(".")[0] == "runner"}


def test_alembic_and_sqlalchemy_are_imported_where_revisions_are_known_and_run_only() -> None:
    foreign = {"alembic", "sqlalchemy"}
    users = {name_of(p) for p in FILES if foreign & {what.partition(".")[0] for _, what in imports(p)}}
    planning = {"history", "host", "seam", "recording", "applying", "planfile", "project", "unfinished", "looking"}
    assert users <= planning | {"hooks", "shape", "drift", "authoring", "baseline", "plugin", "resolving"}


@pytest.mark.parametrize("path", [p for p in FILES if p != PACKAGE / "database" / "__init__.py"], ids=name_of)
def test_which_dialect_it_is_is_asked_in_one_place_only(path: Path) -> None:
    names = {"mysql", "mariadb", "postgresql", "sqlite"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Compare, ast.Match)):
            compared = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
            if isinstance(node, ast.Compare):
                assert not compared & names, f"{path.name}:{node.lineno}"


def test_the_schema_that_ships_is_the_one_of_the_events() -> None:
    shipped = json.loads((PACKAGE / "events.schema.json").read_text())
    assert shipped == schema.of_line(), "python -m runner.schema > runner/events.schema.json"


def test_waiting_for_a_connection_imports_neither_alembic_nor_sqlalchemy() -> None:
    program = "import sys; import runner.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "tenacity" in loaded
    assert not loaded & {"alembic", "sqlalchemy", "mako", "pymysql", "psycopg"}
    assert "http" not in loaded  # which a sidecar alone needs
