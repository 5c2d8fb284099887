"""One thread, many things to wait for, and no polling."""

import itertools
import os
import select
import socket
import threading
import time

import pytest

from sage_flow.links import loop as loop_module
from sage_flow.links.loop import DEFER_S, READ, WRITE, EventLoop

shares_reading = pytest.mark.skipif(not hasattr(select, "epoll"), reason="threads share reading by epoll")


@pytest.fixture
def loop():
    loop = EventLoop()
    yield loop
    loop.close()


@pytest.fixture
def shared():
    """A loop whose sockets other threads may read, and its running thread."""
    loop, over = EventLoop(shares_reading=True), threading.Event()
    thread = threading.Thread(target=loop.run, args=(over.is_set,))
    thread.start()
    yield loop
    over.set()
    loop.call_soon_threadsafe(lambda: None)
    thread.join()
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
    loop.call_later(0.0, lambda: calls.append("over"))
    assert len(run(loop, calls, 2)) == 2
    assert calls[1] == "over"


def test_timers_run_in_the_order_of_their_times(loop):
    calls = []
    for seconds in (0.02, 0.0, 0.01, 0.0):
        loop.call_later(seconds, lambda seconds=seconds: calls.append(seconds))
    assert run(loop, calls, 4) == [0.0, 0.0, 0.01, 0.02]


def test_calls_of_other_threads_wake_it_and_keep_their_order(loop):
    calls, asleep = [], threading.Event()

    def order():
        asleep.wait()
        for number in range(1000):
            loop.call_soon_threadsafe(lambda number=number: calls.append(number))

    thread = threading.Thread(target=order)
    thread.start()
    loop.call_soon_threadsafe(asleep.set)
    assert run(loop, calls, 1000) == list(range(1000))
    thread.join()


def test_a_call_may_order_calls(loop):
    calls = []
    loop.call_soon_threadsafe(lambda: loop.call_soon_threadsafe(lambda: calls.append("second")))
    assert run(loop, calls, 1) == ["second"]


def test_calls_after_the_end_are_not_called():
    loop = EventLoop()
    loop._asleep = True  # as if it had ended while it slept
    loop.close()
    loop.call_soon_threadsafe(lambda: pytest.fail("called"))


def test_what_is_for_soon_is_done_once_in_the_loops_thread(loop):
    calls = []

    def note():
        calls.append(threading.get_ident())

    def ask():
        for _ in range(10):
            loop.defer(note)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert loop.has_deferred
    assert run(loop, calls, 1) == [threading.get_ident()]
    assert not loop.has_deferred


def test_who_is_in_a_hurry_does_it_himself(loop):
    calls = []
    loop.defer(lambda: calls.append("done"))
    loop.run_deferred()
    assert calls == ["done"]
    loop.call_later(0.01, lambda: calls.append("later"))
    assert run(loop, calls, 2) == ["done", "later"]


def test_it_looks_after_what_is_for_soon_only_while_there_is_some(loop):
    calls = []
    loop.defer(lambda: calls.append("first"))
    run(loop, calls, 1)
    loop.run(until=lambda: not loop._ticks)
    assert not loop._timers  # nothing wakes it any more
    assert not loop._calls
    loop.defer(lambda: calls.append("second"))
    assert run(loop, calls, 2) == ["first", "second"]


def read_briefly(loop, after_a_short_wait=False):
    """Wait for messages without sleeping, and stop after two looks."""
    loop._readers._is_brisk = after_a_short_wait
    asked = itertools.count()
    loop.read_while(lambda: next(asked) < 2, 0.0)


@shares_reading
def test_a_thread_that_has_waited_long_leaves_the_reading_to_the_loop_without_waking_it(shared, pair, monkeypatch):
    came, until = threading.Event(), time.monotonic() + 30
    shared.watch(pair[0], READ, lambda _: (pair[0].recv(1), came.set()), shared=True)
    read_briefly(shared)
    while shared._ticks and time.monotonic() < until:  # the loop looks after this wait until it watches again
        time.sleep(DEFER_S)
    calls = []
    monkeypatch.setattr(shared, "call_soon_threadsafe", calls.append)
    shared.read_while(lambda: True, 2 * DEFER_S)
    pair[1].send(b"x")
    assert came.wait(30)
    assert calls == []


@shares_reading
def test_a_thread_that_polls_for_a_message_yields_its_core(shared, monkeypatch):
    yields = []
    monkeypatch.setattr(os, "sched_yield", lambda: yields.append(1))
    read_briefly(shared, after_a_short_wait=True)
    assert yields


@shares_reading
def test_a_thread_that_got_its_core_back_late_does_not_yield_it_again_for_a_while(shared, monkeypatch):
    yields = []

    def yield_to_a_busy_thread():
        yields.append(1)
        time.sleep(2 * DEFER_S)

    monkeypatch.setattr(os, "sched_yield", yield_to_a_busy_thread)
    monkeypatch.setattr(loop_module, "_KEEP_S", 3600.0)
    read_briefly(shared, after_a_short_wait=True)
    read_briefly(shared, after_a_short_wait=True)
    assert yields == [1]
