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
from alembic.script import ScriptDirectory

from . import engines
from . import url as urls
from .database import DIALECTS, Ask, Dialect, Room, classified, explained
from .errors import ConfigInvalid, Interrupted, RunnerError, TargetNotReached
from .history import History, located
from .host import Around
from .model import VersionTable
from .url import URL


@dataclass(frozen=True)
class Ended:
    """How ``env.py`` ended.

    ``reached``: it ran migrations at all. ``error`` is what user code raised, ``own`` what our steps did.
    """

    reached: bool
    error: BaseException | None
    own: BaseException | None

    def raise_if_failed(self) -> None:
        """Raise what went wrong outside of any revision, as the contract names it."""
        if self.own is not None:
            if isinstance(self.own, (RunnerError, Interrupted)):
                raise self.own
            if refusal := classified(getattr(self.own, "orig", None) or self.own):  # on env.py's connection
                raise explained(refusal) from self.own
            raise self.own
        if isinstance(self.error, (RunnerError, Interrupted)):  # a signal while user code ran, say
            raise self.error
        if self.error is not None:
            raise translated(self.error) from self.error


@dataclass(frozen=True)
class Where:
    """Which of the databases that ``env.py`` migrates, and in which of its version tables."""

    section: str
    url: str
    table: VersionTable


@dataclass(frozen=True)
class Seen:
    """What ``env.py`` told when it was only looked at: where it is, and the rows that it read there."""

    where: Where
    current: tuple[str, ...]
    engine: Any
    url: URL
    schema: str | None  # as env.py configures it
    transaction: str
    identity: str
    room: Room  # in the version table, as it is, or as Alembic would create it


@dataclass(frozen=True)
class Looked:
    """What a look at ``env.py`` gives. ``late``: how it failed after it had run its migrations, which ran nothing."""

    seen: tuple[Seen, ...]
    history: History
    late: RunnerError | None


@dataclass(frozen=True)
class Reached:
    """``env.py`` asks for its steps."""

    where: Where
    heads: tuple[str, ...]
    context: MigrationContext

    @property
    def history(self) -> History:
        """The revisions, as ``env.py`` set them up."""
        assert self.context.script is not None
        return History.load(self.context.script)

    @property
    def ask(self) -> Ask:
        """Queries on the migrating connection."""
        return engines.ask(self.context.connection)

    def change(self, sql: str) -> int:
        """Write on the migrating connection: how many rows were changed."""
        connection: Any = self.context.connection
        return int(connection.exec_driver_sql(sql).rowcount)


Steps = Callable[[Reached], Iterable[MigrationStep]]


@dataclass(frozen=True)
class Environment:
    """The project's ``env.py``, what it is run with, and what around it."""

    config: Callable[[], Config]
    script: ScriptDirectory
    around: Around
    per_revision: bool = False  # a transaction for each revision, whatever env.py says

    def run(
        self,
        steps: Steps,
        *,
        config: Config | None = None,
        arriving: Callable[[Reached], None] | None = None,
        **options: Any,
    ) -> Ended:
        """Run ``env.py`` once. Never raises what user code raised: the answer says how it ended.

        ``arriving`` is called before Alembic begins, which creates the version table before it asks for steps.
        """
        config = config or self.config()
        reached = False
        own: list[BaseException] = []
        keywords: dict[str, Any] = {}

        def guarded(heads: tuple[str, ...], context: MigrationContext) -> Iterator[MigrationStep]:
            nonlocal reached
            reached = True
            try:
                yield from steps(Reached(_where(config, context, keywords), tuple(heads), context))
            except GeneratorExit:
                raise
            except BaseException as error:
                own.append(error)
                raise

        error: BaseException | None = None
        try:
            with self.around(config), EnvironmentContext(config, self.script, fn=guarded, **options) as environment:
                run_migrations = environment.run_migrations

                def noted(**given: Any) -> None:
                    keywords.clear()
                    keywords.update(given)
                    if arriving:
                        try:
                            context = environment.get_context()
                            heads = tuple(context.get_current_heads())
                            arriving(Reached(_where(config, context, keywords), heads, context))
                        except BaseException as error:
                            own.append(error)
                            raise
                    run_migrations(**given)

                environment.run_migrations = noted  # type: ignore[method-assign]
                if self.per_revision:
                    # On the instance: a subclass would break the proxy behind alembic.context.
                    environment.configure = _each_its_own(environment.configure)  # type: ignore[method-assign]
                self.script.run_env()
        except SystemExit as exit_:
            error = exit_ if exit_.code not in (None, 0) else None
        except BaseException as raised:
            error = raised
        return Ended(reached, error, own[0] if own else None)

    def look(self, target: str) -> Looked:
        """See what ``env.py`` sees, without a lock and without changing anything.

        What it does after its migrations may need what they make, so a failure there says nothing yet.
        """
        seen: dict[Where, Seen] = {}
        histories: list[History] = []

        def steps(reached: Reached) -> Iterable[MigrationStep]:
            connection: Any = reached.context.connection
            histories.append(reached.history)
            url = engines.url_of(connection.engine)
            dialect = DIALECTS.get(url.dialect)
            seen[reached.where] = Seen(
                where=reached.where,
                current=tuple(sorted(reached.heads)),
                engine=connection.engine,
                url=url,
                schema=reached.context.version_table_schema,
                transaction=_transaction(reached.context),
                identity=dialect.identity(reached.ask) if dialect else "",
                room=_room(dialect, reached),
            )
            return ()

        ended = self.run(steps, dont_mutate=True, destination_rev=target)
        late: RunnerError | None = None
        try:
            ended.raise_if_failed()
        except ConfigInvalid as error:
            if not seen or ended.own or error is ended.error:
                raise
            late = error
        if not seen:
            raise TargetNotReached("env.py ended without an error and without running any migrations.")
        return Looked(tuple(seen.values()), histories[-1], late)

    def offline_sql(self, config: Config, steps: Steps, *, starting: tuple[str, ...], target: tuple[str, ...]) -> Ended:
        """Run ``env.py`` in Alembic's offline mode; what it writes goes to ``config.output_buffer``."""
        ended = self.run(
            steps, config=config, as_sql=True, starting_rev=starting or None, destination_rev=" ".join(target)
        )
        if not ended.reached and ended.error is None:
            raise TargetNotReached("env.py ended without running any migrations in offline mode.")
        return ended


