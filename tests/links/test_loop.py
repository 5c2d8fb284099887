"""One thread, many things to wait for, and no polling."""

import socket
import threading

import pytest

from sage_flow.links.loop import READ, WRITE, EventLoop


@pytest.fixture
def loop():
    loop = EventLoop()
    yield loop
    loop.close()


@pytest.fixture
def pair():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def run(loop, calls, count):
    loop.run(until=lambda: len(calls) >= count)
    return calls


def test_a_callback_is_told_what_its_socket_is_ready_for(loop, pair):
    calls = []
    loop.watch(pair[0], READ, calls.append)
    pair[1].send(b"x")
    assert run(loop, calls, 1) == [READ]
    loop.watch(pair[0], READ | WRITE, calls.append)
    assert run(loop, calls, 2)[1:] == [READ | WRITE]


def test_a_socket_that_an_earlier_callback_closed_is_not_called(loop, pair):
    calls = []

    def close_both(name, _):
        calls.append(name)
        for end in pair:
            loop.drop(end)

    loop.watch(pair[0], WRITE, lambda events: close_both("first", events))
    loop.watch(pair[1], WRITE, lambda events: close_both("second", events))
    loop.after(0.0, lambda: calls.append("over"))
    assert len(run(loop, calls, 2)) == 2
    assert calls[1] == "over"


def test_timers_run_in_the_order_of_their_times(loop):
    calls = []
    for seconds in (0.02, 0.0, 0.01, 0.0):
        loop.after(seconds, lambda seconds=seconds: calls.append(seconds))
    assert run(loop, calls, 4) == [0.0, 0.0, 0.01, 0.02]


def test_orders_of_other_threads_wake_it_and_keep_their_order(loop):
    calls, asleep = [], threading.Event()

    def order():
        asleep.wait()
        for number in range(1000):
            loop.order(lambda number=number: calls.append(number))

    thread = threading.Thread(target=order)
    thread.start()
    loop.order(asleep.set)
    assert run(loop, calls, 1000) == list(range(1000))
    thread.join()


def test_an_order_may_give_orders(loop):
    calls = []
    loop.order(lambda: loop.order(lambda: calls.append("second")))
    assert run(loop, calls, 1) == ["second"]


def test_orders_after_the_end_are_not_called():
    loop = EventLoop()
    loop._asleep = True  # as if it had ended while it slept
    loop.close()
    loop.order(lambda: pytest.fail("called"))


def test_what_is_for_soon_is_done_once_in_the_loops_thread(loop):
    calls = []

    def note():
        calls.append(threading.get_ident())

    def ask():
        for _ in range(10):
            loop.soon(note)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert loop.is_in_debt
    assert run(loop, calls, 1) == [threading.get_ident()]
    assert not loop.is_in_debt


def test_who_is_in_a_hurry_does_it_himself(loop):
    calls = []
    loop.soon(lambda: calls.append("done"))
    loop.hurry()
    assert calls == ["done"]
    loop.after(0.01, lambda: calls.append("later"))
    assert run(loop, calls, 2) == ["done", "later"]


def test_it_looks_after_what_is_for_soon_only_while_there_is_some(loop):
    calls = []
    loop.soon(lambda: calls.append("first"))
    run(loop, calls, 1)
    loop.run(until=lambda: not loop._ticks)
    assert not loop._timers  # nothing wakes it any more
    assert not loop._orders
    loop.soon(lambda: calls.append("second"))
    assert run(loop, calls, 2) == ["first", "second"]
