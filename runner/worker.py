"""The child process's side: it says everything through pipes, also what user code prints and logs."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import warnings
from contextlib import suppress
from typing import Any

from .errors import ExitCode, Interrupted, RunnerError
from .events import Event, UserOutput
from .masking import sql_literals
from .report import record_of, write_all
from .stopping import Stop

_PR_SET_PDEATHSIG = 1


class Channel:
    """To the parent. Before each message a mark goes down both output pipes, which gives the order."""

    def __init__(self, out: int, err: int, control: int, mark: bytes, stop: Stop) -> None:
        self._marked = (out, err)
        self._control = control
        self._mark = mark
        self._stop = stop
        self._pid = os.getpid()
        self._one_at_a_time = threading.RLock()  # threads of user code log, too

    def emit(self, event: Event) -> None:
        """Say that something happened."""
        self._send(record_of(event))

    def output(self, level: str, logger: str, text: str) -> None:
        """Pass on what user code logged."""
        said = UserOutput(stream="logging", logger=logger, text=text, revision=None)
        self._send({**record_of(said), "level": level})

    def add_secret(self, secret: str) -> None:
        """From now on the parent hides this text."""
        self._send({"secret": secret})

    def saw(self, section: str | None, rows: tuple[str, ...]) -> None:
        """The version rows of a database, as another connection than the migrating one sees them."""
        self._send({"rows": rows, "section": section})

    def statement_sent(self, *, recorded: bool) -> None:
        """A statement that may last whatever happens is about to be sent."""
        self._send({"sent": True, "recorded": recorded})

    def result(self, **fields: Any) -> None:
        """How the run ended."""
        self._send({"result": fields})

    def _send(self, message: dict[str, Any]) -> None:
        if os.getpid() != self._pid:  # a process that user code forked
            return
        data = json.dumps(message).encode() + b"\n"
        with self._stop.later(), self._one_at_a_time:
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            for descriptor in self._marked:
                write_all(descriptor, self._mark)
            write_all(self._control, data)


def settle_in(out: int, err: int) -> None:
    """Make this process the worker: own session, output into the pipes, gone when the parent is gone."""
    os.setsid()  # else Ctrl-C reaches it twice, from the terminal and from the parent
    with suppress(Exception):
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with open(os.devnull) as nothing:  # noqa: PTH123  a migration that asks a question gets an answer: none
        os.dup2(nothing.fileno(), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    # Line-buffered: text in a buffer would be lost at os._exit and come after a child's output.
    sys.stdout = sys.__stdout__ = _lines_to(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _lines_to(2)  # type: ignore[misc]
    faulthandler.enable()


def _lines_to(descriptor: int) -> Any:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def capture_logging(channel: Channel) -> None:
    """Turn what would go to a console into events; files, Sentry and levels work as configured.

    Replacing ``callHandlers`` on the class survives every fileConfig, dictConfig and basicConfig,
    before or after.
    """
    pid, as_it_was = os.getpid(), logging.Logger.callHandlers

    def emit(record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception as error:
            text = f"{record.msg!r} ({type(error).__name__}: {error})"
        if record.name.startswith("sqlalchemy.engine"):
            text = _without_values(text)
        if record.exc_info and record.exc_info[1]:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        channel.output(_level(record), record.name, text)

    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        if os.getpid() != pid:  # a process that user code forked: what it prints is captured like any child's
            as_it_was(self, record)
            return
        logger: logging.Logger | None = self
        found, said = 0, False
        while logger:
            for handler in logger.handlers:
                found += 1
                if record.levelno < handler.level:
                    continue
                if not _to_console(handler):
                    handler.handle(record)
                elif not said and handler.filter(record):
                    said = True
                    emit(record)
            logger = logger.parent if logger.propagate else None
        last = logging.lastResort
        if not found and last and record.levelno >= last.level:
            emit(record)

    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]


def capture_warnings(channel: Channel) -> None:
    """Turn what Python code warns of into one event each, instead of two lines on stderr."""

    def show(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        channel.output("warning", "py.warnings", f"{category.__name__}: {message} ({filename}, line {lineno})")

    warnings.showwarning = show


def _without_values(text: str) -> str:
    """What an engine with ``echo`` logs: a statement, ``[generated in 0.1s] (parameters)``, or a ``Row (…)``."""
    if text.startswith("["):
        return text.partition("]")[0] + "] ?"
    return "Row ?" if text.startswith("Row ") else sql_literals(text)


def _level(record: logging.LogRecord) -> str:
    if record.levelno >= logging.WARNING:
        return "error" if record.levelno >= logging.ERROR else "warning"
    # Alembic's own lines say less than our events do.
    quiet = record.levelno < logging.INFO or record.name.partition(".")[0] == "alembic"
    return "debug" if quiet else "info"


def _to_console(handler: logging.Handler) -> bool:
    if not isinstance(handler, logging.StreamHandler) or isinstance(handler, logging.FileHandler):
        return False
    with suppress(Exception):
        return handler.stream.fileno() in (1, 2)
    return handler.stream in (sys.stdout, sys.stderr)


def failure(error: BaseException) -> dict[str, Any]:
    """The fields of the result for what ended the run."""
    if isinstance(error, Interrupted):
        name = signal.Signals(error.signum).name
        return {
            "outcome": "interrupted",
            "exit_code": error.exit_code,
            "error": error.said or f"{name} ended the run at a safe point; nothing was left half done.",
            "hint": "Run again to go on.",
        }
    if isinstance(error, RunnerError):
        return {
            "outcome": "failed",
            "exit_code": error.exit_code,
            "error": str(error),
            "hint": error.hint,
            "code": error.code,
            "revision": error.revision,
        }
    return {
        "outcome": "failed",
        "exit_code": ExitCode.INTERNAL,
        "error": f"A bug in alembic-job: {type(error).__name__}: {error}.",
        "hint": RunnerError.hint,
    }
