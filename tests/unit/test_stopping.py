"""A signal ends what changes nothing at once, and everything else at the next safe point."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic_job.errors import Interrupted
from alembic_job.stopping import SIGNALS, Cut, Stop


@pytest.fixture
def stop() -> Iterator[Stop]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stop = Stop(mmap.mmap(-1, 1))
    stop.listen()
    yield stop
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_only_sets_a_flag_while_something_is_changed(stop: Stop) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested == signal.SIGTERM
    with pytest.raises(Interrupted) as caught:
        stop.raise_if_requested()
    assert caught.value.exit_code == 143


def test_without_a_signal_a_safe_point_lets_one_pass(stop: Stop) -> None:
    stop.raise_if_requested()
    with stop.at_once():
        pass
    stop.sleep(0)


def test_a_signal_ends_at_once_what_changes_nothing(stop: Stop) -> None:
    reached = []
    with pytest.raises(Interrupted) as caught, stop.at_once():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("not stopped")
    assert (caught.value.exit_code, reached) == (130, [])


def test_a_signal_ends_a_pause(stop: Stop) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    started = time.monotonic()
    with pytest.raises(Interrupted):
        stop.sleep(60)
    assert time.monotonic() - started < 5


def test_cleaning_up_is_not_interrupted_by_a_second_signal(stop: Stop) -> None:
    cleaned = []
    with pytest.raises(Interrupted), stop.at_once():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append("up")
    assert cleaned == ["up"]


def test_user_code_that_swallows_the_stop_is_stopped_behind_it(stop: Stop) -> None:
    with pytest.raises(Interrupted), stop.at_once(), contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.SIGTERM)


def test_user_code_that_makes_another_error_of_the_stop_is_stopped_all_the_same(stop: Stop) -> None:
    with pytest.raises(Interrupted), stop.at_once():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("connection failed") from error


def test_an_error_without_a_signal_stays_what_it_is(stop: Stop) -> None:
    with pytest.raises(ZeroDivisionError), stop.at_once():
        _ = 1 / 0


def test_a_signal_before_a_wait_keeps_it_from_beginning(stop: Stop) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted), stop.at_once():
        pytest.fail("it began")


def test_what_has_to_be_whole_is_finished_first(stop: Stop) -> None:
    done = []
    with pytest.raises(Interrupted), stop.at_once():
        with stop.later():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("the whole message")
        done.append("not stopped")
    assert done == ["the whole message"]


def test_the_parent_may_end_the_worker_only_while_nothing_is_changed() -> None:
    calm = mmap.mmap(-1, 1)
    stop = Stop(calm)
    assert calm[0] == 0
    with stop.at_once():
        assert calm[0] == 1
    assert calm[0] == 0


def test_a_process_that_user_code_forked_dies_of_the_signal(stop: Stop) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            os._exit(7)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


# --- cutting short ------------------------------------------------------------------------------------


def test_a_second_signal_is_told_from_the_first(stop: Stop) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert (stop.requested, stop.insisted) == (signal.SIGTERM, False)
    os.kill(os.getpid(), signal.SIGINT)
    assert (stop.requested, stop.insisted) == (signal.SIGTERM, True)


def test_a_signal_that_another_thread_heard_first_is_counted_once(stop: Stop) -> None:
    heard = []
    reading, writing = os.pipe()
    call = Path(f"/proc/self/task/{threading.get_native_id()}/syscall")

    def listens() -> None:
        deadline = time.monotonic() + 30
        while call.read_text().split()[1:2] != [hex(reading)] and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)  # goes to this thread, while the main one is in a C call: no handler runs
        while not heard and time.monotonic() < deadline:
            if stop.hear(early=True):
                heard.append(stop.requested)
        os.close(writing)

    thread = threading.Thread(target=listens)
    thread.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.read(reading, 1)
    os.close(reading)
    thread.join()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    assert (heard, stop.requested, stop.insisted) == ([signal.SIGTERM], signal.SIGTERM, False)


def cut_from_another_thread(stop: Stop, *, statements: bool = False) -> None:
    thread = threading.Thread(target=stop.cut_short, args=[Cut("over")], kwargs={"statements": statements})
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    ("inside", "statements", "is_cut"),
    [
        ("our code", False, False),
        ("our code", True, False),
        ("their code", False, True),
        ("their code", True, True),
        ("a statement", False, False),
        ("a statement", True, True),
    ],
)
def test_only_a_revisions_code_is_cut_short(inside, statements: bool, is_cut: bool, stop: Stop) -> None:
    cut = False
    try:
        stop.inside = inside
        cut_from_another_thread(stop, statements=statements)
        time.sleep(0)
    except Cut:
        cut = True
    finally:
        stop.inside = "our code"
    assert cut == is_cut


def test_a_message_is_sent_as_a_whole_though_the_revision_is_cut_short(stop: Stop) -> None:
    sent = []
    stop.inside = "their code"
    with stop.later():
        cut_from_another_thread(stop)
        sent.append("the whole message")
    assert (sent, stop.inside) == (["the whole message"], "their code")
    stop.inside = "our code"


def test_a_sleep_of_a_revision_is_cut_short(stop: Stop) -> None:
    threading.Timer(0.05, stop.cut_short, [Cut("over")], {"statements": False}).start()
    started = time.monotonic()
    with pytest.raises(Cut):
        try:
            stop.inside = "their code"
            time.sleep(60)
        finally:
            stop.inside = "our code"
    assert time.monotonic() - started < 5


def test_a_signal_to_a_process_that_user_code_forked_is_none_for_us(stop: Stop) -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(7)
    time.sleep(0.05)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    assert (stop.hear(), stop.requested) == (False, None)
