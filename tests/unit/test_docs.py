"""The docs say what the code does: their tables are held equal to it."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from runner.cli import parser
from runner.errors import ExitCode
from runner.events import ALL, EnvironmentConnected, Event
from runner.settings import FIELDS, MASKED, PREFIX, WITH_FILE, default_of
from tests.real.projects import PROJECTS, Fails, Refused, Works

ROOT = Path(__file__).parents[2]
CONTRACT = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(text: str, first_column: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading, cell by cell."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first_column} |"):
            next(lines)
            break
    else:
        raise AssertionError(f"no table with the first column '{first_column}'")
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("| ").split(" | ")])
    return rows


def names(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def test_the_contract_lists_every_setting_with_its_default_and_no_other() -> None:
    documented = {names(row[0])[0].lower(): row[1].strip("`") for row in table(CONTRACT, "variable")}
    assert documented == {field: default_of(field) or "none" for field in FIELDS}


def test_the_contract_names_the_settings_that_come_from_files() -> None:
    sentence = re.search(r"^(.*) also come as `…_FILE`", CONTRACT, re.MULTILINE)
    assert sentence
    assert {name.lower() for name in names(sentence[1])} == WITH_FILE


@pytest.mark.parametrize("event", ALL, ids=lambda event: event.name)
def test_the_contract_lists_every_event_with_its_fields(event: type[Event]) -> None:
    rows = {names(row[0])[0]: row[-1] for row in table(CONTRACT, "event")}
    # What stands in brackets explains a field.
    documented = names(re.sub(r"\([^)]*\)", "", rows[event.name]))
    assert documented == [
        field.name.rstrip("_")
        for field in dataclasses.fields(event)
        if field.name != "section" or event is EnvironmentConnected  # else there with several databases only
    ]


def test_the_contract_lists_no_event_that_does_not_exist() -> None:
    assert {names(row[0])[0] for row in table(CONTRACT, "event")} == {event.name for event in ALL}


@pytest.mark.parametrize("text", [CONTRACT, README], ids=["contract", "README"])
def test_the_exit_codes_in_the_docs_are_those_of_the_code(text: str) -> None:
    documented = {}
    for row in table(text, "code"):
        for code in row[0].split(" / "):
            documented[int(code)] = (names(row[1])[0], row[2])
    assert documented == {
        int(code): (code.title, "\N{EN DASH}" if code in (0, 3, 4, 37) else "yes" if code.retryable else "no")
        for code in ExitCode
    }


def test_the_contract_lists_every_command() -> None:
    documented = {name.split()[0] for row in table(CONTRACT, "command") for name in names(row[0])}
    commands = next(action for action in parser()._actions if action.dest == "command").choices
    assert documented == set(commands or ())


def test_the_page_of_real_projects_has_what_the_suite_expects_of_each() -> None:
    rows = table((ROOT / "docs" / "real-projects.md").read_text(encoding="utf-8"), "project")
    for project, (name, special, *cells) in zip(PROJECTS, rows, strict=True):
        assert project.requires[0] in name
        assert special == project.special
        for dialect, said in zip(("sqlite", "mariadb", "postgresql"), cells, strict=True):
            match project.cells.get(dialect):
                case None:
                    assert said == "\N{EN DASH}"
                case Works(tables=tables):
                    assert f" {tables} tables, equal" in said
                case Fails(tables=tables, code=code):
                    assert "(41)" in said and code in said and f" {tables} tables" in said
                case Refused():
                    assert "(35), nothing run" in said


def test_every_variable_that_the_docs_name_exists() -> None:
    known = {PREFIX + field.upper() for field in FIELDS} | {f"{PREFIX}{field.upper()}_FILE" for field in WITH_FILE}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]:
        found = set(re.findall(PREFIX + r"[A-Z][A-Z_]*[A-Z]", page.read_text(encoding="utf-8")))
        assert found <= known, page


def test_every_setting_but_the_secrets_has_an_option_that_shows_its_variable() -> None:
    said = parser().format_help().replace("\n", "")
    for field in FIELDS:
        if not field.startswith("db_") and field not in {*MASKED, "target"}:
            assert PREFIX + field.upper() in re.sub(r"\s+", "", said), field


def test_the_versions_that_are_tried_are_those_of_the_table() -> None:
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "design.md").read_text().splitlines()]
    [alembic], [sqlalchemy] = ([row[1:] for row in rows if row[0] == name] for name in ("Alembic", "SQLAlchemy"))
    told = [f"{one}+{other}" for one, other in zip(alembic, sqlalchemy, strict=True)]
    lines = (ROOT / "tests" / "matrix.txt").read_text().splitlines()
    pairs = ["+".join(line.split()) for line in lines if not line.startswith("#")]
    pins = dict(re.findall(r"^(alembic|sqlalchemy)==(\S+)$", (ROOT / "tests" / "oldest.txt").read_text(), re.M))
    assert told == [f"{pins['alembic']}+{pins['sqlalchemy']}", *pairs, "newest+newest"]
    in_ci = re.findall(r"[\d.]+\+[\d.]+", (ROOT / ".ci" / "run").read_text())
    assert in_ci and set(in_ci) <= set(pairs)


PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]
ALEMBICS_OWN = {"init", "revision", "merge", "branches", "show"}  # with flags of its own


def commands_of(text: str) -> list[list[str]]:
    """The lines of the examples that call the program, and the arguments of containers, word by word."""
    examples = "\n".join(re.findall(r"^```(?:sh|yaml)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^ *(?:- )?(alembic-job .*)$", examples, re.MULTILINE)
    lines += [
        f"alembic-job {args.replace(',', ' ')}" for args in re.findall(r"^ *args: \[(.*)\]$", examples, re.MULTILINE)
    ]
    return [shlex.split(re.sub(r" (>|>>|\|\|) .*", "", line), comments=True)[1:] for line in lines]


def test_every_command_of_the_examples_is_one() -> None:
    found = [words for text in PAGES for words in commands_of(text)]
    assert {words[0] for words in found if words} >= {
        "upgrade",
        "wait",
        "plan",
        "downgrade",
        "baseline",
        "resolve",
        "check",
    }
    for words in found:
        if not words or words[0] not in ALEMBICS_OWN:
            parser().parse_args(words)  # raises SettingsInvalid
