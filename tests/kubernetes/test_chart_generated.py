"""What is written from the code or beside it says what the code says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from runner import __version__
from runner.settings import WITH_FILE, default_of
from tests.kubernetes import chart

WRITE = "python -m tests.kubernetes.chart --write"


def test_the_schema_has_the_settings_of_the_program() -> None:
    assert chart.SCHEMA.read_text(encoding="utf-8") == chart.schema(), WRITE


def test_the_readme_has_the_values_of_the_chart() -> None:
    assert chart.README.read_text(encoding="utf-8") == chart.readme(), WRITE


def test_the_chart_is_of_the_program_s_version() -> None:
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (__version__, __version__)


def values(of: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every path that leads to what is no map, or to an empty one."""
    if isinstance(of, dict) and of:
        for key, value in of.items():
            yield from values(value, (*path, key))
    else:
        yield ".".join(path)


def test_every_value_is_documented() -> None:
    documented = chart.documented()
    for path in values(yaml.safe_load(chart.VALUES.read_text())):
        assert any(path == known or path.startswith(f"{known}.") for known in documented), path


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads(chart.SCHEMA.read_text())
    Draft7Validator.check_schema(schema)
    own = yaml.safe_load(chart.VALUES.read_text())
    Draft7Validator(schema).validate(own)
    # Helm and parent charts give these.
    assert schema["properties"].keys() - {"global", "enabled"} == own.keys()
    for key, value in own.items():
        if isinstance(value, dict) and (known := schema["properties"][key].get("properties")) and value:
            assert value.keys() <= known.keys(), key


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas in a schema that list properties."""
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema["properties"], dict):
            yield path, schema
        for key, value in schema.items():
            yield from objects(value, f"{path}/{key}")


def test_no_object_of_the_schema_takes_keys_that_it_does_not_know() -> None:
    # A volume has one of some forty sources.
    loose = [
        path
        for path, schema in objects(json.loads(chart.SCHEMA.read_text()))
        if schema.get("additionalProperties") is not False
    ]
    assert loose == ["/properties/extraVolumes/items"]


def template(name: str) -> Any:
    """What a named template without a condition holds, as YAML."""
    text = (chart.CHART / "templates" / "_settings.tpl").read_text()
    found = re.search(rf'define "alembic-job\.{name}" -}}}}\n(.*?)\n{{{{- end }}}}', text, re.DOTALL)
    assert found
    return yaml.safe_load(found[1])


def test_the_templates_count_with_the_defaults_of_the_program() -> None:
    for name, value in template("defaults").items():
        assert default_of(name.lower()) == value


def test_the_templates_know_what_the_program_reads_from_files() -> None:
    assert template("withFile") == sorted(field.upper() for field in WITH_FILE)


@pytest.mark.parametrize("path", ["mode", "settings", "database.existingSecret", "image.tag"])
def test_a_comment_is_of_the_value_below_it(path: str) -> None:
    assert path in chart.documented()
    assert f"| `{path}` |" in chart.table()
