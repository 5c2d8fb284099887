"""The length of slices: longer while they are quick, shorter when one was slow."""

from hypothesis import given
from hypothesis import strategies as st

from sage_flow.runtime.pace import Pace


def test_it_doubles_while_slices_are_full_and_quick():
    pace, sizes = Pace(), []
    for _ in range(14):
        sizes.append(pace.size)
        pace.took(pace.size, 0.001)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 4096]


def at_sixteen():
    pace = Pace()
    for _ in range(4):
        pace.took(pace.size, 0.0)
    return pace


def test_a_short_slice_says_nothing_about_longer_ones():
    pace = at_sixteen()
    pace.took(15, 0.0)
    assert pace.size == 16


def test_between_quick_and_slow_it_stays():
    pace = at_sixteen()
    pace.took(16, 0.005)
    assert pace.size == 16


def test_a_slow_slice_shrinks_it_to_what_takes_five_milliseconds():
    pace = at_sixteen()
    for _ in range(3):
        pace.took(pace.size, 0.001)
    pace.took(128, 0.064)
    assert pace.size == 10
    pace.took(10, 30.0)
    assert pace.size == 1


@given(st.lists(st.tuples(st.integers(0, 4096), st.floats(0, 1000))))
def test_a_slice_has_at_least_one_record_and_at_most_4096(slices):
    pace = Pace()
    for records, seconds in slices:
        pace.took(records, seconds)
        assert 1 <= pace.size <= 4096


def test_a_slice_whose_results_are_sent_slowly_shrinks_it_to_what_is_sent_in_fifty_milliseconds():
    pace = at_sixteen()
    pace.took(16, 0.0, 0.1)
    assert pace.size == 32
    pace.took(32, 0.0, 0.32)
    assert pace.size == 5
    pace.took(5, 0.0, 100.0)
    assert pace.size == 1
