"""Cuts at the places where something could be lost, come twice, or be judged by another time than without a cut."""

import pytest
from cut_stage import End, Rec, Stage, Tasks, Time
from test_cut_and_restore import SECOND, Splits, cut, held, number, pair_of, shown, small_batches, timed_keyed

from sage_flow import ProcessFunction, SessionWindow, SlidingWindow, TumblingWindow
from sage_flow.splits import SplitEnd, SplitIdle

__all__ = ["small_batches"]


def outputs(write, events, cut_at=None):
    """What comes of the events, with a cut before one of them."""
    stage = Stage(write, 1)
    stages = [stage]
    for place, event in enumerate(events):
        if place == cut_at:
            stages.append(cut(stages[-1]))
        stages[-1].give(event)
    return [output for one in stages for output in one.outputs()]


class Alarms(ProcessFunction):
    def process(self, value, ctx):
        ctx.timers.set("alarm", at=ctx.timestamp + 10_000)

    def on_timer(self, timer, ctx):
        yield ctx.key, timer.timestamp


def outputs_cut_at_the_end(write, steps):
    stage = Stage(write, 1)
    for key in range(6):
        stage.give(Rec(key, 1, 100 * key))
    stage.begin_end(steps)
    fresh = cut(stage)
    fresh.give(End())
    return stage.outputs() + fresh.outputs()


@pytest.mark.usefixtures("small_batches")
def test_who_comes_behind_does_not_end_before_the_one_that_was_cut_has_given_the_rest():
    def write(env, p):
        alarms = timed_keyed(env).process(Alarms, name="op", parallelism=p).key_by(lambda alarm: "all")
        alarms.window(TumblingWindow(100 * SECOND)).to_list(parallelism=p).map(
            lambda result: result.value, parallelism=p
        ).collect("out")  # fmt: skip

    for steps in range(1, 6):
        assert outputs_cut_at_the_end(write, steps) == [[(key, 100 * key + 10_000) for key in range(6)]]


@pytest.mark.usefixtures("small_batches")
def test_no_reader_is_told_the_end_of_time_amid_the_end():
    def write(env, p):
        alarms = timed_keyed(env).process(Alarms, name="op", parallelism=p)
        seen = alarms.map(lambda alarm, ctx: (*alarm, ctx.watermark < 10_000), parallelism=p)
        seen.map(lambda alarm, ctx: alarm, parallelism=p + 1).collect("out")

    for steps in range(1, 6):
        stage = Stage(write, 1)
        for key in range(6):
            stage.give(Rec(key, 1, 100 * key))
        stage.begin_end(steps)
        fresh = cut(stage)
        fresh.give(End())
        alarms = {record[0] for record in stage.outputs() + fresh.outputs()}
        assert alarms == {(key, 100 * key + 10_000, True) for key in range(6)}


def test_a_record_under_way_holds_the_time_at_which_it_came():
    async def same(pair):
        return pair

    def write(env, p):
        mapped = timed_keyed(env).map_async(same, capacity=3, name="op", parallelism=p)
        mapped.map(lambda pair, ctx: (pair[1], ctx.watermark <= ctx.timestamp), parallelism=p).collect("out")

    events = [Rec("a", 1, 100), Time(5_000), Rec("a", 2, 5_100), Tasks(), End()]
    for place in range(1, 4):
        assert outputs(write, events, place) == [(1, True), (2, True)]


LATE_KINDS = {
    "tumbling": lambda w: w(TumblingWindow(SECOND)).sum(number, name="op"),
    "sliding": lambda w: w(SlidingWindow(2 * SECOND, SECOND)).sum(number, name="op"),
    "whole": lambda w: w(SlidingWindow(2 * SECOND, SECOND)).fold(0, lambda a, pair: a + pair[1], name="op"),
    "session": lambda w: w(SessionWindow(SECOND)).sum(number, name="op"),
}


@pytest.mark.parametrize("kind", LATE_KINDS)
def test_a_window_that_has_to_fire_again_does_so_behind_a_cut(kind):
    def write(env, p):
        keyed = timed_keyed(env)
        results = LATE_KINDS[kind](lambda window: keyed.window(window, allowed_lateness=100 * SECOND))
        shown(results.map(lambda r: (r.key, r.start, r.value, r.firing)), p)

    stage = Stage(write, 1)
    for event in (Rec("a", 1, 100), Time(5_000)):
        stage.give(event)
    runner = stage.benches[0].subtask.runner
    runner.run(runner.entry(keyed=True, timed=True), [("a", ("a", 2), 150)])
    assert held(stage).is_urgent
    fresh = cut(stage)  # which begins with what is due
    assert {(row[2], row[3]) for row in fresh.outputs()} == {(3, "late")}
    assert cut(fresh).outputs() == []


def test_a_late_record_meets_no_row_that_is_over_whenever_its_bucket_comes():
    def write(env, p):
        joined = timed_keyed(env).join(timed_keyed(env), pair_of, ttl=2 * SECOND, name="op", parallelism=p)
        joined.collect("out")

    events = [Rec("a", 0, 0), Rec("a", 1, 510), Rec("a", 2, 1_010), Time(2_600), Time(3_100), Rec("a", 3, 1_500, 1)]
    assert [outputs(write, [*events, End()], place) for place in (None, 4, 5)] == [[], [], []]


def test_a_late_record_is_no_duplicate_of_one_that_is_forgotten_whenever_its_bucket_comes():
    def write(env, p):
        timed_keyed(env).deduplicate(ttl=SECOND, name="op", parallelism=p).collect("out")

    events = [Rec("a", 1, 0), Rec("a", 2, 1_010), Time(2_050), Rec("a", 3, 2_005), End()]
    for place in (None, 2, 3):
        assert outputs(write, events, place) == [("a", 1), ("a", 2), ("a", 3)]


# -- the clocks of splits -------------------------------------------------------------------------------------


def test_the_first_split_that_is_restored_is_not_the_whole_minimum():
    splits = Splits(max_out_of_order=SECOND, in_time_order=True)
    splits.give("b", 2_000)
    assert splits.give("a", 3_000) == 1_000
    fresh = splits.cut(max_out_of_order=SECOND, in_time_order=True)
    assert fresh.give("b", 2_100) == 1_100


def test_time_stands_where_it_was_when_all_splits_are_idle():
    splits = Splits()
    splits.give("a", 2_000)
    splits.give("b", 6_000)
    for split in ("b", "a"):
        splits.time.on_signal(SplitIdle(split))
        splits.time.move()
    fresh = splits.cut()
    assert splits.time.is_idle
    assert fresh.time.is_idle
    assert [one.give("a", 2_500) for one in (splits, fresh)] == [1_500, 1_500]


def test_time_does_not_go_back_when_a_slower_split_goes_on_behind_a_cut():
    splits = Splits()
    splits.give("a", 6_000)
    splits.give("b", 4_000)
    for split in ("b", "a"):
        splits.time.on_signal(SplitIdle(split))
        splits.time.move()
    assert [one.give("b", 4_500) for one in (splits, splits.cut())] == [5_000, 5_000]
    ordered = Splits(max_out_of_order=SECOND, in_time_order=True)
    ordered.give("a", 6_000)
    ordered.time.on_signal(SplitEnd("a"))
    assert ordered.give("b", 5_600) == 5_000
    assert ordered.cut(max_out_of_order=SECOND, in_time_order=True).give("b", 5_700) == 5_000
