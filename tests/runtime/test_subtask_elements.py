"""Watermarks and barriers go through one subtask in their place among the records."""

from fake_port import (
    Barrier,
    EndOfInput,
    Idle,
    Watermark,
    two_timed_inputs,  # noqa: F401 - a fixture
)

from sage_flow.runtime.subtask import Done, WaitForMessage

# --- watermarks and idleness ------------------------------------------------------------------------------


def test_the_least_watermark_is_forwarded(made):
    a, b = made.ins
    made.give(a, Watermark(5))
    made.give(b, Watermark(3))
    made.give(b, Watermark(9))
    assert made.port.untimed_story(made.outs[0]) == [Watermark(3), Watermark(5)]


def test_a_watermark_does_not_overtake_records(made):
    a, b = made.ins
    made.deliver(a, Watermark(9))
    made.deliver(b, 1, 2)
    made.give(b, Watermark(7))
    assert made.port.untimed_story(made.outs[1]) == [1, 2, Watermark(7)]


def test_idle_is_forwarded_when_every_input_is_idle_and_not_before(made):
    a, b = made.ins
    made.give(a, Idle())
    assert made.port.sent == []
    made.give(b, Idle())
    assert made.port.untimed_story(made.outs[0]) == [Idle()]


def test_a_record_wakes_an_idle_input(made):
    a, b = made.ins
    made.give(a, Watermark(1))
    made.give(a, Idle())
    made.give(a, "late")
    made.give(b, Watermark(8))
    assert made.port.untimed_story(made.outs[0]) == ["late", Watermark(1)]


def test_an_ended_input_leaves_the_minimum(made):
    a, b = made.ins
    made.give(a, Watermark(5))
    made.give(b, EndOfInput())
    assert made.port.untimed_story(made.outs[0]) == [Watermark(5)]


# --- barriers ---------------------------------------------------------------------------------------------


def test_a_barrier_is_forwarded_behind_what_came_before_it_and_before_what_came_after(made):
    a, b = made.ins
    made.deliver(a, "a1")
    made.deliver(a, Barrier(1))
    made.deliver(a, "a2")
    made.deliver(b, "b1")
    assert made.run() == WaitForMessage()
    assert made.port.untimed_records(made.outs[0]) == ["a1", "b1"]  # a2 is held
    made.deliver(b, Barrier(1))
    made.deliver(b, "b2")
    made.run()
    assert made.port.untimed_story(made.outs[0]) == ["a1", "b1", Barrier(1), "a2", "b2"]
    assert made.port.untimed_story(made.outs[1]) == made.port.untimed_story(made.outs[0])


def test_no_credit_is_returned_for_what_is_held(made):
    a, b = made.ins
    made.give(a, Barrier(1))
    made.give(a, 1, 2)
    assert made.port.consumed_frames == []
    made.give(b, Barrier(1))
    assert made.port.consumed_frames == [(a, 2)]


def test_held_frames_keep_their_order_when_some_arrived_with_the_barrier_and_some_after_it(made):
    a, b = made.ins
    made.deliver(a, Barrier(1))
    made.deliver(a, "first")
    made.subtask.advance()  # the barrier; "first" still waits
    made.deliver(a, "second")
    made.run()
    made.give(b, Barrier(1))
    assert made.port.untimed_records(made.outs[0]) == ["first", "second"]


def test_what_is_held_comes_out_before_what_waits_and_in_order(made):
    a, b = made.ins
    made.give(a, Barrier(1))
    made.deliver(a, "a1")
    made.deliver(a, Watermark(4))
    made.deliver(a, "a2")
    made.run()
    made.deliver(b, Barrier(1))
    made.deliver(b, "b1")
    made.deliver(a, "a3")  # before the barrier of b is looked at: a is still held
    made.run()
    assert made.port.untimed_records(made.outs[0]) == ["a1", "a2", "b1", "a3"]


def test_a_second_barrier_among_the_held_frames_holds_its_channel_again(made):
    a, b = made.ins
    for item in ("a1", Barrier(1), "a2", Barrier(2), "a3"):
        made.give(a, item)
    for item in ("b1", Barrier(1), "b2", Barrier(2), "b3"):
        made.give(b, item)
    story = made.port.untimed_story(made.outs[0])
    assert story == ["a1", "b1", Barrier(1), "a2", "b2", Barrier(2), "a3", "b3"]


def test_an_ended_input_counts_as_every_later_barrier(made):
    a, b = made.ins
    made.give(a, Barrier(1))
    made.give(a, "a1")
    made.give(b, EndOfInput())
    assert made.port.untimed_story(made.outs[0]) == [Barrier(1), "a1"]


def test_a_newer_barrier_abandons_the_older_one(made):
    a, b = made.ins
    made.give(a, Barrier(1))
    made.give(a, "a1")
    made.give(b, "b1")
    made.give(b, Barrier(2))
    made.give(b, "b2")
    assert made.port.untimed_story(made.outs[0]) == ["b1", "a1"]
    made.give(a, Barrier(2))
    assert made.port.untimed_story(made.outs[0]) == ["b1", "a1", Barrier(2), "b2"]


def test_an_end_of_input_that_is_held_counts_when_it_is_released(made):
    a, b = made.ins
    made.give(a, Barrier(1))
    made.give(a, EndOfInput())
    made.give(b, "b1")
    assert made.give(b, Barrier(1)) == WaitForMessage()
    assert made.give(b, EndOfInput()) == Done()
    assert made.port.untimed_story(made.outs[0]) == ["b1", Barrier(1), EndOfInput()]
