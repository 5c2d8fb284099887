"""The `add` that the engine makes of an aggregate does what the aggregate's own does."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow.aggregates import Aggregate, Count, CountDistinct, Max, Mean, Min, Several, Sum, ToList, Top
from sage_flow.runtime.lines.adders import adder_of


def twice(value):
    return value * 2


class Doubled(Sum):
    """A subclass, whose add must be called."""

    def add(self, state, value):
        return state + 2 * value


KNOWN = [Count(), Sum(), Sum(twice), Mean(), Mean(twice), Min(), Min(twice), Max(), Max(twice), CountDistinct()]
OTHERS = [CountDistinct(twice), ToList(), ToList(twice), Top(2, by=twice), Doubled()]
SEVERAL = Several(**{f"part{number}": part for number, part in enumerate([*KNOWN, *OTHERS])})
NUMBERS = st.integers(-3, 3) | st.just(math.nan) | st.just(1.0) | st.just(Fraction(1, 2))


@settings(max_examples=200)
@given(st.lists(NUMBERS, max_size=8))
def test_it_makes_the_same_states(values):
    for aggregate in [*KNOWN, *OTHERS, SEVERAL, Several(alone=Count())]:
        add = adder_of(aggregate)
        state, expected = aggregate.create(), aggregate.create()
        for value in values:
            state, expected = add(state, value), aggregate.add(expected, value)
            assert repr(state) == repr(expected)  # NaNs do not equal themselves
            assert type(state) is type(expected)


@pytest.mark.parametrize("aggregate", [Doubled(), Top(1, by=twice)])
def test_what_the_engine_does_not_know_is_called(aggregate):
    assert adder_of(aggregate) == aggregate.add


def test_a_part_that_raises_leaves_the_state_as_it_was():
    several = Several(n=Count(), best=Max(), total=Sum(lambda value: value["price"]))
    state = several.create()
    with pytest.raises(TypeError):
        adder_of(several)(state, 7)
    assert state == several.create()


@pytest.mark.parametrize(
    "fails", [Sum(lambda value: 1 / value), CountDistinct(lambda value: [value]), Top(1, by=twice)]
)
def test_a_part_that_raises_leaves_those_that_are_changed_in_place_as_they_were(fails):
    several = Several(all=ToList(), kinds=CountDistinct(), fails=fails)
    state = several.create()
    with pytest.raises((ZeroDivisionError, TypeError)):
        adder_of(several)(state, 0 if isinstance(fails, Sum) else None)
    assert state == several.create()


def test_what_cannot_be_hashed_is_refused():
    with pytest.raises(TypeError, match="unhashable"):
        adder_of(CountDistinct())(set(), [1])


def test_an_aggregate_of_a_user_is_called_among_others():
    class Last(Aggregate):
        def create(self):
            return None

        def add(self, state, value):
            return value

        def merge(self, left, right):
            return right

        def result(self, state):
            return state

    several = Several(n=Count(), last=Last())
    add = adder_of(several)
    assert several.result(add(add(several.create(), "a"), "b")) == {"n": 2, "last": "b"}
