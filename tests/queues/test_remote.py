"""The client's end of a queue, by hand: what two links bring at the same time."""

from __future__ import annotations

import queue
import threading

import pytest

from sage_flow.queues.items import encode_runs
from sage_flow.queues.opcodes import Opcode
from sage_flow.queues.remote import ReachPolicy, RemoteQueue

PATIENCE_S = 30


class Line:
    """A link that notes what is sent, and lets nobody read for himself."""

    def __init__(self):
        self.sent = queue.SimpleQueue()

    def send(self, words, *, lane=None, copy_buffers=True):
        self.sent.put(words[1:])

    def next(self):
        return self.sent.get(timeout=PATIENCE_S)

    def read_while(self, is_waiting, timeout_s, others_wait):
        pass


class Lines:
    """A connection that gives one line after the other."""

    def __init__(self, *lines):
        self._left = iter(lines)

    def subscribe(self, client):
        return 1

    def link(self, timeout_s):
        return next(self._left)

    def leave(self, number):
        pass


def delivery(number, count, *items):
    return Opcode.DELIVERY, (number, count, [(payload, 0, many) for payload, many, _ in encode_runs(items)])


@pytest.fixture
def lines():
    return Line(), Line()


@pytest.fixture
def remote(lines):
    return RemoteQueue(("cluster", "q"), 0, Lines(*lines), "a host", ReachPolicy())


def attached(remote, line):
    """The host answers; return what of the session it was told, and what is said over the line then."""
    opcode, *_, received, gets, _refused, _attempt, _epoch = line.next()
    assert opcode == Opcode.ATTACH
    remote.on_message(line, Opcode.ATTACHED, ("the host", True))
    return received, gets, line.next()


def test_what_an_old_link_still_brings_does_not_count_beside_the_new_one(remote, lines):
    old, new = lines
    got = []
    getter = threading.Thread(target=lambda: got.append(remote.get()))
    getter.start()
    _, _, said = attached(remote, old)
    assert said[0] == Opcode.GET
    remote.on_lost(old, "it broke")
    received, gets, said_again = attached(remote, new)
    assert (received, gets, said_again) == (0, [1], said)
    remote.on_message(old, *delivery(1, 1, "a"))  # a thread that had read it when the line broke
    assert getter.is_alive()
    remote.on_message(new, *delivery(1, 1, "a"))
    getter.join(PATIENCE_S)
    assert got == ["a"]
    assert new.next() == (Opcode.ACKNOWLEDGE, 1)
    assert new.sent.empty()
