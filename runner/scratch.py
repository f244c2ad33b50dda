"""The scratch database: a place to try a history in, proven not to be the live one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from . import engines
from . import url as urls
from .database import DIALECTS, Ask, Database, Dialect, Session
from .errors import ConfigInvalid, RunnerError, WrongDatabase
from .events import Event, LockWaiting, counted, listed
from .job import SCRATCH, Job
from .keys import Lock
from .lock import Contender, my_turn
from .model import is_own
from .place import Place
from .seam import Reached
from .url import URL


@dataclass(frozen=True)
class Scratch:
    """A database that may be filled. ``session`` is the runner's own, and holds its migration lock."""

    database: Database
    session: Session
    lock: Lock | None
    temporary: bool

    @property
    def name(self) -> str:
        """For people."""
        return self.session.url.masked()

    def holds(self, ask: Ask) -> bool:
        """Whether a connection is in this database. On MySQL the lock tells the server, and the name the database."""
        dialect = self.session.dialect
        same = dialect.identity(ask) == self.session.identity()
        return same and (self.lock is None or self.lock.is_seen_by(ask))

    def must_not_be_live(self, live: Ask) -> None:
        """Raises ConfigInvalid when a connection to the live database is in this one."""
        if self.holds(live):
            raise ConfigInvalid(
                f"The scratch URL is the live database: {self.name}.",
                hint=f"Name another, empty database in {SCRATCH}; nothing was changed.",
            )
        here, there = self.session.dialect.product(self.session.ask), self.session.dialect.product(live)
        if here != there:
            raise ConfigInvalid(
                f"The scratch database is on {here}, and the live one on {there}: they would make another schema.",
                hint=f"Name a database on {there} in {SCRATCH}.",
            )

    def must_be_empty(self) -> None:
        """Raises ConfigInvalid; nothing that was there is ever dropped."""
        if tables := sorted(table for table in self.session.tables() if not is_own(table)):
            raise ConfigInvalid(
                f"The scratch database {self.name} is not empty: {counted(len(tables), 'table')}, {listed(tables)}.",
                hint=f"If nobody needs them, make it anew: {self.emptying}",
            )

    def must_hold(self, reached: Reached) -> None:
        """Raises WrongDatabase when ``env.py`` connected to another one than it was told."""
        connection: Any = reached.context.connection
        dialect = DIALECTS.get(engines.url_of(connection.engine).dialect)
        if dialect is not self.session.dialect or not self.holds(reached.ask):
            raise WrongDatabase(
                f"env.py was given the scratch database {self.name}, and connected to {reached.where.url}: nothing was"
                " run.",
                hint="Make env.py use sqlalchemy.url of its configuration; or name the revision yourself: alembic-job"
                " baseline REVISION",
            )

    @property
    def emptying(self) -> str:
        """What makes it empty again."""
        return self.session.dialect.emptying(self.session.url)


@contextmanager
def opened(job: Job, place: Place) -> Iterator[Scratch]:
    """The scratch database of the settings, or a temporary file where the dialect has files; with its lock held."""
    with ExitStack() as stack:
        given = job.other_url("scratch_url")
        database = job.connecting(lambda: _given(job)) if given else _temporary(job, place, stack)
        if database.dialect is not place.dialect:
            raise ConfigInvalid(
                f"The scratch database {database.url.masked()} is of another dialect than the live one, {place.name}.",
                hint=f"Name a database of the same dialect in {SCRATCH}.",
            )
        try:
            job.wait_for(database, writable=True)
            database.dialect.create(database.url)
        except RunnerError as error:
            said = f"The scratch database {database.url.masked()}: {error}"
            raise type(error)(said, hint=_needed(place.dialect), code=error.code) from error

        def emit(event: Event) -> None:
            if isinstance(event, LockWaiting):  # only the lock of the live database says that something may change
                job.emit(event)

        contender = Contender(database, lambda _: False, emit)
        turn = stack.enter_context(my_turn({"scratch": contender}, job.settings, stop=job.stop))
        assert turn is not None
        yield Scratch(database, turn["scratch"].session, turn["scratch"].lock, given is None)


def _given(job: Job) -> URL:
    return urls.parse(getattr(job.other_url("scratch_url"), "value", ""))


def _temporary(job: Job, place: Place, stack: ExitStack) -> Database:
    try:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="alembic-job-"))
    except OSError as error:
        raise ConfigInvalid(
            f"There is no room for a temporary file: {error.strerror}.", hint=f"Set TMPDIR, or {SCRATCH}."
        ) from error
    name = place.dialect.scratch(directory)
    if name is None:
        raise ConfigInvalid(
            f"baseline --detect runs the history in a scratch database, and {SCRATCH} names none.",
            hint=_needed(place.dialect),
        )
    assert place.seen
    url = URL(place.seen.url.driver, database=name)
    return job.connecting(lambda: url)


def _needed(dialect: Dialect) -> str:
    return (
        f"Create an empty database on a {dialect.NAME} server, and a user with all rights on it and on no other, and"
        f" set {SCRATCH}, or {SCRATCH}_FILE, to its URL."
    )
