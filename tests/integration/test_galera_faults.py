"""What clients see when nodes of a Galera cluster are lost.

Measured with MariaDB 10.11 and Galera 26.4:

- A node without a majority serves stale reads for five to six seconds more, and a write or ``COMMIT`` that was sent
  meanwhile hangs as long and gets 1180; it has not happened. Then everything that touches a table gets 1047, also
  ``BEGIN`` and ``ROLLBACK``; but a login, ``SELECT 1``, ``SET``, ``SHOW``, ``GET_LOCK`` and information_schema work.
  ``wsrep_ready`` is OFF there. A read with ``wsrep_sync_wait`` gets 1047, or 1205 with some other statement of before.
- The majority accepts no write for five to six seconds after a node was killed, frozen or cut off: the statement
  hangs, and then succeeds.
- A node that was frozen for longer serves stale reads for five seconds after it is back, then 1047 for one or two.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from tests.clusters import PrivateGalera
from tests.integration.test_galera import ACQUIRE, RENEW, Node, connected, outcome

LOST, CUT_OFF, NOT_PREPARED = 2013, 1180, 1047


@contextlib.contextmanager
def within(seconds: float) -> Iterator[Callable[[], bool]]:
    """Give a question whether there is time left; the body must end before."""
    deadline = time.monotonic() + seconds
    yield lambda: time.monotonic() < deadline
    assert time.monotonic() < deadline


def test_a_node_that_is_cut_off_lets_in_and_refuses_to_work(private_galera: PrivateGalera) -> None:
    databases = private_galera.new_database()
    with connected(databases) as nodes:
        lonely = nodes[2]
        private_galera.cut_off(2)
        try:
            assert lonely.run("SELECT owner FROM lease") == [(None,)]  # it has not noticed
            assert outcome(lambda: lonely.run(ACQUIRE.format("lonely"))) in {CUT_OFF, NOT_PREPARED}
            with within(10) as left:  # the write is refused a moment before everything else
                while outcome(lambda: lonely.run("SELECT owner FROM lease")) != NOT_PREPARED and left():
                    time.sleep(0.01)
            for sql in ("BEGIN", "ROLLBACK", RENEW, "CREATE TABLE t (id INT)"):
                assert lonely.error(sql) == NOT_PREPARED, sql
            late = Node(databases[2])
            assert late.run("SHOW STATUS LIKE 'wsrep_ready'") == [("wsrep_ready", "OFF")]
            assert late.run("SELECT 1, @@wsrep_on, GET_LOCK('one', 0)") == [(1, 1, 1)]
            assert nodes[0].owner() == "None"  # what was refused has not happened
            assert nodes[1].run(ACQUIRE.format("majority")) == 1
        finally:
            private_galera.reconnect(2)
        with within(30) as left:
            while outcome(lonely.owner) != "majority" and left():
                time.sleep(0.1)


def test_the_others_go_on_when_a_node_is_killed_and_it_catches_up(private_galera: PrivateGalera) -> None:
    with connected(private_galera.new_database()) as nodes:
        private_galera.nodes[2].kill()
        assert nodes[2].error("SELECT 1") == LOST
        with within(30):
            assert nodes[0].run(ACQUIRE.format("survivor")) == 1  # it hangs until the others have agreed
        assert nodes[1].owner() == "survivor"
        private_galera.nodes[2].start()
        assert nodes[0].run("SHOW STATUS LIKE 'wsrep_cluster_size'") == [("wsrep_cluster_size", "3")]
        assert private_galera.nodes[2].query("SHOW STATUS LIKE 'wsrep_ready'") == [("wsrep_ready", "ON")]
