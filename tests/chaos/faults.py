"""What is done to the runs, their connections and their server; and when: drawn from the seed."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.runs import Run
    from tests.chaos.story import Race

# Called once its time is over; whether it really happened, and None as long as that cannot be told.
Ending = Callable[[], "bool | None"]
# Whether there was anything to do it to; or how it ends.
Fault = Callable[["Race", "Planned"], "bool | Ending"]


@dataclass(frozen=True)
class Planned:
    """A fault, its moment (so long after the nth event of that name, of whatever run), and its victim."""

    kind: str
    event: str
    nth: int
    delay_s: float
    lasts_s: float
    draw: float  # decides who is meant
    followed: bool  # whether another run starts right after it, as an orchestrator does

    def __str__(self) -> str:
        """For the story of a round that failed."""
        when = "the start" if self.event == "start" else f"{self.event} no. {self.nth}"
        return f"{self.kind}, {self.delay_s:.2f} s after {when}, for {self.lasts_s:.2f} s" + (
            ", and another run starts" if self.followed else ""
        )


def _victim(race: Race, planned: Planned, able: Callable[[Run], Any] = lambda run: True) -> Run | None:
    """Mostly the one that migrates."""
    runs = [run for run in race.runs.alive if able(run)]
    migrating = [run for run in runs if run.migrates]
    chosen = migrating if migrating and planned.draw < 0.75 else runs
    return chosen[int(planned.draw * 1000) % len(chosen)] if chosen else None


def _program_killed(race: Race, planned: Planned) -> bool:
    run = _victim(race, planned)
    return run is not None and run.kill()


def _worker_killed(race: Race, planned: Planned) -> bool:
    run = _victim(race, planned, lambda run: run.worker)
    return run is not None and run.kill_worker()


def _program_stopped(race: Race, planned: Planned) -> bool:
    run = _victim(race, planned)
    return run is not None and run.stop()


def _program_frozen(race: Race, planned: Planned) -> bool | Ending:
    run = _victim(race, planned)
    if run is None or not run.freeze():
        return False

    def thaw() -> bool:
        run.thaw()
        return True

    return thaw


def _lock_session_killed(race: Race, planned: Planned) -> bool:
    run = next((run for run in race.runs.alive if run.migrates and run.line), None)
    if run is None:
        return False
    migrating = race.migrating_session(run)
    return migrating is not None and race.kill_sessions([one for one in race.sessions(run) if one != migrating])


def _migrating_session_killed(race: Race, planned: Planned) -> bool:
    run = next((run for run in race.runs.alive if run.migrates and run.line), None)
    session = race.migrating_session(run) if run else None
    return session is not None and race.kill_sessions([session])


def _on_the_line(begin: Callable[[Any, Planned], object]) -> Fault:
    def fault(race: Race, planned: Planned) -> bool | Ending:
        run = _victim(race, planned, lambda run: run.line and run.line.live)
        if run is None or run.line is None:
            return False
        line = run.line
        begin(line, planned)
        run.harm.append(planned.kind)
        return lambda: line.heal() > 0

    return fault


def _connection_reset(race: Race, planned: Planned) -> bool:
    run = _victim(race, planned, lambda run: run.line and run.line.live)
    if run is None or run.line is None or not run.line.reset():
        return False
    run.harm.append(planned.kind)
    return True


def _server_killed(race: Race, planned: Planned) -> bool | Ending:
    if not race.runs.alive or race.server_down:
        return False
    race.kill_server()

    def start() -> bool:
        race.start_server()
        return True

    return start


def _connections_full(race: Race, planned: Planned) -> bool | Ending:
    if race.server_down:
        return False
    let_go = race.fill()
    late = race.start("usual")  # it must meet what is done here

    def empty() -> bool | None:
        late.look()
        met = [event for event in late.events if _FULL.search(f"{event.get('code')} {event.get('error')}")]
        if not met and late.alive and not late.events[1:]:
            return None  # it has not come that far
        let_go()
        return bool(met)

    return empty


def _file_locked(race: Race, planned: Planned) -> bool | Ending:
    if not any(run.migrates for run in race.runs.alive) or not race.database.path:
        return False
    holder = sqlite3.connect(f"{race.database.path.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:  # a revision is writing
        holder.close()
        return False

    def let_go() -> bool:
        holder.close()
        return True

    return let_go


def _image(image: str) -> Fault:
    def fault(race: Race, planned: Planned) -> bool:
        if not race.runs.alive:
            return False
        race.start(image)
        return True

    return fault


_PROGRAM: dict[str, Fault] = {
    "program killed": _program_killed,
    "worker killed": _worker_killed,
    "program stopped": _program_stopped,
    "program frozen": _program_frozen,
    "older image": _image("older"),
    "newer image": _image("newer"),
}
_SERVER: dict[str, Fault] = {
    "lock session killed": _lock_session_killed,
    "migrating session killed": _migrating_session_killed,
    "connection dropped": _on_the_line(lambda line, planned: line.drop()),
    "connection stalled": _on_the_line(lambda line, planned: line.stall()),
    "connection slow": _on_the_line(lambda line, planned: line.slow(0.02 + planned.draw * 0.06)),
    "connection reset": _connection_reset,
    "server killed": _server_killed,
    "connections full": _connections_full,
}
FAULTS: dict[str, dict[str, Fault]] = {
    "mariadb": {**_PROGRAM, **_SERVER},
    "postgresql": {**_PROGRAM, **_SERVER},
    "sqlite": {**_PROGRAM, "file locked": _file_locked},
}
ABOUT = {
    "program killed": "`kill -9` of a run as a whole, as the end of a node or container does",
    "worker killed": "`kill -9` of the process that works alone, as the kernel does when memory is short",
    "program stopped": "SIGTERM",
    "program frozen": "SIGSTOP for a while: it neither works nor notices anything",
    "older image": "a run of an image that lacks the last revision",
    "newer image": "a run of an image with one revision more",
    "lock session killed": "`KILL`, `pg_terminate_backend` of the session that holds the lock",
    "migrating session killed": "the same for the session that `env.py` opened",
    "connection dropped": "a proxy swallows everything, and both ends learn of it only some time later",
    "connection stalled": "a proxy holds everything back for a while",
    "connection slow": "a proxy lets everything wait",
    "connection reset": "a proxy cuts the connections",
    "server killed": "SIGKILL of the server, which is started again",
    "connections full": "others take all connections that there are; a run that starts then",
    "file locked": "another process holds the write lock of the file, at times for longer than SQLite waits",
}

_FULL = re.compile("1040|53300|too many clients|connection slots are reserved")
_HARMS = ("killed", "dropped", "reset", "frozen")
_LASTS_S = {
    "program frozen": (0.3, 2.5),
    "connection dropped": (0.3, 2.5),
    "connection stalled": (0.2, 2.5),
    "connection slow": (0.5, 1.5),
    "server killed": (0.0, 0.7),
    "connections full": (0.3, 0.8),
    "file locked": (0.2, 1.0),
}
_MOMENTS = ("start", "lock_acquired", "lock_waiting", "revision_started", "revision_started", "revision_executed")


def plan(chance: random.Random, dialect: str, number: int) -> list[Planned]:
    """The faults of a round: one whose turn it is, so that each comes in so many rounds, and one or two others."""
    kinds = list(FAULTS[dialect])
    wanted = [kinds[number % len(kinds)], chance.choice(kinds)]
    if chance.random() < 0.4:
        wanted.append(chance.choice(kinds))
    planned = []
    for place, kind in enumerate(wanted):
        event = "revision_started" if place == 0 else chance.choice(_MOMENTS)
        lasts_s = chance.uniform(*_LASTS_S.get(kind, (0.0, 0.0)))
        # Who has lost its lock goes on for a moment: it takes another run to see what comes of that.
        followed = chance.random() < (0.9 if kind == "lock session killed" else 0.6) and any(h in kind for h in _HARMS)
        made = Planned(
            kind, event, chance.choice((1, 1, 2, 3)), chance.uniform(0, 0.3), lasts_s, chance.random(), followed
        )
        if kind == "file locked" and chance.random() < 0.15:
            made = replace(made, lasts_s=6.0)  # SQLite waits for five
        planned.append(made)
    return planned
