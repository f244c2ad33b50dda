"""What of the chart the code writes: ``python -m tests.kubernetes.chart --write`` after a change of settings or values.

values.schema.json is written by hand, but for the settings; README.md, but for the table of values, which is in the
comments of values.yaml.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from runner.settings import FIELDS, SECRET, Settings, default_of

ROOT = Path(__file__).parents[2]
CHART = ROOT / "k8s" / "chart" / "alembic-job"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
VALUES = CHART / "values.yaml"
BEGIN, END = "<!-- the values: begin -->", "<!-- the values: end -->"


def setting_schema(field: str) -> dict[str, Any]:
    """What a setting may be as a value. Secrets may be anything here: a template says where they belong."""
    about: dict[str, Any] = {"description": FIELDS[field].description}
    if field in SECRET:
        return about
    own = Settings.model_json_schema()["properties"][field]
    kinds = [kind for kind in own.get("anyOf", [own]) if kind.get("type") != "null"]
    [kind] = kinds
    if default := default_of(field):
        about["default"] = default
    if "timedelta" in str(FIELDS[field].annotation):
        return about | {"$ref": "#/definitions/duration"}
    if kind["type"] == "boolean":
        return about | {"enum": [True, False, "true", "false"]}
    if kind["type"] == "integer":
        return about | {key: kind[key] for key in ("type", "minimum", "maximum") if key in kind}
    return about | {key: kind[key] for key in ("type", "enum", "pattern") if key in kind}


def schema() -> str:
    """values.schema.json with the settings as they are now."""
    whole = json.loads(SCHEMA.read_text(encoding="utf-8"))
    settings = {field.upper(): setting_schema(field) for field in FIELDS}
    whole["properties"]["settings"] = {"type": "object", "additionalProperties": False, "properties": settings}
    in_secret = [field.upper() for field in FIELDS if field in SECRET or field.startswith("db_")]
    whole["properties"]["database"]["properties"]["keys"]["properties"] = {
        name: {"$ref": "#/definitions/key"} for name in in_secret
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def documented() -> dict[str, str]:
    """What values.yaml says of each value, by its path. A comment that begins with "--" is of the next key."""
    said: dict[str, str] = {}
    path: list[str] = []
    about = None
    for line in VALUES.read_text(encoding="utf-8").splitlines():
        if match := re.match(r" *# -- (.*)", line):
            about = match[1]
        elif match := re.match(r"( *)(\w+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if about:
                said[".".join(path)] = about
            about = None
    return said


def default(path: str) -> Any:
    """The default of a value."""
    value = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    for key in path.split("."):
        value = value[key]
    return value


def table() -> str:
    """The values as the README lists them."""
    rows = ["| value | default | |", "| --- | --- | --- |"]
    for path, about in documented().items():
        value = default(path)
        shown = "none" if value in (None, "") else f"`{json.dumps(value) if not isinstance(value, str) else value}`"
        rows.append(f"| `{path}` | {shown} | {about} |")
    return "\n".join(rows)


def readme() -> str:
    """README.md with the table as it is now."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("python -m tests.kubernetes.chart --write")
    SCHEMA.write_text(schema(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
