"""One round, from top to bottom: a fresh database, a race with faults, then runs without, then the verdict."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner import url as urls
from runner.database import DIALECTS
from runner.database import Database as Runners
from tests.chaos import faults, history, verdict
from tests.chaos.faults import FAULTS, Planned
from tests.chaos.proxy import Proxy
from tests.chaos.runs import Run, Runs, record
from tests.databases import DRIVERS, PASSWORD, Database, Login, Server, sqlite_database
from tests.servers import PrivateServer, free_port, private_server
from tests.warm import Warm

RACE_S, FINISH_S, FREE_S = 30.0, 60.0, 10.0
_TICK_S = 0.02
_FILLER = "filler"
# What a killed server must not lose is what it has said it committed: the log goes to the system at each commit.
_SETTINGS: dict[str, dict[str, object]] = {
    "mariadb": {"innodb-flush-log-at-trx-commit": 2, "max_connections": 40, "extra_max_connections": 50},
    "postgresql": {"synchronous_commit": "on", "max_connections": 40, "superuser_reserved_connections": 12},
}


@dataclass
class Lane:
    """Where rounds are run one after the other: a server, a proxy before it, and a warm process."""

    dialect: str
    warm: Warm
    server: PrivateServer | None = None
    proxy: Proxy | None = None
    admin: Login | None = None  # gets in whatever happens
    boots: int = 0

    @classmethod
    def open(cls, dialect: str) -> Lane:
        """Start what it takes."""
        if dialect == "sqlite":
            return cls(dialect, Warm())
        settings, port = dict(_SETTINGS[dialect]), None
        if dialect == "mariadb":
            port = free_port()
            settings["extra_port"] = port  # for whom there is room when there is none
        server = private_server(dialect, **settings)
        admin = replace(server.login, port=port or server.port)
        make = (
            f"CREATE USER {_FILLER}@'%' IDENTIFIED BY '{PASSWORD}'"
            if dialect == "mariadb"
            else f"CREATE ROLE {_FILLER} LOGIN PASSWORD '{PASSWORD}'"
        )
        server.admin(make)
        return cls(dialect, Warm(), server, Proxy(server.host, server.port), admin)

    def close(self) -> None:
        """Leave nothing."""
        self.warm.close()
        if self.proxy:
            self.proxy.close()
        if self.server:
            self.server.discard()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """As the administrator, also when there is no room for others."""
        assert self.admin
        return Server(self.dialect, self.admin).query(sql)


@dataclass
class Outcome:
    """What a round gave."""

    number: int
    seconds: float
    runs: int
    codes: Counter[str]
    fired: Counter[str]
    verdict: verdict.Verdict
    resumed: int
    planned: list[Planned]
    folder: Path | None = None  # of a round that failed


class Race:
    """The part with faults: what the faults work on."""

    def __init__(self, lane: Lane, folder: Path, database: Database, images: history.Images) -> None:
        self.lane = lane
        self.database = database
        self.images = images
        self.server_down = False
        self.record = folder / "record"
        self._boot = folder / "boot"
        self._note_boot()
        self.runs = Runs(lane.warm, folder, self._env(folder))
        self.fired: Counter[str] = Counter()
        self.closing = contextlib.ExitStack()  # of what must not outlast the race
        self._seen: Counter[str] = Counter()
        self._starting: list[float] = []
        self._ending: list[tuple[float, Planned, faults.Ending]] = []

    def _env(self, folder: Path) -> dict[str, str]:
        admin: dict[str, object] = {}
        if login := self.lane.admin:
            admin = {"dialect": self.lane.dialect, "host": login.host, "port": login.port, "user": login.user}
            admin["password"] = login.password
            if self.lane.dialect == "postgresql":
                admin["dbname"] = "postgres"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "CHAOS_RECORD": str(self.record),
            "CHAOS_BOOT": str(self._boot),
            "CHAOS_ADMIN": json.dumps(admin),
            "ALEMBIC_JOB_LOG_FORMAT": "json",
            "ALEMBIC_JOB_WAIT_TIMEOUT": "20s",
            "ALEMBIC_JOB_LOCK_TIMEOUT": "25s",
            "ALEMBIC_JOB_CONNECT_TIMEOUT": "2s",
            "ALEMBIC_JOB_HEARTBEAT": "1s",
        }

    def _note_boot(self) -> None:
        self._boot.write_text(str(self.lane.boots))

    # --- what faults do -------------------------------------------------------------------------

    def start(self, image: str, *command: str, direct: bool = False) -> Run:
        """One more run of this image, ``upgrade`` unless told; through a line of its own where there is a server."""
        line = self.lane.proxy.line() if self.lane.proxy and not direct else None
        url = self.database.url
        if line:
            assert self.database.login
            url = replace(self.database.login, port=line.port).url(DRIVERS[self.lane.dialect])
        return self.runs.start(image, self.images.project(image).path, url, line, command or ("upgrade",))

    def sessions(self, run: Run) -> list[int]:
        """The sessions of the server that belong to a run."""
        assert self.database.login
        ports = run.line.ports if run.line else frozenset()
        if self.lane.dialect == "mariadb":
            sql = f"SELECT id, host FROM information_schema.processlist WHERE user = '{self.database.login.user}'"
            return [int(id_) for id_, host in self.lane.query(sql) if int(host.rpartition(":")[2]) in ports]
        sql = f"SELECT pid, client_port FROM pg_stat_activity WHERE usename = '{self.database.login.user}'"
        return [int(pid) for pid, port in self.lane.query(sql) if port in ports]

    def migrating_session(self, run: Run) -> int | None:
        """The session in which a revision of it executes now, by the record."""
        now: dict[str, int] = {}
        for line in record(self.record):
            if line["what"] == "start" and line["run"] == run.name:
                now[line["token"]] = line["session"]
            elif line["what"] in ("end", "raised"):
                now.pop(line["token"], None)
        return next(iter(now.values()), None)

    def kill_sessions(self, sessions: list[int]) -> bool:
        """End them on the server; whether there was one."""
        killed = False
        for session in sessions:
            if self.lane.dialect == "mariadb":
                with contextlib.suppress(Exception):  # gone meanwhile
                    self.lane.query(f"KILL {session}")
                    killed = True
            else:
                killed = self.lane.query(f"SELECT pg_terminate_backend({session})")[0][0] or killed
        return killed

    def kill_server(self) -> None:
        """SIGKILL."""
        assert self.lane.server
        self.server_down = True
        self.lane.server.kill()

    def start_server(self) -> None:
        """Again, with the data that there are."""
        assert self.lane.server
        self.lane.boots += 1
        self._note_boot()
        self.lane.server.start()
        self.server_down = False

    def fill(self) -> Callable[[], None]:
        """Take every connection that an ordinary user can get, also those that become free; until called."""
        assert self.lane.server
        login = Login(self.lane.server.host, self.lane.server.port, _FILLER, PASSWORD)
        held: list[Any] = []
        full, over = threading.Event(), threading.Event()

        def take() -> None:
            while not over.is_set():
                try:
                    held.append(login.connect(self.lane.dialect))
                except Exception:
                    full.set()
                    over.wait(0.005)
            for connection in held:
                with contextlib.suppress(Exception):
                    connection.close()

        taking = threading.Thread(target=take)
        taking.start()
        self.closing.callback(lambda: (over.set(), taking.join()))
        full.wait(10)

        def let_go() -> None:
            over.set()
            taking.join()

        return let_go

    # --- the race ---------------------------------------------------------------------------------

    def run(self, starts: list[float], planned: list[Planned]) -> Counter[str]:
        """Start the runs, let the faults happen; which of them really did. Afterwards, none is left on."""
        began = time.monotonic()
        self._starting = [began + at for at in starts]
        waiting = [(one, began + one.delay_s if one.event == "start" else None) for one in planned]
        while time.monotonic() < began + RACE_S:
            now = time.monotonic()
            self._start_who_is_due(now)
            for _, event in self.runs.look():
                self._seen[event["event"]] += 1
            waiting = [self._timed(one, at, now) for one, at in waiting]
            waiting = [(one, at) for one, at in waiting if not self._begun(one, at, now)]
            self._end_whose_time_is_over(now)
            if not self._starting and not self._ending and not self.runs.alive:
                break
            time.sleep(_TICK_S)
        for _, one, end in self._ending:
            self.fired[one.kind] += end() is True
        self.closing.close()
        return self.fired

    def _start_who_is_due(self, now: float) -> None:
        for at in [at for at in self._starting if at <= now]:
            self._starting.remove(at)
            self.start("usual")

    def _timed(self, one: Planned, at: float | None, now: float) -> tuple[Planned, float | None]:
        return one, now + one.delay_s if at is None and self._seen[one.event] >= one.nth else at

    def _begun(self, one: Planned, at: float | None, now: float) -> bool:
        done = at is not None and at <= now and self._begin(one)
        if not done:
            return False  # tried again at the next tick
        if one.followed:
            self._starting.append(now + 0.1 * one.draw)
        if done is True:
            self.fired[one.kind] += 1
        else:
            self._ending.append((now + one.lasts_s, one, done))
        return True

    def _end_whose_time_is_over(self, now: float) -> None:
        for at, one, end in list(self._ending):
            if at <= now and (happened := end()) is not None:
                self._ending.remove((at, one, end))
                self.fired[one.kind] += happened

    def _begin(self, one: Planned) -> bool | faults.Ending:
        try:
            return FAULTS[self.lane.dialect][one.kind](self, one)
        except Exception:
            if self.server_down:
                return False  # tried again when it is back
            raise


@dataclass
class Suite:
    """All rounds of one dialect."""

    dialect: str
    seed: int
    keep: Path
    lock: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def round(self, lane: Lane, number: int) -> Outcome:
        """The whole of round ``number``, which is drawn from the seed and the number alone."""
        chance = random.Random(f"{self.seed}/{self.dialect}/{number}")
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        began = time.monotonic()
        steps, per_migration = history.draw(chance)
        images = history.write(folder, self.dialect, steps, per_migration=per_migration)
        planned = faults.plan(chance, self.dialect, number)
        starts = [0.0, *sorted(chance.uniform(0, 0.6) for _ in range(chance.choice((2, 3))))]
        database = lane.server.new_database() if lane.server else sqlite_database(folder / "database.sqlite")
        try:
            race = Race(lane, folder, database, images)
            if self.lock:
                race.runs._env["ALEMBIC_JOB_LOCK"] = self.lock
            fired = race.run(starts, planned)
            late = race.runs.finish(FINISH_S)
            raced = list(race.runs.all)
            images_seen = {run.image for run in raced}
            newest = "newer" if "newer" in images_seen else "usual"
            free = self._free(lane, database)
            last = self._settle(race, newest)
            ended = [_ended(run, images, hung=run in late) for run in race.runs.all]
            found = history.look(database, steps)
            judged = verdict.judge(
                record(race.record),
                found,
                ended,
                ddl_commits=DIALECTS[self.dialect].DDL_COMMITS,
                last=ended[race.runs.all.index(last)],
                goal=images.head(newest),
            )
            for how in free:
                judged.breaks("free", how)
            if judged.half_done:
                self._resolve(race, judged, database, steps, newest)
            self._old_image_stops(race, judged, found, images, images_seen)
        finally:
            if lane.proxy:
                lane.proxy.clear()
            if lane.server:
                lane.server.drop_databases()
        outcome = Outcome(
            number,
            time.monotonic() - began,
            len(raced),
            Counter("kill -9" if run.killed else str(run.code) for run in raced),
            fired,
            judged,
            sum(run.resumed for run in race.runs.all),
            planned,
        )
        if judged.broken:
            outcome.folder = self.keep / f"{self.dialect}-{self.seed}-{number}"
            shutil.rmtree(outcome.folder, ignore_errors=True)
            shutil.copytree(folder, outcome.folder)
            story = [*planned, *steps, *ended, found]
            (outcome.folder / "plan").write_text("\n".join(map(str, story)))
        shutil.rmtree(folder, ignore_errors=True)
        return outcome

    def _free(self, lane: Lane, database: Database) -> list[str]:
        """What is left on the server by runs that have all ended: within seconds, nothing."""
        if database.path and not database.path.exists():
            return []
        mine = Runners(lambda: urls.parse(database.url), 5.0)
        left = _until(lambda: _sessions_left(lane, database), lambda count: not count)
        wrong = [f"{left} sessions of runs are left {FREE_S:.0f} s after their end"] if left else []
        with mine.session() as session:
            release = _until(lambda: session.try_lock(session.lock_name()), bool)
            if release:
                release()
            else:
                wrong.append(f"the lock is not free {FREE_S:.0f} s after the last run")
        return wrong

    def _settle(self, race: Race, image: str) -> Run:
        """Run with faults off until head, or a stop that more runs would not change."""
        for _ in range(3):
            run = race.start(image, direct=True)
            race.runs.finish(FINISH_S)
            if run.code in verdict.STOPS:
                break
        return run

    def _resolve(
        self, race: Race, judged: verdict.Verdict, database: Database, steps: list[history.Step], image: str
    ) -> None:
        """What a person does: undo it, say so, run again."""
        for step in [step for step in steps if step.id in judged.half_done]:
            history.undo(database, step)
            for command in (["resolve", step.id, "--rolled-back", "--reason", "chaos"], ["upgrade"]):
                run = race.start(image, *command, direct=True)
                race.runs.finish(FINISH_S)
                if run.code != 0:
                    judged.breaks("told", f"{' '.join(command)} ended with {run.code}")
        found = history.look(database, steps)
        for number, part in found.parts.items():
            if part != ("whole" if number <= race.images.head(image) else "none"):
                judged.breaks("told", f"{part} of r{number} is there after resolve")

    def _old_image_stops(
        self, race: Race, judged: verdict.Verdict, found: history.Found, images: history.Images, seen: set[str]
    ) -> None:
        """Once the database is ahead of an image that was in the race, that image says so: by the ledger, or 30."""
        oldest = "older" if "older" in seen else "usual"
        if judged.half_done or found.at <= images.head(oldest):
            return
        run = race.start(oldest, direct=True)
        race.runs.finish(FINISH_S)
        outcome = (run.finished or {}).get("outcome")
        if run.code != 30 and (run.code, outcome) != (0, "ahead"):
            judged.breaks("head", f"the {oldest} image ended with {run.code} ({outcome}), not 30, at r{found.at}")


def _until(ask: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + FREE_S
    while not enough(answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def _sessions_left(lane: Lane, database: Database) -> int:
    if not database.login:
        return 0
    table, column = (
        ("information_schema.processlist", "user") if lane.dialect == "mariadb" else ("pg_stat_activity", "usename")
    )
    return int(lane.query(f"SELECT count(*) FROM {table} WHERE {column} = '{database.login.user}'")[0][0])


def _ended(run: Run, images: history.Images, *, hung: bool) -> verdict.Ended:
    finished = run.finished
    return verdict.Ended(
        run.name,
        run.image,
        images.head(run.image),
        None if hung else run.code,
        tuple(run.harm),
        tuple(finished["applied"]) if finished else None,
        run.complaint(PASSWORD),
    )
