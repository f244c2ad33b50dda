"""What a Galera cluster does to locks, reads and writes: the facts that the lease row relies on.

Measured with MariaDB 10.11 and Galera 26.4, three nodes on one machine, each race repeated 200 times:

- ``GET_LOCK`` is granted on every node at once; a node's processlist does not show the sessions of the others.
- Without ``wsrep_sync_wait`` every second read on another node, right after the commit, still saw the old row;
  with 1, none, at 1.3 ms for write and read together.
- Two ``UPDATE … WHERE owner IS NULL OR expires < NOW(6)`` in autocommit: never two winners, with ``wsrep_sync_wait``
  0 and 7 alike, and who got *1 row* is who stands in the row. The loser gets 0 rows: the server has repeated the
  statement (``wsrep_retry_autocommit`` is 1). With that off it gets 1213 instead, in half to nine of ten races.
- In a transaction of its own both get *1 row*; the loser's next statement, whichever it is, gets 1213, and if there
  is none that is the ``COMMIT`` (167 of 200 races; 0 rows in the others). 1213 has rolled back everything.
- An ``UPDATE`` that changes no value replicates nothing, and so conflicts with nothing.
- Reading the lease row before the version is moved does not fence: in 80 (plain), 11 (``LOCK IN SHARE MODE``) and 23
  (``FOR UPDATE``) of 200 races the version moved after the one who took over had read it. Writing that row does: none.
- ``INSERT`` of the same key: the loser gets 1062, seldom 1213; ``INSERT IGNORE``: 0 rows. DDL runs in the same order
  on all nodes, and ends an open transaction on its table, on every node, with 1213.
- A long DDL holds up every commit on every node: a renewal sent meanwhile succeeds after it, with an expiry counted
  from when it was sent. So the lease may be over by then: in 2 of 4 ``ALTER`` of 5 to 7 s, with a lease of 2 s,
  a waiting takeover got it at the end of the ``ALTER`` (the renewals went to another node than the ``ALTER``).
- A renewal on another node ends the transaction that wrote the lease row and is not committed yet (1213); one on the
  same node waits for it.

``test_galera_faults`` has what happens when a node is lost.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT

from tests.clusters import Galera
from tests.databases import Database

ROUNDS = 200
ACQUIRE = (
    "UPDATE lease SET owner = '{}', expires = NOW(6) + INTERVAL 60 SECOND"
    " WHERE name = 'it' AND (owner IS NULL OR expires < NOW(6))"
)
RENEW = "UPDATE lease SET beat = beat + 1 WHERE name = 'it' AND owner = 'mine'"
DEADLOCK, DUPLICATE = 1213, 1062


class Node:
    """A connection to one node."""

    def __init__(self, database: Database, **options: Any) -> None:
        login = database.login
        assert login is not None
        self.database = database
        self.connection = login.connect("mariadb", **options)

    def run(self, sql: str) -> Any:
        """Return the rows, or how many the statement has changed."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else cursor.rowcount

    def error(self, sql: str) -> int:
        with pytest.raises(pymysql.MySQLError) as raised:
            self.run(sql)
        return int(raised.value.args[0])

    def settled(self, sql: str) -> Any:
        """Read what all nodes have agreed upon by now."""
        return self.run(f"SET STATEMENT wsrep_sync_wait = 1 FOR {sql}")

    def owner(self) -> str:
        return str(self.settled("SELECT owner FROM lease")[0][0])


@contextlib.contextmanager
def connected(databases: tuple[Database, ...]) -> Iterator[list[Node]]:
    nodes = [Node(database) for database in databases]
    nodes[0].run(
        "CREATE TABLE lease (name VARCHAR(64) PRIMARY KEY, owner VARCHAR(64), expires DATETIME(6), beat INT DEFAULT 0)"
    )
    nodes[0].run("CREATE TABLE version (version_num VARCHAR(32) PRIMARY KEY)")
    nodes[0].run("INSERT INTO lease (name) VALUES ('it')")
    nodes[0].run("INSERT INTO version VALUES ('old')")
    for node in nodes:
        node.settled("SELECT 1")
    yield nodes
    for node in nodes:
        node.connection.close()


