"""Windows and the values around them: the arithmetic, what is refused, what a result shows."""

import pickle
import typing
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow import (
    MAX_TIMESTAMP,
    Firing,
    SessionWindow,
    SlidingWindow,
    Timer,
    TimeSpan,
    TumblingWindow,
    Window,
    WindowResult,
    stable_hash,
)
from sage_flow.errors import InvalidTimestampError, PipelineError


def ms(milliseconds):
    return timedelta(milliseconds=milliseconds)


def tumbling(size, offset=0):
    return TumblingWindow(ms(size), offset=ms(offset))


def sliding(size, slide, offset=0):
    return SlidingWindow(ms(size), ms(slide), offset=ms(offset), allow_gaps=True)


timestamps = st.integers(-(10**13), 10**13)
windows = st.builds(sliding, st.integers(1, 500), st.integers(1, 500), st.integers(-1_000, 1_000))


# --- arithmetic -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "timestamp", "starts"),
    [
        (tumbling(10), 0, [0]),
        (tumbling(10), 9, [0]),
        (tumbling(10), 10, [10]),
        (tumbling(10), -1, [-10]),
        (tumbling(10), -10, [-10]),
        (tumbling(10, offset=3), 2, [-7]),
        (tumbling(10, offset=3), 3, [3]),
        (tumbling(10, offset=-3), 7, [7]),
        (tumbling(10, offset=23), 3, [3]),
        (sliding(10, 5), 7, [0, 5]),
        (sliding(10, 5), -1, [-10, -5]),
        (sliding(10, 4), 8, [0, 4, 8]),
        (sliding(10, 4), 10, [4, 8]),
        (sliding(10, 4, offset=1), 10, [1, 5, 9]),
        (sliding(4, 10), 3, [0]),
        (sliding(4, 10), 4, []),
        (sliding(4, 10), -7, [-10]),
        (sliding(4, 10), -6, []),
    ],
)
def test_a_timestamp_belongs_to_the_windows_that_begin_at(window, timestamp, starts):
    assert list(window.window_starts(timestamp)) == starts


@given(windows, timestamps)
def test_windows_are_all_those_on_the_grid_that_contain_the_timestamp(window, timestamp):
    grid = range(window.offset_ms - 10**14 * window.slide_ms, 10**14 * window.slide_ms, window.slide_ms)
    around = [start for start in range(timestamp - window.size_ms + 1, timestamp + 1) if start in grid]
    assert list(window.window_starts(timestamp)) == around


@given(st.integers(1, 60), st.integers(1, 60), st.integers(-1_000, 1_000), timestamps)
def test_a_timestamp_belongs_to_size_by_slide_windows(slide, times, offset, timestamp):
    assert len(sliding(slide * times, slide, offset).window_starts(timestamp)) == times


@given(windows, timestamps)
def test_every_window_is_made_of_whole_panes(window, timestamp):
    pane = window.pane_start(timestamp)
    assert pane <= timestamp < pane + window.pane_ms
    for start in window.window_starts(timestamp):
        panes = window.pane_starts(start)
        assert pane in panes
        assert all(window.pane_start(one) == one for one in panes)
        assert panes[-1] + window.pane_ms == start + window.size_ms


@given(windows, timestamps)
def test_all_timestamps_of_a_pane_belong_to_the_same_windows(window, timestamp):
    assert window.window_starts(timestamp) == window.window_starts(window.pane_start(timestamp))


@given(st.integers(1, 500), st.integers(-1_000, 1_000), timestamps)
def test_a_tumbling_window_is_one_pane_and_slides_by_its_size(size, offset, timestamp):
    window = tumbling(size, offset)
    assert (window.size_ms, window.slide_ms, window.pane_ms) == (size, size, size)
    assert list(window.window_starts(timestamp)) == [window.pane_start(timestamp)]
    assert window.window_starts(timestamp) == sliding(size, size, offset).window_starts(timestamp)


def test_durations_are_there_in_milliseconds():
    window = SlidingWindow(timedelta(seconds=10), timedelta(seconds=4), offset=timedelta(seconds=-1))
    assert (window.size_ms, window.slide_ms, window.pane_ms, window.offset_ms) == (10_000, 4_000, 2_000, 3_000)
    session = SessionWindow(timedelta(minutes=30), touching="merge")
    assert (session.gap_ms, session.touching) == (1_800_000, "merge")
    assert SessionWindow(timedelta(minutes=30)).touching == "split"


# --- values -----------------------------------------------------------------------------------------------

