"""Alembic's autogenerate does not see the runner's own tables, which no model has and which it would drop.

A plugin for plain Alembic since 1.18, by the entry point group ``alembic.plugins``; its name begins with
``alembic.autogenerate.``, which is what Alembic turns on by itself. Our own commands hide the tables with
any version.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from .model import OWN_SCHEMA, is_own


class _Plugin(ModuleType):
    """A module that lists itself: Alembic 1.18 and 1.19 iterate over what the entry point names, and fail on a module.

    Since 1.20 it takes a module, and warns of a list: its issue 1873
    """

    def __iter__(self) -> Iterator[ModuleType]:
        yield self


sys.modules[__name__].__class__ = _Plugin


def setup(plugin: Any) -> None:
    """Called by Alembic, once."""
    from alembic.util import DispatchPriority, PriorityDispatchResult  # noqa: PLC0415  since 1.18

    def hide(autogenerate: Any, _: Any) -> PriorityDispatchResult:
        filters = getattr(autogenerate, "_name_filters", None)
        if filters is not None:
            filters.append(is_the_projects)
        return PriorityDispatchResult.CONTINUE

    plugin.add_autogenerate_comparator(hide, "autogenerate", "alembic_job", priority=DispatchPriority.FIRST)


def is_the_projects(name: str | None, kind: str, _: Any = None) -> bool:
    """What ``include_name`` of ``context.configure`` asks."""
    return not (kind == "table" and name and is_own(name)) and not (kind == "schema" and name == OWN_SCHEMA)


def hiding(options: dict[str, Any]) -> None:
    """Hide the tables from a comparison with these options of ``context.configure``, whatever they say."""
    theirs: Callable[..., bool] | None = options.get("include_name")

    def include_name(name: str | None, kind: str, parents: Any) -> bool:
        return is_the_projects(name, kind) and (theirs is None or theirs(name, kind, parents))

    options["include_name"] = include_name
