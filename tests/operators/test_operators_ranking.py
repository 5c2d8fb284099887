"""The first n records of a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.ranking import Leaders, first


@given(st.lists(st.tuples(st.integers(0, 5), st.integers())), st.integers(1, 8))
def test_leaders_are_the_head_of_the_sorted_list(values, n):
    leaders, kept = Leaders(n, order=lambda pair: pair[0]), ()
    for value in values:
        kept = leaders(kept, value)
    assert kept == tuple(sorted(values, key=lambda pair: pair[0])[:n])  # sorted() is stable


@pytest.mark.parametrize("n", [0, -1])
def test_there_is_at_least_one_leader(n):
    with pytest.raises(ValueError, match=f"n must be at least 1, not {n}"):
        Leaders(n, order=abs)


def test_the_first_of_a_stream_come_in_order(mode):
    env = mode.environment()
    numbers = env.from_collection([(n * 37 % 1000, "x" * n) for n in range(1000)])
    shuffled = numbers.map(lambda pair: pair[0], parallelism=3)
    first(shuffled, 5, order=lambda n: -n).collect("first")
    assert env.execute(progress=False).collected["first"] == [999, 998, 997, 996, 995]


def test_fewer_records_than_asked_for_are_all_there(mode):
    env = mode.environment()
    first(env.from_collection([3, None, 1]).filter(lambda n: n is not None), 5, order=abs).collect("first")
    first(env.from_collection([]), 5, order=abs).collect("none")
    assert env.execute(progress=False).collected == {"first": [1, 3], "none": []}
