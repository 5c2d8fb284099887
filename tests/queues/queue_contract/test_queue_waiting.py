"""put, get and their patience; order; who is first."""

import pickle
import queue
import threading
import time
from pathlib import Path

import pytest
from queue_peer import snatch

from sage_flow.errors import QueueClosed


def start(function, *arguments):
    """Run it in a thread; `result()` of what this returns is what it returned or raised."""
    return _Running(function, arguments)


class _Running:
    def __init__(self, function, arguments):
        self._outcome = None
        self.thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        self.thread.start()

    def _run(self, function, arguments):
        try:
            self._outcome = function(*arguments), None
        except Exception as error:
            self._outcome = None, error

    def result(self):
        self.thread.join(30)
        assert not self.thread.is_alive(), "it still waits"
        value, error = self._outcome
        if error is not None:
            raise error
        return value


def until(descriptor, **expected):
    """Wait until the statistics say so."""
    deadline = time.monotonic() + 30
    while any(descriptor.statistics()[name] != value for name, value in expected.items()):
        assert time.monotonic() < deadline, descriptor.statistics()
        time.sleep(0.001)


# --- as queue.Queue ---------------------------------------------------------------------------------------


def test_first_in_first_out(make):
    descriptor = make()
    for number in range(100):
        descriptor.put(number)
    assert descriptor.qsize() == 100
    assert [descriptor.get() for _ in range(100)] == list(range(100))
    assert descriptor.empty()


def test_full_and_empty_are_honest(make):
    descriptor = make(maxsize=2)
    with pytest.raises(queue.Empty):
        descriptor.get_nowait()
    with pytest.raises(queue.Empty):
        descriptor.get(timeout=0.01)
    with pytest.raises(queue.Empty):
        descriptor.get(timeout=0)
    assert not descriptor.full()
    descriptor.put("a")
    descriptor.put_nowait("b")
    assert descriptor.full()
    with pytest.raises(queue.Full):
        descriptor.put_nowait("c")
    with pytest.raises(queue.Full):
        descriptor.put("c", timeout=0.01)
    with pytest.raises(queue.Full):
        descriptor.put("c", False, timeout=100)
    assert descriptor.get_many(10) == ["a", "b"]
    assert descriptor.statistics()["waiting_putters"] == descriptor.statistics()["waiting_getters"] == 0


@pytest.mark.parametrize("maxsize", [0, -1])
def test_without_bound_there_is_always_room(make, maxsize):
    descriptor = make(maxsize=maxsize)
    descriptor.put_many(range(1000))
    descriptor.put_nowait("more")
    assert not descriptor.full()
    assert descriptor.qsize() == 1001


def test_a_timeout_is_waited_for_and_not_longer(make):
    descriptor = make()
    descriptor.qsize()
    before = time.monotonic()
    with pytest.raises(queue.Empty):
        descriptor.get(timeout=0.2)
    assert time.monotonic() - before >= 0.2


@pytest.mark.parametrize("timeout", [float("inf"), 1e12])
def test_a_timeout_may_be_without_end(make, timeout):
    descriptor = make(maxsize=1)
    getter = start(descriptor.share().get, True, timeout)
    until(descriptor, waiting_getters=1)
    descriptor.put("a", timeout=timeout)
    assert getter.result() == "a"
    descriptor.put("b")
    putter = start(descriptor.share().put, "c", True, timeout)
    until(descriptor, waiting_putters=1)
    assert descriptor.get(timeout=timeout) == "b"
    putter.result()
    assert descriptor.get() == "c"


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), "1"])
def test_a_negative_timeout_is_refused(make, timeout):
    descriptor = make()
    for wait in (
        lambda: descriptor.get(timeout=timeout),
        lambda: descriptor.put("a", timeout=timeout),
        lambda: descriptor.get_many(2, timeout=timeout),
        lambda: descriptor.put_many("ab", timeout=timeout),
    ):
        with pytest.raises(ValueError, match="timeout is"):
            wait()
    assert descriptor.empty()


def test_a_put_ends_the_wait_of_a_get(make):
    descriptor = make()
    getter = start(descriptor.share().get)
    until(descriptor, waiting_getters=1)
    descriptor.put("a")
    assert getter.result() == "a"


def test_a_get_ends_the_wait_of_a_put(make):
    descriptor = make(maxsize=1)
    descriptor.put("a")
    putter = start(descriptor.share().put, "b")
    until(descriptor, waiting_putters=1)
    assert descriptor.get() == "a"
    putter.result()
    assert descriptor.get() == "b"


def test_who_waits_longest_is_served_first(make):
    descriptor = make()
    getters = []
    for number in range(5):
        getters.append(start(descriptor.share().get))
        until(descriptor, waiting_getters=number + 1)
    for number in range(5):
        descriptor.put(number)
    assert [getter.result() for getter in getters] == [0, 1, 2, 3, 4]


# --- many at once -----------------------------------------------------------------------------------------


def test_many_are_put_as_a_whole(make):
    descriptor = make(maxsize=3)
    descriptor.put("a")
    with pytest.raises(queue.Full):
        descriptor.put_many(["b", "c", "d"], timeout=0.01)
    assert descriptor.qsize() == 1
    putter = start(descriptor.share().put_many, ["b", "c", "d"])
    until(descriptor, waiting_putters=1)
    with pytest.raises(queue.Full):
        descriptor.put_nowait("overtaking")
    assert descriptor.get() == "a"
    putter.result()
    assert descriptor.get_many(10) == ["b", "c", "d"]


