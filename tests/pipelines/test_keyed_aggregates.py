"""Aggregates over all records of a key, and over windows of a number of records, against plain Python."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow import LocalEnvironment
from sage_flow.aggregates import Count, Max, Mean
from sage_flow.errors import PipelineError
from sage_flow.testing import collect, stream_of

NUMBERS = [n * 37 % 101 for n in range(200)]


def by_key(records):
    groups = defaultdict(list)
    for record in records:
        groups[record % 3].append(record)
    return groups


def top(records):
    return sorted(records, reverse=True)[:3]


AGGREGATES = {
    "mean": (lambda s, **o: s.mean(lambda n: n + 1, **o), lambda rs: sum(n + 1 for n in rs) / len(rs)),
    "mean of records": (lambda s, **o: s.mean(**o), lambda rs: sum(rs) / len(rs)),
    "count_distinct": (lambda s, **o: s.count_distinct(lambda n: n % 10, **o), lambda rs: len({n % 10 for n in rs})),
    "count_distinct of records": (lambda s, **o: s.count_distinct(**o), lambda rs: len(set(rs))),
    "top": (lambda s, **o: s.top(3, by=lambda n: n, **o), top),
    "one object": (lambda s, **o: s.aggregate(Max(), **o), max),
    "several": (
        lambda s, **o: s.aggregate(n=Count(), best=Max(), mean=Mean(), **o),
        lambda rs: {"n": len(rs), "best": max(rs), "mean": sum(rs) / len(rs)},
    ),
}
OF_WINDOWS = {
    **AGGREGATES,
    "count": (lambda s: s.count(), len),
    "sum": (lambda s: s.sum(), sum),
    "sum of": (lambda s: s.sum(lambda n: -n), lambda rs: -sum(rs)),
    "min": (lambda s: s.min(), min),
    "max of": (lambda s: s.max(lambda n: -n), lambda rs: -min(rs)),
    "reduce": (lambda s: s.reduce(lambda a, b: a * 2 + b), lambda rs: _reduced(rs)),
    "fold": (lambda s: s.fold(tuple, lambda all, n: (*all, n)), tuple),
    "to_list": (lambda s: s.to_list(), list),
}


def _reduced(records):
    total = records[0]
    for record in records[1:]:
        total = total * 2 + record
    return total


def run(env, write, items=NUMBERS):
    write(env.from_collection(items).key_by(lambda n: n % 3)).collect("rows")
    return env.execute(progress=False).collected["rows"]


def alike(rows, expected):
    return Counter(map(repr, rows)) == Counter(map(repr, expected))


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize(("write", "expected"), AGGREGATES.values(), ids=AGGREGATES)
def test_an_aggregate_gives_a_value_for_each_record_or_one_for_each_key_at_the_end(write, expected, parallelism):
    groups = by_key(NUMBERS)
    updates = run(LocalEnvironment("test", parallelism), write)
    assert alike(updates, [(k, expected(rs[: n + 1])) for k, rs in groups.items() for n in range(len(rs))])
    final = run(LocalEnvironment("test", parallelism), lambda s: write(s, emit="final"))
    assert alike(final, [(k, expected(rs)) for k, rs in groups.items()])


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize(("write", "expected"), OF_WINDOWS.values(), ids=OF_WINDOWS)
def test_a_count_window_gives_the_value_of_n_records_and_of_what_is_left_at_the_end(write, expected, parallelism):
    rows = run(LocalEnvironment("test", parallelism), lambda s: write(s.count_window(7)))
    groups = by_key(NUMBERS)
    assert alike(rows, [(k, expected(rs[n : n + 7])) for k, rs in groups.items() for n in range(0, len(rs), 7)])


@given(st.lists(st.integers(0, 9)), st.integers(1, 4))
def test_count_windows_of_any_records_have_each_record_once(items, n):
    rows = run(LocalEnvironment("test"), lambda s: s.count_window(n).to_list(), items)
    assert all(len(records) <= n for _, records in rows)
    found = defaultdict(list)
    for key, records in rows:
        found[key] += records
    assert found == by_key(items)


def test_each_mode_gives_the_same_aggregates_windows_and_first_records(mode):
    env = mode.environment()
    keyed = env.from_collection(NUMBERS).key_by(lambda n: n % 3)
    keyed.aggregate(n=Count(), best=Max(), emit="final").collect("aggregates")
    keyed.count_window(7).to_list().collect("windows")
    keyed.deduplicate().collect("first")
    collected = env.execute(progress=False).collected
    groups = by_key(NUMBERS)
    assert alike(collected["aggregates"], [(k, {"n": len(rs), "best": max(rs)}) for k, rs in groups.items()])
    windows = [(k, rs[n : n + 7]) for k, rs in groups.items() for n in range(0, len(rs), 7)]
    assert alike(collected["windows"], windows)
    assert sorted(collected["first"]) == sorted(rs[0] for rs in groups.values())


def test_a_value_that_was_given_does_not_change_with_the_next_record():
    rows = collect(stream_of(1, 3, 2).key_by(lambda n: "all").top(2, by=lambda n: n))
    assert rows == [("all", [1]), ("all", [3, 1]), ("all", [3, 2])]


def test_a_record_on_which_an_aggregate_fails_is_not_counted():
    env = LocalEnvironment("test")
    keyed = env.from_collection(["1", "x", "3"]).key_by(lambda text: "all")
    mean = keyed.mean(int, on_error="dead_letter")
    mean.collect("mean")
    mean.dead_letters().map(lambda letter: letter.record).collect("letters")
    keyed.count_window(2).mean(int, on_error="skip").collect("windows")
    collected = env.execute(progress=False).collected
    assert collected == {"mean": [("all", 1.0), ("all", 2.0)], "letters": ["x"], "windows": [("all", 2.0)]}


def test_counts_say_how_many_records_left_each_operator():
    env = LocalEnvironment("test")
    keyed = env.from_collection([1, 2, 3, 4, 5]).key_by(lambda n: "all")
    keyed.deduplicate().collect("first")
    keyed.count_window(2).sum().collect("sums")
    counts = env.execute(progress=False).counts
    assert (counts["deduplicate-1"], counts["count_window-1"]) == (1, 3)


def test_operators_are_named_by_their_methods():
    keyed = stream_of(1).key_by(lambda n: n)
    streams = keyed.mean(), keyed.top(1, by=abs), keyed.count_distinct(), keyed.aggregate(Count()), keyed.deduplicate()
    names = [stream._taps[0].node.name for stream in streams]
    assert names == ["mean-1", "top-1", "count_distinct-1", "aggregate-1", "deduplicate-1"]


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "2"])
def test_a_count_window_that_is_no_number_of_records_is_refused(n):
    with pytest.raises(PipelineError, match="n of 'count_window' must be a whole number of at least 1"):
        stream_of(1).key_by(lambda n: n).count_window(n)


def test_an_aggregate_that_is_none_is_refused_with_what_to_write():
    keyed = stream_of(1).key_by(lambda n: n)
    with pytest.raises(PipelineError, match=r"aggregate\(\) .* takes one aggregate, aggregate\(Count\(\)\)"):
        keyed.aggregate()
    with pytest.raises(PipelineError, match="its argument must be an Aggregate, such as Count"):
        keyed.aggregate(len)
    with pytest.raises(PipelineError, match=r"emit of .mean. must be \"updates\" or \"final\""):
        keyed.mean(emit="end")


@pytest.mark.parametrize("name", ["mean", "top", "aggregate", "deduplicate", "count_window"])
def test_what_works_per_key_says_so_on_a_stream_without_keys(name):
    with pytest.raises(PipelineError, match=rf"\.{name}\(\) works per key: put \.key_by"):
        getattr(stream_of(1), name)