@pytest.fixture
def nodes(galera: Galera) -> Iterator[list[Node]]:
    with connected(galera.new_database()) as nodes:
        yield nodes


def outcome(action: Callable[[], Any]) -> Any:
    """Return what the action returned, or the number of its error."""
    try:
        return action()
    except pymysql.MySQLError as error:
        return error.args[0]


def race(
    nodes: list[Node], *actions: Callable[[], Any], reset: tuple[str, ...], rounds: int = ROUNDS
) -> Iterator[tuple[Any, ...]]:
    """Run the actions at the same time, again and again, from a state that all nodes share."""
    barrier = threading.Barrier(len(actions))

    def start(action: Callable[[], Any]) -> Any:
        barrier.wait()
        return outcome(action)

    with ThreadPoolExecutor(len(actions)) as pool:
        for _ in range(rounds):
            nodes[-1].settled("SELECT 1")  # else the reset sees a row of before, changes nothing and is lost
            for sql in reset:
                nodes[-1].run(sql)
            for node in nodes:
                node.settled("SELECT 1")
            yield tuple(pool.map(start, actions))


FREE = ("UPDATE lease SET owner = NULL, expires = NULL",)
EXPIRED = (
    "UPDATE lease SET owner = 'mine', expires = NOW(6) - INTERVAL 1 SECOND",
    "UPDATE version SET version_num = 'old'",
)


def test_one_lock_is_granted_on_every_node_at_once(nodes: list[Node]) -> None:
    assert [node.run("SELECT GET_LOCK('one', 0)") for node in nodes] == [[(1,)]] * 3
    assert all(node.run("SELECT IS_USED_LOCK('one') = CONNECTION_ID()") == [(1,)] for node in nodes)


def test_an_ordinary_user_sees_that_it_is_galera_and_that_the_node_is_ready(nodes: list[Node]) -> None:
    for number, node in enumerate(nodes, 1):
        assert node.run("SELECT @@wsrep_on, @@wsrep_node_name") == [(1, f"node{number}")]
        assert node.run("SHOW STATUS LIKE 'wsrep_ready'") == [("wsrep_ready", "ON")]
        assert node.run("SHOW STATUS LIKE 'wsrep_cluster_size'") == [("wsrep_cluster_size", "3")]


def test_without_galera_the_variable_says_so(mariadb_server: Any) -> None:
    assert mariadb_server.new_database().query("SELECT @@wsrep_on") == [(0,)]


