"""The real process, and tiny Alembic projects for it to run."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alembic
from jsonschema import Draft202012Validator

from tests.processes import signal_tree
from tests.warm import Forked, Warm

Event = dict[str, Any]

SCHEMA = Path(__file__).parents[1] / "runner" / "events.schema.json"
SCRIPTS = Path(sysconfig.get_path("scripts"))
LONGEST_LINE = 15 * 1024  # bytes


@dataclass(frozen=True)
class Result:
    """What a finished process left: its status (negative: the signal that killed it) and its output."""

    exit_code: int
    stdout: str
    stderr: str
    events: list[Event]

    @property
    def finished(self) -> Event:
        """The last event."""
        return self.events[-1]

    def of(self, name: str) -> list[Event]:
        """Return all events of that name, in order."""
        return [event for event in self.events if event["event"] == name]

    def one(self, name: str) -> Event:
        """Return the only event of that name."""
        found = self.of(name)
        assert len(found) == 1, f"{len(found)} events {name!r}, not 1\n{self.stdout}"
        return found[0]

    @property
    def names(self) -> list[str]:
        """The names of all events, in order."""
        return [event["event"] for event in self.events]


class Job:
    """A running process. Its output is read all the time, so that it never blocks on a full pipe."""

    def __init__(self, process: subprocess.Popen[bytes] | Forked, *, env: Mapping[str, str], plain: bool) -> None:
        self.process = process
        self._env = env
        self._plain = plain or env.get("ALEMBIC_JOB_LOG_FORMAT") == "text"
        self._stdout: list[bytes] = []
        self._stderr: list[bytes] = []
        self._grown = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self._stdout), (self.process.stderr, self._stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[bytes]) -> None:
        for line in stream:
            with self._grown:
                lines.append(line)
                self._grown.notify_all()

    @property
    def pid(self) -> int:
        """The process that was started: PID 1 of a container."""
        return self.process.pid

    @property
    def stdout(self) -> str:
        """What came on standard output so far."""
        return b"".join(self._stdout).decode(errors="replace")

    @property
    def stderr(self) -> str:
        """What came on standard error so far."""
        return b"".join(self._stderr).decode(errors="replace")

    @property
    def events(self) -> list[Event]:
        """What came so far; a line that is no JSON object fails the test."""
        return [] if self._plain else [_parsed(line) for line in tuple(self._stdout)]

    def wait_for(self, name: str, timeout_s: float = 30, *, count: int = 1, **fields: Any) -> Event:
        """Wait for the ``count``-th event of that name and with these values, counted from the start."""
        deadline = time.monotonic() + timeout_s
        seen = 0  # lines looked at
        found = 0
        while True:
            ended = not any(reader.is_alive() for reader in self._readers)
            for line in self._stdout[seen:]:
                seen += 1
                event = _parsed(line)
                if event.get("event") == name and fields.items() <= event.items():
                    found += 1
                    if found == count:
                        return event
            if ended or time.monotonic() > deadline:
                problem = "The process ended" if ended else f"{timeout_s} s went by"
                raise AssertionError(f"{problem} without event {name!r} {fields or ''}\n{self._output()}")
            with self._grown:
                if len(self._stdout) == seen:
                    self._grown.wait(timeout=0.1)

    def send_signal(self, number: signal.Signals) -> None:
        """Send the signal to the started process alone, as a container runtime does."""
        self.process.send_signal(number)

    def finish(self, timeout_s: float = 60, *, complete: bool = True, stderr: bool = False) -> Result:
        """Wait for the end, and hold the output against the contract.

        ``complete=False``: the process was killed, so that the last event may be missing.
        ``stderr=True``: something is expected there.
        """
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"Still running after {timeout_s} s\n{self._output()}") from None
        for reader in self._readers:
            reader.join(10)  # a grandchild may keep the pipe open
        assert stderr or not self._stderr, f"stderr is not empty\n{self._output()}"
        events = self.events
        if not self._plain:
            default = self._env.get("ALEMBIC_JOB_LOG_FIELDS", "default") == "default"
            check_lines(self._stdout, default_fields=default)
            if complete:
                _check_end(events, code, self._output())
        return Result(code, self.stdout, self.stderr, events)

    def kill(self) -> None:
        """End the process and everything that it started."""
        if self.process.poll() is None:
            signal_tree(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _output(self) -> str:
        code = self.process.poll()
        return f"--- exit {code}, stdout:\n{self.stdout}--- stderr:\n{self.stderr}---"


def start_job(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str | None] | None = None,
    plain: bool = False,
    fresh: bool = False,
) -> Job:
    """Start ``alembic-job`` in ``cwd`` with a clean environment: PATH, HOME, JSON lines, and ``env``.

    A None in ``env`` takes a default away. ``plain``: the output is for people, and is not checked. It is forked
    from a warm process (``tests/warm.py``), which takes two fifths of the CPU time. ``fresh``: from the console
    script, as it always is where ``env`` has something for the interpreter itself.
    """
    full = _environment(cwd, env)
    if fresh or any(name.startswith(_FOR_THE_INTERPRETER) for name in full) or sys.platform != "linux":
        program = SCRIPTS / "alembic-job"
        assert program.exists(), f"{program} is missing: pip install -e '.[postgresql]' first, or use make"
        return start([str(program), *arguments], cwd=cwd, env=env, plain=plain)
    return Job(Forked(_warm(), arguments, full, cwd), env=full, plain=plain)


_FOR_THE_INTERPRETER = ("PYTHON", "LD_", "LC_", "LANG", "TZ")


@functools.cache
def _warm() -> Warm:
    """One for all tests of this process; it ends with it."""
    return Warm()


def start(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str | None] | None = None, plain: bool = False
) -> Job:
    """Start any command like ``start_job``: the entrypoint, or ``python -m runner``."""
    full = _environment(cwd, env)
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=full,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C for the tests is none for the job
    )
    return Job(process, env=full, plain=plain)


def _environment(cwd: Path, env: Mapping[str, str | None] | None) -> dict[str, str]:
    defaults = {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(cwd),
        "ALEMBIC_JOB_LOG_FORMAT": "json",
    }
    merged = {**defaults, **(env or {})}
    return {name: value for name, value in merged.items() if value is not None}


def run_job(*arguments: str, cwd: Path, timeout_s: float = 60, **options: Any) -> Result:
    """Start, finish, and leave nothing running: for code outside of a test, which has the fixture."""
    job = start_job(*arguments, cwd=cwd, **options)
    try:
        return job.finish(timeout_s)
    finally:
        job.kill()


@functools.cache
def _validator(event: str) -> Draft202012Validator:
    """Make a validator for lines of this event: trying all branches of the schema costs 20 times as much.

    That the branches are exactly these is held by tests/unit/test_infrastructure.py.
    """
    schema = json.loads(SCHEMA.read_text())
    assert event in schema["$defs"], f"no such event in {SCHEMA.name}: {event}"
    return Draft202012Validator({"$ref": f"#/$defs/{event}", "$defs": schema["$defs"]})


def check_lines(lines: Iterable[bytes], *, default_fields: bool = True) -> None:
    """Hold every line against the contract: JSON, schema, length, and the order of ``seq``.

    With ``default_fields`` false (the names of another log system) the schema does not fit.
    """
    last = 0
    for line in lines:
        assert len(line) <= LONGEST_LINE, f"a line of {len(line)} bytes: {line[:300]!r}…"
        assert line.endswith(b"\n"), f"a line without an end: {line!r}"
        event = _parsed(line)
        if default_fields:
            problems = [
                f"{error.json_path}: {error.message}"
                for error in _validator(str(event.get("event"))).iter_errors(event)
            ]
            assert not problems, f"not as in {SCHEMA.name}: {'; '.join(problems)}\n{line.decode()}"
        seq = event.get("seq")
        assert isinstance(seq, int), f"no seq: {line!r}"
        assert seq > last, f"seq {seq} after {last}: {line!r}"
        assert last > 0 or seq == 1, f"seq begins at {seq}: {line!r}"
        last = seq


def _parsed(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise AssertionError(f"not JSON ({error}): {line!r}") from None
    assert isinstance(event, dict), f"not a JSON object: {line!r}"
    return event


def _check_end(events: list[Event], code: int, output: str) -> None:
    """Check that ``run_finished`` is there once, last, and tells the exit status."""
    # Under other field names, the last line is still the one that has an exit code and a name for it.
    last = [number for number, event in enumerate(events, 1) if event.get("event") == "run_finished"] or [
        number for number, event in enumerate(events, 1) if "exit_name" in event
    ]
    assert last == [len(events)], f"run_finished is not the one last event, but {last}\n{output}"
    said = events[-1]["exit_code"]
    assert said == code, f"run_finished says {said}, the exit status is {code}\n{output}"
    first, finished = events[0], events[-1]
    if first.get("event") == "run_started" and finished.get("outcome") == "failed":
        migrates = first["command"] in ("upgrade", "downgrade")
        untouched = migrates and not any(event["event"] == "revision_started" for event in events)
        assert finished["error"].endswith(" No revision was run.") == untouched, output
        failed = [event["code"] for event in events if event["event"] == "revision_failed"]
        if len(failed) == 1 and migrates:
            assert finished["code"] == failed[0], f"run_finished has another code than revision_failed\n{output}"


@dataclass(frozen=True)
class Revision:
    """A revision file to write. Its bodies find ``op``, ``sa``, ``os``, ``sys`` and ``time`` imported."""

    id: str
    down: str | tuple[str, ...] | None = None
    upgrade: str = "pass"
    downgrade: str = "pass"
    depends_on: str | tuple[str, ...] | None = None
    labels: str | tuple[str, ...] | None = None
    message: str = ""

    @property
    def file_name(self) -> str:
        """As Alembic's own default template names it."""
        slug = "_".join((self.message or self.id).lower().split())
        return f"{self.id}_{slug}.py"

    @property
    def text(self) -> str:
        """The whole file."""
        return _REVISION.format(
            message=self.message or f"revision {self.id}",
            id=self.id,
            down=self.down,
            labels=self.labels,
            depends_on=self.depends_on,
            upgrade=_body(self.upgrade),
            downgrade=_body(self.downgrade),
        )


