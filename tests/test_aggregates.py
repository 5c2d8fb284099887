"""Aggregates: many records become one value, however the engine cuts the records into parts."""

import math
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow import Aggregate, aggregates
from sage_flow.aggregates import Count, CountDistinct, Max, Mean, Min, Several, Sum, ToList, Top, checked_aggregate
from sage_flow.errors import InternalError, PipelineError

NAN = float("nan")


def state_of(aggregate, records):
    state = aggregate.create()
    for record in records:
        state = aggregate.add(state, record)
    return state


def run(aggregate, *records):
    return aggregate.result(state_of(aggregate, records))


def merged(aggregate, *parts):
    """As the engine merges panes: into a new state."""
    state = aggregate.create()
    for part in parts:
        state = aggregate.merge(state, part)
    return state


def all_of(parts):
    return [record for part in parts for record in part]


def group(record):
    return record // 3


# Each with what Python says of the same records. Records are ints: what is exact does not depend on the parts.
ALL = {
    "Count": (Count(), len),
    "Sum": (Sum(), sum),
    "Sum of": (Sum(group), lambda records: sum(map(group, records))),
    "Min": (Min(), min),
    "Min of": (Min(group), lambda records: min(map(group, records))),
    "Max": (Max(), max),
    "Max of": (Max(group), lambda records: max(map(group, records))),
    "Mean": (Mean(), lambda records: sum(records) / len(records)),
    "Mean of": (Mean(group), lambda records: sum(map(group, records)) / len(records)),
    "CountDistinct": (CountDistinct(), lambda records: len(set(records))),
    "CountDistinct of": (CountDistinct(group), lambda records: len(set(map(group, records)))),
    "Top 1": (Top(1, by=group), lambda records: sorted(records, key=group, reverse=True)[:1]),
    "Top 4": (Top(4, by=group), lambda records: sorted(records, key=group, reverse=True)[:4]),
    "ToList": (ToList(), list),
    "ToList of": (ToList(group), lambda records: list(map(group, records))),
    "Several": (
        Several(n=Count(), best=Max(group), top=Top(2, by=group)),
        lambda records: {
            "n": len(records),
            "best": max(map(group, records)),
            "top": sorted(records, key=group, reverse=True)[:2],
        },
    ),
}
every_aggregate = pytest.mark.parametrize(("aggregate", "expected"), ALL.values(), ids=ALL)
few = settings(max_examples=30)  # of each aggregate
some = st.lists(st.integers(-20, 20), min_size=1)
parts = st.lists(st.lists(st.integers(-20, 20)), min_size=1).filter(any)


@every_aggregate
@few
@given(records=some)
def test_an_aggregate_gives_what_python_says_of_the_list(aggregate, expected, records):
    assert run(aggregate, *records) == expected(records)


@every_aggregate
@few
@given(parts=parts)
def test_parts_that_are_merged_in_order_give_what_all_records_give(aggregate, expected, parts):
    states = [state_of(aggregate, part) for part in parts]
    assert aggregate.result(merged(aggregate, *states)) == expected(all_of(parts))


@every_aggregate
@few
@given(one=some, two=some, three=some)
def test_merge_is_associative(aggregate, expected, one, two, three):
    def states():
        return [state_of(aggregate, records) for records in (one, two, three)]

    a, b, c = states()
    left = aggregate.merge(aggregate.merge(a, b), c)
    a, b, c = states()
    right = aggregate.merge(a, aggregate.merge(b, c))
    assert aggregate.result(left) == aggregate.result(right) == expected(one + two + three)


@every_aggregate
@few
@given(one=some, two=some, more=some)
def test_merge_leaves_the_right_state_alone_also_when_the_left_one_changes_later(aggregate, expected, one, two, more):
    right = state_of(aggregate, two)
    left = aggregate.merge(aggregate.merge(aggregate.create(), right), state_of(aggregate, one))
    for record in more:
        left = aggregate.add(left, record)
    assert aggregate.result(right) == expected(two)
    assert aggregate.result(left) == expected(two + one + more)


@every_aggregate
@few
@given(before=some, after=some)
def test_a_result_stays_when_the_state_goes_on(aggregate, expected, before, after):
    state = state_of(aggregate, before)
    result = aggregate.result(state)
    for record in after:
        state = aggregate.add(state, record)
    assert result == expected(before)
    assert aggregate.result(state) == expected(before + after)


@every_aggregate
@few
@given(before=some, after=some)
def test_a_state_goes_on_where_it_was_pickled(aggregate, expected, before, after):
    state = pickle.loads(pickle.dumps(state_of(aggregate, before)))
    for record in after:
        state = aggregate.add(state, record)
    assert aggregate.result(state) == expected(before + after)


