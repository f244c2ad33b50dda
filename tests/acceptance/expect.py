"""What the tests of the real process expect over and over."""

from __future__ import annotations

from pathlib import Path

from tests.job import Result

PROJECTS = Path(__file__).parents[1] / "projects"
URL = "ALEMBIC_JOB_DATABASE_URL"


def refused(result: Result, code: int, name: str, *facts: str) -> None:
    """Hold a failed run against the contract: its exit code, one sentence with the facts, and a hint."""
    finished = result.finished
    said = f"{finished['error']!r}, hint {finished['hint']!r}"
    assert (result.exit_code, finished["exit_name"], finished["outcome"]) == (code, name, "failed"), said
    assert finished["retryable"] == (code in (1, 10, 14, 20, 21, 22, 43))
    error, hint = finished["error"], finished["hint"]
    assert error.endswith((".", "?")) and "\n" not in error, said
    assert not error.endswith(".."), said
    assert "Traceback" not in error and "sqlalche.me" not in error, said
    assert len(error) < 1000, said
    assert hint and "\n" not in hint and "This is a bug" not in hint, said
    for fact in facts:
        assert fact in error, f"{fact!r} is not in {said}"


def applied_nothing(result: Result) -> None:
    """No revision was begun, let alone applied."""
    assert not result.of("revision_started")
    assert (result.finished["applied"], result.finished["count"]) == ([], 0)
