"""``runner.url`` against SQLAlchemy's ``make_url``, of which it is a small part."""

from __future__ import annotations

import re

import pytest
import sqlalchemy
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.engine import URL as Theirs
from sqlalchemy.engine import make_url

from runner.url import URL, MalformedURL, parse

VERSION = tuple(int(part) for part in sqlalchemy.__version__.split(".")[:2])
UNQUOTES_THE_DATABASE = VERSION >= (2, 1)  # before that "%20" stayed as it is written

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=12)
PLAIN = st.text("abcXYZ019._-", min_size=1, max_size=10)
DATABASE = st.text(st.characters(categories=["L", "N", "P", "S"], max_codepoint=0x2FF), max_size=12)
QUERY = st.dictionaries(PLAIN, TEXT.filter(bool), max_size=3)
DRIVERS = st.sampled_from(["mysql+pymysql", "mariadb", "postgresql+psycopg", "sqlite", "sqlite+aiosqlite"])
HOSTS = st.one_of(PLAIN, st.sampled_from(["::1", "fe80::1", "127.0.0.1"]))


def theirs(url: URL) -> Theirs:
    """The same parts as SQLAlchemy holds them."""
    return Theirs.create(url.driver, url.user, url.password, url.host, url.port, url.database, url.query)


@st.composite
def urls(draw: st.DrawFn) -> URL:
    user = draw(st.none() | TEXT)
    host = draw(st.none() | HOSTS)
    return URL(
        driver=draw(DRIVERS),
        user=user,
        password=None if user is None else draw(st.none() | TEXT),
        host=host,
        port=None if host is None else draw(st.none() | st.integers(1, 65535)),
        # Without a user, SQLAlchemy takes what stands before an "@" for one.
        database=draw(st.none() | (DATABASE if user is not None else DATABASE.map(lambda name: name.replace("@", "")))),
        query=draw(QUERY),
    )


def parts(url: URL) -> tuple[object, ...]:
    return url.driver, url.user, url.password, url.host, url.port, url.database, url.query


def misread(text: str) -> bool:
    """Where SQLAlchemy 1.4 reads something else.

    It takes ``?query`` for a part of the host or the port where no database comes before it, and lets a
    password have an "@" that is not encoded, which all later versions refuse.
    """
    place = re.sub(r"^[^:/]*(?::[^@]*)?@", "", text.partition("://")[2])
    before, mark, _ = place.partition("?")
    return VERSION < (2, 0) and ((bool(mark) and "/" not in before) or text.count("@") > 1)


def parts_of_theirs(text: str) -> tuple[object, ...]:
    url = make_url(text)
    password = None if url.password is None else str(url.password)
    query = {
        key: value if isinstance(value, str) else ",".join(value) if key in ("host", "port") else value[-1]
        for key, value in url.query.items()
    }
    return url.drivername, url.username, password, url.host, url.port, url.database, query


@given(urls())
@example(URL("postgresql", "u", "p%40:/?#[]@ é'\"\\$x{y}%(z)s", "db", 5432, "app"))
@example(URL("mysql+pymysql", "", "", "db", None, ""))
def test_a_url_that_is_rendered_and_parsed_is_the_same(url: URL) -> None:
    assert parse(url.render()) == url


@given(urls())
def test_sqlalchemy_reads_what_is_rendered_as_what_it_was(url: URL) -> None:
    if misread(url.render()) or (not UNQUOTES_THE_DATABASE and set(url.database or "") & set("%?")):
        return  # no version below 2.1 can express such a name at all
    assert parts_of_theirs(url.render()) == parts(url)


@given(urls())
def test_what_sqlalchemy_renders_is_parsed_as_what_it_was(url: URL) -> None:
    if misread(url.render()) or (not UNQUOTES_THE_DATABASE and set(url.database or "") & set("%?")):
        return  # not quoted there, so that a "?" in it begins the query
    assert parts(parse(theirs(url).render_as_string(hide_password=False))) == parts(url)


WRITTEN = st.from_regex(
    r"(?:mysql\+pymysql|postgresql|sqlite)://(?:[a-z%:@/.\[\]0-9+ ]{0,12}@)?(?:[a-z0-9.]{0,8}|\[[0-9a-f:]{1,8}\])"
    r"(?::[0-9]{0,5})?(?:/[a-zA-Z0-9/_. @:%+-]{0,12})?(?:\?[a-z0-9=&%+.:/]{0,16})?",
    fullmatch=True,
)


@given(WRITTEN)
@example("sqlite://")
@example("sqlite:///relative.db")
@example("sqlite:////data/app.db")
@example("mysql+pymysql://u:p@h:3306/d?charset=utf8mb4&ssl_ca=/ca.pem")
@example("postgresql://u:p@/d?host=a:5432&host=b:5433")
@example("postgresql://u@h:/d")
def test_a_written_url_is_read_as_sqlalchemy_reads_it(text: str) -> None:
    if misread(text):
        return
    try:
        expected = parts_of_theirs(text.strip())  # ours takes no blanks around it, as a file with a secret has
    except Exception:
        expected = None
    try:
        found = parts(parse(text))
    except MalformedURL:
        found = None
    if found and expected and not UNQUOTES_THE_DATABASE and "%" in str(expected[5]):
        found, expected = found[:5] + found[6:], expected[:5] + expected[6:]
    assert found == expected


# Without what would end the host's part before the port: then the rest is a database, or a query.
@given(TEXT.map(lambda text: "xyzzy" + re.sub(r"[@/?]", "", text)), PLAIN)
def test_a_malformed_url_is_refused_without_being_shown(secret: str, host: str) -> None:
    for text in (f"no-url:{secret}@{host}", f"mysql://u:{secret}@{host}:port/d"):
        with pytest.raises(MalformedURL) as caught:
            parse(text)
        assert secret not in str(caught.value)
