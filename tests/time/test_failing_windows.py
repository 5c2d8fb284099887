"""Functions of windows that fail: the error shows the window, and `on_error` lets the job go on."""

from datetime import timedelta

import pytest

from sage_flow import Aggregate, TumblingWindow, WindowResult
from sage_flow.aggregates import Count, Sum

SECOND = timedelta(seconds=1)
RECORDS = [("a", 1), ("b", 2), ("a", 0), ("a", 3)]


def windows(mode):
    timed = mode.environment().from_collection(RECORDS).assign_timestamps(lambda _: 500, max_out_of_order=SECOND)
    return timed.key_by(lambda record: record[0]).window(TumblingWindow(SECOND))


def run(results):
    results.collect("out")
    return results._graph.environment.execute(progress=False).collected


def test_a_function_of_a_window_may_yield(mode):
    def spread(records, ctx):
        for record in records:
            yield ctx.key, ctx.window.start, record[1]

    out = run(windows(mode).process(spread))["out"]
    assert sorted(out) == [("a", 0, 0), ("a", 0, 1), ("a", 0, 3), ("b", 0, 2)]


def inverses(records):
    return [1 / number for _, number in records]


FAILED = WindowResult("a", 0, 1_000, [("a", 1), ("a", 0), ("a", 3)])


def test_the_error_of_a_function_of_a_window_shows_the_window(mode):
    with pytest.raises(ZeroDivisionError) as caught:
        run(windows(mode).process(inverses))
    assert repr(FAILED)[:60] in "\n".join(caught.value.__notes__)


def test_a_window_whose_function_fails_can_be_let_through(mode):
    results = windows(mode).process(inverses, on_error="dead_letter")
    results.dead_letters().map(lambda letter: letter.record).collect("letters")
    assert run(results) == {"out": [0.5], "letters": [FAILED]}
    assert run(windows(mode).process(inverses, on_error="skip"))["out"] == [0.5]


class NoResult(Aggregate):
    def create(self):
        return 0

    def add(self, state, value):
        return state + value[1]

    def merge(self, left, right):
        return left + right

    def result(self, state):
        return 1 / (state - 4)


def test_the_error_of_a_result_shows_the_window(mode):
    with pytest.raises(ZeroDivisionError) as caught:
        run(windows(mode).aggregate(NoResult()))
    assert repr(WindowResult("a", 0, 1_000, 4)) in "\n".join(caught.value.__notes__)
    assert [r.value for r in run(windows(mode).aggregate(NoResult(), on_error="skip"))["out"]] == [-0.5]


def inverse(record):
    return 1 / record[1]


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda windows, **options: windows.mean(inverse, **options), 2 / 3),
        (lambda windows, **options: windows.count_distinct(inverse, **options), 2),
        (lambda windows, **options: windows.top(1, by=inverse, **options), [("a", 1)]),
        (lambda windows, **options: windows.aggregate(Sum(inverse), **options), 4 / 3),
        (lambda windows, **options: windows.aggregate(n=Count(), sum=Sum(inverse), **options), {"n": 2, "sum": 4 / 3}),
    ],
    ids=["mean", "count_distinct", "top", "aggregate", "several"],
)
def test_every_aggregate_of_windows_lets_records_through_that_fail(mode, make, value):
    results = make(windows(mode), on_error="dead_letter")
    results.dead_letters().map(lambda letter: letter.record).collect("letters")
    found = run(results)
    assert found["letters"] == [("a", 0)]
    assert [result.value for result in found["out"] if result.key == "a"] == [value]