# --- subtraction ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "aggregate", [Count(), Sum(), Mean(), Several(n=Count(), sum=Sum())], ids=lambda one: type(one).__name__
)
@given(panes=st.lists(st.lists(st.integers(), min_size=1), min_size=1), size=st.integers(1, 4))
def test_a_running_state_of_ints_is_what_its_panes_are(aggregate, panes, size):
    states = [state_of(aggregate, pane) for pane in panes]
    running = aggregate.create()
    for n, state in enumerate(states):
        running = aggregate.merge(running, state)
        if n >= size:
            assert aggregate.is_exact(running)
            assert aggregate.is_exact(states[n - size])
            running = aggregate.subtract(running, states[n - size])
        rebuilt = merged(aggregate, *states[max(0, n - size + 1) : n + 1])
        assert aggregate.result(running) == aggregate.result(rebuilt)
        assert running == rebuilt


def test_a_running_state_from_which_all_is_gone_is_as_a_new_one():
    for aggregate in (Count(), Sum(), Mean()):
        state = state_of(aggregate, [1, 2])
        assert aggregate.subtract(state, state_of(aggregate, [1, 2])) == aggregate.create()


@pytest.mark.parametrize(
    "number", [1.0, Fraction(1), Decimal(1), numpy.int64(1), numpy.float64(1), complex(1)], ids=repr
)
@pytest.mark.parametrize(
    "aggregate", [Sum(), Mean(), Several(n=Count(), sum=Sum())], ids=lambda one: type(one).__name__
)
def test_a_sum_with_any_number_but_ints_is_never_subtracted(aggregate, number):
    exact, other = state_of(aggregate, [1, 2]), state_of(aggregate, [1, number, 2])
    assert aggregate.can_subtract
    assert aggregate.is_exact(exact)
    assert not aggregate.is_exact(other)
    assert not aggregate.is_exact(aggregate.merge(state_of(aggregate, [1]), other))
    for state, older in ((other, exact), (exact, other)):
        with pytest.raises(InternalError, match="was to be subtracted from"):
            aggregate.subtract(state, older)


def test_bools_are_counted_as_ints():
    assert run(Sum(), True, True) == 2
    assert Sum().is_exact(state_of(Sum(), [True, True]))


def test_only_what_is_exact_has_a_subtraction():
    assert {name for name, (aggregate, _) in ALL.items() if aggregate.can_subtract} == {
        "Count",
        "Sum",
        "Sum of",
        "Mean",
        "Mean of",
    }
    assert Several(a=Count(), b=Sum()).can_subtract
    assert not Several(a=Count(), b=Max()).can_subtract


# --- each -------------------------------------------------------------------------------------------------


def test_a_mean_of_ints_is_exact_and_of_other_numbers_their_own():
    assert run(Mean(), 10**17, 1, -(10**17)) == 1 / 3
    assert run(Mean(), 2**53, 2**53, 2**53 + 6) == 2**53 + 2
    assert run(Mean(), Fraction(1, 3), 1) == Fraction(2, 3)
    assert run(Mean(), Decimal(1), Decimal(2)) == Decimal("1.5")
    assert math.isnan(run(Mean(), 1.0, NAN))


@pytest.mark.parametrize("aggregate", [Mean(), Min(), Max()], ids=["Mean", "Min", "Max"])
def test_some_have_no_value_without_records(aggregate):
    with pytest.raises(ValueError, match=f"{type(aggregate).__name__} has no value without records"):
        run(aggregate)
    assert aggregate.merge(aggregate.create(), aggregate.create()) == aggregate.create()


def test_the_first_of_equal_values_is_kept():
    for aggregate in (Min(), Max()):
        assert type(run(aggregate, 1, 1.0, True)) is int
        first, second = state_of(aggregate, [1]), state_of(aggregate, [1.0])
        assert type(aggregate.result(aggregate.merge(first, second))) is int


@given(st.lists(st.lists(st.floats(-9, 9) | st.just(NAN), min_size=1), min_size=1))
def test_a_nan_counts_only_if_there_is_nothing_else_whatever_the_parts(parts):
    for aggregate, best in ((Min(), min), (Max(), max)):
        result = aggregate.result(merged(aggregate, *(state_of(aggregate, part) for part in parts)))
        numbers = [number for part in parts for number in part if number == number]
        assert result == best(numbers) if numbers else math.isnan(result)


def test_none_is_a_value_as_any_other():
    assert run(Max(), None) is None
    with pytest.raises(TypeError, match="not supported between"):
        run(Max(), None, 1)


