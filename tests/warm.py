"""A warm process: everything imported, so that a fork of it is a run of the program within milliseconds.

Starting Python with Alembic and SQLAlchemy costs more CPU time than the run itself, and two cores could
not start several runs at the same moment at all. What is forked here is the program as it is: its
arguments, environment and directory, stdout and stderr, and ``main()`` of the console script.

``python -m tests.warm`` reads what to start, a JSON object a line, and answers with process ids
and, later, how they ended. It is a process of its own, and has one thread, so that forking is safe.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_MODULES = (
    "alembic_job",
    "alembic_job.cli",
    "alembic_job.authoring",
    "alembic_job.doctor",
    "alembic_job.drift",
    "alembic_job.flow",
    "alembic_job.looking",
    "alembic.command",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "pymysql",
    "logging.config",
)


@dataclass(frozen=True)
class Start:
    """One run of the program: arguments, the whole environment, where to run, files for its output, and the umask."""

    arguments: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    out: str
    err: str
    umask: int = 0o022


def warm_up() -> None:
    """Import what a run imports. The project's own files are not among it: each run loads them itself."""
    for name in _MODULES:
        importlib.import_module(name)
    version = importlib.import_module("sqlalchemy").__version__
    driver = "psycopg2" if version.startswith("1.") else "psycopg"
    for name, dialect in (("psycopg", None), (driver, f"sqlalchemy.dialects.postgresql.{driver}")):
        if importlib.util.find_spec(name):  # an extra, which not every environment has
            importlib.import_module(dialect or name)


def opened(start: Start) -> tuple[int, int]:
    """Open the files for its output."""
    out, err = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for path in (start.out, start.err))
    return out, err


def become(start: Start, output: tuple[int, int]) -> None:
    """Be this run, in a process that was forked for it; never returns."""
    code = 70  # EX_SOFTWARE: main() raised, which it must not
    try:
        os.setsid()
        os.chdir(start.cwd)
        os.umask(start.umask)
        os.environ.clear()
        os.environ.update(start.env)
        for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), *output)):
            os.dup2(descriptor, number)
        os.closerange(3, 4096)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        sys.argv = ["alembic-job", *start.arguments]
        code = importlib.import_module("alembic_job").main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    warm_up()
    answers = os.dup(1)
    os.dup2(2, 1)
    reader, writer = os.pipe()
    for descriptor in (reader, writer):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)

    def say(**fields: Any) -> None:
        os.write(answers, json.dumps(fields).encode() + b"\n")

    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(reader, selectors.EVENT_READ)
    rest, running = b"", set[int]()
    say(ready=True)
    while True:
        for key, _ in selector.select():
            data = os.read(key.fd, 1 << 16)
            if key.fd == reader:
                continue
            if not data:  # whoever wanted the runs is gone; one that is frozen would stay for ever
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                # As the program itself does first of all; before that, a signal would meet Python alone, not us.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
                start = Start(**json.loads(line))
                output = opened(start)  # before the answer: a pipe has a writer from then on
                pid = os.fork()
                if pid == 0:
                    become(start, output)
                for descriptor in output:
                    os.close(descriptor)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
                running.add(pid)
                say(started=pid)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            running.discard(pid)
            say(ended=pid, code=os.waitstatus_to_exitcode(status))


@dataclass
class Started:
    """A run of the warm process. ``code``: how it ended, negative for a signal; None while it runs."""

    pid: int
    code: int | None = None


class Warm:
    """The warm process, for whoever wants runs of it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._told = threading.Condition()
        self._new: list[Started] = []
        self._running: dict[int, Started] = {}  # a number is another process's when its own has ended
        assert self._process.stdout
        if not self._process.stdout.readline():
            raise RuntimeError("the warm process did not start")
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            said = json.loads(line)
            with self._told:
                if "started" in said:
                    started = self._running[said["started"]] = Started(said["started"])
                    self._new.append(started)
                else:
                    self._running.pop(said["ended"]).code = said["code"]
                self._told.notify_all()

    def start(self, start: Start) -> Started:
        """Start a run."""
        assert self._process.stdin
        with self._told:
            self._process.stdin.write(json.dumps(asdict(start)).encode() + b"\n")
            self._process.stdin.flush()
            if not self._told.wait_for(lambda: self._new, timeout=60):
                raise RuntimeError("the warm process does not answer")
            return self._new.pop()

    def wait(self, started: Started, timeout_s: float | None) -> int | None:
        """How a run ended, or None when it has not within this time."""
        with self._told:
            self._told.wait_for(lambda: started.code is not None, timeout_s)
            return started.code

    def close(self) -> None:
        """End the warm process, and what it started."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


class Forked:
    """A run of the warm process, as ``subprocess.Popen`` shows a process."""

    def __init__(self, warm: Warm, arguments: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self._warm = warm
        ends = [os.pipe(), os.pipe()]
        # The way to a pipe of ours through /proc: it is opened over there before the answer comes.
        out, err = (f"/proc/{os.getpid()}/fd/{writer}" for _, writer in ends)
        self.stdout, self.stderr = (os.fdopen(reader, "rb") for reader, _ in ends)
        try:
            self._run = warm.start(Start(arguments, env, str(cwd), out, err, _umask()))
        finally:
            for _, writer in ends:
                os.close(writer)
        self.pid = self._run.pid

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        return self._run.code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        code = self._warm.wait(self._run, timeout)
        if code is None:
            raise subprocess.TimeoutExpired("alembic-job", timeout or 0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, as long as it is there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)


def _umask() -> int:
    """Without setting it, which other threads would notice."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1], 8) for line in status.splitlines() if line.startswith("Umask:"))


if __name__ == "__main__":
    _serve()