def test_who_gives_up_lets_those_behind_go_on(make):
    descriptor = make(maxsize=3)
    descriptor.put("a")
    large = start(descriptor.share().put_many, ["b", "c", "d"], True, 0.3)
    until(descriptor, waiting_putters=1)
    small = start(descriptor.share().put, "e")
    until(descriptor, waiting_putters=2)
    with pytest.raises(queue.Full):
        large.result()
    small.result()
    assert descriptor.get_many(10) == ["a", "e"]


def test_more_than_maxsize_can_never_be_put_at_once(make):
    with pytest.raises(ValueError, match="cannot put 4 items at once"):
        make(maxsize=3).put_many("abcd")


def test_nothing_can_be_put_without_waiting(make):
    descriptor = make(maxsize=1)
    descriptor.put("a")
    descriptor.put_many([])
    assert descriptor.qsize() == 1


def test_get_many_takes_what_is_there(make):
    descriptor = make()
    descriptor.put_many(range(200))
    assert descriptor.get_many(3) == [0, 1, 2]
    assert descriptor.get() == 3
    assert descriptor.get_many(100) == list(range(4, 104))
    assert descriptor.get_many(1000) == list(range(104, 200))
    with pytest.raises(queue.Empty):
        descriptor.get_many(5, timeout=0.01)
    with pytest.raises(queue.Empty):
        descriptor.get_many(5, block=False)


def test_get_many_waits_for_one(make):
    descriptor = make()
    getter = start(descriptor.share().get_many, 10)
    until(descriptor, waiting_getters=1)
    descriptor.put("a")
    assert getter.result() == ["a"]


@pytest.mark.parametrize("number", [0, -1])
def test_a_number_of_items_to_get_is_positive(make, number):
    with pytest.raises(ValueError, match="max_items"):
        make().get_many(number)


# --- nothing moves while one waits ------------------------------------------------------------------------


def test_a_blocked_get_costs_no_messages(make_crossing):
    descriptor = make_crossing()
    getter = start(descriptor.share().get)
    until(descriptor, waiting_getters=1)
    before = descriptor.statistics()["client"]["link"]
    time.sleep(0.5)
    after = descriptor.statistics()["client"]["link"]
    # What the two looks themselves take: one request, and its answer.
    assert after["sent_messages"] - before["sent_messages"] == 1
    assert after["received_messages"] - before["received_messages"] == 1
    descriptor.put("a")
    assert getter.result() == "a"


def wake_ups(thread):
    """How often the system has put this thread of ours to sleep."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.split("voluntary_ctxt_switches:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells how often a thread woke up")
def test_a_blocked_get_does_not_wake_up(make):
    descriptor = make()
    getter = start(descriptor.share().get)
    until(descriptor, waiting_getters=1)
    time.sleep(0.1)  # it is in line, and may not have gone to sleep yet
    before = wake_ups(getter.thread)
    time.sleep(0.4)
    assert wake_ups(getter.thread) == before
    descriptor.put("a")
    assert getter.result() == "a"


# --- the races of waiting ---------------------------------------------------------------------------------


@pytest.mark.race
def test_sixty_four_threads_use_it_first_at_once(make, kind):
    descriptor = make()
    data = pickle.dumps(descriptor)
    handles = [descriptor.share().clone(f"label {n}") if n % 2 else kind.unpickle(data) for n in range(64)]
    barrier = threading.Barrier(64)

    def use(handle, number):
        barrier.wait()
        handle.put(number)
        return handle.queue_instance

    users = [start(use, handle, number) for number, handle in enumerate(handles)]
    assert {id(user.result()) for user in users} == {id(descriptor.queue_instance)}
    assert sorted(descriptor.get() for _ in range(64)) == list(range(64))
    assert descriptor.empty()


@pytest.mark.race
def test_an_item_on_its_way_to_a_get_that_gives_up_is_not_lost(make, kind):
    descriptor = make()
    data = pickle.dumps(descriptor)
    snatchers = [start(snatch, kind, data, 1.0) for _ in range(4)]
    for number in range(1000):
        descriptor.put(number)
        if number % 3 == 0:
            time.sleep(0.0007)  # so that gets give up all the time
    outcomes = [snatcher.result() for snatcher in snatchers]
    assert sorted(item for got, _ in outcomes for item in got) == list(range(1000))
    assert sum(empties for _, empties in outcomes) > 0


@pytest.mark.race
def test_close_wakes_everybody_whenever_it_comes(make):
    descriptor = make(maxsize=1)
    descriptor.put("a")
    waiting = [start(descriptor.share().put, "b") for _ in range(8)]

    def drain(handle):
        while True:
            handle.get()

    drains = [start(drain, descriptor.share()) for _ in range(8)]
    descriptor.close()
    for drained in drains:
        with pytest.raises(QueueClosed):
            drained.result()
    for putter in waiting:
        try:
            putter.result()
        except QueueClosed:
            pass  # as it came before or after the close
