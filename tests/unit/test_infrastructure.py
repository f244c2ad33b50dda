"""The tests' own footing: what ``tests.job`` takes for granted."""

import json

from jsonschema import Draft202012Validator

from tests.job import SCHEMA


def test_the_schema_has_one_branch_for_each_event_and_no_other() -> None:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    assert {branch["$ref"] for branch in schema["oneOf"]} == {f"#/$defs/{name}" for name in schema["$defs"]}
    for name, event in schema["$defs"].items():
        assert event["properties"]["event"] == {"const": name}
        assert "event" in event["required"]
