"""The fence is one session's, not an engine's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa

from runner import engines
from runner.database import Session
from runner.errors import LockLost
from runner.fence import Fence
from runner.keys import SessionLock
from runner.lock import Held
from runner.place import Place
from runner.seam import Reached
from tests.contract.test_lock import loaded
from tests.contract.test_session import runners
from tests.databases import Database

pytestmark = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)


class Situation:
    """A run that holds its first key, and a connection of env.py's."""

    def __init__(self, database: Database, session: Session) -> None:
        self.engine = sa.create_engine(database.url)
        self.connection = self.engine.connect()
        self.lock = SessionLock.of(session)
        assert self.lock.take()
        self.place = Place(
            None, runners(database), section=None, look=lambda: (), emit=lambda _: None, saw=lambda *_: None
        )
        self.fence = Fence({self.place: Held(session, self.lock)}, loaded(database), time.monotonic(), "somebody")

    @property
    def reached(self) -> Reached:
        context = SimpleNamespace(connection=self.connection, on_version_apply_callbacks=())
        return cast(Reached, SimpleNamespace(heads=(), context=context, ask=engines.ask(self.connection)))


@pytest.fixture
def situation(database: Database) -> Iterator[Situation]:
    with runners(database).session() as session:
        made = Situation(database, session)
        yield made
        with contextlib.suppress(sa.exc.DBAPIError):  # one that was ended
            made.connection.close()
        made.engine.dispose()


def test_a_connection_that_is_replaced_in_silence_has_lost_the_fence(situation: Situation) -> None:
    situation.fence.check(situation.place, situation.reached, ours=False)
    situation.fence.still(situation.place, situation.reached)
    if hasattr(situation.connection, "rollback"):  # SQLAlchemy 2 begins by itself
        situation.connection.rollback()
    situation.connection.invalidate()
    with pytest.raises(LockLost, match="replaced by another"):
        situation.fence.still(situation.place, situation.reached)


def taken_soon(lock: SessionLock) -> bool:
    """Whether it can be taken: the server ends the session before in its own time."""
    deadline = time.monotonic() + 10
    while not (taken := lock.take()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return taken


def test_while_the_fence_is_held_nobody_has_the_lock_though_the_first_key_is_gone(
    situation: Situation, database: Database
) -> None:
    situation.fence.check(situation.place, situation.reached, ours=False)
    situation.lock.release()
    with runners(database).session() as other:
        second = SessionLock.of(other)
        assert not second.take()
        holder: Any = second.holder()
        assert holder.migrates
        situation.connection.close()
        situation.engine.dispose()
        assert taken_soon(second)


def test_a_session_that_is_idle_without_its_first_key_is_ended_after_a_while(
    situation: Situation, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.keys._GHOST_S", 1.0)
    situation.fence.check(situation.place, situation.reached, ours=False)
    situation.lock.release()
    with runners(database).session() as other:
        second = SessionLock.of(other)
        assert not second.take()
        time.sleep(2.2)
        assert taken_soon(second)
        with pytest.raises(sa.exc.DBAPIError):
            situation.connection.exec_driver_sql("SELECT 1")


def test_after_the_run_a_session_that_a_pool_keeps_is_ended(situation: Situation, database: Database) -> None:
    situation.fence.check(situation.place, situation.reached, ours=False)
    assert situation.lock.fence_left()
    situation.fence.open()
    assert situation.lock.fence_left() is None
    assert situation.lock.release()
    with runners(database).session() as other:
        assert SessionLock.of(other).take()
