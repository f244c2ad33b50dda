"""The migration lock, the same rules for every dialect."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from runner import settings
from runner.database import Database as Runners
from runner.database import Session
from runner.errors import LockTimeout
from runner.events import Event, LockAcquired, LockReleased, LockWaiting
from runner.lock import Contender, my_turn
from runner.stopping import Stop
from tests.contract.test_session import runners
from tests.databases import Database, sqlite_database


@pytest.fixture
def there(database: Database) -> Database:
    if database.path:
        database.execute("PRAGMA user_version = 1")
    return database


@pytest.fixture
def two(there: Database) -> Iterator[tuple[Session, Session]]:
    with runners(there).session() as one, runners(there).session() as other:
        yield one, other


def test_two_sessions_do_not_hold_it_at_once(two: tuple[Session, Session]) -> None:
    one, other = two
    assert one.try_lock(one.lock_name())
    assert other.try_lock(other.lock_name()) is None


def test_it_is_free_after_the_release(two: tuple[Session, Session]) -> None:
    one, other = two
    release = one.try_lock(one.lock_name())
    assert release
    release()
    assert other.try_lock(other.lock_name())


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_it_is_free_after_the_session_that_held_it_was_closed(there: Database) -> None:
    with runners(there).session() as other:
        with runners(there).session() as one:
            assert one.try_lock(one.lock_name())
        assert within_a_second(other)


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_it_is_free_after_the_session_that_held_it_was_killed(two: tuple[Session, Session], there: Database) -> None:
    one, other = two
    assert one.try_lock(one.lock_name())
    if there.dialect == "mariadb":
        there.execute(f"KILL {one.connection.thread_id()}")
    else:
        there.execute(f"SELECT pg_terminate_backend({one.connection.info.backend_pid})")
    assert within_a_second(other)


def within_a_second(session: Session) -> bool:
    for _ in range(50):
        if session.try_lock(session.lock_name()):
            return True
        time.sleep(0.02)
    return False


def test_its_name_is_the_same_for_every_session_and_user_of_a_database(two: tuple[Session, Session]) -> None:
    assert two[0].lock_name() == two[1].lock_name()


def test_its_name_does_not_depend_on_how_the_url_is_written(there: Database) -> None:
    with runners(there).session() as one:
        first = one.lock_name()
    changes: dict[str, object] = {"host": "localhost"}
    if there.path:  # another way to the same file
        (there.path.parent / "link").symlink_to(there.path.parent)
        changes = {"database": str(there.path.parent / "link" / there.path.name)}
    with runners(there, **changes).session() as other:
        assert other.lock_name() == first


def test_two_databases_of_one_server_do_not_exclude_each_other(there: Database, request: pytest.FixtureRequest) -> None:
    if there.path:
        second = sqlite_database(there.path.parent / "second.sqlite")
        second.execute("PRAGMA user_version = 1")
    else:
        second = request.getfixturevalue(f"{there.dialect}_server").new_database()
    with runners(there).session() as one, runners(second).session() as other:
        assert one.try_lock(one.lock_name())
        assert other.try_lock(other.lock_name())


def loaded(database: Database, **environment: str) -> settings.Settings:
    known = {"DATABASE_URL": database.url, **environment}
    return settings.load({f"ALEMBIC_JOB_{name}": value for name, value in known.items()}, {}).settings


def stop() -> Stop:
    return Stop(mmap.mmap(-1, 1))


class Race:
    """Several runs that want their turn; the work is done when one of them did it."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("runner.lock._PAUSE_S", (0.01, 0.05))
        self.database = runners(database)
        self.settings = loaded(database)
        self.inside = 0
        self.most = 0
        self.turns = 0
        self.errors: list[BaseException] = []
        self.events: list[Event] = []
        self.done = False

    def run(self, *, always: bool) -> None:
        try:
            arrived = lambda session: self.done and not always  # noqa: E731
            with my_turn(
                {1: Contender(self.database, arrived, self.events.append)}, self.settings, stop=stop()
            ) as turn:
                if turn is None:
                    return
                self.inside += 1
                self.turns += 1
                self.most = max(self.most, self.inside)
                time.sleep(0.05)
                self.done = True
                self.inside -= 1
        except BaseException as error:
            self.errors.append(error)

    def start(self, count: int, *, always: bool) -> None:
        racers = [threading.Thread(target=self.run, kwargs={"always": always}) for _ in range(count)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(30)
        assert not self.errors


def test_of_five_racers_one_has_its_turn_and_the_others_leave(there: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    race = Race(there, monkeypatch)
    race.start(5, always=False)
    assert (race.turns, race.most) == (1, 1)


def test_five_racers_who_all_have_to_work_do_so_one_after_the_other(
    there: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    race = Race(there, monkeypatch)
    race.start(5, always=True)
    assert (race.turns, race.most) == (5, 1)
    assert len([e for e in race.events if isinstance(e, LockReleased)]) == 5


def test_who_waits_longer_than_allowed_gives_up(two: tuple[Session, Session], there: Database) -> None:
    one, _ = two
    assert one.try_lock(one.lock_name())
    events: list[Event] = []
    short = loaded(there, LOCK_TIMEOUT="300ms")
    with (
        pytest.raises(LockTimeout),
        my_turn({1: Contender(runners(there), lambda _: False, events.append)}, short, stop=stop()),
    ):
        raise AssertionError("the lock is held")
    assert [type(event) for event in events] == [LockWaiting]


def test_a_waiting_run_keeps_no_connection(there: Database, two: tuple[Session, Session]) -> None:
    one, _ = two
    assert one.try_lock(one.lock_name())
    opened: list[Session] = []

    class Watched(Runners):
        def connect(self, timeout_s: float | None = None) -> Session:
            opened.append(super().connect(timeout_s))
            return opened[-1]

    plain = runners(there)
    waiting = Watched(plain.read_url, plain.connect_timeout_s)
    short = loaded(there, LOCK_TIMEOUT="100ms")
    with (
        pytest.raises(LockTimeout),
        my_turn({1: Contender(waiting, lambda _: False, lambda _: None)}, short, stop=stop()),
    ):
        pass
    assert opened
    for session in opened:
        with pytest.raises(Exception, match=r"(?i)closed|\(0, ''\)"):
            session.server_version()


def test_without_a_lock_every_racer_has_its_turn_at_once(there: Database) -> None:
    unlocked = loaded(there, LOCK="none")
    events: list[Event] = []
    with ExitStack() as stack:
        for _ in range(2):
            turn = my_turn({1: Contender(runners(there), lambda _: False, events.append)}, unlocked, stop=stop())
            assert stack.enter_context(turn)
    assert [event.lock_kind for event in events if isinstance(event, LockAcquired)] == ["none", "none"]


def two_places(database: Database, events: list[Event], *, arrived: bool = False) -> dict[str, Contender]:
    contender = Contender(runners(database), lambda _: arrived, events.append)
    return {"one": contender, "two": contender}


def test_one_database_with_two_version_tables_has_one_lock(there: Database) -> None:
    events: list[Event] = []
    with my_turn(two_places(there, events), loaded(there), stop=stop()) as turn:
        assert turn is not None
        assert set(turn) == {"one", "two"}
    assert [type(event) for event in events] == [LockAcquired, LockReleased]


def test_of_several_locks_a_run_has_all_or_none(there: Database, request: pytest.FixtureRequest) -> None:
    if there.path:
        other = sqlite_database(there.path.parent / "other.sqlite")
        other.execute("PRAGMA user_version = 1")
    else:
        other = request.getfixturevalue(f"{there.dialect}_server").new_database()
    events: list[Event] = []
    contenders = {
        database.url: Contender(runners(database), lambda _: False, events.append) for database in (there, other)
    }
    with runners(other).session() as holder:
        assert holder.try_lock(holder.lock_name())
        short = loaded(there, LOCK_TIMEOUT="100ms")
        with pytest.raises(LockTimeout), my_turn(contenders, short, stop=stop()):
            raise AssertionError("one of the locks is held")
    with runners(there).session() as free:
        assert free.try_lock(free.lock_name())
