"""Watermark generators: what they tell for a split, and what a checkpoint keeps of them."""

import pickle
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow import WatermarkGenerator
from sage_flow.errors import PipelineError
from sage_flow.watermarks import BoundedOutOfOrderness

timestamps = st.lists(st.integers(-(10**13), 10**13))


def bounded(milliseconds):
    return BoundedOutOfOrderness(timedelta(milliseconds=milliseconds))


def told(generator, times):
    return [generator.on_record("a record", time) for time in times]


def test_a_generator_that_says_nothing_leaves_time_where_it_is():
    generator = WatermarkGenerator()
    assert generator.on_record("a record", 5) is None
    assert generator.on_tick(1_000) is None


class Latest(WatermarkGenerator):
    """Its time is the third largest so far, or the wall clock's."""

    def __init__(self):
        self.largest = []

    def on_record(self, value, timestamp):
        self.largest = sorted([*self.largest, timestamp])[-3:]
        return self.largest[0]

    def on_tick(self, wall_ms):
        self.largest.append(wall_ms)
        return wall_ms


@given(timestamps, timestamps)
def test_a_generator_goes_on_where_it_was_stored_without_writing_anything_for_it(before, after):
    generator = Latest()
    told(generator, before)
    restored = Latest()
    restored.restore(pickle.loads(pickle.dumps(generator.snapshot())))
    assert told(restored, after) == told(generator, after)


def test_a_snapshot_does_not_change_with_its_generator():
    generator = Latest()
    generator.on_tick(1)
    stored = generator.snapshot()
    generator.on_tick(2)
    assert stored == {"largest": [1]}


def test_a_bounded_split_is_at_its_largest_timestamp_minus_the_bound():
    assert told(bounded(1_000), [5_000, 4_500, 5_000, 5_100, -1]) == [4_000, None, None, 4_100, None]
    assert told(bounded(0), [-5, -4]) == [-5, -4]


@given(timestamps, st.integers(0, 10**6))
def test_its_watermarks_only_grow_and_no_record_within_the_bound_is_below_them(times, bound):
    generator, now = bounded(bound), float("-inf")
    for n, time in enumerate(times):
        if time >= max(times[: n + 1]) - bound:
            assert time >= now
        watermark = generator.on_record("a record", time)
        if watermark is not None:
            assert watermark > now
            now = watermark
    assert not times or now == max(times) - bound


@given(timestamps, timestamps)
def test_it_goes_on_where_it_was_stored(before, after):
    generator, restored = bounded(10), bounded(10)
    told(generator, before)
    restored.restore(pickle.loads(pickle.dumps(generator.snapshot())))
    assert told(restored, after) == told(generator, after)


def test_a_bound_that_the_pipeline_has_changed_is_taken_at_a_restore():
    generator, restored = bounded(10), bounded(50)
    generator.on_record("a record", 100)
    restored.restore(generator.snapshot())
    assert told(restored, [99, 101]) == [None, 51]


@pytest.mark.parametrize(
    ("bound", "match"),
    [
        (1, r"max_out_of_order must be a timedelta, not 1: write timedelta\(seconds=1\)"),
        (timedelta(seconds=-1), "max_out_of_order must not be negative, and is -1 s"),
    ],
)
def test_a_bound_is_a_timedelta_of_zero_or_more(bound, match):
    with pytest.raises(PipelineError, match=match):
        BoundedOutOfOrderness(bound)


def test_it_has_a_short_repr():
    assert repr(bounded(90_000)) == "BoundedOutOfOrderness(1 min 30 s)"
