"""Everything around ``env.py`` that its project expects, and that must be as it was afterwards."""

from __future__ import annotations

import importlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from alembic.config import Config
from alembic.script import ScriptDirectory

from .errors import ConfigInvalid
from .history import located
from .settings import Settings
from .stopping import SIGNALS

Around = Callable[[Config], AbstractContextManager[None]]
_CONTEXT = "ALEMBIC_JOB_CONTEXT"


def host(settings: Settings, script: ScriptDirectory) -> Around:
    """What each run of ``env.py`` is wrapped in. Raises ConfigInvalid when it is not to be had."""
    surroundings = _named(settings.context) if settings.context else _flask(script)

    @contextmanager
    def around(config: Config) -> Iterator[None]:
        directory = os.getcwd()  # noqa: PTH109  relative paths of ours come after
        with ExitStack() as stack:
            stack.callback(os.chdir, directory)
            stack.enter_context(_signals_kept())
            if surroundings:
                stack.enter_context(surroundings())
            if settings.inject_connection != "no":
                stack.enter_context(_injected(config, settings.inject_connection))
            yield

    return around


@contextmanager
def _signals_kept() -> Iterator[None]:
    """SIGTERM and SIGINT stay ours: a handler of the project would end a revision in the middle."""
    install, pid = signal.signal, os.getpid()

    def instead(number: int, handler: Any) -> Any:
        ours = number in SIGNALS and os.getpid() == pid  # not in a process that user code forked
        return signal.getsignal(number) if ours else install(number, handler)

    signal.signal = instead  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = install


def _named(name: str) -> Callable[[], AbstractContextManager[Any]]:
    """The callable of ``CONTEXT``."""
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ConfigInvalid(
            f"{name} of {_CONTEXT} cannot be imported: {located(error)}.",
            hint="Name it as package.module:callable, importable from the project's directory or prepend_sys_path.",
        ) from error

    def entered() -> AbstractContextManager[Any]:
        try:
            made = found()
        except TypeError as error:
            raise ConfigInvalid(
                f"{name} of {_CONTEXT} cannot be called without arguments: {located(error)}."
            ) from error
        if not (hasattr(made, "__enter__") and hasattr(made, "__exit__")):
            raise ConfigInvalid(
                f"{name}() of {_CONTEXT} gives {_a(type(made).__name__)}, which is no context manager.",
                hint="Decorate it with @contextlib.contextmanager, or return one.",
            )
        return made  # type: ignore[no-any-return]

    return entered


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiouAEIOU" else f"a {noun}"


def _flask(script: ScriptDirectory) -> Callable[[], AbstractContextManager[Any]] | None:
    """The application's context, opened as ``flask db`` does, for an ``env.py`` that asks for ``current_app``."""
    env = Path(script.dir, "env.py")
    if not env.is_file() or not re.search(r"\bcurrent_app\b", env.read_text(errors="replace")):
        return None
    try:
        from flask.cli import ScriptInfo, load_dotenv  # noqa: PLC0415  the project's own, if it has it

        load_dotenv()
        app = ScriptInfo().load_app()
    except Exception as error:
        raise ConfigInvalid(
            f"{env} uses flask.current_app, and the application cannot be loaded: {located(error)}.",
            hint="Set FLASK_APP as for 'flask db', or ALEMBIC_JOB_CONTEXT to a context manager that opens"
            " the application's context.",
        ) from error
    return cast(Callable[[], AbstractContextManager[Any]], app.app_context)


@contextmanager
def _injected(config: Config, what: Literal["connection", "engine"]) -> Iterator[None]:
    """``config.attributes["connection"]``, as Alembic's cookbook shares a connection with ``env.py``."""
    import sqlalchemy  # noqa: PLC0415

    url = config.get_main_option("sqlalchemy.url")
    if not url:
        raise ConfigInvalid(
            "ALEMBIC_JOB_INJECT_CONNECTION needs a database URL to connect to.",
            hint="Set ALEMBIC_JOB_DATABASE_URL, or sqlalchemy.url in the Alembic configuration.",
        )
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    if getattr(engine.dialect, "is_async", False):
        raise ConfigInvalid(
            f"ALEMBIC_JOB_INJECT_CONNECTION gives a synchronous connection, and {engine.url.drivername} is not.",
            hint="Name a synchronous driver in the URL, as in mysql+pymysql:// or postgresql+psycopg://.",
        )
    if what == "engine":
        config.attributes["connection"] = engine
        yield
        return
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        yield
        if connection.in_transaction() and hasattr(connection, "commit"):  # as engine.begin() would
            connection.commit()
