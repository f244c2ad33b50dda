"""An image older than its database: what the ledger proves of revisions that this image does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .history import History
from .ledger import Entry, latest
from .model import Rows


@dataclass(frozen=True)
class Ahead:
    """``newer``: what is applied and not held by this image, as the ledger has it; nothing where nothing proves it.

    ``floor``: revisions of this image that the database holds for certain.
    """

    newer: tuple[Entry, ...]
    floor: Rows


def proven(history: History, entries: Sequence[Entry], rows: Rows) -> Ahead | None:
    """What the ledger proves of these rows; None when it does not lead down from each to revisions of this image.

    A revision that stands in the version table is applied, so of it a row that nobody came back to complete
    is good enough: the run was killed right behind its commit.
    """
    applied = latest(entries)
    floor, missing = history.known(rows)
    held = {revision.revision for revision in floor}
    newer: dict[str, Entry] = {}
    left = list(missing)
    while left:
        revision = left.pop()
        entry = applied.get(revision)
        if entry is None or entry.parents is None or entry.depends_on is None or entry.direction != "upgrade":
            return None
        unfinished = entry.status in ("started", "executed") and revision in rows
        if entry.status != "committed" and not unfinished:
            return None
        newer[revision] = entry
        known, unknown = history.known((*entry.parents, *entry.depends_on))
        held |= {one.revision for one in known}
        left += [one for one in unknown if one not in newer]
    return Ahead(tuple(newer.values()), history.without_implied(sorted(held)))  # from the rows down: newest first


def goes_on(history: History, goal: Sequence[str], rows: Rows) -> bool:
    """Whether a row that this image knows has revisions behind it that lead to the goal: it is behind there."""
    known = {revision.revision for revision in history.known(rows)[0]}
    needed, seen = list(goal), set[str]()
    while needed:
        revision = needed.pop()
        if revision not in seen:
            seen.add(revision)
            needed += history.follows(revision)
    return any(known & set(history.follows(one)) for one in seen - known)
