"""The condition that ports wait on."""

import socket
import threading

import pytest

from sage_flow.executors.condition import BareCondition
from sage_flow.executors.reading_condition import ReadingCondition
from sage_flow.links.loop import READ, service_loop

PATIENCE_S = 60.0


class Waiter:
    """Waits in a thread; by the time it is made it is in line."""

    def __init__(self, condition):
        self.has_come = None
        is_next = threading.Event()

        def wait():
            with condition.lock:
                is_next.set()
                self.has_come = condition.wait(PATIENCE_S)

        self._thread = threading.Thread(target=wait)
        self._thread.start()
        assert is_next.wait(PATIENCE_S)
        with condition.lock:  # free only while the other one waits
            pass

    def end(self):
        self._thread.join(PATIENCE_S)
        return self.has_come


def test_everybody_who_waits_is_woken():
    condition = BareCondition()
    waiters = [Waiter(condition) for _ in range(5)]
    with condition.lock:
        condition.notify_all()
    assert [waiter.end() for waiter in waiters] == [True] * 5


@pytest.mark.parametrize("timeout", [0.01, 0.0, -1.0])
def test_who_has_waited_in_vain_holds_the_lock_and_is_in_nobodys_way(timeout):
    condition = BareCondition()
    with condition.lock:
        assert condition.wait(timeout) is False
        assert condition.lock.locked()
        condition.notify_all()  # for nobody: the next one does not find it
        assert condition.wait(timeout) is False
    waiter = Waiter(condition)
    with condition.lock:
        condition.notify_all()
    assert waiter.end() is True


def test_who_waits_reads_what_comes_by_the_loop():
    loop, readers = service_loop(), []
    ours, theirs = socket.socketpair()
    condition = ReadingCondition(lambda: loop)

    def read(events):
        ours.recv(1)
        readers.append(threading.get_ident())
        with condition.lock:
            condition.notify_all()

    loop.watch(ours, READ, read, shared=True)
    try:
        while threading.get_ident() not in readers:  # the loop's thread may be faster, but not for ever
            with condition.lock:
                threading.Timer(0.01, theirs.send, [b"1"]).start()
                assert condition.wait(PATIENCE_S) is True
            assert len(readers) < 100
    finally:
        loop.forget(ours)
        ours.close()
        theirs.close()


def test_who_reads_is_woken_by_another_thread_and_without_a_loop_it_just_waits():
    for loop in (service_loop(), None):
        condition = ReadingCondition(lambda loop=loop: loop)
        waiter = Waiter(condition)
        with condition.lock:
            condition.notify_all()
        assert waiter.end() is True