_REVISION = '''\
"""{message}"""

import os
import sys
import time

import sqlalchemy as sa
from alembic import op

revision = {id!r}
down_revision = {down!r}
branch_labels = {labels!r}
depends_on = {depends_on!r}


def upgrade():
{upgrade}


def downgrade():
{downgrade}
'''


def _body(code: str) -> str:
    return textwrap.indent(textwrap.dedent(code).strip("\n") or "pass", "    ")


def creates(table: str, id: str, down: str | tuple[str, ...] | None = None, **fields: Any) -> Revision:
    """Make a revision that creates one table, and drops it again."""
    return Revision(
        id,
        down,
        upgrade=f'op.create_table("{table}", sa.Column("id", sa.Integer, primary_key=True))',
        downgrade=f'op.drop_table("{table}")',
        **fields,
    )


def linear(count: int) -> list[Revision]:
    """Make the revisions r1 to r<count> in a row; each creates the table t<n>."""
    return [creates(f"t{n}", f"r{n}", f"r{n - 1}" if n > 1 else None) for n in range(1, count + 1)]


@dataclass(frozen=True)
class Project:
    """An Alembic project on disk; ``path`` is the directory to run in."""

    path: Path

    @property
    def versions(self) -> Path:
        """The folder of the revision files."""
        return self.path / "migrations" / "versions"

    @property
    def ini(self) -> Path:
        """The configuration file."""
        return self.path / "alembic.ini"

    @property
    def env(self) -> Path:
        """The environment that the revisions run in."""
        return self.path / "migrations" / "env.py"

    def add(self, *revisions: Revision) -> None:
        """Write more revisions, or others in place of those with the same id."""
        for revision in revisions:
            self.remove(revision.id)
            (self.versions / revision.file_name).write_text(revision.text)

    def remove(self, *ids: str) -> None:
        """Delete revisions, as an older image has fewer."""
        for one in ids:
            for path in self.versions.glob("*.py"):
                if f"revision = {one!r}\n" in path.read_text().splitlines(keepends=True):
                    path.unlink()


