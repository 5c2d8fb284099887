"""Alignment: a snapshot after all that came before the barrier, on every input, and before all that came after."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.errors import ProtocolError
from sage_flow.runtime.barrier import AbandonAndHold, BarrierAlignment, Hold, TakeSnapshot


def test_inputs_that_are_at_the_barrier_wait_for_the_rest():
    gate = BarrierAlignment([0, 1, 2])
    assert gate.on_barrier(1, 7) == Hold(1)
    assert gate.on_barrier(0, 7) == Hold(0)
    assert gate.on_barrier(2, 7) == TakeSnapshot(7, released=(1, 0, 2))


def test_a_single_input_never_waits():
    gate = BarrierAlignment([0])
    assert gate.on_barrier(0, 1) == TakeSnapshot(1, released=(0,))
    assert gate.on_barrier(0, 2) == TakeSnapshot(2, released=(0,))


def test_an_ended_input_counts_as_every_later_barrier():
    gate = BarrierAlignment([0, 1])
    assert gate.on_barrier(0, 7) == Hold(0)
    assert gate.on_end_of_input(1) == TakeSnapshot(7, released=(0,))
    assert gate.on_barrier(0, 8) == TakeSnapshot(8, released=(0,))


def test_an_end_without_a_barrier_under_way_decides_nothing():
    gate = BarrierAlignment([0, 1])
    assert gate.on_end_of_input(0) is None
    assert gate.on_end_of_input(1) is None


def test_an_ended_input_is_not_all_that_is_missing():
    gate = BarrierAlignment([0, 1, 2])
    gate.on_barrier(0, 1)
    assert gate.on_end_of_input(1) is None
    assert gate.on_barrier(2, 1) == TakeSnapshot(1, released=(0, 2))


def test_a_newer_barrier_abandons_the_one_under_way():
    gate = BarrierAlignment([0, 1])
    gate.on_barrier(0, 1)
    assert gate.on_barrier(1, 2) == AbandonAndHold(1, released=(0,), channel=1)
    assert gate.on_barrier(0, 2) == TakeSnapshot(2, released=(1, 0))


def test_a_newer_barrier_on_the_only_open_input_completes_at_once():
    gate = BarrierAlignment([0, 1, 2])
    gate.on_barrier(0, 1)
    gate.on_barrier(1, 2)
    assert gate.on_end_of_input(0) is None
    assert gate.on_end_of_input(2) == TakeSnapshot(2, released=(1,))


@pytest.mark.parametrize(
    ("before", "barrier"),
    [
        ([(0, 5)], (0, 6)),  # a held channel shows nothing
        ([], (9, 1)),  # unknown
    ],
)
def test_a_barrier_out_of_order_is_refused(before, barrier):
    gate = BarrierAlignment([0, 1])
    for earlier in before:
        gate.on_barrier(*earlier)
    with pytest.raises(ProtocolError):
        gate.on_barrier(*barrier)


@pytest.mark.parametrize(
    ("before", "barrier"),
    [
        ([(0, 5), (1, 5)], (0, 5)),  # it was passed
        ([(0, 5), (1, 5)], (0, 4)),  # it is older
        ([(0, 5)], (1, 4)),  # older than the one under way
    ],
)
def test_rule_22_a_barrier_that_is_late_is_passed_over(before, barrier):
    gate = BarrierAlignment([0, 1])
    for earlier in before:
        gate.on_barrier(*earlier)
    assert gate.on_barrier(*barrier) is None


def test_rule_22_an_aborted_checkpoint_releases_its_inputs_and_its_later_barriers_are_passed_over():
    gate = BarrierAlignment([0, 1, 2])
    gate.on_barrier(1, 7)
    gate.on_barrier(0, 7)
    assert gate.on_abort(7) == (1, 0)
    assert gate.on_barrier(2, 7) is None
    assert gate.on_barrier(2, 8) == Hold(2)


def test_rule_22_an_abort_that_comes_before_the_barriers_lets_them_pass():
    gate = BarrierAlignment([0, 1])
    assert gate.on_abort(7) == ()
    assert gate.on_barrier(0, 7) is None
    assert gate.on_barrier(1, 7) is None
    assert gate.on_barrier(0, 8) == Hold(0)


def test_rule_22_an_abort_of_a_newer_checkpoint_releases_what_waits_for_an_older_one():
    gate = BarrierAlignment([0, 1])
    gate.on_barrier(0, 7)
    assert gate.on_abort(8) == (0,)


def test_an_abort_of_a_checkpoint_that_was_passed_changes_nothing():
    gate = BarrierAlignment([0, 1])
    gate.on_barrier(0, 7)
    gate.on_barrier(1, 8)
    assert gate.on_abort(7) == ()
    assert gate.on_barrier(0, 8) == TakeSnapshot(8, released=(1, 0))


def test_a_barrier_behind_the_end_of_its_input_is_refused():
    gate = BarrierAlignment([0, 1])
    gate.on_end_of_input(0)
    with pytest.raises(ProtocolError):
        gate.on_barrier(0, 1)


@given(st.integers(1, 4), st.data())
def test_whatever_the_order_each_snapshot_is_a_consistent_cut(channels, data):
    """Every channel sends barriers with rising numbers, some left out, and ends; a model checks each cut."""
    scripts = [sorted(data.draw(st.sets(st.integers(1, 6), max_size=6))) for _ in range(channels)]
    gate = BarrierAlignment(range(channels))
    open_channels, held, position = set(range(channels)), set(), [0] * channels
    passed = latest = 0
    while movable := sorted(open_channels - held):
        channel = data.draw(st.sampled_from(movable))
        script = scripts[channel]
        if position[channel] < len(script):
            checkpoint = script[position[channel]]
            position[channel] += 1
            if checkpoint <= passed or (held and checkpoint < latest):
                continue  # a producer would not send it any more
            latest = checkpoint
            decision = gate.on_barrier(channel, checkpoint)
        else:
            open_channels.discard(channel)
            decision = gate.on_end_of_input(channel)
        match decision:
            case Hold(held_channel):
                held.add(held_channel)
            case AbandonAndHold(_, released, held_channel):
                assert set(released) == held
                held = {held_channel}
            case TakeSnapshot(checkpoint, released):
                assert checkpoint > passed
                assert set(released) == open_channels
                assert held <= set(released)
                passed, held = checkpoint, set()
    assert not open_channels, "an input waits for a barrier that cannot come"
