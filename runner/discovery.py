"""Which databases ``env.py`` migrates, and how to connect to each: found by running it, and changing nothing."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import engines
from .database import DIALECTS, Database
from .errors import ConfigInvalid, WrongDatabase
from .events import EnvironmentConnected, listed
from .history import History, load_config, url_mistake
from .job import Job
from .model import Rows
from .place import Place
from .seam import Environment, Seen
from .settings import url_problem


class Discovery:
    """What a look finds; as far as it came, where it fails."""

    def __init__(self, job: Job, environment: Environment) -> None:
        self.places: tuple[Place, ...] = ()
        self.history: History | None = None  # as env.py sets it up
        self._job = job
        self._environment = environment

    def look(self, target: str, *, writes: bool, creates: bool) -> None:
        """Wait for the databases, and look what ``env.py`` makes of them.

        Where the settings name no database, ``env.py`` is what knows how to connect, and is tried until it can.
        ``writes``: a server that takes none is waited for. ``creates``: a SQLite file that does not exist may be
        created; otherwise it is an empty database, and stays away. Raises ConfigInvalid, WrongDatabase.
        """
        job, given = self._job, self._job.given() is not None
        if given:
            job.wait_for(job.database, writable=writes)
            if not creates and not job.database.dialect.is_there(job.database.url):
                self._look_at_nothing(target)
                return
        seen = self._look(target)
        databases = _databases(job, seen, given=given)
        self.places = tuple(map(self._place, seen, databases, _sections(seen)))
        for one, place in zip(seen, self.places, strict=True):
            self._announce(one, place)
            if self._environment.per_revision and one.transaction == "external":
                raise ConfigInvalid(
                    "ALEMBIC_JOB_TRANSACTION=per-revision cannot be done: env.py begins the transaction itself.",
                    hint="In env.py, connect with engine.connect() instead of engine.begin(); or set"
                    " ALEMBIC_JOB_TRANSACTION=env.",
                )
        for place in self.places:
            if place.database and place.database is not job.database:
                job.wait_for(place.database, writable=writes)

    def _look(self, target: str) -> Sequence[Seen]:
        job = self._job
        try:
            looked = job.patiently(lambda: self._environment.look(target))
        except ConfigInvalid as error:
            mistake = None if job.given() else url_mistake(self._environment.config())
            if mistake and _speaks_of(mistake.url, error.__cause__):
                raise mistake.error from error.__cause__
            raise
        if looked.late:
            job.channel.output("warning", __name__, f"In a look, which runs no revision: {looked.late}")
        self.history = looked.history
        return looked.seen

    def _look_at_nothing(self, target: str) -> None:
        """See the revisions as ``env.py`` sets them up, in an empty file that stands in for the one to stay away."""
        job, url = self._job, self._job.database.url
        scheme, _, path = (url.database or "").rpartition(":")  # file:, or nothing
        with tempfile.TemporaryDirectory() as directory, job.stop.at_once():
            file = Path(directory, Path(path).name)
            instead = replace(url, database=f"{scheme}:{file}" if scheme else str(file)).render()
            looked = replace(self._environment, config=lambda: load_config(job.settings, instead)).look(target)
        self.history = looked.history
        places = []
        for seen, section in zip(looked.seen, _sections(looked.seen), strict=True):
            if (seen.url.database or "").endswith(str(file)):
                places.append(self._place(None, job.database, section))
                places[-1].table, places[-1].schema = seen.where.table, seen.schema
        self.places = tuple(places) or (self._place(None, job.database, None),)

    def _place(self, seen: Seen | None, database: Database | None, section: str | None) -> Place:
        def look() -> Rows:
            assert seen
            again = {one.where: one for one in self._environment.look("heads").seen}
            return again[seen.where].current

        return Place(seen, database, section=section, look=look, emit=self._job.emit, saw=self._job.channel.saw)

    def _announce(self, seen: Seen, place: Place) -> None:
        self._job.keep_secret(seen.url)
        place.emit(
            EnvironmentConnected(
                database=seen.url.masked(),
                section=place.section or seen.where.section,
                version_table=place.table.name,
                version_table_schema=seen.schema,
                transaction=seen.transaction,
            )
        )


def _databases(job: Job, seen: Sequence[Seen], *, given: bool) -> list[Database | None]:
    """How the runner connects to each. Raises WrongDatabase when none of them is the given one."""
    for one in seen:
        supported = one.url.dialect in DIALECTS
        if (not supported or engines.is_repeatable(one.engine)) and (problem := url_problem(one.url.render())):
            raise ConfigInvalid(f"env.py connected to {one.url.masked()}: {problem[0]}.", hint=problem[1])
    found: list[Database | None] = [
        job.connecting(functools.partial(engines.url_now, one.engine)) if engines.is_repeatable(one.engine) else None
        for one in seen
    ]
    if not given:
        return found
    database = job.database
    identity = ""
    if database.dialect.is_there(database.url):
        identity = job.patiently(functools.partial(_identity, database))
    same = [
        identity == one.identity and database.dialect is DIALECTS[one.url.dialect] and bool(identity) for one in seen
    ]
    if not any(same):
        there = listed(sorted({one.url.masked() for one in seen}))
        raise WrongDatabase(f"The settings name {database.url.masked()}, and env.py connected to {there}.")
    return [database if fits else own for fits, own in zip(same, found, strict=True)]


def _identity(database: Database) -> str:
    with database.session() as session:
        return session.identity()


def _sections(seen: Sequence[Seen]) -> list[str | None]:
    """What to call each database; nothing when there is only one."""
    if len(seen) == 1:
        return [None]
    names = Counter(one.where.section for one in seen)
    return [
        one.where.section
        if names[one.where.section] == 1
        else f"{one.where.section}/{one.where.table.schema or one.url.database}.{one.where.table.name}"
        for one in seen
    ]


def _speaks_of(url: str | None, error: BaseException | None) -> bool:
    """Whether this is how ``engine_from_config`` fails with this URL, or without one."""
    kind = type(error)
    if kind.__name__ == "NoSuchModuleError":
        return bool(url) and f"dialects:{str(url).partition('://')[0].replace('+', '.')}" in str(error)
    return kind.__name__ == "ArgumentError" or kind.__module__ == "configparser" or repr(error) == "KeyError('url')"
