"""How ``env.py`` connects, so that the runner can do the same."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from . import url as urls
from .database import Ask

_PARTS = {
    **dict.fromkeys(("user", "username"), "user"),
    **dict.fromkeys(("password", "passwd"), "password"),
    **dict.fromkeys(("database", "dbname", "db"), "database"),
    "host": "host",
    "port": "port",
}
_TLS = {"ca": "ssl_ca", "capath": "ssl_capath", "cert": "ssl_cert", "key": "ssl_key", "cipher": "ssl_cipher"}


def ask(connection: Any) -> Ask:
    """Queries on a connection of SQLAlchemy, of any driver."""

    def answer(sql: str) -> list[tuple[Any, ...]]:
        result = connection.exec_driver_sql(sql)
        return [tuple(row) for row in result.fetchall()] if result.returns_rows else []

    return answer


def url_of(engine: Any) -> urls.URL:
    """The URL of an engine."""
    url = engine.url
    return urls.parse(url.render_as_string(hide_password=False) if hasattr(url, "render_as_string") else repr(url))


def is_repeatable(engine: Any) -> bool:
    """Whether the URL and the arguments of the engine tell how it connects. With ``creator=`` they do not."""
    return _arguments(engine) is not None


def url_now(engine: Any) -> urls.URL:
    """The URL with what else the engine connects with: connect arguments, and what its hooks change in them.

    Asked for every connection, because a hook may fetch a token that expires. TLS given as an
    ``SSLContext`` becomes TLS without verification: what the context holds cannot be read.
    """
    url, given = url_of(engine), _arguments(engine) or {}
    parts: dict[str, Any] = {}
    query = dict(url.query)
    for key, value in given.items():
        if value is None:
            continue
        if key in _PARTS:
            parts[_PARTS[key]] = int(value) if key == "port" and str(value).isdigit() else str(value)
        else:
            query |= _as_query(key, value)
    if "," in str(parts.get("host", "")) or not isinstance(parts.get("port", 0), int):
        query |= {name: str(parts.pop(name)) for name in ("host", "port") if name in parts}
    return replace(url, **parts, query=query)


def _as_query(key: str, value: Any) -> dict[str, str]:
    """A connect argument as the URL would say it."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return {key: str(value)}
    if isinstance(value, bool):
        return {key: str(value).lower()}
    if isinstance(value, ssl.SSLContext):
        return {"ssl": "true"}
    if key == "ssl" and isinstance(value, Mapping):
        named = {_TLS[name]: str(path) for name, path in value.items() if name in _TLS and path}
        return {"ssl": "true", **named, **({"ssl_check_hostname": "true"} if value.get("check_hostname") else {})}
    if key == "server_settings" and isinstance(value, Mapping):  # asyncpg's
        return {"options": " ".join(f"-c {name}={setting}" for name, setting in value.items())}
    return {}


def _arguments(engine: Any) -> dict[str, Any] | None:
    """What SQLAlchemy calls the driver with; None when the project makes the connection itself.

    It keeps them in the closure that the pool calls, and nowhere else.
    """
    creator = getattr(engine.pool, "_creator", None)
    if not inspect.isfunction(creator) or creator.__module__ not in _SQLALCHEMY:
        return None
    held = inspect.getclosurevars(creator).nonlocals
    if "cparams" not in held:
        return None
    positional, named = list(held.get("cargs", ())), dict(held["cparams"])
    for hook in engine.dialect.dispatch.do_connect:
        try:
            made = hook(engine.dialect, None, positional, named)
        except Exception:  # one that needs the pool's record, which there is none of here
            return None
        if made is not None:
            made.close()
            return None
    return named


_SQLALCHEMY = ("sqlalchemy.engine.create", "sqlalchemy.engine.strategies")
