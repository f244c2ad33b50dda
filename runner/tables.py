"""Which tables a revision creates, read from its source without running it.

Only what is certain counts: a literal name, at the top level of ``upgrade``, before anything that may
leave it. What is only possible is left out, because a wrong guess would refuse what works.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Creates:
    """What one revision does to tables; names are ``table`` or ``schema.table``."""

    certain: tuple[str, ...] = ()  # fails if the table is there
    made: tuple[str, ...] = ()  # there afterwards, whoever created it
    mentioned: tuple[str, ...] = ()  # created, in whatever case
    gone: frozenset[str] = frozenset()  # dropped or renamed, in whatever case
    unclear: frozenset[str] = frozenset()  # words, of which some may be tables that are dropped in words of its own
    idle: bool = False  # it does nothing at all, as most merges
    schemas: tuple[str, ...] = ()  # what it says for ``schema=``, as it is written there


def left_by(sources: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The tables that are certainly there after all of these revisions (identifier and path), and who made each."""
    there: dict[str, str] = {}
    for revision, path in sources:
        does = created_by(path)
        there |= dict.fromkeys(does.made, revision)
        there = {
            table: maker
            for table, maker in there.items()
            if table not in does.gone and table.rpartition(".")[2] not in does.unclear
        }
    return there


def created_by(path: str) -> Creates:
    """What the ``upgrade`` of this file creates; nothing for a file that cannot be read."""
    return _created_by(Path(path).absolute())


@functools.cache
def _created_by(path: Path) -> Creates:
    try:
        tree = ast.parse(path.read_text())
    except (OSError, SyntaxError, ValueError):
        return Creates()
    upgrade = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "upgrade"), None)
    if upgrade is None:
        return Creates()
    calls = [(node, _table_of(node)) for node in ast.walk(upgrade) if isinstance(node, ast.Call)]
    mentioned = [table for call, table in calls if table and _operation(call) == "create_table"]
    gone = {table for call, table in calls if table and _operation(call) in _DROPS}
    certain: list[str] = []
    made: list[str] = []
    for statement in upgrade.body:
        if any(isinstance(node, ast.Return | ast.Raise) for node in ast.walk(statement)):
            break
        call = getattr(statement, "value", None)
        if isinstance(statement, ast.Expr | ast.Assign) and isinstance(call, ast.Call):
            table = _table_of(call)
            options = {keyword.arg for keyword in call.keywords}
            if table and None not in options and _operation(call) == "create_table":
                made.append(table)
                certain += [] if "if_not_exists" in options else [table]
    executes = any(_operation(call) in ("execute", "get_bind") for call, _ in calls)  # may drop anything
    return Creates(
        () if executes else tuple(certain),
        tuple(made),
        tuple(mentioned),
        frozenset(gone),
        _unclear(tree),
        all(isinstance(node, ast.Pass) or _is_prose(node) for node in upgrade.body),
        tuple(_schemas(tree)),
    )


_DROPS_IN_SQL = re.compile(r"\bdrop\s+(temporary\s+)?(table|schema|database)\b|\brename\b", re.IGNORECASE)
_DROPS = ("drop_table", "rename_table")


def _upwards(tree: ast.Module) -> Iterator[ast.AST]:
    """Everything in the file that is not its way down."""
    for node in tree.body:
        if not (isinstance(node, ast.FunctionDef) and node.name == "downgrade"):
            yield from ast.walk(node)


def _unclear(tree: ast.Module) -> frozenset[str]:
    """All words of a file that drops or renames tables otherwise than with a literal ``op.drop_table("name")``."""
    nodes = list(_upwards(tree))
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in prose]
    texts = [node.value for node in constants if isinstance(node.value, str)]
    if not any(map(_DROPS_IN_SQL.search, texts)) and not any(map(_drops_in_other_words, nodes)):
        return frozenset()
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return frozenset(names | {word for text in texts for word in re.findall(r"\w+", text)})


def _drops_in_other_words(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
    literal = _operation(node) in _DROPS and _table_of(node)
    return name in (*_DROPS, "drop", "drop_all") and not literal


def _schemas(tree: ast.Module) -> Iterator[str]:
    for node in _upwards(tree):
        if isinstance(node, ast.keyword) and node.arg == "schema":
            value = node.value.value if isinstance(node.value, ast.Constant) else ast.unparse(node.value)
            if value:
                yield str(value)


def _is_prose(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _operation(call: ast.Call) -> str | None:
    """``create_table`` of ``op.create_table(…)``."""
    function = call.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "op":
        return function.attr
    return None


def _table_of(call: ast.Call) -> str | None:
    """The table that an operation names first; None when it does so in other words."""
    if not call.args or not isinstance(call.args[0], ast.Constant) or not isinstance(call.args[0].value, str):
        return None
    schema = next((keyword.value for keyword in call.keywords if keyword.arg == "schema"), ast.Constant(None))
    if not isinstance(schema, ast.Constant):
        return None
    return ".".join(map(str, filter(None, (schema.value, call.args[0].value))))
