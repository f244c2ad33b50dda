"""The schemas that a history can have made: one for each set of revisions that may be applied together.

Alembic runs the branches of a history in one order, while a database may have one branch and not the
other. What it has then is put together from what each revision changed, as long as no two branches
change the same column, key, index or constraint.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .shape import Shape, Table

_MOST = 2000  # of sets of revisions: with more, only those are tried that were gone through

_Item = tuple[str, str, Any]  # of a table: itself, a column, another part
_Changes = Mapping[_Item, Any]  # what it is afterwards; None for what is gone


@dataclass(frozen=True)
class State:
    """A schema, and the revisions that make it."""

    applied: frozenset[str]
    shape: Shape


def possible(
    replayed: Sequence[tuple[str, Shape]], parents: Callable[[str], Sequence[str]], most: int = _MOST
) -> list[State]:
    """The states of these revisions, fewest first; each comes with the schema that it left when they ran in a row."""
    order = [revision for revision, _ in replayed]
    shapes: list[Shape] = [{}, *(shape for _, shape in replayed)]
    passed = {frozenset(order[:count]): shapes[count] for count in range(len(shapes))}
    sets = _sets(order, parents, most) or list(passed)
    changes = [_changes(before, after) for before, after in itertools.pairwise(shapes)]
    found = []
    for applied in sets:
        shape = passed.get(applied)
        if shape is None:
            shape = _together(applied, order, changes)
        if shape is not None:
            found.append(State(applied, shape))
    return found


def _sets(order: Sequence[str], parents: Callable[[str], Sequence[str]], most: int) -> list[frozenset[str]]:
    """Every set of revisions that has all parents of each; nothing when there are too many."""
    needed = {revision: frozenset(parents(revision)) for revision in order}
    found: dict[frozenset[str], None] = {frozenset(): None}
    queue = [frozenset[str]()]
    for applied in queue:
        for revision in order:
            grown = applied | {revision}
            if revision not in applied and needed[revision] <= applied and grown not in found:
                if len(found) > most:
                    return []
                found[grown] = None
                queue.append(grown)
    return queue


def _together(applied: frozenset[str], order: Sequence[str], changes: Sequence[_Changes]) -> Shape | None:
    """What these revisions make without the others; None when it depends on the others."""
    items: dict[_Item, Any] = {}
    skipped: set[_Item] = set()
    for revision, changed in zip(order, changes, strict=True):
        if revision not in applied:
            skipped |= set(changed)
        elif skipped & set(changed):
            return None
        else:
            items |= changed
    return _shape_of({item: value for item, value in items.items() if value is not None})


def _changes(before: Shape, after: Shape) -> _Changes:
    found: dict[_Item, Any] = {}
    for name in {*before, *after}:
        if before.get(name) != after.get(name):
            old, new = _items(name, before.get(name)), _items(name, after.get(name))
            found |= {item: new.get(item) for item in {*old, *new} if old.get(item) != new.get(item)}
    return found


def _items(name: str, table: Table | None) -> dict[_Item, Any]:
    if table is None:
        return {}
    columns: dict[_Item, Any] = {(name, "column", column): value for column, value in table.columns.items()}
    # The name of a part may be None, which says that it is gone.
    parts: dict[_Item, Any] = {(name, "part", part): (called,) for part, called in table.parts.items()}
    return {(name, "table", None): True, **columns, **parts}


def _shape_of(items: Mapping[_Item, Any]) -> Shape:
    def own(name: str, kind: str) -> Iterator[tuple[Any, Any]]:
        return ((key, value) for (table, what, key), value in items.items() if (table, what) == (name, kind))

    return {
        name: Table(dict(own(name, "column")), {part: called for part, (called,) in own(name, "part")})
        for name, what, _ in items
        if what == "table"
    }
