"""What a failed login is taken for. The rest of waiting needs a server: ``tests/acceptance/test_waiting.py``."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from runner import url as urls
from runner.database import Database
from runner.errors import ConfigInvalid
from runner.events import Event
from runner.stopping import Stop
from runner.wait import Patience, wait_for_login


def wait(url: str, emit: object) -> None:
    database = Database(read_url=lambda: urls.parse(url), connect_timeout_s=1.0)
    stop = Stop(mmap.mmap(-1, 1))
    wait_for_login(database, Patience(2.0, 2.0), writable=True, stop=stop, emit=emit)  # type: ignore[arg-type]


def test_a_mistake_of_our_own_is_not_taken_for_a_database_that_does_not_answer(tmp_path: Path) -> None:
    calls: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise TypeError("ours")

    with pytest.raises(TypeError, match="ours"):
        wait(f"sqlite:///{tmp_path}/a.db", broken)
    assert len(calls) == 1, "and it is not tried again"


def test_a_host_that_no_name_can_be_is_a_mistake_of_the_settings() -> None:
    with pytest.raises(ConfigInvalid, match="cannot be sent"):
        wait(f"mysql+pymysql://u:p@{'a' * 70}/d", print)
