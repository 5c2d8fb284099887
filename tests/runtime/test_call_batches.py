"""Calls that wait in a replica until they are a batch."""

import math

from sage_flow.batching import BatchLimits
from sage_flow.runtime.call_batches import CallBatch, CallBatches
from sage_flow.runtime.messages import Request


def request(number, method="embed"):
    return Request(7, number, 1.0, method, (number,), {})


def batches(**limits):
    return CallBatches({method: BatchLimits(*both) for method, both in limits.items()})


def test_a_batch_is_whole_with_max_size_calls():
    waiting = batches(embed=(3, 1.0))
    assert [waiting.add(request(number), 0.0) for number in range(3)] == [False, False, True]
    assert waiting.take("embed") == CallBatch("embed", [request(0), request(1), request(2)])
    assert (len(waiting), waiting.due_at) == (0, math.inf)


def test_a_batch_is_due_when_its_first_call_has_waited_long_enough():
    waiting = batches(embed=(3, 1.0))
    waiting.add(request(0), 10.0)
    waiting.add(request(1), 10.9)
    assert waiting.due_at == 11.0
    assert waiting.take_due(10.99) is None
    assert waiting.take_due(11.0) == CallBatch("embed", [request(0), request(1)])


def test_the_batch_that_is_due_first_is_taken_first():
    waiting = batches(slow=(9, 5.0), fast=(9, 1.0))
    waiting.add(request(0, "slow"), 0.0)
    waiting.add(request(1, "fast"), 1.0)
    assert waiting.due_at == 2.0
    assert waiting.take_due(9.0).method == "fast"
    assert waiting.due_at == 5.0
    assert waiting.take_due(9.0).method == "slow"


def test_a_call_that_is_taken_back_is_in_no_batch():
    waiting = batches(embed=(3, 1.0))
    waiting.add(request(0), 0.0)
    waiting.add(request(1), 0.0)
    waiting.drop(7, 0)
    assert waiting.take_due(1.0).requests == [request(1)]
    waiting.add(request(2), 2.0)
    waiting.drop(7, 2)
    assert (len(waiting), waiting.due_at) == (0, math.inf)


def test_what_waits_is_due_at_once_when_no_call_can_come():
    waiting = batches(embed=(3, 1.0))
    waiting.add(request(0), 0.0)
    waiting.is_closing = True
    assert waiting.take_due(0.0).requests == [request(0)]