@pytest.mark.parametrize(
    ("aggregate", "records"),
    [
        (Min(), [1, "a"]),
        (Top(2, by=lambda record: record), [1, "a"]),
        (Sum(), ["a"]),
        (Mean(), ["a"]),
        (CountDistinct(), [[1]]),
        (CountDistinct(), [numpy.array([1, 2])]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_the_values_passes_and_leaves_the_state_as_it_was(aggregate, records):
    *good, bad = records
    state, copy = state_of(aggregate, good), state_of(aggregate, good)
    with pytest.raises(TypeError, match=r"not supported|unsupported|unhashable"):
        aggregate.add(state, bad)
    assert state == copy


def test_distinct_values_are_those_that_are_not_equal():
    assert run(CountDistinct(), 1, 1.0, True, Fraction(1), "1") == 2
    assert run(CountDistinct(len), "to", "be", "not") == 2


def test_all_nans_are_one_value_also_in_another_process():
    state = pickle.loads(pickle.dumps(state_of(CountDistinct(), [NAN, float("nan"), 1])))
    state = CountDistinct().add(state, Decimal("NaN"))
    assert CountDistinct().result(state) == 2


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 4), st.integers())))
def test_the_top_records_are_the_largest_and_of_equal_ones_the_first(n, records):
    expected = sorted(records, key=lambda record: record[0], reverse=True)[:n]
    assert run(Top(n, by=lambda record: record[0]), *records) == expected


def test_the_top_records_are_not_compared_themselves():
    assert run(Top(2, by=len), {"a": 1}, {"b": 2}, {}) == [{"a": 1}, {"b": 2}]


@given(st.integers(1, 4), st.lists(st.lists(st.sampled_from([NAN, -math.inf, -1.0, 1.0])), max_size=4))
def test_nans_are_the_last_of_the_top_whatever_the_parts(n, parts):
    top = Top(n, by=lambda record: record)
    records = all_of(parts)
    expected = [*sorted((one for one in records if one == one), reverse=True), *(one for one in records if one != one)]
    result = top.result(merged(top, *(state_of(top, part) for part in parts)))
    assert list(map(repr, result)) == list(map(repr, expected[:n]))


def test_a_state_of_top_holds_no_more_than_n_records():
    assert len(state_of(Top(3, by=lambda n: n % 7), range(100))) == 3


# --- several ----------------------------------------------------------------------------------------------


def test_several_aggregates_give_a_dict_in_their_order():
    result = run(Several(bids=Count(), best=Max(len), words=ToList()), "to", "not")
    assert result == {"bids": 2, "best": 3, "words": ["to", "not"]}
    assert list(result) == ["bids", "best", "words"]


def test_a_record_on_which_one_of_several_fails_is_not_counted_by_the_others():
    several = Several(n=Count(), best=Max(lambda record: record["price"]))
    state = state_of(several, [{"price": 1}])
    for bad in ({}, {"price": None}):
        with pytest.raises((KeyError, TypeError)):
            several.add(state, bad)
    assert several.result(state) == {"n": 1, "best": 1}


# --- a user's own -----------------------------------------------------------------------------------------


class Spread(Aggregate):
    def create(self):
        return []

    def add(self, state, value):
        state.append(value)
        return state

    def merge(self, left, right):
        return left + right

    def result(self, state):
        return max(state) - min(state)


class Longest(Spread):
    def subtract(self, state, older):
        return state[len(older) :]


def test_an_aggregate_of_the_users_has_four_methods_and_maybe_a_subtraction():
    assert run(Spread(), 3, 1, 7) == 6
    assert not Spread().can_subtract
    assert Longest().can_subtract
    assert Longest().is_exact([])
    assert run(Several(spread=Spread(), n=Count()), 3, 1) == {"spread": 2, "n": 2}


def test_an_aggregate_that_lacks_a_method_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Aggregate,), {"create": lambda self: 0})()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Max("price"), r"Max needs a function of a record, not 'price': write Max\(lambda record: ...\)"),
        (lambda: ToList(5), "ToList needs a function of a record, not 5"),
        (lambda: Top(0, by=len), "n of Top must be a whole number of at least 1, not 0"),
        (lambda: Top(True, by=len), "not True"),
        (lambda: Top(2.0, by=len), "not 2.0"),
        (lambda: Top(2, by="price"), r"by of Top must be a function of a record, not 'price': write Top\(2, by=lambda"),
        (lambda: Several(), r"aggregate\(\) needs an aggregate: write aggregate\(Count\(\)\)"),
        (lambda: Several(n=Count), r"n must be an Aggregate, not <class .*>: write Count\(...\)"),
        (lambda: Several(n=len), r"n must be an Aggregate, not <built-in function len>: write Count\(\) or Max\(f\)"),
        (lambda: checked_aggregate(5), "aggregate must be an Aggregate, not 5"),
    ],
)
def test_wrong_arguments_are_refused_with_the_line(make, match):
    with pytest.raises(PipelineError, match=match) as caught:
        make()
    assert "test_aggregates.py:" in str(caught.value)


def test_every_public_name_of_the_module_is_documented():
    for name in aggregates.__all__:
        assert getattr(aggregates, name).__doc__, name