def test_a_node_does_not_show_the_sessions_of_another(nodes: list[Node]) -> None:
    [(user,)] = nodes[0].run("SELECT SUBSTRING_INDEX(USER(), '@', 1)")
    for node in nodes:
        assert node.run(f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{user}'") == [(1,)]


def test_a_committed_row_is_read_on_another_node_only_with_sync_wait(nodes: list[Node]) -> None:
    fresh = Counter[tuple[int, bool]]()
    for wait in (0, 1):
        nodes[1].run(f"SET wsrep_sync_wait = {wait}")
        for beat in range(ROUNDS):
            nodes[0].run(f"UPDATE lease SET beat = {1000 * (wait + 1) + beat}")
            fresh[wait, nodes[1].run("SELECT beat % 1000 FROM lease") == [(beat,)]] += 1
    assert fresh[1, False] == 0, fresh
    assert fresh[0, False] > 0, fresh


@pytest.mark.parametrize("sql", ["SELECT 1", "UPDATE version SET version_num = 'b'", "COMMIT"])
def test_the_later_of_two_transactions_on_one_row_gets_a_deadlock_at_its_next_statement(
    nodes: list[Node], sql: str
) -> None:
    for number in (0, 1):
        nodes[number].run("BEGIN")
        assert nodes[number].run(f"UPDATE lease SET owner = 'node{number}'") == 1
    nodes[0].run("COMMIT")
    beside = Node(nodes[1].database)
    beside.settled("SELECT 1")  # the node has it now, and has ended the other transaction for it
    beside.connection.close()
    assert nodes[1].error(sql) == DEADLOCK
    nodes[1].run("COMMIT")  # of nothing
    assert nodes[2].owner() == "node0"
    assert nodes[2].settled("SELECT version_num FROM version") == [("old",)]


def test_an_update_that_changes_nothing_conflicts_with_nothing(nodes: list[Node]) -> None:
    nodes[0].run("UPDATE lease SET owner = 'same'")
    nodes[1].settled("SELECT 1")
    for number, owner in ((0, "same"), (1, "other")):
        nodes[number].run("BEGIN")
        nodes[number].run(f"UPDATE lease SET owner = '{owner}'")
    nodes[0].run("COMMIT")
    nodes[1].run("COMMIT")
    assert nodes[2].owner() == "other"


@pytest.mark.parametrize("wait", [0, 7])
@pytest.mark.parametrize("retries", [0, 1])
def test_of_two_who_take_the_lease_in_autocommit_exactly_one_is_told_so(
    nodes: list[Node], wait: int, retries: int
) -> None:
    for node in nodes:
        node.run(f"SET wsrep_sync_wait = {wait}, wsrep_retry_autocommit = {retries}")
    takers = [lambda: nodes[0].run(ACQUIRE.format("node0")), lambda: nodes[1].run(ACQUIRE.format("node1"))]
    seen = Counter[Any]()
    for told in race(nodes, *takers, reset=FREE):
        seen[tuple(sorted(told))] += 1
        assert [nodes[2].owner()] == [f"node{number}" for number in (0, 1) if told[number] == 1], told
    assert set(seen) <= ({(0, 1)} if retries else {(0, 1), (1, DEADLOCK)}), seen


def test_that_holds_too_when_the_driver_counts_the_rows_found_as_sqlalchemy_asks_it_to(galera: Galera) -> None:
    databases = galera.new_database()
    with connected(databases) as nodes:
        finding = [Node(database, client_flag=CLIENT.FOUND_ROWS) for database in databases[:2]]
        takers = [lambda: finding[0].run(ACQUIRE.format("node0")), lambda: finding[1].run(ACQUIRE.format("node1"))]
        for told in race(nodes, *takers, reset=FREE):
            assert [nodes[2].owner()] == [f"node{number}" for number in (0, 1) if told[number] == 1], told


def test_of_six_on_three_nodes_exactly_one_is_told_that_it_has_the_lease(galera: Galera) -> None:
    databases = galera.new_database()
    with connected(databases) as nodes:
        every = nodes + [Node(database) for database in databases]
        takers = [lambda node=node, name=name: node.run(ACQUIRE.format(name)) for name, node in enumerate(every)]
        for told in race(nodes, *takers, reset=FREE):
            assert [nodes[2].owner()] == [str(name) for name, rows in enumerate(told) if rows == 1], told


def test_in_a_transaction_the_one_who_lost_may_hear_it_only_at_the_commit(nodes: list[Node]) -> None:
    def taker(number: int) -> Callable[[], Any]:
        def take() -> Any:
            nodes[number].run("BEGIN")
            try:
                rows = nodes[number].run(ACQUIRE.format(f"node{number}"))
            except pymysql.MySQLError as error:
                return "UPDATE", error.args[0]
            try:
                nodes[number].run("COMMIT")
            except pymysql.MySQLError as error:
                return "COMMIT", error.args[0]
            return rows

        return take

    late = 0
    for told in race(nodes, taker(0), taker(1), reset=FREE):
        assert [nodes[2].owner()] == [f"node{number}" for number in (0, 1) if told[number] == 1], told
        late += ("COMMIT", DEADLOCK) in told
    assert late > 0


@pytest.mark.parametrize(("verb", "losers"), [("INSERT", {DUPLICATE, DEADLOCK}), ("INSERT IGNORE", {0, DEADLOCK})])
def test_of_two_who_insert_the_row_one_does(nodes: list[Node], verb: str, losers: set[int]) -> None:
    sql = verb + " INTO lease (name, owner) VALUES ('it', 'node{}')"
    for told in race(
        nodes, lambda: nodes[0].run(sql.format(0)), lambda: nodes[1].run(sql.format(1)), reset=("DELETE FROM lease",)
    ):
        assert told.count(1) == 1, told
        assert set(told) - {1} <= losers, told
        assert nodes[2].owner() == f"node{told.index(1)}"


def test_a_renewal_and_a_takeover_do_not_both_succeed_in_the_wrong_order(nodes: list[Node]) -> None:
    renew = "UPDATE lease SET expires = NOW(6) + INTERVAL 60 SECOND WHERE name = 'it' AND owner = 'mine'"
    for told in race(nodes, lambda: nodes[0].run(renew), lambda: nodes[1].run(ACQUIRE.format("other")), reset=EXPIRED):
        assert told in {(1, 0), (0, 1)}
        assert nodes[2].owner() == ("mine" if told[0] else "other")


def moves_after_takeover(nodes: list[Node], guard: str, rounds: int = ROUNDS) -> bool:
    """Whether, in any race, the version moved although another had the lease and had read the version."""
    read: list[str] = []

    def move() -> bool:
        node = nodes[0]
        node.run("BEGIN")
        held = node.run(guard)
        moved = bool(held) and node.run("UPDATE version SET version_num = 'new'") == 1
        node.run("COMMIT")
        return moved

    def take() -> None:
        read.clear()
        if nodes[1].run(ACQUIRE.format("other")) == 1:
            read.append(nodes[1].settled("SELECT version_num FROM version")[0][0])

    for moved, _ in race(nodes, move, take, reset=EXPIRED, rounds=rounds):
        outcome(lambda: nodes[0].run("ROLLBACK"))
        if moved is True and read == ["old"]:
            return True
    return False


def test_a_guard_that_writes_the_lease_row_fences_the_version(nodes: list[Node]) -> None:
    assert not moves_after_takeover(nodes, RENEW)


@pytest.mark.parametrize("locking", ["", "LOCK IN SHARE MODE", "FOR UPDATE"])
def test_a_guard_that_only_reads_the_lease_row_does_not(nodes: list[Node], locking: str) -> None:
    assert moves_after_takeover(nodes, f"SELECT 1 FROM lease WHERE owner = 'mine' {locking}", rounds=3000)


def test_ddl_ends_an_open_transaction_on_another_node(nodes: list[Node]) -> None:
    nodes[1].run("BEGIN")
    nodes[1].run("UPDATE version SET version_num = 'new'")
    nodes[0].run("ALTER TABLE version ADD COLUMN more INT")
    nodes[2].settled("SELECT more FROM version")
    assert nodes[1].error("COMMIT") == DEADLOCK


def test_a_renewal_waits_for_a_long_ddl_anywhere_and_may_be_over_when_it_succeeds(nodes: list[Node]) -> None:
    nodes[0].run("UPDATE lease SET owner = 'mine'")
    nodes[0].run("CREATE TABLE big (id INT PRIMARY KEY, filler VARCHAR(200))")
    nodes[0].run("INSERT INTO big SELECT seq, REPEAT('x', 200) FROM seq_1_to_200000")
    for node in nodes:
        node.settled("SELECT 1")
    with ThreadPoolExecutor(1) as pool:
        ddl = pool.submit(nodes[0].run, "ALTER TABLE big MODIFY filler VARCHAR(201) NOT NULL, ALGORITHM = COPY")
        time.sleep(0.3)  # an ordinary user does not see it in the processlist of another node
        assert nodes[1].run("UPDATE lease SET expires = NOW(6) + INTERVAL 100000 MICROSECOND") == 1
        assert nodes[1].run("SELECT expires < NOW(6) FROM lease") == [(1,)]
        ddl.result()


def test_a_renewal_on_another_node_ends_an_open_transaction_that_wrote_the_lease_row(nodes: list[Node]) -> None:
    nodes[0].run("UPDATE lease SET owner = 'mine'")
    nodes[1].settled("SELECT 1")
    nodes[0].run("BEGIN")
    nodes[0].run(RENEW)
    assert nodes[1].run(RENEW) == 1
    nodes[2].settled("SELECT 1")
    assert nodes[0].error("COMMIT") == DEADLOCK
