"""Statistics of delays against the whole list of them."""

import statistics

from hypothesis import given
from hypothesis import strategies as st

from operators.statistics import DelayStatistics


def after(delays, limit_min=15):
    seen = DelayStatistics()
    for delay in delays:
        seen = seen.add(delay, limit_min)
    return seen


@given(st.lists(st.one_of(st.none(), st.integers(-60, 1500))), st.integers(0, 120))
def test_statistics_are_those_of_the_whole_list(delays, limit_min):
    seen, known = after(delays, limit_min), [delay for delay in delays if delay is not None]
    late = [delay for delay in known if delay > limit_min]
    assert seen == (len(delays), len(delays) - len(known), len(late), sum(known), max(known, default=None))
    if known:
        assert seen.mean_min == sum(known) / len(known)
        assert abs(seen.mean_min - statistics.fmean(known)) < 1e-9
        assert seen.late_share == len(late) / len(known)


def test_no_delay_has_no_mean():
    assert after([None]).mean_min is None
    assert after([None]).late_share is None
    assert after([None]).longest_min is None


def test_the_limit_itself_is_in_time():
    assert after([15]).late == 0
    assert after([16]).late == 1


def test_adding_leaves_the_statistics_before_as_they_were():
    before = after([3])
    assert before.add(4, 15) != before
    assert before == after([3])
