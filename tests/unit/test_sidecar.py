"""The URL of a sidecar is shown without what may be secret, and the call itself never raises."""

from __future__ import annotations

import threading
from urllib.parse import quote

import pytest
from alembic_job.settings import masked
from alembic_job.url import secret_of, without_login
from hypothesis import given
from hypothesis import strategies as st

from alembic_job import sidecar

SECRET = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).map(lambda s: f"<{s}>")


@given(password=SECRET, key=SECRET)
def test_neither_the_password_nor_the_query_is_shown(password: str, key: str) -> None:
    written = quote(password, safe="")
    url = f"http://me:{written}@127.0.0.1:15020/quit?key={quote(key, safe='')}#part"
    assert without_login(url) == masked("sidecar_quit_url", url) == "http://127.0.0.1:15020/quit"
    assert secret_of(url) == password


@given(token=SECRET)
def test_a_user_alone_is_the_secret(token: str) -> None:
    url = f"https://{quote(token, safe='')}@[::1]:4191"
    assert without_login(url) == "https://[::1]:4191"
    assert secret_of(url) == token


def test_without_a_login_nothing_is_secret() -> None:
    assert secret_of("http://localhost:4191/shutdown") is None


def test_a_thread_that_cannot_be_started_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    said = sidecar.stop("http://127.0.0.1:1/quit")
    assert said and said.error == "http://127.0.0.1:1/quit cannot be called: can't start new thread."
