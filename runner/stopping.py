"""In the worker: a signal becomes "stop at the next safe point".

Waits and the look change nothing, so there a signal ends them at once. While revisions run it only
sets a flag, which is read between two of them; the read from the server goes on (PEP 475).
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Interrupted

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class Stop:
    """A stop request, as far as the worker is concerned.

    ``calm`` is a byte shared with the parent process: 1 while nothing is being changed. A C call (a
    name look-up, say) does not let the handler run, and then the parent may end the worker.
    """

    def __init__(self, calm: mmap.mmap) -> None:
        self.requested: int | None = None
        self._at_once = False
        self._calm = calm
        self._pid = os.getpid()

    def listen(self) -> None:
        """Take the signals from now on; they were blocked since before the fork."""
        self._pid = os.getpid()
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A process that user code forked, of a multiprocessing.Pool say, ends as it would without us.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = number
        if self._at_once:
            self._at_once = False  # once is enough: cleaning up must not be interrupted again
            raise Interrupted(number)

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
        if not self._at_once or threading.current_thread() is not threading.main_thread():
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
