"""The nouns, frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rows = tuple[str, ...]  # of the version table
State = Literal["current", "behind", "empty", "unmanaged", "unknown", "ahead", "partial"]


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
class Holder:
    """Who holds a lock, as far as the server tells a session of ordinary rights.

    ``idle_s``: for how long it has been doing nothing, in seconds; None while it executes, or where
    that cannot be seen. ``since``: RFC 3339; when the connection began (PostgreSQL), or when its
    present statement or pause did (MySQL). ``end_with``: what would end it. ``key``: the connection that
    has the first key, where another one migrates.
    """

    connection: str
    user: str | None = None
    hostname: str | None = None
    since: str | None = None
    run_id: str | None = None
    idle_s: float | None = None
    end_with: str | None = None
    migrates: bool = False
    key: str | None = None
    image: str | None = None
    pod: str | None = None

    def __str__(self) -> str:
        """For people: as much as is known."""
        who = "@".join(filter(None, (self.user, self.hostname)))
        run = f"run {self.run_id}" if self.run_id else ""
        image = f"image {self.image}" if self.image else ""
        about = ", ".join(filter(None, (who, run, image)))
        tail = ", which still migrates" if self.migrates else ""
        return f"{self.connection}{f' ({about})' if about else ''}{tail}"


OWN_SCHEMA = "alembic_job"  # where the server has schemas within a database
_OWN_TABLES = "alembic_job_"  # how the names of the runner's own tables begin


def is_own(table: str) -> bool:
    """Whether a table is the runner's own, and not the project's."""
    return table.rpartition(".")[2].lower().startswith(_OWN_TABLES)


@dataclass(frozen=True)
class VersionTable:
    """Where this project keeps its version, as ``env.py`` configures it."""

    name: str = "alembic_version"
    schema: str | None = None
