"""The nouns, frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rows = tuple[str, ...]  # of the version table
State = Literal["current", "behind", "empty", "unmanaged", "unknown"]


@dataclass(frozen=True)
class Revision:
    """One revision file."""

    revision: str
    parents: tuple[str, ...]
    summary: str
    path: str
    depends_on: tuple[str, ...] = ()
    branch_labels: tuple[str, ...] = ()
    is_head: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run would do, in order.

    ``target`` are the concrete revisions that the target names; ``heads`` are the rows that the
    version table holds when everything is applied (a head that another depends on is implied).
    """

    state: State
    current: tuple[str, ...]
    heads: tuple[str, ...]
    target: tuple[str, ...]
    pending: tuple[Revision, ...]

    @property
    def arrived(self) -> bool:
        """Whether nothing is left to do."""
        return not self.pending


@dataclass(frozen=True)
class VersionTable:
    """Where this project keeps its version, as ``env.py`` configures it."""

    name: str = "alembic_version"
    schema: str | None = None
