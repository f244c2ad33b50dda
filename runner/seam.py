"""Running an untouched ``env.py`` as ``alembic upgrade`` does, with steps of our own.

``EnvironmentContext(fn=steps)`` and ``script.run_env()`` is what Alembic's commands do. What
``steps`` raises passes through user code, which may swallow it or turn it into something else, so it
is kept aside on its way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep

from . import url as urls
from .database import Dialect, explained
from .errors import ConfigInvalid, Interrupted, RunnerError, TargetNotReached
from .events import Emit, EnvironmentConnected
from .history import History, located
from .model import VersionTable

Steps = Callable[[tuple[str, ...], MigrationContext], Iterable[MigrationStep]]


@dataclass(frozen=True)
class Ended:
    """How ``env.py`` ended.

    ``reached``: it ran migrations at all. ``error`` is what user code raised, ``own`` what our steps did.
    """

    reached: bool
    error: BaseException | None
    own: BaseException | None

    def raise_if_failed(self, dialect: Dialect) -> None:
        """Raise what went wrong outside of any revision, as the contract names it."""
        if self.own is not None:
            raise self.own
        if isinstance(self.error, (RunnerError, Interrupted)):  # a signal while user code ran, say
            raise self.error
        if self.error is not None:
            raise translated(self.error, dialect) from self.error


@dataclass(frozen=True)
class Seen:
    """What ``env.py`` told: its version table and the rows that it read there."""

    table: VersionTable
    current: tuple[str, ...]


def run_env(config: Config, history: History, steps: Steps, **options: Any) -> Ended:
    """Run ``env.py`` once. Never raises what user code raised: the answer says how it ended."""
    reached = False
    own: list[BaseException] = []

    def guarded(heads: tuple[str, ...], context: MigrationContext) -> Iterator[MigrationStep]:
        nonlocal reached
        reached = True
        try:
            yield from steps(heads, context)
        except GeneratorExit:
            raise
        except BaseException as error:
            own.append(error)
            raise

    error: BaseException | None = None
    try:
        with EnvironmentContext(config, history.script, fn=guarded, **options):
            history.script.run_env()
    except SystemExit as exit_:
        error = exit_ if exit_.code not in (None, 0) else None
    except BaseException as raised:
        error = raised
    return Ended(reached, error, own[0] if own else None)


def look(
    config: Config,
    history: History,
    target: str,
    dialect: Dialect,
    *,
    add_secret: Callable[[str], None],
    emit: Emit,
) -> Seen:
    """See what ``env.py`` sees, without a lock and without changing anything."""
    seen: list[Seen] = []

    def steps(heads: tuple[str, ...], context: MigrationContext) -> Iterable[MigrationStep]:
        table = _version_table(context)
        seen.append(Seen(table, tuple(sorted(heads))))
        url = urls.parse(_rendered(context))
        if url.password:
            add_secret(url.password)
        emit(
            EnvironmentConnected(
                database=url.masked(),
                section=config.config_ini_section,
                version_table=context.version_table,
                version_table_schema=context.version_table_schema,
                transaction=_transaction(context),
            )
        )
        return ()

    ended = run_env(config, history, steps, dont_mutate=True, destination_rev=target)
    ended.raise_if_failed(dialect)
    if not seen:
        raise TargetNotReached("env.py ended without an error and without running any migrations.")
    return seen[-1]


def offline_sql(
    config: Config, history: History, steps: Steps, *, starting: tuple[str, ...], target: tuple[str, ...]
) -> Ended:
    """Run ``env.py`` in Alembic's offline mode; what it writes goes to ``config.output_buffer``."""
    ended = run_env(
        config, history, steps, as_sql=True, starting_rev=starting or None, destination_rev=" ".join(target)
    )
    if not ended.reached and ended.error is None:
        raise TargetNotReached("env.py ended without running any migrations in offline mode.")
    return ended


def _rendered(context: MigrationContext) -> str:
    url: Any = context.connection.engine.url  # type: ignore[union-attr]  # online, so there is one
    return str(url.render_as_string(hide_password=False)) if hasattr(url, "render_as_string") else repr(url)


def _version_table(context: MigrationContext) -> VersionTable:
    """With the schema that ``env.py``'s own session resolves the name in: ours may have another search path."""
    connection: Any = context.connection
    return VersionTable(context.version_table, context.version_table_schema or connection.dialect.default_schema_name)


def _transaction(context: MigrationContext) -> str:
    if context._in_external_transaction:
        return "external"
    return "whole-run" if context.impl.transactional_ddl and not context._transaction_per_migration else "per-revision"


def translated(error: BaseException, dialect: Dialect) -> RunnerError:
    """An error outside of any revision, as the contract names it."""
    if isinstance(error, SystemExit):
        return ConfigInvalid(f"env.py exited with {error.code!r} outside of any revision.", hint=_LOOK_THERE)
    driver_error = getattr(error, "orig", None) or error
    if refusal := dialect.classify(driver_error):
        return explained(refusal)
    if isinstance(error, ModuleNotFoundError) and error.name in _DRIVERS:
        return ConfigInvalid(
            f"The driver that the database URL asks env.py for is not installed: {error}.",
            hint=f"Install it: pip install {_DRIVERS[error.name]}; or write {_ALTERNATIVE[dialect.NAME]} in the URL.",
        )
    return ConfigInvalid(f"env.py failed outside of any revision: {located(error)}.", hint=_LOOK_THERE)


_LOOK_THERE = "Correct env.py; 'applied' lists what was run. ALEMBIC_JOB_LOG_LEVEL=debug shows the whole traceback."
_DRIVERS = {
    "psycopg2": "psycopg2-binary",
    "psycopg": "'psycopg[binary]'",
    "asyncpg": "asyncpg",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "mysql": "mysql-connector-python",
    "aiomysql": "aiomysql",
    "asyncmy": "asyncmy",
    "aiosqlite": "aiosqlite",
}
_ALTERNATIVE = {
    "mysql": "mysql+pymysql://…",
    "postgresql": "postgresql+psycopg://…",
    "sqlite": "sqlite:////path/to/file",
}
