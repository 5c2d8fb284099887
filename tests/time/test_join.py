"""`join`: every row with all rows of its key on the other side, as they come; with `ttl`, those close in time."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from join_reference import Machine, Row, bag, disordered, join, pair, stream

from sage_flow import LocalEnvironment, PipelineService, TumblingWindow
from sage_flow.errors import PipelineError
from sage_flow.testing import PAUSE, SimulationExecutor, TestSource, collect, stream_of

HOWS = ("inner", "left", "outer")
ROWS = st.lists(st.builds(Row, st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 30)), max_size=12)
DRAWS = st.lists(st.integers(0, 1000), min_size=12, max_size=12)
WAYS = st.sampled_from(["threads 1", "threads 3", "simulation 1", "simulation 3"])


def environment(way, seed=0):
    kind, parallelism = way.split()
    executor = SimulationExecutor(seed) if kind == "simulation" else "threads"
    return LocalEnvironment("test", int(parallelism), executor=executor)


def keyed(env, rows):
    return env.from_collection(rows).key_by(lambda row: row.key)


def rows_of(env, joined):
    joined.collect("rows")
    return env.execute(progress=False).collected["rows"]


@given(ROWS, ROWS, st.sampled_from(HOWS), WAYS, st.integers(0, 99))
def test_a_join_of_any_rows_in_any_order_is_the_join_of_the_lists(lefts, rights, how, way, seed):
    env = environment(way, seed)
    rows = rows_of(env, keyed(env, lefts).join(keyed(env, rights), pair, how=how))
    assert bag(rows) == bag(join(lefts, rights, how))


@given(ROWS, ROWS, st.sampled_from(HOWS), st.integers(1, 20), WAYS, DRAWS, st.integers(0, 99))
def test_a_join_with_ttl_does_not_depend_on_the_order_within_the_bound(lefts, rights, how, ttl, way, draws, seed):
    env = environment(way, seed)
    left = stream(env, disordered(lefts, 5, draws), 5, "left", every_record=seed % 2 == 0)
    right = stream(env, disordered(rights, 5, draws[::-1]), 5, "right")
    rows = rows_of(env, left.join(right, pair, how=how, ttl=timedelta(milliseconds=ttl)))
    assert bag(rows) == bag(join(lefts, rights, how, ttl))


@pytest.mark.parametrize("how", HOWS)
def test_each_mode_joins_two_streams(mode, how):
    lefts = [Row(n % 7, n, n) for n in range(30)]
    rights = [Row(n % 5, -n, n) for n in range(20)]
    env = mode.environment()
    rows = rows_of(env, keyed(env, lefts).join(keyed(env, rights), pair, how=how))
    assert bag(rows) == bag(join(lefts, rights, how))


def test_each_mode_joins_with_ttl(mode):
    lefts = [Row(n % 7, n, n) for n in range(0, 60, 2)]
    rights = [Row(n % 5, -n, n) for n in range(0, 60, 3)]
    env = mode.environment()
    left, right = stream(env, lefts, 0, "left", every_record=True), stream(env, rights, 0, "right")
    rows = rows_of(env, left.join(right, pair, how="outer", ttl=timedelta(milliseconds=10)))
    assert bag(rows) == bag(join(lefts, rights, "outer", 10))


def machine(how="outer", ttl=10):
    return Machine(lambda left, right: left.join(right, pair, how=how, ttl=timedelta(milliseconds=ttl)))


def test_rows_that_are_ttl_apart_meet_and_those_a_millisecond_more_do_not():
    join = machine("inner")
    join.left(Row("a", 1, 0))
    join.right(Row("a", 2, 10))
    join.right(Row("a", 3, 11))
    assert join.given == [((Row("a", 1, 0), Row("a", 2, 10)), 10)]


def test_a_row_without_partner_goes_out_when_the_time_has_passed_its_ttl_with_that_time():
    join = machine()
    left, right = Row("a", 1, 0), Row("b", 2, 5)
    join.left(left)
    join.right(right)
    join.time(10)
    assert join.given == []
    join.time(11)
    assert join.given == [((left, None), 10)]
    join.end()
    assert join.given == [((left, None), 10), ((None, right), 15)]


def test_a_row_that_comes_when_its_ttl_has_passed_goes_out_at_once():
    join = machine("left")
    join.time(100)
    join.left(Row("a", 1, 0))
    join.right(Row("a", 2, 0))
    assert join.pairs == [(Row("a", 1, 0), None)]


def test_nothing_is_kept_of_rows_whose_ttl_has_passed():
    join = machine("outer")
    for n in range(1000):
        join.left(Row(n, 1, n))
        join.right(Row(-n, 1, n))
        join.time(n)
        assert len(join.bound.held.table) < 50
    join.time(2000)
    assert not join.bound.held.table
    assert len(join.given) == 1999  # the first two have one key


def test_a_row_without_partner_is_given_once_though_it_was_kept_twice():
    join = machine("outer")
    join.left(Row("a", 1, 0))
    join.time(50)
    join.end()
    assert join.pairs == [(Row("a", 1, 0), None)]


# --- errors -----------------------------------------------------------------------------------------------


def fails(left, right):
    return 1 // (right - 2)


def test_a_function_that_fails_names_both_rows():
    numbers = stream_of(1).key_by(lambda n: "all")
    others = numbers._graph.environment.from_collection([2]).key_by(lambda n: "all")
    with pytest.raises(ZeroDivisionError) as caught:
        collect(numbers.join(others, fails, name="ratio"))
    notes = "\n".join(caught.value.__notes__)
    assert "operator  'ratio' (join), subtask 1 of 1" in notes
    assert "record    (1, 2)" in notes


def test_a_row_without_partner_on_which_the_function_fails_is_named_too():
    numbers = stream_of(1).key_by(lambda n: "all")
    others = numbers._graph.environment.from_collection([2]).key_by(lambda n: "others")
    with pytest.raises(TypeError) as caught:
        collect(numbers.join(others, fails, how="left"))
    assert "record    (1, None)" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_pair_that_fails_is_skipped_or_a_dead_letter_and_the_others_are_given(parallelism):
    env = LocalEnvironment("test", parallelism)
    numbers = env.from_collection([1, 1]).key_by(lambda n: "all")
    others = env.from_collection([2, 3]).key_by(lambda n: "all")
    joined = numbers.join(others, fails, on_error="dead_letter", name="letters")
    joined.collect("rows")
    joined.dead_letters().map(lambda letter: letter.record).collect("letters")
    numbers.join(others, fails, on_error="skip", name="skips").collect("skipped")
    result = env.execute(progress=False)
    assert result.collected == {"rows": [1, 1], "letters": [(1, 2), (1, 2)], "skipped": [1, 1]}
    assert result.counts["letters"] == result.counts["skips"] == 2


def test_a_coroutine_is_no_value_of_a_pair():
    async def waits(left, right):
        return left

    numbers = stream_of(1).key_by(lambda n: "all")
    with pytest.raises(PipelineError, match="would not wait for its function, which is `async def`"):
        numbers.join(numbers, waits)
    with pytest.raises(PipelineError, match="join first, and use map_async behind the join"):
        collect(numbers.join(numbers, lambda left, right: waits(left, right)))


def test_a_stream_is_joined_with_itself():
    numbers = stream_of(1, 2).key_by(lambda n: "all")
    assert sorted(collect(numbers.join(numbers, pair))) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_a_join_of_streams_of_two_environments_is_refused():
    with pytest.raises(PipelineError, match="streams of two environments cannot be joined"):
        stream_of(1).key_by(lambda n: n).join(stream_of(1).key_by(lambda n: n), pair)


def test_a_join_with_a_stream_without_keys_is_refused():
    numbers = stream_of(1)
    with pytest.raises(PipelineError, match="a KeyedStream can only be joined with another one"):
        numbers.key_by(lambda n: n).join(numbers, pair)


def test_what_join_is_given_is_checked_when_the_pipeline_is_built():
    numbers = stream_of(1).key_by(lambda n: n)
    with pytest.raises(PipelineError, match=r"how of join .* must be .inner., .left. or .outer., not 'right'"):
        numbers.join(numbers, pair, how="right")
    with pytest.raises(PipelineError, match=r"ttl must be a timedelta, not 5: write timedelta\(seconds=5\)"):
        numbers.join(numbers, pair, ttl=5)
    with pytest.raises(PipelineError, match="ttl must be longer than 0"):
        numbers.join(numbers, pair, ttl=timedelta(0))
    with pytest.raises(PipelineError, match="calls its function with 2 values, by position"):
        numbers.join(numbers, lambda left: left)


def test_a_join_with_ttl_of_streams_without_timestamps_is_refused():
    numbers = stream_of(1)
    timed = numbers.assign_timestamps(lambda n: n, max_out_of_order=timedelta(0))
    with pytest.raises(
        PipelineError,
        match=r"where the other stream has timestamps, .* of the right stream have none: put \.assign_timestamps",
    ):
        timed.key_by(lambda n: n).join(numbers.key_by(lambda n: n), pair, ttl=timedelta(seconds=1))


def test_a_join_of_requests_of_a_service_is_refused():
    env = LocalEnvironment("test")

    def body(requests):
        one = requests.key_by(lambda n: n)
        return one.join(one, pair)

    env.register_service("s", PipelineService(body))
    env.from_collection([1]).collect("rows")
    with pytest.raises(PipelineError, match="joins records of several requests"):
        env.execute(progress=False)


def test_names_of_joins_are_of_their_method():
    numbers = stream_of(1).key_by(lambda n: n)
    assert numbers.join(numbers, pair)._taps[0].node.name == "join-1"


def test_a_table_without_timestamps_joins_a_stream_whose_records_keep_their_time():
    rows = [Row(n % 3, n, n) for n in range(60)]
    for parallelism in (1, 3):
        env = LocalEnvironment("test", parallelism)
        table = env.from_collection([(0, "zero"), (1, "one"), (2, "two")]).key_by(lambda pair: pair[0])
        joined = stream(env, rows, 0, "rows", every_record=True).join(table, lambda row, name: name[1])
        counts = joined.key_by(lambda name: name).window(TumblingWindow(timedelta(milliseconds=30))).count()
        counts.collect("counts")
        counts.late_records().collect("late")
        collected = env.execute(progress=False).collected
        assert collected["late"] == []
        assert sum(row.value for row in collected["counts"]) == 60


def test_who_changes_a_dead_letter_changes_no_row_that_the_join_keeps():
    def fails_once(left, right):
        if right["n"] == 1:
            raise ValueError("one")
        return dict(left), dict(right)

    env = LocalEnvironment("test")
    lefts = env.from_collection([{"n": 0}]).key_by(lambda row: "all")
    rights = env.from_source(TestSource([PAUSE, {"n": 1}, PAUSE, PAUSE, {"n": 2}])).key_by(lambda row: "all")
    joined = lefts.join(rights, fails_once, on_error="dead_letter")
    joined.collect("rows")
    joined.dead_letters().for_each(lambda letter: [row.clear() for row in letter.record])
    assert env.execute(progress=False).collected["rows"] == [({"n": 0}, {"n": 2})]


def test_a_join_runs_where_shared_records_are_checked():
    env = LocalEnvironment("test", check_shared_records=True)
    lefts = env.from_collection([{"n": 0}]).key_by(lambda row: "all")
    rights = env.from_collection([{"n": 1}, {"n": 2}]).key_by(lambda row: "all")
    lefts.join(rights, lambda left, right: (left["n"], right["n"])).collect("rows")
    assert sorted(env.execute(progress=False).collected["rows"]) == [(0, 1), (0, 2)]
