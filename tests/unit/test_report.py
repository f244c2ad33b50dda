"""Lines that fit, whatever is in them."""

from __future__ import annotations

import dataclasses
import json
import os
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from alembic_job.masking import Masker
from alembic_job.report import (
    LIST_LIMIT,
    Report,
    Style,
    fitted,
    record_of,
    short_json,
    write_all,
)
from alembic_job.schema import of_line
from alembic_job.settings import schema
from hypothesis import given, settings
from hypothesis import strategies as st

from alembic_job import events
from tests.job import LONGEST_LINE, check_lines

TEXT = st.one_of(
    st.text(max_size=20),
    st.builds(lambda text, count: text * count, st.text(min_size=1, max_size=3), st.sampled_from([20, 1500, 9000])),
)
NAMES = ("error", "hint", "exit_code", "revision")


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type, also very long ones."""
    origin, arguments = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        return st.fixed_dictionaries({name: values(kind) for name, kind in get_type_hints(hint).items()})
    if origin is list:
        some = values(arguments[0])
        return st.one_of(st.lists(some, max_size=3), some.map(lambda one: [one] * 200))
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is dict:
        return st.just({"type": "object"})
    simple = {
        str: TEXT,
        int: st.integers(0, 10**9),
        float: st.floats(0, 10**9),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return simple[hint]


@st.composite
def any_event(draw: st.DrawFn) -> events.Event:
    kind = draw(st.sampled_from(events.ALL))
    hints = get_type_hints(kind)
    return kind(**{field.name: draw(values(hints[field.name])) for field in dataclasses.fields(kind)})


def written(style: Style, *records: dict[str, Any], masker: Masker | None = None, log: Path | None = None) -> bytes:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output:
        os.set_blocking(reader, False)
        report = Report(style, masker or Masker(), "run", writer, log)
        data = b""
        for record in records:
            report.write(record)
            data += output.read() or b""
        os.close(writer)
    return data


@pytest.mark.parametrize("fields", ["default", "gcp", "ecs", "datadog"])
@settings(max_examples=40)
@given(event=any_event())
def test_a_line_of_any_event_fits(fields: Any, event: events.Event) -> None:
    if isinstance(event, events.SettingsSchema):  # never cut, and of no database
        event = dataclasses.replace(event, section=None)
    line = written(Style("json", "debug", fields), record_of(event))
    assert len(line) <= LONGEST_LINE
    check_lines([line], default_fields=fields == "default")


def test_the_schema_of_the_settings_fits_though_it_is_never_cut() -> None:
    line = written(Style(), record_of(events.SettingsSchema(schema=schema())))
    assert len(line) <= LONGEST_LINE
    assert json.loads(line)["schema"] == schema()


@pytest.mark.parametrize("letter", ["x", "é", "😀", "\0", '"'])
def test_a_text_that_is_cut_says_so_and_fills_the_line(letter: str) -> None:
    line = fitted({"message": "short", "text": letter * 100_000})
    assert json.loads(line)["truncated"] is True
    assert json.loads(line)["message"] == "short"
    assert json.loads(line)["text"].strip("…" + letter) == ""
    assert LONGEST_LINE // 3 < len(line.encode()) < LONGEST_LINE


def test_a_text_that_fits_is_left_alone() -> None:
    said = {"text": "x" * 15_000}
    assert json.loads(fitted(said)) == said


def test_a_long_list_stops_and_is_not_called_truncated() -> None:
    assert json.loads(fitted({"revisions": ["r"] * 200, "count": 200})) == {
        "revisions": ["r"] * LIST_LIMIT,
        "count": 200,
    }


@given(
    exit_code=st.sampled_from([None, 41]),
    revision=st.none() | TEXT,
    error=st.none() | TEXT,
    hint=st.none() | TEXT,
)
def test_the_termination_message_is_valid_json_within_its_limit(**said: Any) -> None:
    text = short_json({"exit_name": "revision_partial", **{name: said[name] for name in NAMES}}, 1024)
    assert len(text.encode("utf-8", "replace")) <= 1024
    assert list(json.loads(text)) == ["exit_name", *NAMES]


@pytest.mark.parametrize("letter", ["x", "é", "語", "😀", "\0", '"', "\n"])
def test_a_termination_message_that_is_cut_keeps_the_short_whole_and_shares_the_rest(letter: str) -> None:
    long = letter * 3000
    said = {"error": long, "hint": "Grant it.", "exit_name": "permission_denied", "exit_code": 13, "revision": "r1"}
    text = short_json(said, 1024)
    assert 850 < len(text.encode()) <= 1024
    cut = json.loads(text)
    assert {**cut, "error": long} == said
    assert cut["error"].endswith("…") and cut["error"].rstrip("…") in long

    both = json.loads(short_json({**said, "hint": long}, 1024))
    assert both["error"] == both["hint"]
    assert len(both["error"]) > 25 and both["error"].endswith("…")
    assert (both["exit_name"], both["exit_code"], both["revision"]) == ("permission_denied", 13, "r1")


def test_the_termination_message_has_error_and_hint_first_also_of_a_revision_that_has_begun(tmp_path: Path) -> None:
    started = events.RevisionStarted(
        revision="é" * 2000, parents=[], summary="語" * 2000, path="r.py", position=2, count=5
    )
    written(Style(), record_of(started), log=tmp_path / "log")
    text = (tmp_path / "log").read_bytes()
    said = json.loads(text)
    assert len(text) <= 1024
    assert list(said) == ["error", "hint", "exit_name", "exit_code", "revision"]
    assert said["error"].startswith("The run was ended from outside") and said["hint"].startswith("With the reason")
    assert (said["exit_name"], said["exit_code"]) == (None, None) and said["revision"].startswith("é")


def test_a_file_name_that_is_no_utf8_is_written_all_the_same(tmp_path: Path) -> None:
    record = {**record_of(FINISHED), "error": "caf\udce9.py", "message": "caf\udce9.py"}
    line = written(Style(), record, log=tmp_path / "log")
    assert json.loads(line)["error"] == "caf?.py"
    assert json.loads((tmp_path / "log").read_text())["error"] == "caf?.py"


FINISHED = events.RunFinished(
    outcome="failed",
    exit_code=40,
    exit_name="revision_failed",
    retryable=False,
    from_=[],
    to=[],
    applied=[],
    count=0,
    duration_s=0.1,
    error="It failed",
    code=None,
    revision="r1",
    hint="Correct it.",
)


@pytest.mark.parametrize("word", ["error", "failed", "revision_failed", "run_finished", "info"])
def test_a_password_that_is_one_of_our_words_breaks_nothing(word: str) -> None:
    masker = Masker()
    masker.add(word)
    (line,) = written(Style(), record_of(FINISHED), masker=masker).splitlines(keepends=True)
    said = json.loads(line)
    check_lines([line])
    assert (said["event"], said["level"], said["outcome"]) == ("run_finished", "error", "failed")
    assert word not in said["message"]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ("default", {"time", "level", "event", "error"}),
        ("gcp", {"time", "severity", "event", "error"}),
        ("ecs", {"@timestamp", "log.level", "event.action", "error.message", "ecs.version"}),
        ("datadog", {"timestamp", "status", "event", "error"}),
    ],
)
def test_fields_have_the_names_of_the_log_platform(fields: Any, names: set[str]) -> None:
    line = json.loads(written(Style("json", "info", fields), record_of(FINISHED)))
    assert names <= line.keys()
    assert not ({"time", "level", "event", "error"} - names) & line.keys()
    if fields == "gcp":
        assert line["severity"] == "ERROR"


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_a_level_hides_what_is_below_it(level: str, shown: int) -> None:
    records = [
        {**record_of(FINISHED), "event": "user_output", "level": name} for name in ("debug", "info", "warning", "error")
    ]
    assert len(written(Style("json", level), *records).splitlines()) == shown


def test_the_first_and_the_last_event_are_shown_at_every_level() -> None:
    records = [
        {**record_of(FINISHED), "event": name, "level": "info"}
        for name in ("run_started", "lock_released", "run_finished")
    ]
    lines = written(Style("json", "error"), *records).splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["run_started", "run_finished"]


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    report = Report(Style(), Masker(), "run", writer, None)
    report.write(record_of(FINISHED))
    report.write(record_of(FINISHED))
    os.close(writer)


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing() -> None:
    import threading

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = bytes(range(256)) * 2000
    got: list[bytes] = []

    def read() -> None:
        with os.fdopen(reader, "rb") as output:
            got.append(output.read())

    thread = threading.Thread(target=read)
    thread.start()
    write_all(writer, data)
    os.close(writer)
    thread.join()
    assert got == [data]


def test_text_lines_have_no_colour_outside_of_a_terminal() -> None:
    line = written(Style("text"), record_of(FINISHED)).decode()
    assert line.endswith("ERROR   revision_failed (exit 40): It failed Correct it.\n")
    assert "\x1b" not in line


def test_every_line_of_output_is_marked_as_such_in_text() -> None:
    said = events.UserOutput(stream="stdout", logger="app", text="one\ntwo", revision=None)
    assert written(Style("text"), record_of(said)).decode().endswith("INFO      | app: one\n  | two\n")


def test_the_schema_names_every_event() -> None:
    assert of_line()["$defs"].keys() == {event.name for event in events.ALL}
