"""Rows of runs that never came back to complete them: what is true of those, seen under the lock.

Whoever holds the lock knows that they are gone. What the version table tells now, and what was begun
later, says whether the revision came to be; nothing says which of its statements remained.
"""

from __future__ import annotations

from collections.abc import Sequence

from .history import History
from .ledger import BASE, OPEN, Entry, latest
from .model import Rows


def settled(history: History, entries: Sequence[Entry], rows: Rows) -> list[tuple[Entry, bool]]:
    """The rows without an end, and whether each did what it was for. Left out is what this image cannot tell.

    ``entries`` are of one application and in order, all of them of runs that are gone.
    """
    found = []
    for index, entry in enumerate(entries):
        if entry.status in OPEN:
            later = next((one for one in entries[index + 1 :] if one.revision == entry.revision), None)
            there = _contained(history, entries, rows, entry.revision) if later is None else _before(later)
            if there is not None:
                found.append((entry, there != (entry.direction == "downgrade")))
    return found


def _before(later: Entry) -> bool | None:
    """Whether a revision was applied when this began: else there would have been nothing to do."""
    return {"upgrade": False, "downgrade": True}.get(later.direction)


def _contained(history: History, entries: Sequence[Entry], rows: Rows, revision: str) -> bool | None:
    """Whether these version rows contain a revision; None where that leads through revisions that nobody knows."""
    if revision == BASE:
        return not rows
    applied = latest(entries)
    seen, left, lost = set[str](), list(rows), False
    while left:
        one = left.pop()
        if one in seen:
            continue
        seen.add(one)
        entry = applied.get(one)
        if not history.known((one,))[1]:
            left += history.follows(one)
        elif entry is not None and entry.parents is not None and entry.depends_on is not None:
            left += [*entry.parents, *entry.depends_on]
        else:
            lost = True
    return True if revision in seen else None if lost else False
