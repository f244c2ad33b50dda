"""These tests need what ``make real`` installs; the default run does not collect them."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests.databases import Database, Server, sqlite_database
from tests.real.runs import NewDatabase


@pytest.fixture
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Make empty databases by name: ``new_database("sqlite", "ours")``. The same name is the same database."""

    @functools.cache
    def make(dialect: str, name: str) -> Database:
        if dialect == "sqlite":
            return sqlite_database(tmp_path / f"{name}.sqlite")
        server: Server = request.getfixturevalue(f"{dialect}_server")
        return server.new_database()

    return make