VALUES = {
    "TumblingWindow(1 h 30 min)": TumblingWindow(timedelta(minutes=90)),
    "TumblingWindow(1 d, offset 5 h)": TumblingWindow(timedelta(days=1), offset=timedelta(hours=5)),
    "SlidingWindow(1 h, slide 5 min)": SlidingWindow(timedelta(hours=1), timedelta(minutes=5)),
    "SlidingWindow(4 ms, slide 10 ms, offset 1 ms)": sliding(4, 10, 1),
    "SessionWindow(gap 30 min)": SessionWindow(timedelta(minutes=30)),
    "SessionWindow(gap 1 s, touching='merge')": SessionWindow(timedelta(seconds=1), touching="merge"),
}


@pytest.mark.parametrize(("text", "window"), VALUES.items(), ids=str)
def test_a_window_is_a_value_with_a_short_repr(text, window):
    assert repr(window) == text
    copy = pickle.loads(pickle.dumps(window))
    assert copy == window
    assert hash(copy) == hash(window)
    assert isinstance(window, Window)
    assert [other for other in VALUES.values() if other == window] == [window]


@pytest.mark.parametrize("window", VALUES.values(), ids=str)
def test_a_window_cannot_be_changed(window):
    for name in vars(window):
        with pytest.raises(AttributeError, match="cannot assign"):
            setattr(window, name, 1)


def test_windows_of_two_kinds_differ():
    assert tumbling(10) != sliding(10, 10)


def test_a_window_without_a_kind_cannot_be_made():
    with pytest.raises(TypeError, match="abstract class Window"):
        Window()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: TumblingWindow(10),
            r"size must be a timedelta, not 10: write timedelta\(seconds=10\) or timedelta\(milliseconds=10\)",
        ),
        (lambda: TumblingWindow(ms(0)), "size must be longer than 0"),
        (lambda: TumblingWindow(ms(0.5)), "size must be whole milliseconds"),
        (lambda: TumblingWindow(ms(5), offset=1), "offset must be a timedelta, not 1"),
        (lambda: SlidingWindow(ms(5), 2), "slide must be a timedelta, not 2"),
        (lambda: SlidingWindow(ms(5), ms(-1)), "slide must be longer than 0, not -1 ms"),
        (
            lambda: SlidingWindow(ms(4_000), ms(10_000)),
            "slide 10 s is longer than size 4 s, so records between two windows would belong to none: write"
            " allow_gaps=True",
        ),
        (lambda: SessionWindow("30min"), "gap must be a timedelta, not '30min'"),
        (lambda: SessionWindow(ms(0)), "gap must be longer than 0"),
        (lambda: SessionWindow(ms(1), touching="join"), 'touching must be "split" or "merge", not \'join\''),
    ],
)
def test_wrong_arguments_are_refused_with_the_line(make, match):
    with pytest.raises(PipelineError, match=match) as caught:
        make()
    assert "test_windows.py:" in str(caught.value)


# --- results ----------------------------------------------------------------------------------------------


def test_a_result_is_read_by_name_and_is_a_tuple():
    result = WindowResult("JFK", 0, 3_600_000, 17)
    assert result.firing == "on_time"
    assert result == ("JFK", 0, 3_600_000, 17, "on_time")
    assert result._fields == ("key", "start", "end", "value", "firing")
    assert pickle.loads(pickle.dumps(result)) == result
    assert type(pickle.loads(pickle.dumps(result))) is WindowResult
    assert repr(result) == "WindowResult(key='JFK', start=0, end=3600000, value=17, firing='on_time')"
    assert isinstance(stable_hash(result), int)


def test_a_result_is_generic_on_every_python():
    assert typing.get_args(WindowResult[str, int]) == (str, int)
    assert WindowResult[str, int]("JFK", 0, 1, 2) == WindowResult("JFK", 0, 1, 2)


def test_a_result_tells_its_times_in_utc():
    result = WindowResult("JFK", -3_600_000, 0, 17)
    assert result.start_time == datetime(1969, 12, 31, 23, tzinfo=timezone.utc)
    assert result.end_time == datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert result.end_time.tzinfo is timezone.utc


def test_a_result_outside_the_years_of_a_datetime_says_so():
    result = WindowResult("JFK", -MAX_TIMESTAMP, MAX_TIMESTAMP, 17)
    for time in ("start_time", "end_time"):
        with pytest.raises(InvalidTimestampError, match="outside the years 1 to 9999"):
            getattr(result, time)


def test_timers_and_spans_are_named_tuples():
    assert Timer("silent", 5, at_end=False) == ("silent", 5, False)
    assert TimeSpan(start=0, end=10) == (0, 10)


def test_the_firings_are_three():
    assert typing.get_args(Firing) == ("early", "on_time", "late")
