"""What a schema is made of, as a value, and what differs between two.

Columns are matched by name, everything else by what it says and not by what it is called: most names
of constraints are made up by the server. Views, sequences, triggers, comments and table options are
not looked at.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from .events import DifferenceFound, counted, listed
from .model import is_own

Part = tuple[str, str, int]  # kind, content, and a number where one table has the same twice


@dataclass(frozen=True)
class Column:
    """A column as the server describes it."""

    type: str
    nullable: bool
    default: str | None

    def __str__(self) -> str:
        """As in a ``CREATE TABLE``, about."""
        default = f" DEFAULT {self.default}" if self.default is not None else ""
        return f"{self.type}{'' if self.nullable else ' NOT NULL'}{default}"


@dataclass(frozen=True)
class Table:
    """A table: its columns, and keys, indexes and constraints by their content, with their names."""

    columns: Mapping[str, Column] = field(default_factory=dict)
    parts: Mapping[Part, str | None] = field(default_factory=dict)

    @cached_property
    def weight(self) -> int:
        """How much is missing where the whole table is."""
        return 1 + len(self.columns) + len(self.parts)

    def __str__(self) -> str:
        """For people."""
        return f"a table of {counted(len(self.columns), 'column')} ({listed(list(self.columns))})"


Shape = Mapping[str, Table]  # by "table", or "schema.table" outside of the connection's own schema


def differences(live: Shape, wanted: Shape) -> list[DifferenceFound]:
    """What would have to be done to ``live`` to make it ``wanted``."""
    found: list[DifferenceFound] = []
    for name in sorted({*live, *wanted}):
        there, should = live.get(name), wanted.get(name)
        if there is None:
            found.append(_difference("add_table", name, None, None, should))
        elif should is None:
            found.append(_difference("remove_table", name, None, there, None))
        elif there != should:
            found += _within(name, there, should)
    return found


def distance(live: Shape, wanted: Shape) -> int:
    """How much differs; a whole table weighs as much as all that it consists of."""
    total = 0
    for name in {*live, *wanted}:
        there, should = live.get(name), wanted.get(name)
        if there is None or should is None:
            total += (there or should or Table()).weight
        elif there is not should and there != should:
            total += sum(1 for _ in _within(name, there, should))
    return total


def _within(table: str, there: Table, should: Table) -> Iterator[DifferenceFound]:
    for name in (*there.columns, *(name for name in should.columns if name not in there.columns)):
        is_, wanted = there.columns.get(name), should.columns.get(name)
        if is_ is None or wanted is None:
            yield _difference("add_column" if is_ is None else "remove_column", table, name, is_, wanted)
            continue
        if is_.type != wanted.type:
            yield _difference("modify_type", table, name, is_.type, wanted.type)
        if is_.nullable != wanted.nullable:
            yield _difference("modify_nullable", table, name, _null(is_), _null(wanted))
        if is_.default != wanted.default:
            yield _difference("modify_default", table, name, is_.default, wanted.default)
    for part, called in there.parts.items():
        if part not in should.parts:
            yield _difference(f"remove_{_KINDS[part[0]]}", table, called, part[1], None)
    for part, called in should.parts.items():
        if part not in there.parts:
            yield _difference(f"add_{_KINDS[part[0]]}", table, called, None, part[1])


_KINDS = {  # as Alembic's comparison names them, where it has a name
    "index": "index",
    "foreign_key": "fk",
    "unique": "constraint",
    "check": "constraint",
    "primary_key": "constraint",
}


def _null(column: Column) -> str:
    return "NULL" if column.nullable else "NOT NULL"


def _difference(operation: str, table: str, name: str | None, there: object, should: object) -> DifferenceFound:
    return DifferenceFound(
        operation=operation,
        table=table,
        object=name,
        database=None if there is None else str(there),
        models=None if should is None else str(should),
    )


# --- reading ------------------------------------------------------------------------------------------


def read(connection: Any, schemas: Iterable[str], *, without: str) -> Shape:
    """The schema that this connection of SQLAlchemy sees: its own, and these. ``without``: the version table."""
    inspector = sa.inspect(connection)
    shape: dict[str, Table] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "did not recognize type": then both sides do not
        for schema in (None, *schemas):
            there = inspector.get_table_names(schema=schema)
            names = [name for name in there if name.lower() != without.lower() and not is_own(name)]
            about = {what: _all(inspector, what, schema, names) for what in _ABOUT}
            for name in names:
                own = {what: answers.get(name) or [] for what, answers in about.items()}
                columns = {column["name"]: _column(column, connection.dialect) for column in own.pop("columns")}
                shape[f"{schema}.{name}" if schema else name] = Table(columns, _parts(own))
    return shape


def names(connection: Any, schemas: Iterable[str]) -> frozenset[str]:
    """The tables that this connection of SQLAlchemy sees in its own schema and in these."""
    inspector = sa.inspect(connection)
    own = set(inspector.get_table_names())
    for schema in schemas:
        try:
            own |= {f"{schema}.{name}" for name in inspector.get_table_names(schema=schema)}
        except sa.exc.DBAPIError:  # on MySQL it is another database, which may not be there
            continue
    return frozenset(own)


_ABOUT = ("columns", "pk_constraint", "indexes", "unique_constraints", "foreign_keys", "check_constraints")


def _all(inspector: Any, what: str, schema: str | None, tables: list[str]) -> Mapping[str, Any]:
    """One kind of answer for all tables; since SQLAlchemy 2 by few queries, where the dialect can."""
    if several := getattr(inspector, f"get_multi_{what}", None):
        return {name: answer for (_, name), answer in several(schema=schema).items()}
    one = getattr(inspector, f"get_{what}")
    return {name: one(name, schema=schema) for name in tables}


def _column(column: Mapping[str, Any], dialect: Any) -> Column:
    default = column.get("default")
    if default is not None:
        default = _SEQUENCE.sub("nextval(…)", _plain(default))
    if computed := column.get("computed"):
        default = f"GENERATED ALWAYS AS ({_plain(computed['sqltext'])})"
    if column.get("identity"):
        default = "GENERATED AS IDENTITY"
    automatic = " AUTOINCREMENT" if column.get("autoincrement") is True else ""
    return Column(_type(column["type"], dialect) + automatic, bool(column["nullable"]), default)


_SEQUENCE = re.compile(r"nextval\('[^']*'(::regclass)?\)")  # its name stays when the table is renamed


def _type(type_: Any, dialect: Any) -> str:
    try:
        text = str(type_.compile(dialect=dialect))
    except sa.exc.CompileError:
        return "a type that SQLAlchemy does not know"
    labels = getattr(getattr(type_, "item_type", type_), "enums", None)  # PostgreSQL's are not in the type's text
    return f"{text} ({', '.join(labels)})" if labels and not all(label in text for label in labels) else text


def _plain(text: object) -> str:
    return " ".join(str(text).split())


def _parts(about: Mapping[str, Any]) -> Mapping[Part, str | None]:
    parts: dict[Part, str | None] = {}

    def add(kind: str, content: str, called: str | None) -> None:
        number = 0
        while (kind, content, number) in parts:
            number += 1
        parts[kind, content, number] = called

    key = about["pk_constraint"] or {}
    if key.get("constrained_columns"):
        add("primary_key", f"PRIMARY KEY ({', '.join(key['constrained_columns'])})", key.get("name"))
    for index in about["indexes"]:
        if not index.get("duplicates_constraint"):
            add("index", _index(index), index["name"])
    for unique in about["unique_constraints"]:
        if not unique.get("duplicates_index"):  # MySQL has the index alone
            add("unique", f"UNIQUE ({', '.join(unique['column_names'])}){_options(unique)}", unique.get("name"))
    for foreign in about["foreign_keys"]:
        add("foreign_key", _foreign_key(foreign), foreign.get("name"))
    for check in about["check_constraints"]:
        add("check", f"CHECK ({_plain(check['sqltext'])})", check.get("name"))
    return parts


def _index(index: Mapping[str, Any]) -> str:
    columns = [str(one) for one in index.get("expressions") or index["column_names"]]
    sorting = index.get("column_sorting") or {}
    shown = [" ".join((one, *map(str.upper, sorting.get(one, ())))) for one in columns]
    kind = f"{index['type']} " if index.get("type") else ""
    return f"{'UNIQUE ' if index.get('unique') else ''}{kind}INDEX ({', '.join(shown)}){_options(index)}"


def _foreign_key(foreign: Mapping[str, Any]) -> str:
    target = ".".join(filter(None, (foreign.get("referred_schema"), foreign["referred_table"])))
    options = foreign.get("options") or {}
    said = "".join(f" {name.upper()} {value}" for name, value in sorted(options.items()) if value)
    own, referred = ", ".join(foreign["constrained_columns"]), ", ".join(foreign["referred_columns"])
    return f"FOREIGN KEY ({own}) REFERENCES {target} ({referred}){said}"


def _options(part: Mapping[str, Any]) -> str:
    """What the dialect adds: ``WHERE``, ``USING``, ``INCLUDE``; nothing for what is empty."""
    options = {**(part.get("dialect_options") or {})}
    said = [f"{name.partition('_')[2]}={_plain(value)}" for name, value in sorted(options.items()) if value]
    return f" [{', '.join(said)}]" if said else ""