def make_project(
    tmp_path: Path,
    revisions: Iterable[Revision] = (),
    *,
    env: str | None = None,
    ini: str | Mapping[str, str] | None = None,
) -> Project:
    """Write a project with the stock files of the installed Alembic.

    ``env`` replaces env.py. ``ini`` replaces alembic.ini, or, as a mapping, sets options in its section
    ``[alembic]``; values are written as they are, so a ``%`` must be doubled.
    """
    template = Path(alembic.__file__).parent / "templates" / "generic"
    project = Project(tmp_path / "project")
    project.versions.mkdir(parents=True)
    project.env.write_text(_dedented(env) if env is not None else (template / "env.py").read_text())
    script = (template / "script.py.mako").read_text()
    (project.path / "migrations" / "script.py.mako").write_text(script)
    if isinstance(ini, str):
        project.ini.write_text(_dedented(ini))
    else:
        text = (template / "alembic.ini.mako").read_text()
        text = text.replace("${script_location}", "%(here)s/migrations")
        text = text.replace(" = os  # Use", " = os\n# Use")  # old versions read the comment as the value
        project.ini.write_text(_with_options(text, ini or {}))
    project.add(*revisions)
    return project


def _dedented(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


def _with_options(text: str, options: Mapping[str, str]) -> str:
    """Set options in the section ``[alembic]`` of a stock file."""
    lines = [line for line in text.splitlines() if line.partition("=")[0].strip() not in options]
    start_of_section = lines.index("[alembic]") + 1
    lines[start_of_section:start_of_section] = [f"{name} = {value}" for name, value in options.items()]
    return "\n".join(lines) + "\n"
