"""The chaos suite itself: each of its invariants can be broken, and its proxy does what it says."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.chaos import faults, history
from tests.chaos.history import Found
from tests.chaos.proxy import Line, Proxy
from tests.chaos.verdict import INVARIANTS, Ended, Verdict, judge


def execution(
    token: str,
    revision: str,
    run: str,
    *others: dict[str, Any],
    end: str | None = "end",
    mine: str | None = "executing",
) -> list[Any]:
    lines = [
        {"what": "start", "token": token, "revision": revision, "run": run, "session": 1},
        {"what": "beside", "token": token, "mine": mine, "others": list(others)},
    ]
    return lines + ([{"what": end, "token": token}] if end else [])


def beside(token: str, *, alive: bool, session: str | None) -> dict[str, Any]:
    return {"token": token, "alive": alive, "session": session}


def run(name: str, code: int | None = 0, *applied: str, said: bool = True, harm: tuple[str, ...] = ()) -> Ended:
    return Ended(name, "usual", 2, code, harm, applied if said else None)


FINE = [*execution("a", "r1", "run1"), *execution("b", "r2", "run1")]
WHOLE = Found(("r2",), {1: "whole", 2: "whole"}, {1: 1, 2: 1})
RUNS = [run("run1", 0, "r1", "r2"), run("run2"), run("last")]


def beside_it(second: Ended) -> list[Ended]:
    return [RUNS[0], second, RUNS[2]]


def verdict(
    record: list[Any] = FINE, found: Found = WHOLE, runs: list[Ended] = RUNS, *, ddl_commits: bool = True
) -> Verdict:
    return judge(record, found, runs, ddl_commits=ddl_commits, last=runs[-1], goal=2)


def test_a_round_in_which_all_went_well_breaks_nothing() -> None:
    assert verdict().broken == {}


def test_who_begins_with_a_session_that_is_gone_is_beside_nobody() -> None:
    others = beside("b", alive=True, session="executing")
    assert verdict([*FINE, *execution("c", "r1", "run2", others, end="raised", mine=None)]).broken == {}


HALF = Found(("r1",), {1: "whole", 2: "part"}, {1: 1})
BEGUN = [*FINE[:3], *execution("b", "r2", "run1", end=None)]
BROKEN: dict[str, tuple[str, Callable[[], Verdict]]] = {
    "a revision begins while another run is at one": (
        "alone",
        lambda: verdict([*FINE, *execution("c", "r2", "run2", beside("b", alive=True, session="idle"), end="raised")]),
    ),
    "a revision begins while the session of a dead run still executes one": (
        "alone",
        lambda: verdict([*FINE, *execution("c", "r2", "run2", beside("b", alive=False, session="executing"))]),
    ),
    "two executions of a revision are both there": (
        "once",
        lambda: verdict([*FINE, *execution("c", "r2", "run2")], Found(("r2",), WHOLE.parts, {2: 2})),
    ),
    "a part of an applied revision is missing": (
        "agree",
        lambda: verdict(found=Found(("r2",), {1: "part", 2: "whole"}, WHOLE.marks)),
    ),
    "a pending revision has left something where DDL rolls back": (
        "agree",
        lambda: verdict(BEGUN, HALF, ddl_commits=False),
    ),
    "something of a pending revision is there, and no run began it": (
        "agree",
        lambda: verdict(FINE[:3], HALF),
    ),
    "the version table has two rows": (
        "agree",
        lambda: verdict(found=Found(("r1", "r2"), WHOLE.parts, WHOLE.marks)),
    ),
    "a run said that it applied what is not there": (
        "kept",
        lambda: verdict(FINE[:3], Found(("r1",), {1: "whole", 2: "none"}, {1: 1})),
    ),
    "two runs said that they applied the same": (
        "kept",
        lambda: verdict(runs=[run("run1", 0, "r1", "r2"), run("run2", 0, "r2")]),
    ),
    "a run ended with 0 below its head": (
        "kept",
        lambda: verdict(FINE[:3], Found(("r1",), {1: "whole", 2: "none"}, {1: 1}), [run("run1", 0, "r1")]),
    ),
    "the last run leaves a revision half done and does not end with 42": (
        "told",
        lambda: verdict([*FINE[:3], *execution("b", "r2", "run1", end="raised")], HALF, [run("run1", 41, "r1")]),
    ),
    "a run ended without its last line": ("ended", lambda: verdict(runs=beside_it(run("run2", 10, said=False)))),
    "a run hung": ("ended", lambda: verdict(runs=beside_it(run("run2", None)))),
    "a run was ended by a signal that nobody sent": ("ended", lambda: verdict(runs=beside_it(run("run2", -11)))),
    "a run speaks of a bug": ("ended", lambda: verdict(runs=beside_it(run("run2", 1)))),
    "a run takes its own database for another image's": ("ended", lambda: verdict(runs=beside_it(run("run2", 30)))),
    "the last run did not reach head": ("head", lambda: verdict(runs=[*RUNS[:2], run("last", 20)])),
    "the last run takes what is half done for done": (
        "told",
        lambda: verdict(BEGUN, HALF, [run("run1", 41, "r1"), run("last", 0)]),
    ),
}


@pytest.mark.parametrize("situation", BROKEN)
def test_the_invariant_is_broken_when(situation: str) -> None:
    invariant, judged = BROKEN[situation]
    assert invariant in judged().broken


def test_each_invariant_that_is_judged_from_the_record_has_such_a_situation() -> None:
    assert {invariant for invariant, _ in BROKEN.values()} == set(INVARIANTS) - {"free"}  # the server tells that one


def test_what_a_killed_run_left_half_done_is_counted_and_not_held_against_the_schema() -> None:
    killed = run("run1", -9, "r1", said=False, harm=("program killed",))
    judged = verdict(BEGUN, HALF, [killed, run("last", 42)])
    assert judged.half_done == ["r2"]
    assert judged.broken == {}


def test_a_dead_run_whose_session_is_idle_executes_nothing() -> None:
    gone = beside("x", alive=False, session="idle")
    record = [*execution("x", "r1", "run0", end=None), *execution("a", "r1", "run1", gone), *FINE[3:]]
    assert verdict(record).broken == {}


@pytest.mark.parametrize("dialect", sorted(faults.FAULTS))
def test_twenty_rounds_plan_every_fault_and_a_seed_plans_the_same_again(dialect: str) -> None:
    def plans(seed: int) -> list[Any]:
        chances = [random.Random(f"{seed}/{number}") for number in range(20)]
        return [(history.draw(chance), faults.plan(chance, dialect, n)) for n, chance in enumerate(chances)]

    assert (
        {planned.kind for _, plan in plans(1) for planned in plan} == set(faults.FAULTS[dialect]) <= set(faults.ABOUT)
    )
    assert plans(1) == plans(1) != plans(2)


# --- the proxy ------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with closing(client):
            try:
                while data := client.recv(100):
                    client.sendall(data)
            except OSError:
                pass

    def accept() -> None:
        try:
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
        except OSError:
            pass

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def line(echo: int) -> Iterator[Line]:
    proxy = Proxy("127.0.0.1", echo)
    yield proxy.line()
    proxy.close()


@pytest.fixture
def client(line: Line) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", line.port))) as client:
        client.settimeout(10)
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        yield client


def is_silent(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        return client.recv(100) == b"never"
    except TimeoutError:
        return True
    finally:
        client.settimeout(10)


def test_it_forwards_and_knows_the_port_that_the_server_sees(line: Line, client: socket.socket) -> None:
    assert line.live == len(line.ports) == 1
    assert client.getsockname()[1] not in line.ports


def test_a_stalled_line_gives_everything_later(line: Line, client: socket.socket) -> None:
    line.stall()
    client.sendall(b"later")
    assert is_silent(client)
    assert line.heal() > 0
    assert client.recv(100) == b"later"


def test_a_dropped_line_says_nothing_and_both_ends_learn_of_it_in_the_end(line: Line, client: socket.socket) -> None:
    line.drop()
    client.sendall(b"lost")
    assert is_silent(client)
    assert line.heal() > 0
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    assert line.live == 0


def test_a_line_is_reset(line: Line, client: socket.socket) -> None:
    assert line.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(100)


def test_a_slow_line_is_slow(line: Line, client: socket.socket) -> None:
    line.slow(0.3)
    client.sendall(b"slow")
    assert is_silent(client)
    assert client.recv(100) == b"slow"
    assert line.heal() > 0


def test_who_leaves_is_gone_on_the_other_side_too(line: Line, client: socket.socket) -> None:
    client.close()
    for _ in range(200):
        if not line.live:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the connection to the server is still there")
