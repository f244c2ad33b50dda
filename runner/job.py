"""What every command works with: the settings, the database, and the way to say things."""

from __future__ import annotations

import functools
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from . import url as urls
from .database import Database
from .errors import ConfigInvalid, ExitCode
from .events import Emit, RunStarted
from .masking import Masker
from .settings import OTHER_URLS, Found, Loaded, Settings, url_problem, variable
from .stopping import Stop
from .version import __version__
from .wait import Patience, of_a_login, patiently, wait_for_login
from .worker import Channel

SCRATCH = variable("scratch_url")
T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """How a command ended well; ``hint``: what it found, and what to do with it."""

    outcome: str
    exit_code: ExitCode = ExitCode.OK
    hint: str | None = None
    revision: str | None = None

    def fields(self) -> dict[str, Any]:
        """For ``run_finished``."""
        return {
            "outcome": self.outcome,
            "exit_code": int(self.exit_code),
            "hint": self.hint,
            "revision": self.revision,
        }


class Job:
    """One run of the program, within the worker process."""

    def __init__(self, loaded: Loaded, channel: Channel, stop: Stop, run_id: str = "") -> None:
        self.loaded = loaded
        self.run_id = run_id
        self.settings: Settings = loaded.settings
        self.channel = channel
        self.emit: Emit = channel.emit
        self.stop = stop
        self.command: str | None = None
        self.reason: str | None = None  # of a person, for the ledger
        self._masker = Masker(values=self.settings.log_sql != "full")

    def announce(self, command: str, target: tuple[str, ...], *, connects: bool) -> None:
        """The first line. It has the database where the settings or the Alembic configuration name it."""
        self.command = command
        problem: ConfigInvalid | None = None
        found: Found | None = None
        try:
            for field in OTHER_URLS:
                self.other_url(field)
            found = self.given() or (self.configured() if connects else None)
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

    def given(self) -> Found | None:
        """The database URL of the settings as it is now. Raises ConfigInvalid when it cannot be used."""
        found = self.loaded.url()
        if found is None:
            return None
        if problem := url_problem(found.value):
            raise ConfigInvalid(f"{found.source}: {problem[0]}.", hint=problem[1])
        self.keep_secret(urls.parse(found.value))
        return found

    def other_url(self, field: str) -> Found | None:
        """One of the other URLs of the settings as it is now. Raises ConfigInvalid when it cannot be used."""
        found = self.loaded.other_url(field)
        if found is None:
            return None
        if problem := url_problem(found.value):
            raise ConfigInvalid(f"{variable(field)}: {problem[0]}.", hint=problem[1])
        self.keep_secret(urls.parse(found.value))
        return found

    def configured(self) -> Found | None:
        """``sqlalchemy.url`` of the Alembic configuration: a hint, because ``env.py`` may have its own."""
        from .history import configured_url, load_config  # noqa: PLC0415  imports Alembic, 0.4 s

        url = configured_url(load_config(self.settings, None))
        if url is None or url_problem(url):
            return None
        self.keep_secret(urls.parse(url))
        return Found(url, "sqlalchemy.url")

    def keep_secret(self, url: urls.URL) -> None:
        """Hide the password of this URL in all output."""
        if url.password:
            self.channel.add_secret(url.password)
            self._masker.add(url.password)

    def masked(self, text: str) -> str:
        """A text as output would show it, for what is written elsewhere."""
        return self._masker.text(text)

    @functools.cached_property
    def database(self) -> Database:
        """The database of the settings, by the runner's own connections."""
        return self.connecting(lambda: urls.parse(getattr(self.given(), "value", "")))

    @functools.cached_property
    def lock_database(self) -> Database | None:
        """A direct way to the database, for the lock; None where the settings name none."""
        if self.other_url("lock_database_url") is None:
            return None
        return self.connecting(lambda: urls.parse(getattr(self.other_url("lock_database_url"), "value", "")))

    @property
    def owner(self) -> str:
        """Who we are, to those who look at the server's sessions."""
        return f"alembic-job/{self.run_id}"

    def connecting(self, read_url: Callable[[], urls.URL]) -> Database:
        """A database by its URL, which is asked for again at every connection."""
        return Database(
            read_url=read_url,
            connect_timeout_s=self.settings.connect_timeout.total_seconds(),
            owner=self.owner,
        )

    @property
    def patience(self) -> Patience:
        """How long to wait for a database."""
        return Patience(self.settings.wait_timeout.total_seconds(), self.settings.retry_refused_for.total_seconds())

    def wait_for(self, database: Database, *, writable: bool) -> None:
        """Return once the database answers a login."""
        wait_for_login(database, self.patience, writable=writable, stop=self.stop, emit=self.emit)

    def until_connected(self, attempt: Callable[[], T]) -> T:
        """What ``attempt`` gives, tried as long as a login is: others may have taken all connections since the last."""
        return patiently(lambda _: attempt(), of_a_login, self.patience, stop=self.stop, emit=self.emit)

    def patiently(self, look: Callable[[], T]) -> T:
        """The same for what changes nothing, and is ended by a signal at once."""

        def attempt() -> T:
            with self.stop.at_once():
                return look()

        return self.until_connected(attempt)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
