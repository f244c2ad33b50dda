"""The parent process: owns stdout and the signals, and has the last word.

A thread that reads captured output does not hold: C code that writes while it holds the GIL
deadlocks it, and a crash of the process loses the last words. So the work is done in a child, and
this process turns whatever comes through three pipes into lines: the child's stdout, its stderr,
and its own messages.
"""

from __future__ import annotations

import atexit
import codecs
import json
import mmap
import os
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .errors import ExitCode
from .events import Event, RunFinished, Stopping, UserOutput
from .masking import Masker
from .report import Record, Report, now, record_of
from .stopping import SIGNALS, Stop
from .worker import Channel, capture_logging, capture_warnings, failure, settle_in

_CHUNK = 1 << 16
_LONGEST_TEXT = 5 * 1024  # bytes; it is in a line twice, and a line has 15 KiB
_FLOOD = 500  # lines at once; then an event has as many as fit, else it would be ten times the line
_STATEMENT = b"[SQL: "
# What is true of a failure, up to which event; of commands that only look, nothing has to be said.
_UNTOUCHED = {
    **dict.fromkeys(("upgrade", "downgrade"), ("No revision was run.", "revision_started")),
    **dict.fromkeys(("stamp", "baseline", "resolve"), ("Nothing was changed.", "lock_acquired")),
}
_STUCK_S = 3.0  # a wait that does not end at once sits in a C call, a name look-up say


Work = Callable[[Channel, Stop], dict[str, Any]]


def run(work: Work, report: Report, masker: Masker, *, grace_s: float, at_end: Callable[[], Event | None]) -> int:
    """Fork, let the child do the work, report everything, and return the exit code.

    ``at_end`` is done whatever the outcome, when the worker is gone; what it gives comes before the last line.
    """
    mark = b"\x1e" + os.urandom(12).hex().encode() + b"\x1e"
    out, err, control = os.pipe(), os.pipe(), os.pipe()
    # Blocked until both sides have their handlers: a signal in between must be neither lost nor deadly.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    calm = mmap.mmap(-1, 1)
    child = os.fork()
    if child == 0:
        for reader, _ in (out, err, control):
            os.close(reader)
        stop = Stop(calm)
        _be_the_worker(work, Channel(out[1], err[1], control[1], mark, stop), stop, out[1], err[1])
    for _, writer in (out, err, control):
        os.close(writer)
    screen = Screen(report, masker, child, calm, mark, out[0], err[0], control[0], grace_s=grace_s)
    screen.listen()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    screen.watch()
    if said := at_end():
        report.write(record_of(said))
    return screen.last_word()


def _be_the_worker(work: Work, channel: Channel, stop: Stop, out: int, err: int) -> None:
    code: int = ExitCode.INTERNAL
    try:
        settle_in(out, err)
        capture_logging(channel)
        capture_warnings(channel)
        stop.listen()
        result = work(channel, stop)
        channel.result(**result)
        code = result["exit_code"]
    except BaseException as error:
        with suppress(BaseException):
            channel.result(**failure(error))
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()  # Sentry and OpenTelemetry send their last records there
        for stream in (sys.stdout, sys.stderr):
            with suppress(BaseException):
                stream.flush()
        os._exit(code)


def _all(rows: dict[str | None, list[str]]) -> list[str]:
    return sorted({row for here in rows.values() for row in here})


class _Stream:
    """Output of the child, in lines and marks."""

    def __init__(self, name: str, descriptor: int, mark: bytes, masker: Masker) -> None:
        self.descriptor = descriptor
        self.form = record_of(UserOutput(stream=name, logger=None, text="", revision=None))
        self.ended = False
        self._mark = mark
        self._masker = masker
        self._parts: deque[bytes] = deque([b""])  # what was read and not shown yet; between two parts was a mark

    @property
    def at_mark(self) -> bool:
        """Whether nothing more may be shown before the message that belongs to the mark."""
        return len(self._parts) > 1

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._parts += (self._parts.pop() + data).split(self._mark)

    def pass_mark(self) -> None:
        """The message was shown: go on behind the mark, if there is one."""
        if self.at_mark:
            self._parts.popleft()

    def take(self) -> list[str]:
        """The lines up to the mark, masked by what is secret now. A line's beginning waits for its end."""
        data = self._parts[0]
        if not data:
            return []
        end = len(data) if self.at_mark or self.ended else _end_of_lines(data)
        text, rest = data[:end].decode("utf-8", "backslashreplace"), data[end:]
        if len(rest) > _LONGEST_TEXT + self._kept:
            begun, rest = self._begun(rest)
            text += begun
        self._parts[0] = rest
        if _STATEMENT.decode() in text:
            text = self._masker.text(text)  # as a whole: a statement may have several lines
        lines: list[str] = []
        for line in text.split("\n"):
            seen = line.rstrip("\r").rpartition("\r")[2]  # of a progress bar, what one would see
            if not seen or seen.isspace():
                continue
            seen = self._masker.text(seen)
            length = _LONGEST_TEXT if seen.isascii() else _LONGEST_TEXT // 4  # in characters
            lines += [seen[start : start + length] for start in range(0, len(seen), length)]
        return lines

    @property
    def _kept(self) -> int:
        """As many bytes as a secret or a mark that has begun may have."""
        return max(self._masker.longest, len(self._mark), 1024)

    def _begun(self, data: bytes) -> tuple[str, bytes]:
        """A line without an end in sight: what of it can be shown, and the rest."""
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        text = self._masker.text(decoder.decode(data))  # as a whole before it is cut, so that no secret is cut in two
        cut = text.rfind("\r", 0, -self._kept) + 1 or max(0, len(text) - self._kept)
        return text[:cut], text[cut:].encode() + decoder.getstate()[0]


