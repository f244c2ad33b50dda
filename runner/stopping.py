"""In the worker: a signal becomes "stop at the next safe point".

Waits and the look change nothing, so there a signal ends them at once. While revisions run it only
sets a flag, which is read between two of them; the read from the server goes on (PEP 475). What does
not end in time is cut short by ``watching``: in a revision's own code with ``Cut``, never in ours.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Literal

from .errors import Interrupted

_WITHOUT_US: dict[signal.Signals, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
SIGNALS = frozenset(_WITHOUT_US)
_CUT = getattr(signal, "SIGRTMAX", signal.SIGUSR2)  # between our own threads; user code may well use the others

Inside = Literal["our code", "their code", "a statement"]


class Cut(BaseException):
    """Raised in a revision's code that has to end. Not an Exception, so that user code does not swallow it."""


class Stop:
    """A stop request, as far as the worker is concerned.

    ``calm`` is a byte shared with the parent process: 1 while nothing is being changed. A C call (a
    name look-up, say) does not let the handler run, and then the parent may end the worker.
    """

    def __init__(self, calm: mmap.mmap) -> None:
        self.requested: int | None = None
        self.requested_at = 0.0
        self.insisted = False  # a second signal came
        self.inside: Inside = "our code"  # where the main thread is while revisions run
        self._cut: BaseException | None = None
        self._cuts_statements = False
        self._listening = False
        self._early = False  # a signal was heard from the pipe, before its handler ran
        self._at_once = False
        self._calm = calm
        self._pid = os.getpid()

    def listen(self) -> None:
        """Take the signals from now on; they were blocked since before the fork."""
        self._pid = os.getpid()
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(_CUT, self._on_cut)
        self._listening = True
        self._pipe, writer = os.pipe()
        for descriptor in (self._pipe, writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._deaf)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A process that user code forked ends as it would without us; the signal was faster than ``_deaf``.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.hear() and not self._early:  # user code may have another descriptor in the place of ours
            self._note(number)
        self._early = False
        if self._at_once:
            self._at_once = False  # once is enough: cleaning up must not be interrupted again
            raise Interrupted(number)

    def cut_short(self, cut: BaseException, *, statements: bool) -> None:
        """From another thread: raise this in the main thread, if it is in a revision's code.

        ``statements``: also while it waits for the answer to one, which then remains unknown.
        """
        self._cut, self._cuts_statements = cut, statements
        if self._listening:
            signal.pthread_kill(threading.main_thread().ident or 0, _CUT)

    def _on_cut(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid or self._cut is None:
            return
        if self.inside == "their code" or (self.inside == "a statement" and self._cuts_statements):
            cut, self._cut = self._cut, None
            raise cut

    @contextmanager
    def in_our_code(self) -> Iterator[None]:
        """In here nothing is cut short."""
        before, self.inside = self.inside, "our code"
        try:
            yield
        finally:
            self.inside = before

    def hear(self, *, early: bool = False) -> bool:
        """Note the signals that came; whether there were any.

        ``early``: from another thread. Handlers run in the main thread, and only once a C call there has returned,
        a query of psycopg2 or sqlite3 say; the interpreter writes to the pipe at once.
        """
        if not self._listening:
            return False
        try:
            heard = [number for number in os.read(self._pipe, 512) if number in SIGNALS]
        except BlockingIOError:
            return False
        for number in heard:
            self._note(number)
        self._early = self._early or (early and bool(heard))
        return bool(heard)

    def _note(self, number: int) -> None:
        if self.requested:
            self.insisted = True
        else:
            self.requested, self.requested_at = number, time.monotonic()

    def _deaf(self) -> None:
        """A process that user code forked: its signals are none of ours.

        A handler of Python's waits for a C call to return. One of a multiprocessing.Pool may be about to read,
        and would read for ever when the signal comes just before.
        """
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)
            for number, handler in _WITHOUT_US.items():
                if signal.getsignal(number) == self._on_signal:
                    signal.signal(number, handler)

    def raise_if_requested(self) -> None:
        """A safe point. Raises Interrupted."""
        if self.requested:
            raise Interrupted(self.requested)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In here nothing is changed, so a signal raises Interrupted wherever it arrives."""
        self.raise_if_requested()
        self._at_once, self._calm[0] = True, 1
        try:
            yield
        except Exception:
            self.raise_if_requested()  # user code may have made something else of it
            raise
        finally:
            self._at_once, self._calm[0] = False, 0
        self.raise_if_requested()  # so whoever saw the byte set and a signal sent: nothing follows here

    @contextmanager
    def later(self) -> Iterator[None]:
        """In here a signal waits: what is done is done as a whole."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if not self._at_once:
            with self.in_our_code():
                yield
            return
        self._at_once = False
        try:
            yield
        finally:
            self._at_once = True
        if self.requested:
            self._at_once = False
            raise Interrupted(self.requested)

    def sleep(self, seconds: float) -> None:
        """Pause; a signal ends it."""
        with self.at_once():
            time.sleep(max(0.0, seconds))
