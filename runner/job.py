"""What every command works with: the settings, the database, and the way to say things."""

from __future__ import annotations

import functools
import platform
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import url as urls
from .database import Database
from .errors import ConfigInvalid, ExitCode
from .events import Emit, RunStarted
from .settings import Found, Loaded, Settings, url_problem
from .stopping import Stop
from .version import __version__
from .wait import Patience, wait_for_login
from .worker import Channel


@dataclass(frozen=True)
class Result:
    """How a command ended well."""

    outcome: str
    exit_code: ExitCode = ExitCode.OK

    def fields(self) -> dict[str, Any]:
        """For ``run_finished``."""
        return {"outcome": self.outcome, "exit_code": int(self.exit_code)}


class Job:
    """One run of the program, within the worker process."""

    def __init__(self, loaded: Loaded, channel: Channel, stop: Stop) -> None:
        self.loaded = loaded
        self.settings: Settings = loaded.settings
        self.channel = channel
        self.emit: Emit = channel.emit
        self.stop = stop
        self._rows: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """The version rows, as the runner's own connection read them last."""
        return self._rows

    @rows.setter
    def rows(self, rows: Iterable[str]) -> None:
        self._rows = tuple(sorted(rows))
        self.channel.saw(self._rows)  # so the last line can tell them whatever becomes of this process

    def announce(self, command: str, target: tuple[str, ...], *, needs_url: bool) -> None:
        """The first line. It has the database only where the URL can be read."""
        problem: ConfigInvalid | None = None
        found: Found | None = None
        try:
            found = self.find_url() if needs_url else self.loaded.url()
        except ConfigInvalid as error:
            problem = error
        self.emit(
            RunStarted(
                command=command,
                target=list(target),
                database=urls.parse(found.value).masked() if found else None,
                url_source=found.source if found else None,
                version=__version__,
                alembic=_version("alembic"),
                sqlalchemy=_version("sqlalchemy"),
                python=platform.python_version(),
                hostname=self.loaded.node or socket.gethostname(),
                pod=self.loaded.pod,
                image=self.settings.image,
            )
        )
        if problem:
            raise problem

    def find_url(self) -> Found:
        """The database URL as it is now. Raises ConfigInvalid when there is none, or it is unusable."""
        found = self.loaded.url() or self._configured_url
        if found is None:
            raise ConfigInvalid(
                "No database is configured.",
                hint="Set ALEMBIC_JOB_DATABASE_URL, or ALEMBIC_JOB_DB_HOST and the other parts,"
                " or sqlalchemy.url in the Alembic configuration.",
            )
        if problem := url_problem(found.value):
            raise ConfigInvalid(f"{found.source}: {problem[0]}.", hint=problem[1])
        url = urls.parse(found.value)
        if url.password:
            self.channel.add_secret(url.password)
        return found

    @functools.cached_property
    def _configured_url(self) -> Found | None:
        from .history import configured_url, load_config  # noqa: PLC0415  imports Alembic, 0.4 s

        url = configured_url(load_config(self.settings, None))
        return Found(url, "sqlalchemy.url") if url else None

    @functools.cached_property
    def database(self) -> Database:
        """The database, by the runner's own connections."""
        return Database(
            read_url=lambda: urls.parse(self.find_url().value),
            connect_timeout_s=self.settings.connect_timeout.total_seconds(),
        )

    def wait_for_login(self, *, writable: bool) -> None:
        """Return once the database answers a login."""
        patience = Patience(self.settings.wait_timeout.total_seconds(), self.settings.retry_refused_for.total_seconds())
        wait_for_login(self.database, patience, writable=writable, stop=self.stop, emit=self.emit)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