def _each_its_own(configure: Callable[..., None]) -> Callable[..., None]:
    def configured(*positional: Any, **given: Any) -> None:
        configure(*positional, **{**given, "transaction_per_migration": True})

    return configured


def _where(config: Config, context: MigrationContext, keywords: dict[str, Any]) -> Where:
    if context.as_sql:
        return Where(config.config_ini_section, "", VersionTable(context.version_table, context.version_table_schema))
    connection: Any = context.connection
    # With the schema that env.py's own session resolves the name in: ours may have another search path.
    schema = context.version_table_schema or connection.dialect.default_schema_name
    url = engines.url_of(connection.engine)
    section = str(keywords.get("engine_name") or _section_of(config, url) or config.config_ini_section)
    return Where(section, url.masked(), VersionTable(context.version_table, schema))


def _room(dialect: Dialect | None, reached: Reached) -> Room:
    room = dialect.room(reached.ask, reached.where.table) if dialect else Room(True)
    if room.there:
        return room
    return Room(False, getattr(reached.context._version.c.version_num.type, "length", None))


def _section_of(config: Config, url: URL) -> str | None:
    """The section of the file that names this URL: the multidb template has one for each database."""
    parser = config.file_config
    for section in parser.sections():
        if section != config.config_ini_section and parser.has_option(section, "sqlalchemy.url"):
            try:
                if urls.parse(parser.get(section, "sqlalchemy.url")) == url:
                    return section
            except Exception:  # noqa: S112  not one that env.py could have used
                continue
    return None


def _transaction(context: MigrationContext) -> str:
    if context._in_external_transaction:
        return "external"
    return "whole-run" if context.impl.transactional_ddl and not context._transaction_per_migration else "per-revision"


def translated(error: BaseException) -> RunnerError:
    """An error outside of any revision, as the contract names it."""
    if isinstance(error, SystemExit):
        return ConfigInvalid(f"env.py exited with {error.code!r} outside of any revision.", hint=_LOOK_THERE)
    if refusal := classified(getattr(error, "orig", None) or error):
        return explained(refusal)
    if isinstance(error, ModuleNotFoundError) and error.name in _DRIVERS:
        return ConfigInvalid(
            f"The driver that the database URL asks env.py for is not installed: {error}.",
            hint=f"Install it: pip install {_DRIVERS[error.name]}; or name a driver that is there:"
            " mysql+pymysql://…, postgresql+psycopg://…, sqlite:////path/to/file.",
        )
    return ConfigInvalid(f"env.py failed outside of any revision: {located(error)}.", hint=_LOOK_THERE)


_LOOK_THERE = (
    "Correct env.py, or name what it expects around it (an application's context, say) in ALEMBIC_JOB_CONTEXT;"
    " 'applied' lists what was run. ALEMBIC_JOB_LOG_LEVEL=debug shows the whole traceback."
)
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
