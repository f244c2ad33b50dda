"""Database URLs in SQLAlchemy's syntax, read without importing SQLAlchemy.

Importing SQLAlchemy costs 0.35 s of CPU; ``wait`` and the look before a lock need no more of it than
this. Held equal to ``sqlalchemy.engine.make_url`` by a property test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

_PATTERN = re.compile(
    r"""
    (?P<driver>[\w\+]+)://
    (?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?
    (?:(?:\[(?P<ipv6>[^/\?]+)\]|(?P<host>[^/:\?]+))?(?::(?P<port>[^/\?]*))?)?
    (?:/(?P<database>[^\?]*))?
    (?:\?(?P<query>.*))?
    """,
    re.VERBOSE | re.DOTALL,
)


class MalformedURL(ValueError):
    """Not a URL. The message never holds the text itself, which may have a password in it."""


@dataclass(frozen=True)
class URL:
    """A database URL in its parts; ``query`` keeps the last of repeated keys, and all hosts and ports in a row."""

    driver: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    database: str | None = None
    query: dict[str, str] = field(default_factory=dict)

    @property
    def dialect(self) -> str:
        """``mysql`` of ``mysql+pymysql``."""
        return self.driver.partition("+")[0]

    def render(self) -> str:
        """The URL as text, password included."""
        login = ""
        if self.user is not None or self.password is not None:
            login = quote(self.user or "", safe=" +")
            if self.password is not None:
                login += ":" + quote(self.password, safe=" +")
            login += "@"
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host or ""
        port = f":{self.port}" if self.port is not None else ""
        name = (self.database or "").replace("%", "%25").replace("?", "%3F")
        if self.password is None and ":" in host + port:  # else "h:1/@" would be read as user and password
            name = name.replace("@", "%40")
        database = f"/{name}" if self.database is not None else ""
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{self.driver}://{login}{host}{port}{database}{query}"

    def masked(self) -> str:
        """The URL as text, for people: without password and query, which may hold secrets too."""
        return replace(self, password=None, query={}).render()


def parse(text: str) -> URL:
    """Read a URL. Raises MalformedURL, with what is wrong but without the text."""
    match = _PATTERN.fullmatch(text.strip())
    if not match:
        raise MalformedURL("it is not of the form dialect+driver://user:password@host:port/database")
    part = match.groupdict()
    port = part["port"]
    if port is not None and not re.fullmatch("[0-9]+", port):
        raise MalformedURL("the port is not a number; special characters in the password must be percent-encoded")
    return URL(
        driver=part["driver"],
        user=None if part["user"] is None else unquote(part["user"]),
        password=None if part["password"] is None else unquote(part["password"]),
        host=part["ipv6"] or part["host"],
        port=None if port is None else int(port),
        database=None if part["database"] is None else unquote(part["database"]),
        query=_query(part["query"] or ""),
    )


def _query(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in parse_qsl(text):
        found[key] = f"{found[key]},{value}" if key in found and key in ("host", "port") else value
    return found


def without_login(text: str) -> str:
    """A URL of the web for people: without login and query, which may hold secrets."""
    parts = urlsplit(text)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def secret_of(text: str) -> str | None:
    """What must not be seen of the login of a URL of the web: the password, or the user where that is all there is."""
    parts = urlsplit(text)
    secret = parts.password or parts.username
    return unquote(secret) if secret else None
