"""Queues for who must not wait: sending, consuming, and holding what was taken until it is dealt with."""

import pickle
import threading
from queue import Empty, SimpleQueue

import pytest
from queue_peer import get_there, put_there
from test_queue_waiting import until

from sage_flow.errors import CodecError, QueueClosed


class Taken:
    """A consumer of a queue, and what it was given."""

    def __init__(self, descriptor, *, holds=True):
        self._items = SimpleQueue()
        self.closed = SimpleQueue()
        self._live = descriptor.queue_instance
        self.consumer = self._live.consume(self._note, self.closed.put, holds=holds)

    def _note(self, items):
        for item in items:
            self._items.put(item)

    def next(self):
        return self._items.get(timeout=30)

    def is_empty(self):
        return self._items.empty()


def send(descriptor, item, on_abandoned=None):
    """Send, and return where it is told that it was."""
    told = SimpleQueue()
    return descriptor.queue_instance.send(item, told.put, on_abandoned), told


def test_what_is_sent_is_got_and_its_sender_hears_of_it(make):
    descriptor = make()
    _, told = send(descriptor, "a")
    assert told.get(timeout=30) is None
    assert descriptor.get(timeout=30) == "a"


def test_a_consumer_gets_as_many_as_it_was_granted(make):
    descriptor = make()
    taken = Taken(descriptor)
    descriptor.put_many(["a", "b", "c"])
    taken.consumer.grant(2)
    assert [taken.next().value(), taken.next().value()] == ["a", "b"]
    until(descriptor, depth=1, held=2)
    assert taken.is_empty()
    taken.consumer.grant(1)
    assert taken.next().value() == "c"


def test_what_is_given_back_goes_to_the_front_and_its_marks_are_kept(make):
    descriptor = make()
    taken = Taken(descriptor)
    descriptor.put_many(["a", "b"])
    taken.consumer.grant(1)
    item = taken.next()
    assert (item.value(), item.begun) == ("a", 0)
    assert item.waited_s >= 0
    taken.consumer.stop()
    item.give_back(begun=True)
    until(descriptor, depth=2, held=0)
    other = Taken(descriptor)
    other.consumer.grant(2)
    again = [other.next(), other.next()]
    assert [(item.value(), item.begun) for item in again] == [("a", 1), ("b", 0)]
    again[0].give_back(begun=False)
    again[1].finish()
    other.consumer.grant(1)
    last = other.next()
    assert (last.value(), last.begun) == ("a", 1)
    last.finish()
    until(descriptor, depth=0, held=0)


def test_without_holding_items_are_out_of_the_queue(make):
    descriptor = make()
    taken = Taken(descriptor, holds=False)
    taken.consumer.grant(5)
    descriptor.put("a")
    assert taken.next().value() == "a"
    until(descriptor, depth=0, held=0, leases=0)


def test_a_stopped_consumer_takes_nothing(make):
    descriptor = make()
    taken = Taken(descriptor)
    taken.consumer.grant(5)
    until(descriptor, waiting_getters=1)
    taken.consumer.stop()
    until(descriptor, waiting_getters=0)
    descriptor.put("a")
    taken.consumer.grant(1)
    assert descriptor.get(timeout=30) == "a"
    assert taken.is_empty()


def test_sending_waits_for_room_and_can_be_withdrawn(make):
    descriptor = make(maxsize=1)
    descriptor.put("a")
    _, told = send(descriptor, "b")
    withdrawn, never = send(descriptor, "c")
    until(descriptor, waiting_putters=2)
    withdrawn.withdraw()
    withdrawn.withdraw()
    until(descriptor, waiting_putters=1)
    assert told.empty()
    assert descriptor.get() == "a"
    assert told.get(timeout=30) is None
    assert descriptor.get(timeout=30) == "b"
    with pytest.raises(Empty):
        descriptor.get_nowait()
    assert never.empty()


def test_close_is_told_to_who_sends_and_who_consumes(make):
    descriptor = make(maxsize=1)
    descriptor.put("a")
    _, told = send(descriptor, "b")
    until(descriptor, waiting_putters=1)
    descriptor.share().close()
    assert isinstance(told.get(timeout=30), QueueClosed)
    late = make()
    taken = Taken(late)
    taken.consumer.grant(1)
    until(late, waiting_getters=1)
    late.share().close()
    assert isinstance(taken.closed.get(timeout=30), QueueClosed)


def test_who_waits_and_who_is_called_back_stand_in_one_line(make):
    descriptor = make()
    taken = Taken(descriptor)
    taken.consumer.grant(100)
    items = list(range(100))
    threads = [threading.Thread(target=descriptor.share().put, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    got = [taken.next() for _ in items]
    assert sorted(item.value() for item in got) == items
    for item in got:
        item.finish()
    until(descriptor, held=0, depth=0)


def test_a_callback_that_sends_goes_on_behind_the_others_and_not_inside_them(make):
    """As deep as the stack may be, so long may a line of callbacks be."""
    descriptor, ended = make(), threading.Event()
    live = descriptor.queue_instance

    def again(items):
        for item in items:
            item.finish()
            number = item.value()
            if number:
                live.send(number - 1, lambda error: None)
            else:
                ended.set()
        consumer.grant(len(items))

    consumer = live.consume(again, lambda error: None, holds=True)
    consumer.grant(1)
    live.send(3000, lambda error: None)
    assert ended.wait(120)
    consumer.stop()


def test_over_processes(make_crossing, crossing, peers):
    descriptor = make_crossing()
    taken = Taken(descriptor)
    taken.consumer.grant(2)
    until(descriptor, waiting_getters=1)
    peers[0].run(put_there, crossing, pickle.dumps(descriptor), ["a", {"large": bytes(300 << 10)}])
    assert [taken.next().value(), taken.next().value()] == ["a", {"large": bytes(300 << 10)}]
    _, told = send(descriptor, "c")
    assert told.get(timeout=30) is None
    assert peers[0].run(get_there, crossing, pickle.dumps(descriptor), 1) == ["c"]


def test_what_does_not_pickle_is_not_sent(make_crossing):
    descriptor = make_crossing()
    with pytest.raises(CodecError):
        send(descriptor, threading.Lock())
    assert descriptor.qsize() == 0
