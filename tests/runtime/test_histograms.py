"""Histograms of durations."""

import pytest

from sage_flow.runtime.statistics import Histogram


@pytest.mark.parametrize("exponent", range(-6, 4))
@pytest.mark.parametrize("part", [1.0, 1.7, 3.1, 4.0, 5.9, 8.0, 9.99])
def test_a_percentile_is_exact_to_seven_percent_and_a_tenth_of_a_microsecond(exponent, part):
    seconds = part * 10.0**exponent
    durations = Histogram()
    durations.add(seconds)
    assert durations.percentile(50) == pytest.approx(seconds, rel=0.07, abs=1.1e-7)


def test_no_time_at_all_is_a_duration():
    durations = Histogram()
    durations.add(0.0)
    assert durations.percentile(99) == pytest.approx(0.0, abs=1.1e-7)


def test_there_is_no_percentile_of_nothing():
    assert Histogram().percentile(50) is None
