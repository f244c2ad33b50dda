"""Which tables a revision creates, read from its source without running it.

Only what is certain counts: a literal name, at the top level of ``upgrade``, before anything that may
leave it. What is only possible is left out, because a wrong guess would refuse a migration that works.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Creates:
    """What one revision does to tables; names are ``table`` or ``schema.table``."""

    certain: tuple[str, ...] = ()  # fails if the table is there
    mentioned: tuple[str, ...] = ()  # created, in whatever case
    gone: frozenset[str] = frozenset()  # dropped or renamed, in whatever case


def created_by(path: str) -> Creates:
    """What the ``upgrade`` of this file creates; nothing for a file that cannot be read."""
    try:
        tree = ast.parse(Path(path).read_text())
    except (OSError, SyntaxError, ValueError):
        return Creates()
    upgrade = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "upgrade"), None)
    if upgrade is None:
        return Creates()
    calls = [(node, _table_of(node)) for node in ast.walk(upgrade) if isinstance(node, ast.Call)]
    mentioned = [table for call, table in calls if table and _operation(call) == "create_table"]
    gone = {table for call, table in calls if table and _operation(call) in ("drop_table", "rename_table")}
    certain: list[str] = []
    for statement in upgrade.body:
        if any(isinstance(node, ast.Return | ast.Raise) for node in ast.walk(statement)):
            break
        call = getattr(statement, "value", None)
        if isinstance(statement, ast.Expr | ast.Assign) and isinstance(call, ast.Call):
            table = _table_of(call)
            sure = not any(keyword.arg in ("if_not_exists", None) for keyword in call.keywords)
            if table and sure and _operation(call) == "create_table":
                certain.append(table)
    executes = any(_operation(call) in ("execute", "get_bind") for call, _ in calls)  # may drop anything
    return Creates(() if executes else tuple(certain), tuple(mentioned), frozenset(gone))


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
