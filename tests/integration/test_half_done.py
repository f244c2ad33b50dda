"""A revision that is killed at any of its points is resumed by running again: everything exactly once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import killing
from tests.databases import Server, sqlite_database
from tests.job import Job
from tests.killing import AUTOCOMMIT_ORDER, DURABLE, MODES, Case, Outcome, Point, draw, points
from tests.servers import PrivateServer, private_server

SEED = int(os.environ.get("HALF_DONE_SEED", "1"))

StartJob = Callable[..., Job]


@pytest.fixture(scope="module")
def durable() -> Iterator[Callable[[str], PrivateServer]]:
    """Servers to be killed, one of each kind, that keep what they have promised."""
    started: dict[str, PrivateServer] = {}

    def server(dialect: str) -> PrivateServer:
        if dialect not in started:
            started[dialect] = private_server(dialect, **DURABLE[dialect])
        if not started[dialect].runtime.alive():  # a test that failed
            started[dialect].start()
        return started[dialect]

    yield server
    for one in started.values():
        one.discard()


@pytest.fixture
def server_for(request: pytest.FixtureRequest, durable: Callable[[str], PrivateServer]) -> Callable[[str, str], Server]:
    def server(dialect: str, mode: str) -> Server:
        return durable(dialect) if mode == "server" else request.getfixturevalue(f"{dialect}_server")

    return server


def named(point: Point) -> str:
    return point.name.replace(" ", "_")


def ended_at_head(case: Case, outcome: Outcome) -> None:
    said = "\n".join(run.stdout for run in outcome.runs)
    assert outcome.last.exit_code == 0, said
    assert killing.is_complete(case.database), f"{killing.effects(case.database)}\n{said}"
    assert killing.recorded(case.database) == [], "what was recorded of a revision that is complete is forgotten"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", points(), ids=named)
def test_on_mariadb_running_again_executes_every_statement_exactly_once(
    mode: str, point: Point, server_for: Callable[[str, str], Server], start_job: StartJob, tmp_path: Path
) -> None:
    drawn = draw(SEED, point, mode)
    print(f"HALF_DONE_SEED={SEED}: {drawn}")
    server = server_for("mariadb", mode)
    case = Case(server, server.new_database(), killing.project(tmp_path, "mariadb"), start_job)
    ended_at_head(case, case.play(mode, drawn))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", points(), ids=named)
def test_on_postgresql_nothing_is_half_done(
    mode: str, point: Point, server_for: Callable[[str, str], Server], start_job: StartJob, tmp_path: Path
) -> None:
    drawn = draw(SEED, point, mode)
    print(f"HALF_DONE_SEED={SEED}: {drawn}")
    server = server_for("postgresql", mode)
    case = Case(server, server.new_database(), killing.project(tmp_path, "postgresql"), start_job)
    outcome = case.play(mode, drawn)
    assert outcome.states == {}
    assert set(outcome.there.values()) in ({0}, {1}), "r1 is there as a whole, or not at all"
    assert not any(run.of("revision_half_done") for run in outcome.runs)
    ended_at_head(case, outcome)


@pytest.mark.parametrize("point", points(), ids=named)
def test_on_sqlite_running_again_executes_every_statement_exactly_once(
    point: Point, start_job: StartJob, tmp_path: Path
) -> None:
    drawn = draw(SEED, point, "process", waits=False)
    print(f"HALF_DONE_SEED={SEED}: {drawn}")
    database = sqlite_database(tmp_path / "database.sqlite")
    case = Case(None, database, killing.project(tmp_path, "sqlite"), start_job)
    ended_at_head(case, case.play("process", drawn))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", points(AUTOCOMMIT_ORDER), ids=named)
def test_on_postgresql_an_autocommit_block_is_resumed_or_its_list_is_true(
    mode: str, point: Point, server_for: Callable[[str, str], Server], start_job: StartJob, tmp_path: Path
) -> None:
    """Statements 2, CREATE INDEX CONCURRENTLY, and 3 are in the block. An index that is invalid is for a person."""
    drawn = draw(SEED, point, mode)
    print(f"HALF_DONE_SEED={SEED}: {drawn}")
    server = server_for("postgresql", mode)
    project = killing.project(tmp_path, "postgresql", autocommit=True)
    case = Case(server, server.new_database(), project, start_job, order=AUTOCOMMIT_ORDER)
    outcome = case.play(mode, drawn)
    if outcome.last.exit_code != 42:
        ended_at_head(case, outcome)
        return
    invalid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_page_x')"
    assert case.database.query(invalid) == [(False,)], outcome.last.stdout
    there = killing.effects(case.database)
    listed = outcome.last.of("revision_half_done")[-1]["statements"]
    killing.hold_list_against(listed, there, AUTOCOMMIT_ORDER)
    assert [one["statement_number"] for one in listed if one["state"] == "started"] == [2]
    assert "Statement 2 left the index ix_page_x, which is invalid: drop it" in outcome.last.finished["error"]
