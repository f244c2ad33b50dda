"""The JSON Schema of every line, made from the event classes.

``python -m runner.schema`` prints it; ``runner/events.schema.json`` is held equal to it by a test.
"""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from .events import ALL, EnvironmentConnected, Event
from .report import LEVELS, SCHEMA_VERSION

_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def of_line() -> dict[str, Any]:
    """One line of stdout: any of the events."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of alembic-job",
        "oneOf": [{"$ref": f"#/$defs/{event.name}"} for event in ALL],
        "$defs": {event.name: of_event(event) for event in ALL},
    }


def of_event(event: type[Event]) -> dict[str, Any]:
    """One event with the fields that every line has."""
    hints = get_type_hints(event)
    own = {f.name.rstrip("_"): of_type(hints[f.name]) for f in dataclasses.fields(event)}
    common: dict[str, Any] = {
        "time": {"type": "string", "format": "date-time"},
        "seq": {"type": "integer", "minimum": 1},
        "level": {"enum": list(LEVELS)},
        "event": {"const": event.name},
        "message": {"type": "string"},
        "run_id": {"type": "string"},
        "schema_version": {"const": SCHEMA_VERSION},
    }
    return {
        "description": (event.__doc__ or "").strip(),
        "type": "object",
        "properties": {**common, **own, "truncated": {"const": True}},
        "required": [*common, *(name for name in own if name != "section" or event is EnvironmentConnected)],
        "additionalProperties": False,
    }


def of_type(hint: Any) -> dict[str, Any]:
    """The schema of a field's type."""
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if is_typeddict(hint):
        fields = {name: of_type(kind) for name, kind in get_type_hints(hint).items()}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list:
        return {"type": "array", "items": of_type(arguments[0])}
    if origin is dict:
        return {"type": "object"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType) and any(map(is_typeddict, arguments)):
        return {"anyOf": [of_type(argument) for argument in arguments]}
    if origin in (Union, types.UnionType):
        kinds = [of_type(argument) for argument in arguments]
        return {key: value for kind in kinds for key, value in kind.items()} | {"type": [k["type"] for k in kinds]}
    raise TypeError(f"no schema for {hint}")


if __name__ == "__main__":
    print(json.dumps(of_line(), indent=2))  # noqa: T201
