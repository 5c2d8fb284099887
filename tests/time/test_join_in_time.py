"""Joins by time - windows, intervals, as of - against naive loops: any order within the bound gives the same rows."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from join_reference import (
    Machine,
    Row,
    bag,
    disordered,
    join_asof,
    join_interval,
    join_windows,
    pair,
    sessions,
    stream,
)

from sage_flow import LocalEnvironment, RuntimeContext, SessionWindow, SlidingWindow, TumblingWindow
from sage_flow.errors import PipelineError
from sage_flow.runtime.event_time import EventTime
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.report import Counters
from sage_flow.testing import SimulationExecutor, stream_of

ROWS = st.lists(st.builds(Row, st.sampled_from("ab"), st.integers(0, 3), st.integers(-20, 30)), max_size=12)
DRAWS = st.lists(st.integers(0, 1000), min_size=12, max_size=12)
HOWS = st.sampled_from(["inner", "left"])
WAYS = st.sampled_from(["threads 1", "threads 3", "simulation 1", "simulation 3"])


def ms(number):
    return timedelta(milliseconds=number)


class Inputs:
    """Two streams of rows in an order within the bound, and what a join of them gives."""

    def __init__(self, way, lefts, rights, draws, seed):
        kind, parallelism = way.split()
        executor = SimulationExecutor(seed) if kind == "simulation" else "threads"
        self.env = LocalEnvironment("test", int(parallelism), executor=executor)
        self.rights = disordered(rights, 5, draws[::-1])
        self.left = stream(self.env, disordered(lefts, 5, draws), 5, "left", every_record=seed % 2 == 0)
        self.right = stream(self.env, self.rights, 5, "right", every_record=seed % 3 == 0)

    def run(self, joined):
        joined.collect("rows")
        joined.late_records().collect("late")
        collected = self.env.execute(progress=False).collected
        assert collected["late"] == []
        return collected["rows"]


@st.composite
def inputs(draw):
    lefts, rights = draw(ROWS), draw(ROWS)
    return lefts, rights, Inputs(draw(WAYS), lefts, rights, draw(DRAWS), draw(st.integers(0, 99)))


@given(inputs(), HOWS, st.integers(-10, 15), st.integers(-10, 15))
def test_an_interval_join_does_not_depend_on_the_order_within_the_bound(given, how, before, after):
    lefts, rights, both = given
    before = max(before, -after)
    rows = both.run(both.left.join_interval(both.right, pair, before=ms(before), after=ms(after), how=how))
    assert bag(rows) == bag(join_interval(lefts, rights, how, before, after))


@given(inputs(), HOWS, st.none() | st.integers(0, 15))
def test_an_asof_join_does_not_depend_on_the_order_within_the_bound(given, how, tolerance):
    lefts, _, both = given
    limit = {} if tolerance is None else {"tolerance": tolerance}
    rows = both.run(
        both.left.join_asof(both.right, pair, how=how, tolerance=None if tolerance is None else ms(tolerance))
    )
    assert bag(rows) == bag(join_asof(lefts, both.rights, how, **limit))


WINDOWS = {
    "tumbling": (TumblingWindow(ms(10)), lambda row, rows: [(row.time // 10 * 10, row.time // 10 * 10 + 10)]),
    "sliding": (
        SlidingWindow(ms(12), ms(8)),
        lambda row, rows: [(s, s + 12) for s in range(-40, 40, 8) if s <= row.time < s + 12],
    ),
    "session": (SessionWindow(ms(4)), lambda row, rows: sessions(rows, 4)(row)),
}


@given(inputs(), HOWS, st.sampled_from(sorted(WINDOWS)))
def test_a_window_join_does_not_depend_on_the_order_within_the_bound(given, how, kind):
    lefts, rights, both = given
    window, spans = WINDOWS[kind]
    rows = both.run(both.left.join_window(both.right, window, pair, how=how))
    assert {row.firing for row in rows} <= {"on_time"}
    assert all(row.key == row.value[0].key for row in rows)
    expected = join_windows(lefts, rights, how, lambda row: spans(row, [*lefts, *rights]))
    assert bag((row.start, row.end, *row.value) for row in rows) == bag(expected)


# --- each mode --------------------------------------------------------------------------------------------

LEFTS = [Row(n % 3, n, n) for n in range(0, 100, 3)]
RIGHTS = [Row(n % 2, -n, n) for n in range(0, 100, 2)]
JOINS = {
    "interval": (
        lambda left, right: left.join_interval(right, pair, before=ms(4), after=ms(2), how="left"),
        join_interval(LEFTS, RIGHTS, "left", 4, 2),
    ),
    "asof": (lambda left, right: left.join_asof(right, pair), join_asof(LEFTS, RIGHTS, "left")),
    "window": (
        lambda left, right: left.join_window(right, TumblingWindow(ms(10)), pair, how="left").map(lambda r: r.value),
        [both[2:] for both in join_windows(LEFTS, RIGHTS, "left", lambda row: WINDOWS["tumbling"][1](row, ()))],
    ),
}


@pytest.mark.parametrize(("write", "expected"), JOINS.values(), ids=JOINS)
def test_each_mode_joins_by_time(mode, write, expected):
    env = mode.environment()
    left, right = stream(env, LEFTS, 0, "left", every_record=True), stream(env, RIGHTS, 0, "right")
    write(left, right).collect("rows")
    assert bag(env.execute(progress=False).collected["rows"]) == bag(expected)


# --- late rows --------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.builds(
            lambda row: ("left", row), st.builds(Row, st.sampled_from("ab"), st.integers(0, 1), st.integers(0, 30))
        ),
        st.builds(
            lambda row: ("right", row), st.builds(Row, st.sampled_from("ab"), st.integers(0, 1), st.integers(0, 30))
        ),
        st.builds(lambda time: ("time", time), st.integers(0, 35)),
    ),
    max_size=30,
)


def drive(machine, steps):
    """Do the steps; return the left and the right rows that are not behind the time, and those that are."""
    kept, late, now = {"left": [], "right": []}, [], -1000
    for name, what in steps:
        if name == "time":
            now = max(now, what)
            machine.time(now)
        else:
            (late if what.time < now else kept[name]).append(what)
            getattr(machine, name)(what)
        check_watermark(machine)
    machine.end()
    return kept["left"], kept["right"], late


def check_watermark(machine):
    """What was given is not behind the watermark that had gone on before."""
    fresh = machine.given[machine.checked :]
    machine.checked = len(machine.given)
    assert all(time >= machine.held_before for _, time in fresh)
    machine.held_before = machine.held


def machine(write):
    made = Machine(write)
    made.checked, made.held_before = 0, made.held
    return made


@given(STEPS, HOWS, st.integers(-10, 10), st.integers(-10, 10))
def test_rows_behind_the_time_are_late_for_an_interval_join_and_all_others_meet(steps, how, before, after):
    before = max(before, -after)
    join = machine(lambda left, right: left.join_interval(right, pair, before=ms(before), after=ms(after), how=how))
    lefts, rights, late = drive(join, steps)
    assert bag(join.pairs) == bag(join_interval(lefts, rights, how, before, after))
    assert join.late == late
    assert join.counters.late == [len(late)]
    assert not join.bound.held.table
    times = [time for _, time in join.given]
    assert times == [left.time if right is None else max(left.time, right.time) for left, right in join.pairs]


@given(STEPS, HOWS, st.none() | st.integers(0, 10))
def test_rows_behind_the_time_are_late_for_an_asof_join_and_all_others_meet(steps, how, tolerance):
    limit = {} if tolerance is None else {"tolerance": tolerance}
    given = None if tolerance is None else ms(tolerance)
    join = machine(lambda left, right: left.join_asof(right, pair, how=how, tolerance=given))
    lefts, rights, late = drive(join, steps)
    assert bag(join.pairs) == bag(join_asof(lefts, rights, how, **limit))
    assert join.late == late
    assert [time for _, time in join.given] == [left.time for left, _ in join.pairs]


def test_late_rows_of_both_sides_are_counted_and_can_be_read():
    env = LocalEnvironment("test")
    rows = [Row("a", 1, 0), Row("a", 2, 100), Row("a", 3, 5)]
    left = stream(env, rows, 0, "left", every_record=True)
    right = stream(env, [row._replace(value=-row.value) for row in rows], 0, "right", every_record=True)
    joined = left.join_window(right, TumblingWindow(ms(10)), pair, name="pairs")
    joined.collect("rows")
    joined.late_records().map(lambda row: abs(row.value)).collect("late")
    result = env.execute(progress=False)
    # The window of the last rows may still be open, as the time is that of the slower input.
    assert set(result.collected["late"]) <= {3}
    assert result.late_records.get("pairs", 0) == len(result.collected["late"])


# --- state ------------------------------------------------------------------------------------------------


def test_an_interval_join_keeps_no_row_that_is_over():
    join = machine(lambda left, right: left.join_interval(right, pair, before=ms(5), after=ms(5)))
    for n in range(2000):
        join.left(Row(n % 100, 1, n))
        join.right(Row(n % 77, 1, n))
        join.time(n)
        kept = sum(len(rows.rows) for sides in join.bound.held.table.values() for rows in sides)
        assert kept <= 30
    assert len(join.bound.held._expiries) < 20


def test_an_asof_join_keeps_the_newest_version_of_a_key_and_those_of_the_future():
    join = machine(lambda left, right: left.join_asof(right, pair))
    for n in range(1000):
        join.time(n)
        join.right(Row("a", n, n + 3))
    assert len(join.bound.held.table["a"].times) <= 5
    join.time(5000)
    join.left(Row("a", 0, 9000))
    join.end()
    assert join.pairs == [(Row("a", 0, 9000), Row("a", 999, 1002))]


def test_an_asof_join_with_a_tolerance_forgets_keys_whose_versions_are_too_old():
    join = machine(lambda left, right: left.join_asof(right, pair, tolerance=ms(10)))
    for n in range(1000):
        join.right(Row(n, n, n))
        join.time(n)
        assert len(join.bound.held.table) <= 12
    join.right(Row(999, 1, 1005))
    join.time(1011)
    assert list(join.bound.held.table) == [999]


def test_of_versions_of_one_time_the_last_that_came_counts():
    join = machine(lambda left, right: left.join_asof(right, pair))
    for value in (1, 2):
        join.right(Row("a", value, 10))
    join.left(Row("a", 0, 10))
    join.right(Row("a", 3, 10))
    join.end()
    assert join.pairs == [(Row("a", 0, 10), Row("a", 3, 10))]


def test_a_left_row_waits_until_the_time_has_passed_it():
    join = machine(lambda left, right: left.join_asof(right, pair))
    join.left(Row("a", 0, 10))
    join.time(10)
    assert join.given == []
    join.time(11)
    assert join.pairs == [(Row("a", 0, 10), None)]


def test_the_watermark_waits_for_left_rows_of_an_interval_join_that_may_go_out_alone():
    join = machine(lambda left, right: left.join_interval(right, pair, before=ms(0), after=ms(50), how="left"))
    join.left(Row("a", 1, 10))
    join.left(Row("b", 2, 20))
    join.time(30)
    assert join.held == 10
    join.right(Row("a", 3, 30))
    join.time(40)
    assert join.held == 20
    join.time(71)
    assert join.held == 71
    assert join.given[-1] == ((Row("b", 2, 20), None), 20)


def test_the_watermark_goes_on_when_the_row_that_it_waits_for_has_met_another():
    env = LocalEnvironment("test")
    left, right = stream(env, [], 0, "left"), stream(env, [], 0, "right")
    joined = left.join_interval(right, pair, before=ms(0), after=ms(50), how="left")
    joined.map(lambda both, ctx: ctx.timestamp).collect("rows")
    operators = next(chain.operators for chain in env._graph.plan().chains if chain.operators[0].kind.pairs)
    counters = Counters(operators)
    contexts = [RuntimeContext("job", operator.name, 0, 1, keyed=operator.keyed) for operator in operators]
    join, behind, *rest = (BoundOperator(o, n, contexts[n], counters) for n, o in enumerate(operators))
    time = EventTime([join, behind, *rest], [], lambda index, batch: None, lambda error, bound: None, lambda: 0.0)
    assert list(join.held.left("a", "left", 10)) == []
    assert list(time.advance(0, 30)) == []
    assert (join.now, behind.now) == (30, 10)
    assert list(join.held.right("a", "right", 30)) == [(("left", "right"), 30)]
    assert list(time.after_slice()) == []
    assert behind.now == 30


def test_results_of_joins_are_in_their_windows():
    env = LocalEnvironment("test", 2)
    left, right = stream(env, LEFTS, 0, "left", every_record=True), stream(env, RIGHTS, 0, "right")
    joined = left.join_interval(right, pair, before=ms(4), after=ms(2), how="left")
    counts = joined.key_by(lambda both: "all").window(TumblingWindow(ms(10))).count()
    counts.collect("counts")
    counts.late_records().collect("late")
    collected = env.execute(progress=False).collected
    times = [max(row.time for row in both if row) for both in join_interval(LEFTS, RIGHTS, "left", 4, 2)]
    assert collected["late"] == []
    expected = {start: sum(start <= t < start + 10 for t in times) for start in range(0, 100, 10)}
    assert {row.start: row.value for row in collected["counts"]} == expected


# --- errors -----------------------------------------------------------------------------------------------

WRITE = {
    "join_window": lambda left, right, function, **o: left.join_window(right, TumblingWindow(ms(10)), function, **o),
    "join_interval": lambda left, right, function, **o: left.join_interval(
        right, function, before=ms(5), after=ms(5), **o
    ),
    "join_asof": lambda left, right, function, **o: left.join_asof(right, function, **o),
}


@pytest.mark.parametrize(("name", "write"), WRITE.items(), ids=WRITE)
def test_a_pair_that_fails_is_shown_with_both_rows(name, write):
    env = LocalEnvironment("test")
    rows = [Row("a", 7, 1)]
    write(stream(env, rows, 0, "left"), stream(env, rows, 0, "right"), lambda left, right: 1 // 0).collect("rows")
    with pytest.raises(ZeroDivisionError) as caught:
        env.execute(progress=False)
    notes = "\n".join(caught.value.__notes__)
    assert f"operator  '{name}-1' ({name}), subtask 1 of 1" in notes
    assert "record    (Row(key='a', value=7, time=1), Row(key='a', value=7, time=1))" in notes


@pytest.mark.parametrize(("name", "write"), WRITE.items(), ids=WRITE)
def test_a_pair_that_fails_is_a_dead_letter_with_the_time_of_the_pair(name, write):
    env = LocalEnvironment("test", 2)
    rows = [Row("a", n, n) for n in (1, 2)]
    joined = write(
        stream(env, rows, 0, "left"),
        stream(env, rows, 0, "right"),
        lambda left, right: 1 // (left.value - 1),
        on_error="dead_letter",
    )
    joined.collect("rows")
    letters = joined.dead_letters()
    letters.map(lambda letter, ctx: (ctx.timestamp, letter.record[0].value, letter.record[1].value)).collect("letters")
    collected = env.execute(progress=False).collected
    failed = {
        "join_window": [(9, 1, 1), (9, 1, 2)],
        "join_interval": [(1, 1, 1), (2, 1, 2)],
        "join_asof": [(1, 1, 1)],
    }
    assert sorted(collected["letters"]) == failed[name]
    assert len(collected["rows"]) == (1 if name == "join_asof" else 2)


@pytest.mark.parametrize(("name", "write"), WRITE.items(), ids=WRITE)
def test_a_join_by_time_of_a_stream_without_timestamps_is_refused(name, write):
    plain = stream_of(1)
    timed = plain.assign_timestamps(lambda n: n, max_out_of_order=ms(0)).key_by(lambda n: n)
    with pytest.raises(PipelineError, match=rf"{name} .* those of the right stream have none: put \.assign_timestamps"):
        write(timed, plain.key_by(lambda n: n), pair)
    with pytest.raises(PipelineError, match=rf"{name} .* those of the left stream have none: put \.assign_timestamps"):
        write(plain.key_by(lambda n: n), timed, pair)


@pytest.mark.parametrize(("name", "write"), WRITE.items(), ids=WRITE)
def test_a_join_by_time_is_inner_or_left(name, write):
    timed = stream_of(1).assign_timestamps(lambda n: n, max_out_of_order=ms(0)).key_by(lambda n: n)
    with pytest.raises(PipelineError, match=rf"how of {name} .* must be .inner. or .left., not 'outer'"):
        write(timed, timed, pair, how="outer")


def test_what_a_join_by_time_is_given_is_checked_when_the_pipeline_is_built():
    timed = stream_of(1).assign_timestamps(lambda n: n, max_out_of_order=ms(0)).key_by(lambda n: n)
    with pytest.raises(PipelineError, match=r"before must be a timedelta, not 5: write timedelta\(seconds=5\)"):
        timed.join_interval(timed, pair, before=5, after=ms(1))
    with pytest.raises(PipelineError, match="before= must not be less than minus after="):
        timed.join_interval(timed, pair, before=ms(-5), after=ms(4))
    with pytest.raises(PipelineError, match="tolerance must be a timedelta, not 5"):
        timed.join_asof(timed, pair, tolerance=5)
    with pytest.raises(PipelineError, match="tolerance must not be negative"):
        timed.join_asof(timed, pair, tolerance=ms(-5))
    with pytest.raises(PipelineError, match=r"join_window .* takes a window such as TumblingWindow"):
        timed.join_window(timed, ms(5), pair)
    with pytest.raises(TypeError, match="before"):
        timed.join_interval(timed, pair, after=ms(1))
