"""What PgBouncer in transaction mode does to locks and settings: the facts that the choice of the lock relies on.

Measured with PgBouncer 1.18, ``pool_size`` 2, before PostgreSQL 15:

- The backend pid of the protocol (``BackendKeyData``) was the one of ``SELECT pg_backend_pid()`` at 200 of 200 direct
  connects, and at 0 of 200 through the pooler, with one connect at a time and with eight, in session mode as well:
  it tells a pooler, not its mode. Everything else that the server says is the same (``server_version``), and ``SHOW
  VERSION`` is answered by PgBouncer's own console alone.
- One session lock was granted to two clients: always when one after another asked, in 10 of 100 pairs that asked at
  the same time. It stays when both have left, until the pooler ends that server session.
- ``SET`` meets the other clients, and does not always meet the own next statement. ``SET LOCAL`` holds.
- ``application_name`` follows the client, but an idle server session keeps that of its last client.
- Server-side prepared statements fail with 42P05 or 26000, unless ``prepare_threshold`` is None.
- Refused at the login: ``options``, and every parameter that it does not follow (``lock_timeout``, ``search_path``,
  ``extra_float_digits``, …); psycopg gives no SQLSTATE for it. Named in ``ignore_startup_parameters``, they are
  dropped in silence.
- A server session that was ended between two transactions is replaced, and the client does not notice.
- A client waits for a session of the pool as long as a transaction holds it.
- ``UPDATE … WHERE owner IS NULL OR expires < …``: 200 of 200 races had one winner. Before the version is moved, a plain
  read of the lease row does not fence (9 of 200); ``FOR UPDATE`` and an ``UPDATE`` do.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.clusters import Pooler, start_pooler
from tests.databases import Database, Server

ROUNDS = 200
CONNECTS = 100
ACQUIRE = (
    "UPDATE lease SET owner = '{}', expires = clock_timestamp() + interval '60 s'"
    " WHERE name = 'it' AND (owner IS NULL OR expires < clock_timestamp())"
)


@pytest.fixture
def direct(postgresql_server: Server) -> Database:
    return postgresql_server.new_database()


@pytest.fixture
def pooled(pgbouncer: Pooler, direct: Database) -> Database:
    return pgbouncer.through(direct)


def run(client: Any, sql: str) -> Any:
    """Return the only value of the only row, or how many rows the statement has changed."""
    cursor = client.execute(sql)
    return cursor.fetchone()[0] if cursor.description else cursor.rowcount


@contextlib.contextmanager
def clients(*databases: Database, **options: Any) -> Iterator[list[Any]]:
    with contextlib.ExitStack() as stack:
        logins = [database.login for database in databases]
        yield [
            stack.enter_context(contextlib.closing(login.connect("postgresql", **options))) for login in logins if login
        ]


def backend(client: Any) -> int:
    return int(run(client, "SELECT pg_backend_pid()"))


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    barrier = threading.Barrier(len(actions))

    def start(action: Callable[[], Any]) -> Any:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(start, actions))


@contextlib.contextmanager
def later(seconds: float, action: Callable[[], Any]) -> Iterator[None]:
    """Whatever a thread does with a client is over before the client is closed: libpq crashes else, once in many."""
    timer = threading.Timer(seconds, action)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def same_pid(database: Database) -> bool:
    with clients(database) as [client]:
        return bool(client.info.backend_pid == backend(client))


@pytest.mark.parametrize("workers", [1, 8])
def test_the_pid_of_the_protocol_tells_a_pooler_from_the_server_at_every_connect(
    direct: Database, pgbouncer: Pooler, pgbouncer_sessions: Pooler, workers: int
) -> None:
    with ThreadPoolExecutor(workers) as pool:
        for database, same in (
            (direct, True),
            (pgbouncer.through(direct), False),
            (pgbouncer_sessions.through(direct), False),
        ):
            assert set(pool.map(same_pid, [database] * CONNECTS)) == {same}


def test_nothing_else_that_the_server_says_tells_the_pooler(direct: Database, pooled: Database) -> None:
    with clients(direct, pooled) as [straight, through]:
        for name in ("server_version", "session_authorization", "is_superuser", "TimeZone"):
            assert straight.info.parameter_status(name) == through.info.parameter_status(name) is not None
        with pytest.raises(psycopg.errors.UndefinedObject):
            through.execute("SHOW VERSION")


def test_one_session_lock_is_granted_to_two_clients(pooled: Database) -> None:
    with clients(pooled, pooled) as both:
        assert [run(client, "SELECT pg_try_advisory_lock(1)") for client in both] == [True, True]


def test_one_session_lock_is_granted_to_two_who_ask_at_once_sooner_or_later(pooled: Database) -> None:
    for number in range(2000):
        with clients(pooled, pooled) as [one, other]:
            sql = f"SELECT pg_try_advisory_lock({number})"
            if (
                at_once(lambda one=one, sql=sql: run(one, sql), lambda other=other, sql=sql: run(other, sql))
                == [True] * 2
            ):
                return
    pytest.fail("never")


def test_a_session_lock_outlives_the_client_and_blocks_the_others(direct: Database, pooled: Database) -> None:
    with clients(pooled) as [client]:
        assert run(client, "SELECT pg_try_advisory_lock(1)")
    time.sleep(0.2)
    assert direct.query("SELECT pg_try_advisory_lock(1)") == [(False,)]
    holders = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory'"
    assert direct.query(f"{holders} AND datname = current_database()") == [(1,)]


def test_in_session_mode_a_session_lock_holds(pgbouncer_sessions: Pooler, direct: Database) -> None:
    through = pgbouncer_sessions.through(direct)
    with clients(through) as [other]:
        with clients(through) as [one]:
            assert [run(client, "SELECT pg_try_advisory_lock(1)") for client in (one, other)] == [True, False]
        deadline = time.monotonic() + 5
        while not run(other, "SELECT pg_try_advisory_lock(1)"):
            assert time.monotonic() < deadline


def test_a_transaction_lock_holds(pooled: Database) -> None:
    with clients(pooled, pooled) as [one, other], other.transaction():
        with one.transaction():
            assert run(one, "SELECT pg_try_advisory_xact_lock(1)")
            assert not run(other, "SELECT pg_try_advisory_xact_lock(1)")
        assert run(other, "SELECT pg_try_advisory_xact_lock(1)")


def test_a_setting_meets_other_clients_and_not_always_the_own_next_statement(pooled: Database) -> None:
    with clients(pooled, pooled) as [one, other]:
        run(one, "SET lock_timeout = '1234ms'")
        with other.transaction():
            assert run(other, "SHOW lock_timeout") == "1234ms"
            assert run(one, "SHOW lock_timeout") == "0"  # on the other session of the pool
    with clients(pooled) as [late], late.transaction():
        run(late, "SET LOCAL lock_timeout = '55ms'")
        assert run(late, "SHOW lock_timeout") == "55ms"


def test_the_application_name_follows_the_client_and_is_left_behind(direct: Database, pooled: Database) -> None:
    with clients(pooled, application_name="one") as [one], clients(pooled, application_name="other") as [other]:
        for _ in range(5):
            assert (run(one, "SHOW application_name"), run(other, "SHOW application_name")) == ("one", "other")
    names = direct.query(f"SELECT application_name FROM pg_stat_activity WHERE usename = '{direct.login.name}'")
    assert ("other",) in names


@pytest.mark.parametrize(("threshold", "works"), [(None, True), (0, False), (5, False)])
def test_prepared_statements_fail_unless_psycopg_prepares_none(
    pooled: Database, threshold: int | None, works: bool
) -> None:
    codes = Counter[str | None]()

    def work(client: Any) -> None:
        for number in range(30):
            try:
                client.execute("SELECT %s::int, pg_sleep(0.002)", (number,))
            except psycopg.Error as error:
                codes[error.sqlstate] += 1

    with clients(*[pooled] * 6, prepare_threshold=threshold) as six:
        at_once(*[lambda client=client: work(client) for client in six])
    assert set(codes) <= {"42P05", "26000"}
    assert (not codes) is works, codes


@pytest.mark.parametrize(
    ("options", "refused"),
    [({"options": "-c lock_timeout=5s"}, "options"), ({"replication": "database"}, "replication")],
)
def test_a_startup_parameter_that_it_does_not_follow_is_refused_without_sqlstate(
    pooled: Database, options: dict[str, str], refused: str
) -> None:
    with pytest.raises(psycopg.OperationalError, match=f"unsupported startup parameter: {refused}") as raised:
        pooled.login.connect("postgresql", **options)
    assert raised.value.sqlstate is None


def test_a_startup_parameter_that_it_ignores_is_lost(postgresql_server: Server, direct: Database) -> None:
    lax = start_pooler(postgresql_server, ignore_startup_parameters="options")
    try:
        with clients(lax.through(direct), options="-c lock_timeout=5s") as [client]:
            assert run(client, "SHOW lock_timeout") == "0"
    finally:
        lax.discard()


def test_a_server_session_that_ended_between_transactions_is_replaced_in_silence(
    postgresql_server: Server, pooled: Database
) -> None:
    with clients(pooled) as [client]:
        first = backend(client)
        postgresql_server.query(f"SELECT pg_terminate_backend({first})")
        time.sleep(0.2)
        assert backend(client) != first


def test_one_that_ended_within_a_transaction_ends_the_client(postgresql_server: Server, pooled: Database) -> None:
    with clients(pooled) as [client]:
        run(client, "BEGIN")
        postgresql_server.query(f"SELECT pg_terminate_backend({backend(client)})")
        time.sleep(0.2)
        with pytest.raises(psycopg.OperationalError):  # AdminShutdown since psycopg 3.2
            run(client, "SELECT 1")
        assert client.closed


def test_a_cancel_request_reaches_the_statement(pooled: Database) -> None:
    with clients(pooled) as [client], later(0.3, client.cancel), pytest.raises(psycopg.errors.QueryCanceled):
        run(client, "SELECT pg_sleep(20)")


def test_who_finds_the_pool_in_use_waits(pooled: Database) -> None:
    with clients(pooled, pooled, pooled) as [one, two, three]:
        run(one, "BEGIN")
        run(two, "BEGIN")
        started = time.monotonic()
        with later(0.5, lambda: run(one, "COMMIT")):
            run(three, "SELECT 1")
        assert 0.4 < time.monotonic() - started < 10
        run(two, "COMMIT")


@pytest.fixture
def lease(direct: Database) -> Callable[..., None]:
    direct.execute(
        "CREATE TABLE lease (name text PRIMARY KEY, owner text, expires timestamptz, beat int DEFAULT 0)",
        "CREATE TABLE version (version_num text)",
        "INSERT INTO lease (name) VALUES ('it')",
        "INSERT INTO version VALUES ('old')",
    )

    def reset(client: Any, owner: str) -> None:
        run(client, f"UPDATE lease SET owner = {owner}, expires = now() - interval '1 s'")
        run(client, "UPDATE version SET version_num = 'old'")

    return reset


def test_of_three_who_take_the_lease_exactly_one_is_told_so(
    direct: Database, pooled: Database, lease: Callable[..., None]
) -> None:
    with clients(direct, pooled, pooled, prepare_threshold=None) as three:
        takers = [lambda c=client, n=number: run(c, ACQUIRE.format(n)) for number, client in enumerate(three)]
        for _ in range(ROUNDS):
            lease(three[0], "NULL")
            told = at_once(*takers)
            assert sorted(told) == [0, 0, 1]
            assert run(three[0], "SELECT owner FROM lease") == str(told.index(1))


@pytest.mark.parametrize(
    ("guard", "fences"),
    [
        ("SELECT 1 FROM lease WHERE owner = 'mine'", False),
        ("SELECT 1 FROM lease WHERE owner = 'mine' FOR UPDATE", True),
        ("UPDATE lease SET beat = beat + 1 WHERE owner = 'mine'", True),
    ],
)
def test_what_guards_the_version_against_a_takeover(
    direct: Database, pooled: Database, lease: Callable[..., None], guard: str, fences: bool
) -> None:
    with clients(direct, pooled, pooled, prepare_threshold=None) as [admin, mine, other]:

        def move() -> bool:
            with mine.transaction():
                held = mine.execute(guard).rowcount
                return bool(held) and run(mine, "UPDATE version SET version_num = 'new'") == 1

        def take() -> str | None:
            return run(other, "SELECT version_num FROM version") if run(other, ACQUIRE.format("other")) == 1 else None

        for _ in range(ROUNDS if fences else 5000):
            lease(admin, "'mine'")
            moved, read = at_once(move, take)
            if moved and read == "old":
                assert not fences
                return
        assert fences
