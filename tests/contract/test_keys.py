"""What a run holds while it migrates: the same rules for the locks of sessions and for the lease."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from runner import engines
from runner.database import Session
from runner.keys import Lock, SessionLock
from runner.lease import Lease
from tests.contract.test_session import runners
from tests.databases import Database

pytestmark = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
Make = Callable[[str], Lock]


@contextlib.contextmanager
def locks(database: Database, kind: str) -> Iterator[Make]:
    """The lock of a run of this name."""
    opened: list[Session] = []

    def lock(run: str) -> Lock:
        there = dataclasses.replace(runners(database), owner=f"alembic-job/{run}")
        opened.append(there.connect())
        return SessionLock.of(opened[-1]) if kind == "session" else Lease(opened[-1], there, "told to")

    yield lock
    for session in opened:
        session.close()


@pytest.fixture(params=["session", "lease"])
def make(request: pytest.FixtureRequest, database: Database) -> Iterator[Make]:
    with locks(database, request.param) as lock:
        yield lock


@pytest.fixture
def lease(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A lease of half a second."""
    monkeypatch.setattr("runner.lease.LIFE_S", 0.5)
    with locks(database, "lease") as lock:
        yield lock


class Migrating:
    """The connection of env.py."""

    def __init__(self, database: Database) -> None:
        self.engine = sa.create_engine(database.url, poolclass=sa.pool.NullPool)
        self.connection = self.engine.connect()
        self._transaction = self.connection.begin()
        self.ask = engines.ask(self.connection)

    def change(self, sql: str) -> int:
        return self.connection.exec_driver_sql(sql).rowcount

    def commit(self) -> None:
        self._transaction.commit()
        self._transaction = self.connection.begin()

    def rollback(self) -> None:
        self._transaction.rollback()
        self._transaction = self.connection.begin()


@pytest.fixture
def migrating(database: Database) -> Iterator[Migrating]:
    made = Migrating(database)
    yield made
    made.connection.close()


def test_one_of_two_has_it_and_it_can_be_had_after_the_release(make: Make) -> None:
    one, two = make("one"), make("two")
    assert one.take() and one.is_ours()
    assert not two.take() and not two.is_ours()
    assert one.release()
    assert not one.is_ours()
    assert two.take() and two.is_ours()


def test_who_gives_back_what_it_does_not_have_is_told(make: Make) -> None:
    one = make("one")
    assert one.take() and one.release()
    assert not one.release()


def test_the_other_one_is_told_who_has_it(make: Make) -> None:
    one, two = make("one"), make("two")
    assert one.take()
    assert not two.take()
    holder = two.holder()
    assert holder is not None and not holder.migrates
    assert holder.since is None or holder.since.endswith("Z")


def test_a_sign_of_life_leaves_it_ours(make: Make) -> None:
    one = make("one")
    assert one.take()
    one.keep()
    assert one.is_ours()


def test_the_session_that_migrates_sees_it_and_a_session_elsewhere_does_not(
    make: Make, migrating: Migrating, database: Database, request: pytest.FixtureRequest
) -> None:
    one = make("one")
    assert one.take()
    assert one.is_seen_by(migrating.ask)
    elsewhere = Migrating(request.getfixturevalue(f"{database.dialect}_server").new_database())
    if database.dialect == "postgresql" or isinstance(one, Lease):  # GET_LOCK is of the whole server
        assert not one.is_seen_by(elsewhere.ask)
    elsewhere.connection.close()


def test_a_whole_revision_is_begun_and_moved_under_it(make: Make, migrating: Migrating) -> None:
    one, two = make("one"), make("two")
    assert one.take()
    assert one.fence(migrating.ask)
    assert one.begins(migrating.ask, migrating.change, "r1")
    assert one.moves(migrating.change)
    migrating.commit()
    assert not two.take()


def expired(lease: Lock) -> None:
    time.sleep(0.7)
    assert not lease.is_ours()


def begun(lease: Make, migrating: Migrating, *, durable: bool) -> Lock:
    """A lease that has expired in the middle of a revision."""
    one = lease("one")
    assert one.take() and one.begins(migrating.ask, migrating.change, "r1")
    if durable:
        migrating.commit()  # as DDL does on MySQL, or an autocommit_block on PostgreSQL
    expired(one)
    return one


def test_a_lease_that_expired_between_two_revisions_is_taken_over(lease: Make, migrating: Migrating) -> None:
    one, two = lease("one"), lease("two")
    assert one.take()
    expired(one)
    assert two.take()
    assert not one.begins(migrating.ask, migrating.change, "r1")
    migrating.rollback()
    two.keep()
    assert not one.release()
    assert two.is_ours()


@pytest.mark.parametrize("durable", [True, False])
def test_a_lease_that_expired_within_a_revision_is_not_taken_over_while_its_session_lives(
    lease: Make, migrating: Migrating, durable: bool
) -> None:
    begun(lease, migrating, durable=durable)
    two = lease("two")
    assert not two.take()
    migrating.connection.close()
    deadline = time.monotonic() + 5
    while not two.take():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_who_took_over_is_found_out_by_the_transaction_that_moves_the_version(
    lease: Make, migrating: Migrating
) -> None:
    one = lease("one")
    assert one.take() and one.begins(migrating.ask, migrating.change, "r1")
    assert one.moves(migrating.change)
    migrating.commit()
    expired(one)
    assert lease("two").take()
    assert not one.moves(migrating.change)


def test_a_renewed_lease_does_not_expire(lease: Make) -> None:
    one, two = lease("one"), lease("two")
    assert one.take()
    for _ in range(5):
        time.sleep(0.2)
        one.keep()
    assert one.is_ours() and not two.take()


def test_an_expired_lease_of_which_nothing_is_proven_is_freed_on_somebodys_word(
    lease: Make, migrating: Migrating
) -> None:
    begun(lease, migrating, durable=True)
    two: Any = lease("two")
    assert not two.take()
    assert two.holder().end_with == "alembic-job unlock"
    assert two.seize() and two.take()
    assert not lease("three").seize()  # type: ignore[attr-defined]
