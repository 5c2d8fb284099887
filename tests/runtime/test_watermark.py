"""Event time: the minimum over the inputs that are neither idle nor ended, and never back."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sage_flow.runtime.watermark import Advance, BecomeIdle, WatermarkMinimum


def test_time_is_the_minimum_over_the_inputs():
    time = WatermarkMinimum([0, 1])
    assert time.on_watermark(0, 5) is None
    assert time.on_watermark(1, 3) == Advance(3)
    assert time.on_watermark(1, 9) == Advance(5)


def test_time_never_goes_back():
    time = WatermarkMinimum([0])
    assert time.on_watermark(0, 5) == Advance(5)
    assert time.on_watermark(0, 5) is None
    assert time.on_watermark(0, 2) is None
    assert time.on_watermark(0, 6) == Advance(6)


def test_time_before_the_epoch_is_time():
    time = WatermarkMinimum([0])
    assert time.on_watermark(0, -10) == Advance(-10)
    assert time.on_watermark(0, 0) == Advance(0)


def test_an_idle_input_leaves_the_minimum():
    time = WatermarkMinimum([0, 1])
    time.on_watermark(0, 5)
    assert time.on_idle(1) == Advance(5)
    assert time.on_watermark(0, 8) == Advance(8)


def test_all_idle_is_told_once_and_time_stays():
    time = WatermarkMinimum([0, 1])
    time.on_watermark(0, 5)
    time.on_watermark(1, 3)
    assert time.on_idle(1) == Advance(5)
    assert time.on_idle(0) == BecomeIdle()
    assert time.on_idle(0) is None


def test_a_record_wakes_an_input_whose_clock_is_where_it_was():
    time = WatermarkMinimum([0, 1])
    time.on_watermark(0, 5)
    time.on_watermark(1, 3)
    time.on_idle(1)
    time.on_record(1)
    assert time.on_watermark(0, 8) is None  # 1 holds back again, at 3
    assert time.on_watermark(1, 6) == Advance(6)


def test_an_ended_input_leaves_the_minimum_for_good():
    time = WatermarkMinimum([0, 1])
    time.on_watermark(0, 5)
    assert time.on_end_of_input(1) == Advance(5)


def test_the_end_of_the_last_awake_input_leaves_only_idle_ones():
    time = WatermarkMinimum([0, 1])
    time.on_idle(0)
    assert time.on_end_of_input(1) == BecomeIdle()


def test_the_end_of_an_idle_input_among_idle_ones_is_no_news():
    time = WatermarkMinimum([0, 1])
    time.on_idle(0)
    assert time.on_idle(1) == BecomeIdle()
    assert time.on_end_of_input(1) is None


def test_the_end_of_all_inputs_is_told_by_others():
    time = WatermarkMinimum([0])
    time.on_watermark(0, 5)
    assert time.on_end_of_input(0) is None


events = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(st.integers(0, 9), st.sampled_from(["record", "idle", "end"]))), max_size=60
)


@given(events)
@example([(0, "idle"), (2, 0), (2, "idle"), (1, "idle"), (2, "record"), (0, "idle")])
def test_it_does_what_a_naive_minimum_does(events):
    time = WatermarkMinimum(range(3))
    clocks, idle, now = dict.fromkeys(range(3), float("-inf")), set(), float("-inf")
    for channel, event in events:
        if channel not in clocks:
            continue
        all_were_idle = set(clocks) == idle
        match event:
            case "record":
                time.on_record(channel)
                idle.discard(channel)
                continue
            case "idle" if channel in idle:
                assert time.on_idle(channel) is None  # no news, whatever a record has woken meanwhile
                continue
            case "idle":
                decision = time.on_idle(channel)
                idle.add(channel)
            case "end":
                decision = time.on_end_of_input(channel)
                del clocks[channel]
                idle.discard(channel)
            case timestamp:
                decision = time.on_watermark(channel, timestamp)
                clocks[channel] = max(clocks[channel], timestamp)
                idle.discard(channel)
        least = min((clock for c, clock in clocks.items() if c not in idle), default=now)
        if clocks and set(clocks) == idle:
            expected = None if all_were_idle else BecomeIdle()
        else:
            expected = Advance(least) if least > now else None
            now = max(now, least)
        assert decision == expected


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_when_all_inputs_have_ended_time_is_where_the_furthest_was(order):
    time = WatermarkMinimum([0, 1])
    time.on_watermark(0, 100)
    time.on_watermark(1, 200)
    told = [time.on_end_of_input(channel) for channel in order] + [time.finish()]
    assert [advance for advance in told if advance] == [Advance(200)]
    assert time.finish() is None


def test_an_input_that_joins_has_a_number_that_no_other_one_has_had():
    minimum = WatermarkMinimum(())
    first, second = minimum.join(), minimum.join()
    minimum.on_end_of_input(first)
    assert minimum.join() not in (first, second)


def test_an_input_that_joins_holds_the_time_until_it_has_one_and_takes_nothing_back():
    minimum = WatermarkMinimum(())
    first = minimum.join()
    assert minimum.on_watermark(first, 10) == Advance(10)
    second = minimum.join()
    assert minimum.on_watermark(first, 30) is None
    assert minimum.on_watermark(second, 5) is None
    assert minimum.on_watermark(second, 20) == Advance(20)
