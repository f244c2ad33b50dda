"""One run of the program among several, as seen from outside: its process, its lines, its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.proxy import Line
from tests.job import Event, check_lines
from tests.processes import descendants, signal_tree
from tests.warm import Start, Started, Warm


@dataclass
class Run:
    """A run of an image, through a line of its own to the server."""

    name: str
    image: str
    process: Started
    out: Path
    err: Path
    line: Line | None
    events: list[Event] = field(default_factory=list)
    code: int | None = None
    harm: list[str] = field(default_factory=list)  # what was done to its processes
    _read: int = 0
    _rest: bytes = b""

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet, as far as was looked."""
        return self.code is None

    @property
    def killed(self) -> bool:
        """Whether it was killed -9 as a whole, so that it owes nobody an answer."""
        return "program killed" in self.harm

    def look(self) -> list[Event]:
        """What it has said since the last time; and whether it has ended."""
        code = self.process.code  # before reading, so that nothing is missed
        new: list[Event] = []
        with contextlib.suppress(FileNotFoundError), self.out.open("rb") as file:
            file.seek(self._read)
            data = file.read()
            self._read += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            new = [_parsed(line) for line in lines]
        self.events += new
        self.code = code
        return new

    @property
    def migrates(self) -> bool:
        """Whether a revision of it has started and not ended, going by its lines."""
        for event in reversed(self.events):
            if event["event"] in ("revision_started", "revision_executed", "revision_failed", "run_finished"):
                return bool(event["event"] == "revision_started")
        return False

    @property
    def resumed(self) -> int:
        """How many revisions it went on with, which another had left half done."""
        return sum(1 for event in self.events if event["event"] == "revision_half_done" and event["resumed"])

    @property
    def worker(self) -> int | None:
        """The process that works; the other one is the screen."""
        return next(iter(descendants(self.process.pid)), None)

    def kill(self) -> bool:
        """Kill all of it at once, as the end of a node or container does."""
        return self._signal_all(signal.SIGKILL, "program killed")

    def kill_worker(self) -> bool:
        """Kill the working process alone, as the kernel does that is out of memory."""
        worker = self.worker
        if worker is None:
            return False
        os.kill(worker, signal.SIGKILL)
        self.harm.append("worker killed")
        return True

    def stop(self) -> bool:
        """SIGTERM to the first process, as a container runtime does."""
        self.harm.append("program stopped")
        return _sent(self.process.pid, signal.SIGTERM)

    def freeze(self) -> bool:
        """Stop all of it: it neither works nor notices anything."""
        return self._signal_all(signal.SIGSTOP, "program frozen")

    def thaw(self) -> None:
        """Undo ``freeze``."""
        if self.process.code is None:
            signal_tree(self.process.pid, signal.SIGCONT)

    def _signal_all(self, number: signal.Signals, harm: str) -> bool:
        if self.process.code is not None:
            return False
        self.harm.append(harm)
        signal_tree(self.process.pid, number)
        return True

    @property
    def finished(self) -> Event | None:
        """Its last line, if that is what it must be."""
        last = self.events[-1] if self.events else {}
        return last if last.get("event") == "run_finished" else None

    def complaint(self, password: str) -> str | None:
        """What is wrong with its output, held against the contract."""
        stdout, stderr = (path.read_bytes() if path.exists() else b"" for path in (self.out, self.err))
        if password.encode() in stdout + stderr:
            return "the password is in the output"
        if stderr:
            return f"stderr: {stderr.decode(errors='replace')[-500:]}"
        lines = stdout.splitlines(keepends=True)
        if self.killed and lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        try:
            check_lines(lines)
        except AssertionError as error:
            return str(error)[:500]
        return None


def _sent(pid: int, number: signal.Signals) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _parsed(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        return {"event": "not JSON", "text": line.decode(errors="replace")}
    return event if isinstance(event, dict) else {"event": "not an object"}


class Runs:
    """Starts the runs of a round, and looks after them."""

    def __init__(self, warm: Warm, folder: Path, env: dict[str, str]) -> None:
        self._warm = warm
        self._folder = folder
        self._env = env
        self.all: list[Run] = []

    def start(self, image: str, cwd: Path, url: str, line: Line | None, command: Sequence[str]) -> Run:
        """One more run, in this project."""
        name = f"run{len(self.all) + 1}"
        out, err = self._folder / f"{name}.out", self._folder / f"{name}.err"
        env = {**self._env, "CHAOS_RUN": name, "ALEMBIC_JOB_DATABASE_URL": url}
        process = self._warm.start(Start(list(command), env, str(cwd), str(out), str(err)))
        run = Run(name, image, process, out, err, line)
        self.all.append(run)
        return run

    @property
    def alive(self) -> list[Run]:
        """Those that have not ended."""
        return [run for run in self.all if run.alive]

    def look(self) -> list[tuple[Run, Event]]:
        """What was said since the last time."""
        return [(run, event) for run in self.all if run.alive for event in run.look()]

    def finish(self, within_s: float) -> list[Run]:
        """Wait for all of them; those that did not end in time are returned, and killed."""
        deadline = time.monotonic() + within_s
        while self.alive and time.monotonic() < deadline:
            self.look()
            time.sleep(0.02)
        late = self.alive
        for run in late:
            signal_tree(run.process.pid, signal.SIGKILL)
        while self.alive and time.monotonic() < deadline + 10:
            self.look()
            time.sleep(0.02)
        return late


def record(path: Path) -> list[dict[str, Any]]:
    """What the revisions recorded."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
