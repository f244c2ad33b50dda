"""A turn at the databases: taking the locks, running the steps under them, and the books that are kept of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from . import lock as locks
from .applying import GaveWay, StepsFrom, apply
from .database import Database
from .errors import ConfigInvalid, RunnerError
from .fence import Busy, Fence
from .ledger import BASE, Journal, Who
from .lock import Contender
from .model import Revision, Rows
from .pen import Pen
from .place import Place
from .project import Project, Turn
from .recording import Recording
from .retrying import Retries
from .settling import settled
from .version import __version__
from .watching import Watch


def _direct(project: Project) -> Database | None:
    direct = project.job.lock_database
    if direct and len(project.places) > 1:
        raise ConfigInvalid(
            f"ALEMBIC_JOB_LOCK_DATABASE_URL is for one database, and env.py migrates {len(project.places)}.",
            hint="Leave it out, and let ALEMBIC_JOB_LOCK=auto choose.",
        )
    return direct


def _contenders(project: Project, arrived: Callable[[Place, Rows], bool]) -> dict[Place, Contender]:
    return {
        place: Contender(
            place.database,
            # Looked at on the session that tries the lock, so after it.
            lambda session, place=place: arrived(place, place.read_on(session)),  # type: ignore[misc]
            place.emit,
            _direct(project),
        )
        for place in project.places
        if place.database
    }


def free(project: Project, *, sure: bool) -> None:
    """Free the locks whose holders are gone. Raises LockTimeout for one that is not."""
    locks.unlock(_contenders(project, lambda *_: False), project.job.settings, sure=sure)


@contextmanager
def my_turn(project: Project, arrived: Callable[[Place, Rows], bool]) -> Iterator[Turn | None]:
    """Hold the locks of all databases; None when ``arrived`` came true for all of them meanwhile."""
    contenders = _contenders(project, arrived)
    with locks.my_turn(contenders, project.job.settings, stop=project.job.stop) as turn:
        yield turn


def run(project: Project, turn: Turn, steps_from: StepsFrom, targets: Sequence[str]) -> Mapping[Place, Recording]:
    """Run steps through ``env.py``, under the locks of ``turn``, and read the versions back."""
    books = journals(project, turn)
    _settle(project, turn, books)
    return _run_on(project, turn, steps_from, targets, books)


def mark(project: Project, turn: Turn, steps_from: StepsFrom, goal: Rows, targets: Sequence[str]) -> None:
    """Move the version of the one database to these revisions without running any; a row of the ledger for each.

    Raises TargetNotReached.
    """
    place, books = project.place, journals(project, turn)
    _settle(project, turn, books)
    with _marking(project, place, books.get(place), goal):
        _run_on(project, turn, steps_from, targets, books)
        if not _stands_at(project, place, goal):
            raise project.not_reached(place, goal)


def _stands_at(project: Project, place: Place, goal: Rows) -> bool:
    return project.history.holds(place.rows, goal) if goal else not place.rows


@contextmanager
def _marking(project: Project, place: Place, journal: Journal | None, goal: Rows) -> Iterator[None]:
    """Into the ledger: that these revisions are set, and what became of it; nothing where that cannot be read."""
    if journal is None:
        yield
        return
    marks = project.history.known(goal)[0] or [Revision(BASE, (), "", "")]
    assert place.database
    later = not place.dialect.is_there(place.database.url)  # a file that env.py is yet to make
    if not later:
        journal.marks(marks)
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
        raise
    finally:
        with suppress(RunnerError):
            place.read()
            if later:
                journal.marks(marks)
            journal.marked(marks, None if _stands_at(project, place, goal) else failure)


def _run_on(
    project: Project, turn: Turn, steps_from: StepsFrom, targets: Sequence[str], books: Mapping[Place, Journal]
) -> Mapping[Place, Recording]:
    """Again and again while a revision gives way and leaves nothing, or while another run holds the lock.

    The latter where only ``env.py`` itself can take it.
    """
    job, started, next_report_s = project.job, time.monotonic(), 0.0
    limit_s, heartbeat_s = job.settings.lock_timeout.total_seconds(), job.settings.heartbeat.total_seconds()
    with Watch(job.settings, job.stop) as watch:
        retries = Retries(job.settings, job.stop, watch)
        while True:
            try:
                return _run(project, turn, steps_from, targets, started, watch, books)
            except GaveWay as gave_way:
                retries.pause(gave_way)
            except Busy as busy:
                waited_s = time.monotonic() - started
                if waited_s >= limit_s:
                    raise locks.still_held(busy.lock, busy.holder, waited_s) from busy
                if waited_s >= next_report_s:
                    next_report_s = waited_s + heartbeat_s
                    busy.place.emit(locks.waiting(busy.lock, busy.holder, waited_s))
                locks.pause(job.stop, limit_s - waited_s)
                watch.begin_again()


def journals(project: Project, turn: Turn) -> dict[Place, Journal]:
    """What writes the ledger. Where only ``env.py`` can connect, there is no other connection to write on."""
    job = project.job
    if not job.settings.ledger:
        return {}
    who = Who(
        job.run_id, job.command, __version__, job.loaded.node or socket.gethostname(), job.loaded.pod,
        job.settings.image, job.reason,
    )  # fmt: skip
    return {
        place: Journal(
            who,
            place.table,
            Pen(place.database, turn[place].session if place in turn else None),
            place.database.url.user,
            place.emit,
            job.masked,
        )
        for place in project.places
        if place.database and not place.ledger.trouble
    }


def _settle(project: Project, turn: Turn, books: Mapping[Place, Journal]) -> None:
    """Complete the rows of runs that are gone, as whoever holds the lock knows."""
    for place, journal in books.items():
        held = turn.get(place)
        if held and held.lock:
            place.ledger = project.ledger_of(held.session, held.session.tables())
            for entry, done in settled(project.history, place.ledger.of(place.table), place.rows):
                journal.settles(entry, done=done)


def _run(
    project: Project,
    turn: Turn,
    steps_from: StepsFrom,
    targets: Sequence[str],
    started: float,
    watch: Watch,
    books: Mapping[Place, Journal],
) -> Mapping[Place, Recording]:
    job = project.job
    recordings = {
        place: Recording(
            turn[place].session if place in turn else None,
            place,
            log_sql=job.settings.log_sql,
            statement_sent=job.channel.statement_sent,
            watch=watch,
            lock_wait_s=job.settings.ddl_lock_timeout.total_seconds(),
            journal=books.get(place),
        )
        for place in project.places
    }
    fence = Fence(turn, job.settings, started, job.owner)
    failure: BaseException | None = None
    try:
        apply(
            project.environment,
            recordings,
            steps_from,
            fence,
            target=" ".join(targets),
            watch=watch,
            connecting=project.job.until_connected,
        )
    except BaseException as error:
        failure = error
        raise
    finally:
        fence.open()
        for recording in recordings.values():
            recording.write_down(failure)
    return recordings