def _end_of_lines(data: bytes) -> int:
    """Where the last line ends that is complete, and not within a statement of SQLAlchemy's message."""
    end = data.rfind(b"\n") + 1
    statement = data.rfind(_STATEMENT, 0, end)
    open_ = statement >= 0 and data.find(b"]\n", statement, end) < 0
    return data.rfind(b"\n", 0, statement) + 1 if open_ else end


def _joined(lines: list[str]) -> list[str]:
    found: list[str] = []
    room = 0  # bytes
    for line in lines:
        size = len(line.encode()) + 2  # with the line's end, as JSON writes it
        if size <= room:
            found[-1] += "\n" + line
        else:
            found.append(line)
            room = _LONGEST_TEXT
        room -= size
    return found


class Screen:
    """What the parent knows while the child works."""

    def __init__(
        self,
        report: Report,
        masker: Masker,
        child: int,
        calm: mmap.mmap,
        mark: bytes,
        out: int,
        err: int,
        control: int,
        *,
        grace_s: float,
    ) -> None:
        self._grace_s = grace_s
        self._report = report
        self._masker = masker
        self._child = child
        self._calm = calm
        self._streams = (_Stream("stdout", out, mark, masker), _Stream("stderr", err, mark, masker))
        self._control = control
        self._control_rest = b""
        self._messages: deque[dict[str, Any]] = deque()
        self._started = time.monotonic()
        self._status: int | None = None
        self._signal: int | None = None
        self._signalled_at = 0.0
        self._signal_shown = False
        # What the messages told so far:
        self._result: dict[str, Any] | None = None
        self._from: dict[str | None, list[str]] = {}  # by section
        self._to: dict[str | None, list[str]] = {}
        self._applied: list[str] = []
        self._untouched, self._until = "Nothing was changed.", ""  # settings that are wrong come before the first line
        self._flight: str | None = None
        self._applying = False
        self._sent = False
        self._recorded = False  # what was sent of the revision in flight, so that a run can go on behind it

    def listen(self) -> None:
        """Take the signals. A handler runs even while a slow reader of our stdout blocks the loop."""
        self._wake_reader, wake_writer = os.pipe()
        for descriptor in (self._wake_reader, wake_writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _on_signal(self, number: int, _: Any) -> None:
        if self._signal is None:
            self._signalled_at = time.monotonic()
        self._signal = number
        self._kill(number)

    def watch(self) -> None:
        """Until the child has ended and everything that it said is shown."""
        selector = selectors.DefaultSelector()
        for descriptor in (self._control, self._wake_reader, *(s.descriptor for s in self._streams)):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while self._status is None:
            ready = selector.select(timeout=0.5 if self._report.wants_ticks or self._signal else None)
            for key, _ in ready:
                if not self._read(key.fd):
                    selector.unregister(key.fd)
            self._after_signal()  # first: what follows may be its consequence
            self._show()
            self._reap()
            self._report.tick()
        # The child is gone; a grandchild may keep the pipes open for ever, so read what is there and no more.
        for descriptor in (self._control, *(s.descriptor for s in self._streams)):
            while self._read(descriptor, to_the_end=True):
                pass
        self._show()
        self._after_signal()
        for stream in self._streams:
            stream.ended = True
            while stream.at_mark:  # the child died before the message
                self._output(stream)
                stream.pass_mark()
            self._output(stream)

    def _read(self, descriptor: int, *, to_the_end: bool = False) -> bool:
        """Read a chunk; False at the end of the file, or ``to_the_end`` when nothing is there."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return not to_the_end
        if not data:
            return False
        if descriptor == self._control:
            *lines, self._control_rest = (self._control_rest + data).split(b"\n")
            self._messages += map(json.loads, lines)
        for stream in self._streams:
            if descriptor == stream.descriptor:
                stream.feed(data)
        return True

    def _show(self) -> None:
        """Show all that can be ordered: output up to a mark, then the message that the mark stands for."""
        while True:
            for stream in self._streams:
                self._output(stream)
            at_marks = all(stream.at_mark for stream in self._streams)
            if not self._messages or not (at_marks or self._status is not None):
                return
            for stream in self._streams:
                stream.pass_mark()
            self._take(self._messages.popleft())

    def _output(self, stream: _Stream) -> None:
        if lines := stream.take():
            if len(lines) > _FLOOD:
                lines = _joined(lines)
            form = {**stream.form, "time": now(), "revision": self._flight}
            self._report.write(*({**form, "message": line, "text": line} for line in lines), masked=True)

    def _write(self, event: Event) -> None:
        self._report.write(record_of(event))

    def _take(self, message: dict[str, Any]) -> None:
        if "secret" in message:
            self._masker.add(message["secret"])
        elif "rows" in message:
            self._to[message["section"]] = message["rows"]
            self._from.setdefault(message["section"], message["rows"])  # a refusal may come before the plan
        elif "sent" in message:
            self._sent, self._recorded = True, message["recorded"]
        elif "result" in message:
            self._result = message["result"]
        else:
            self._note(message)
            self._report.write(message)

    def _note(self, record: Record) -> None:
        """Remember what the last line has to tell, should the child not live to tell it."""
        event = record["event"]
        if event == self._until:
            self._untouched = ""
        if event == "run_started":
            self._untouched, self._until = _UNTOUCHED.get(record["command"], ("", ""))
        elif event == "plan_ready":
            self._from[record.get("section")] = record["current"]
        elif event == "lock_acquired":
            self._applying = True
        elif event == "transaction_committed":
            self._applied += record["revisions"]
        elif event == "revision_started":
            self._flight, self._sent = record["revision"], False
        elif event in ("revision_executed", "revision_failed", "revision_retried"):
            self._flight = None
        elif event == "user_output":
            record["revision"] = self._flight

    def _after_signal(self) -> None:
        if self._signal is None:
            return
        if not self._signal_shown:
            self._signal_shown = True
            self._write(Stopping(signal=signal.Signals(self._signal).name, grace_s=self._grace_s))
        if self._calm[0] and time.monotonic() - self._signalled_at > _STUCK_S:
            # Nothing is being changed, and by Stop's promise nothing will be.
            self._kill(signal.SIGKILL)

    def _kill(self, number: int) -> None:
        if self._status is None:  # else the number may be another process's by now
            with suppress(ProcessLookupError):
                os.kill(self._child, number)

    def _reap(self) -> None:
        """As PID 1 we inherit orphans, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child:
                self._status = status

    def last_word(self) -> int:
        """How the run ended. Returns the exit code."""
        result = self._result or self._made_up()
        code = ExitCode(result["exit_code"])
        error = result.get("error")
        if error and self._untouched and result["outcome"] == "failed":
            error += f" {self._untouched}"
        finished = RunFinished(
            outcome=result["outcome"],
            exit_code=int(code),
            exit_name=code.title,
            retryable=code.retryable,
            from_=_all(self._from),
            to=_all(self._to),
            applied=self._applied,
            count=len(self._applied),
            duration_s=round(time.monotonic() - self._started, 3),
            error=error,
            code=result.get("code"),
            revision=result.get("revision"),
            hint=result.get("hint"),
        )
        self._write(finished)
        return int(code)

    def _made_up(self) -> dict[str, Any]:
        """The child died without a word: say how, and what must be assumed of the database."""
        how = _how_it_ended(self._status or 0)
        if self._flight and self._sent:
            return {
                "outcome": "failed",
                "exit_code": ExitCode.REVISION_PARTIAL,
                "error": f"The worker process {how} inside revision {self._flight}; its statements commit one by one.",
                "hint": "Run again: the run goes on behind what is in the database. 'alembic-job status' lists it."
                if self._recorded
                else "Look which of its statements are in the database, and undo them; then run again.",
                "revision": self._flight,
            }
        if self._signal and not self._applying:
            name = signal.Signals(self._signal).name
            return {
                "outcome": "interrupted",
                "exit_code": 128 + self._signal,
                "error": f"{name} ended the run before anything was changed.",
                "hint": "Run again to go on.",
            }
        inside = f" inside revision {self._flight}, of which nothing remains" if self._flight else ""
        return {
            "outcome": "failed",
            "exit_code": ExitCode.INTERNAL,
            "error": f"The worker process {how}{inside}.",
            "hint": "Look for os._exit() or a crash in env.py, a revision or a library, and at the memory limit.",
            "revision": self._flight,
        }


def _how_it_ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with suppress(ValueError):  # not every real-time signal has a name
            number = signal.Signals(number)
        return f"was killed by {getattr(number, 'name', number)}" + (
            " (out of memory?)" if number == signal.SIGKILL else ""
        )
    return f"ended with os._exit({os.WEXITSTATUS(status)})"
