"""A revision that gave way, and left nothing, is tried again: for a while, with pauses for the others."""

from __future__ import annotations

import random
import time

from .applying import GaveWay
from .errors import RevisionDeferred
from .events import RevisionRetried, holder_fields
from .settings import Settings, shown
from .stopping import Stop
from .watching import Watch

# Of the time that it may queue for a lock: whoever queues behind it has two thirds of the time for himself.
_PAUSES = (1.0, 3.0)
_LOST_S = 1.0  # in its place for a revision whose connection was lost: nobody waits for that one


class Retries:
    """How long one revision has been tried by this run."""

    def __init__(self, settings: Settings, stop: Stop, watch: Watch) -> None:
        self._limit = settings.ddl_retry_for
        self._queue_s = settings.ddl_lock_timeout.total_seconds()
        self._stop = stop
        self._watch = watch
        self._revision: str | None = None
        self._since = 0.0
        self._tries = 0

    def pause(self, gave_way: GaveWay) -> None:
        """Return when it may be tried again. Raises RevisionDeferred when the time is over."""
        if self._revision != gave_way.revision:
            self._revision, self._since, self._tries = gave_way.revision, time.monotonic(), 0
        self._tries += 1
        left_s = self._limit.total_seconds() - (time.monotonic() - self._since)
        if left_s <= 0:
            tries = f" It was tried {self._tries} times in {shown(self._limit)}." if self._tries > 1 else ""
            raise self._given_up(gave_way, tries)
        unit_s = min(self._queue_s, _LOST_S) if gave_way.lost else self._queue_s
        next_in_s = min(random.uniform(*_PAUSES) * unit_s, left_s, max(0.0, self._watch.left_s))  # noqa: S311
        gave_way.emit(
            RevisionRetried(
                revision=gave_way.revision or "",
                code=gave_way.code,
                blocked_by=holder_fields(gave_way.blocked_by),
                next_in_s=round(next_in_s, 3),
            )
        )
        self._stop.sleep(next_in_s)
        self._watch.raise_if_over()

    def _given_up(self, gave_way: GaveWay, why: str) -> RevisionDeferred:
        gave_way.emit(gave_way.event)
        said = f"{gave_way}{why}"
        return RevisionDeferred(said, hint=gave_way.hint, code=gave_way.code, revision=gave_way.revision)
