"""Plain Alembic in a process of its own, and a schema as a value: what the job is compared with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.databases import Database

_UPGRADE = """
import sys
from alembic import command
from alembic.config import Config

url, ini, scripts, target = sys.argv[1:]
config = Config(ini)
config.set_main_option("script_location", scripts)
config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
command.upgrade(config, target)
"""


def upgrade(database: Database, ini: Path, scripts: Path, target: str = "heads") -> subprocess.CompletedProcess[str]:
    """Do what ``alembic upgrade`` does; the caller checks the exit status."""
    return subprocess.run(
        [sys.executable, "-c", _UPGRADE, database.url, str(ini), str(scripts), target],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def alembic(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the ``alembic`` command in a project, which names its database itself; the caller checks the exit status."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows(database: Database, schema: str | None = None) -> dict[str, list[tuple[Any, ...]]]:
    """What every table holds."""
    engine = sa.create_engine(database.url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        return {
            table: sorted((tuple(row) for row in connection.execute(_select_all(engine, table, schema))), key=repr)
            for table in sorted(sa.inspect(engine).get_table_names(schema))
            if not table.startswith("alembic_job_")
        }


def _select_all(engine: sa.engine.Engine, table: str, schema: str | None) -> Any:
    return sa.text("SELECT * FROM " + engine.dialect.identifier_preparer.format_table(sa.table(table, schema=schema)))


def schema(database: Database, name: str | None = None) -> dict[str, Any]:
    """Describe all that SQLAlchemy's inspector knows of every table, in an order that can be compared.

    ``name``: of a schema beside the database's own.
    """
    engine = sa.create_engine(database.url, poolclass=sa.pool.NullPool)
    inspector = sa.inspect(engine)
    tables: dict[str, Any] = {}
    for table in inspector.get_table_names(name):
        if table.startswith("alembic_job_"):
            continue
        columns = [
            {**column, "type": column["type"].compile(engine.dialect)} for column in inspector.get_columns(table, name)
        ]
        tables[table] = {
            "columns": columns,
            "primary key": inspector.get_pk_constraint(table, name),
            "unique constraints": _sorted(inspector.get_unique_constraints(table, name)),
            "foreign keys": _sorted(inspector.get_foreign_keys(table, name)),
            "checks": _sorted(inspector.get_check_constraints(table, name)),
            "indexes": _sorted([_compared(index) for index in inspector.get_indexes(table, name)]),
        }
    if database.dialect == "postgresql":
        tables["enums"] = _sorted(inspector.get_enums())  # type: ignore[attr-defined]
    return tables


def _compared(index: Any) -> dict[str, Any]:
    """With the condition of a partial index as its text; SQLAlchemy gives an object, equal to itself alone."""
    return {**index, "dialect_options": {name: str(value) for name, value in index.get("dialect_options", {}).items()}}


def _sorted(found: list[Any]) -> list[Any]:
    return sorted(found, key=lambda one: str(sorted(one.items(), key=str)))
