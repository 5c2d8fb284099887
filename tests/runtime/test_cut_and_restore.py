"""Each operator is cut in the middle, and goes on in fresh subtasks, as many as before, fewer or more.

What comes out must be what comes out without a cut: of each key, the same in the same order.
"""

import pickle
import random
from datetime import timedelta

import pytest
from cut_stage import Clock, End, Rec, Stage, Tasks, Time, by_key
from fake_port import Bench, plan_of

from sage_flow import (
    CoProcessFunction,
    Function,
    ProcessFunction,
    SessionWindow,
    SlidingWindow,
    SplitReader,
    SplitSource,
    TumblingWindow,
    WatermarkGenerator,
)
from sage_flow.aggregates import Count, Max
from sage_flow.errors import PipelineError
from sage_flow.functions import END
from sage_flow.plan.kinds import KINDS
from sage_flow.runtime import aligned_windows, runner, session_windows
from sage_flow.runtime import timers as timers_module
from sage_flow.runtime.assigned_time import AssignedTime
from sage_flow.runtime.joins import asof, interval
from sage_flow.runtime.subtask import Done
from sage_flow.splits import SplitIdle
from sage_flow.testing import TestSource

KEYS = ["ann", "bob", "cid", ("d", 4), 5]
SECOND = timedelta(seconds=1)


def source(env):
    return env.from_source(TestSource([], parallel=True), parallelism=2)


def keyed(env):
    return source(env).key_by(lambda pair: pair[0])


def timed(env):
    return source(env).assign_timestamps(lambda pair: 0, max_out_of_order=timedelta(0))


def timed_keyed(env):
    return timed(env).key_by(lambda pair: pair[0])


def number(pair):
    return pair[1]


CASES = {}


def case(**options):
    """The operator has to be named `op`; its outputs have the key first."""

    def add(write):
        CASES[write.__name__] = write, options
        return write

    return add


def shown(stream, p):
    """With their timestamps."""
    stream.map(lambda value, ctx: (*value, ctx.timestamp), parallelism=p).collect("out")


# -- aggregates ---------------------------------------------------------------------------------------------


@case()
def counts(env, p):
    keyed(env).count(name="op", parallelism=p).collect("out")


@case()
def final_sums(env, p):
    keyed(env).sum(number, emit="final", name="op", parallelism=p).collect("out")


@case()
def folds(env, p):
    keyed(env).fold((), lambda all, pair: (*all, pair[1]), name="op", parallelism=p).collect("out")


@case()
def smallest(env, p):
    keyed(env).min(number, name="op", parallelism=p).collect("out")


@case()
def largest(env, p):
    keyed(env).max(number, name="op", parallelism=p).collect("out")


@case()
def reduced(env, p):
    keyed(env).reduce(lambda a, b: (a[0], 3 * a[1] + b[1]), name="op", parallelism=p).map(
        lambda pair: pair[1], parallelism=p
    ).collect("out")  # fmt: skip


@case()
def tops(env, p):
    keyed(env).top(2, by=number, name="op", parallelism=p).collect("out")


@case()
def several_at_the_end(env, p):
    keyed(env).aggregate(n=Count(), best=Max(number), emit="final", name="op", parallelism=p).collect("out")


@case()
def windows_of_counts(env, p):
    keyed(env).count_window(3).to_list(name="op", parallelism=p).collect("out")


@case()
def first_ones(env, p):
    keyed(env).deduplicate(name="op", parallelism=p).collect("out")


@case(timed=True)
def first_ones_for_a_while(env, p):
    shown(timed_keyed(env).deduplicate(ttl=SECOND, name="op", parallelism=p), p)


@case(clock=True)
def first_ones_by_the_clock(env, p):
    keyed(env).deduplicate(ttl=SECOND, name="op", parallelism=p).collect("out")


# -- functions ----------------------------------------------------------------------------------------------


class Remembers(ProcessFunction):
    """All sorts of state: one of it is only asked for when the key has three records."""

    def open(self, ctx):
        self.last = ctx.state.value("last")

    def process(self, value, ctx):
        seen = ctx.state.list("seen")
        seen.append(value[1])
        counts = ctx.state.map("counts")
        counts[value[1] % 3] = counts.get(value[1] % 3, 0) + 1
        total = ctx.state.reducing("total", lambda a, b: a + b).add(value[1])
        late = None
        if len(seen) > 3:
            late = ctx.state.value("late", 0)
            late.set(late.get() + 1)
        yield value[0], tuple(seen), sorted(counts.items()), total, self.last.get(), late and late.get()
        self.last.set(value[1])


@case()
def keyed_state(env, p):
    keyed(env).process(Remembers, name="op", parallelism=p).collect("out")


class RemembersForAWhile(ProcessFunction):
    def process(self, value, ctx):
        last = ctx.state.value("last", ttl=SECOND)
        yield value[0], last.get(), value[1]
        last.set(value[1])


@case(timed=True)
def state_with_a_ttl(env, p):
    shown(timed_keyed(env).process(RemembersForAWhile, name="op", parallelism=p), p)


class SetsTimers(ProcessFunction):
    def __init__(self, clock=None):
        self.clock = clock

    def process(self, value, ctx):
        name = f"timer {value[1] % 4}"
        if value[1] % 5 == 0:
            ctx.timers.clear(name)
        elif self.clock is None:  # several at one time, which fire in the order in which they were set
            ctx.timers.set(name, at=(ctx.timestamp // 1000 + 2) * 1000)
        else:
            ctx.timers.set(name, after=timedelta(milliseconds=100 * value[1]), clock=self.clock)

    def on_timer(self, timer, ctx):
        again = ctx.state.value("again", 0)
        if again.get() < 3 and not timer.at_end:
            again.set(again.get() + 1)
            ctx.timers.set("again", after=SECOND, clock=self.clock)
        yield ctx.key, timer.name, timer.timestamp if self.clock is None else "", timer.at_end


@case(timed=True)
def timers(env, p):
    shown(timed_keyed(env).process(SetsTimers(), name="op", parallelism=p), p)


@case(clock=True)
def timers_of_the_clock(env, p):
    keyed(env).process(SetsTimers("wall"), name="op", parallelism=p).collect("out")


class Converts(CoProcessFunction):
    """Side 1 is a table that each subtask reads."""

    def open(self, ctx):
        self.rates = {}

    def process_left(self, value, ctx):
        yield value[0], value[1], self.rates.get(value[1] % 3), tuple(ctx.state.list("seen"))
        ctx.state.list("seen").append(value[1])

    def process_right(self, value, ctx):
        self.rates[value[1] % 3] = value[1]

    def snapshot(self):
        return self.rates

    def restore(self, parts):
        (self.rates,) = parts


@case(sides=2, alike=True)
def broadcast_tables(env, p):
    keyed(env).connect(source(env).broadcast()).process(Converts, name="op", parallelism=p).collect("out")


class Numbers(Function):
    """Its own state: how many records of each key there were, of all keys."""

    def open(self, ctx):
        self.counts = {}

    def __call__(self, value):
        self.counts[value[0]] = self.counts.get(value[0], 0) + 1
        return (*value, "seen" if self.counts[value[0]] > 1 else "new")

    def snapshot(self):
        return self.counts

    def restore(self, parts):
        for part in parts:
            for key, count in part.items():
                self.counts[key] = self.counts.get(key, 0) + count


@case(same=True)
def functions_with_a_state_of_their_own(env, p):
    keyed(env).map(Numbers, name="op", parallelism=p).collect("out")


@case(ordered=False)
def batches(env, p):
    (
        keyed(env)
        .map_batches(lambda batch: [(key, value, len(batch) <= 4) for key, value in batch], batch_size=4, name="op",
                     parallelism=p)
        .collect("out")
    )  # fmt: skip


@case(ordered=False)
def batches_of_no_keys(env, p):
    source(env).map_batches(lambda batch: batch, batch_size=4, name="op", parallelism=p).collect("out")


@case(timed=True)
def batches_with_timestamps(env, p):
    shown(timed_keyed(env).map_batches(lambda batch: batch, batch_size=4, name="op", parallelism=p), p)


@case(clock=True)
def batches_that_wait(env, p):
    keyed(env).map_batches(
        lambda batch: batch, batch_size=4, max_wait=SECOND, name="op", parallelism=p
    ).collect("out")  # fmt: skip


async def doubled(pair):
    return pair[0], 2 * pair[1]


async def with_its_key(pair, ctx):
    return pair[0], pair[1], ctx.key


@case(tasks=True)
def coroutines(env, p):
    keyed(env).map_async(doubled, capacity=3, name="op", parallelism=p).collect("out")


@case(tasks=True, ordered=False)
def coroutines_in_any_order(env, p):
    keyed(env).map_async(with_its_key, capacity=3, ordered=False, name="op", parallelism=p).collect("out")


@case(tasks=True, timed=True)
def coroutines_with_timestamps(env, p):
    shown(timed_keyed(env).map_async(with_its_key, capacity=3, name="op", parallelism=p), p)


# -- windows ------------------------------------------------------------------------------------------------


def windows(name, window, aggregate, **options):
    def write(env, p):
        windowed = timed_keyed(env).window(window, **options)
        result = aggregate(windowed, name="op", parallelism=p)
        shown(result.map(lambda r: (r.key, r.start, r.end, r.value, r.firing), parallelism=p), p)

    CASES[name] = write, {"timed": True, "clock": "early_every" in options}


LATE = {"allowed_lateness": 2 * SECOND}
WINDOWS = {
    "tumbling": TumblingWindow(SECOND),
    "sliding": SlidingWindow(3 * SECOND, SECOND),
    "gaps": SlidingWindow(SECOND, 2 * SECOND, allow_gaps=True),
    "session": SessionWindow(SECOND),
}
for kind, window in WINDOWS.items():
    for late in ({}, LATE):
        of = f"{kind}{'_late' if late else ''}"
        windows(f"{of}_sums", window, lambda w, **o: w.sum(number, **o), **late)
        windows(f"{of}_lists", window, lambda w, **o: w.to_list(**o), **late)
windows("whole_windows", WINDOWS["sliding"], lambda w, **o: w.fold((), lambda a, v: (*a, v[1]), **o))
windows("whole_late_windows", WINDOWS["sliding"], lambda w, **o: w.fold((), lambda a, v: (*a, v[1]), **o), **LATE)
for kind in ("tumbling", "sliding", "session"):
    windows(f"early_{kind}", WINDOWS[kind], lambda w, **o: w.sum(number, **o), early_every=SECOND)
windows(
    "early_whole_windows",
    WINDOWS["sliding"],
    lambda w, **o: w.fold((), lambda a, v: (*a, v[1]), **o),
    early_every=SECOND,
)


class Pairs:
    """Two outputs for each record of a window."""

    def __call__(self, records, ctx):
        outputs = []
        for value in records:
            outputs += [(ctx.key, ctx.window.start, value[1]), (ctx.key, ctx.window.end, -value[1])]
        return outputs


@case(timed=True)
def processed_windows(env, p):
    shown(timed_keyed(env).window(TumblingWindow(SECOND)).process(Pairs(), name="op", parallelism=p), p)


# -- joins --------------------------------------------------------------------------------------------------


def pair_of(left, right):
    return (left or right)[0], left and left[1], right and right[1]


for how in ("inner", "left", "outer"):

    def untimed_join(env, p, how=how):
        keyed(env).join(keyed(env), pair_of, how=how, name="op", parallelism=p).collect("out")

    def timed_join(env, p, how=how):
        joined = timed_keyed(env).join(timed_keyed(env), pair_of, how=how, ttl=2 * SECOND, name="op", parallelism=p)
        shown(joined, p)

    def arrival_join(env, p, how=how):
        joined = keyed(env).join(keyed(env), pair_of, how=how, ttl=2 * SECOND, name="op", parallelism=p)
        joined.collect("out")

    def interval_join(env, p, how=how):
        joined = timed_keyed(env).join_interval(
            timed_keyed(env), pair_of, before=SECOND, after=2 * SECOND, how=how, name="op", parallelism=p
        )
        shown(joined, p)

    def window_join(env, p, how=how):
        joined = timed_keyed(env).join_window(
            timed_keyed(env), TumblingWindow(SECOND), pair_of, how=how, name="op", parallelism=p
        )
        shown(joined.map(lambda r: (r.key, r.start, r.value), parallelism=p), p)

    CASES[f"join_{how}"] = untimed_join, {"sides": 2}
    CASES[f"join_with_ttl_{how}"] = timed_join, {"sides": 2, "timed": True}
    CASES[f"join_by_the_clock_{how}"] = arrival_join, {"sides": 2, "clock": True}
    if how != "outer":
        CASES[f"join_interval_{how}"] = interval_join, {"sides": 2, "timed": True}
        CASES[f"join_window_{how}"] = window_join, {"sides": 2, "timed": True}

for how in ("inner", "left"):
    for tolerance in (None, SECOND):

        def asof_join(env, p, how=how, tolerance=tolerance):
            joined = timed_keyed(env).join_asof(
                timed_keyed(env), pair_of, tolerance=tolerance, how=how, name="op", parallelism=p
            )
            shown(joined, p)

        CASES[f"join_asof_{how}{'_tolerance' if tolerance else ''}"] = asof_join, {"sides": 2, "timed": True}


# -- the test -----------------------------------------------------------------------------------------------


def events_of(rng, *, timed=False, sides=1, clock=False, tasks=False, **_):
    events, now = [], 0
    for _ in range(60):
        chance = rng.random()
        if chance < 0.15 and timed:
            now += rng.choice([100, 500, 900, 2_500])
            events.append(Time(now))
        elif chance < 0.25 and clock:
            events.append(Clock(rng.choice([0.3, 0.7, 1.5])))
        elif chance < 0.3 and tasks:
            events.append(Tasks())
        else:
            time = max(0, now + rng.randrange(-900, 2_500))
            events.append(Rec(rng.choice(KEYS), rng.randrange(1, 12), time, rng.randrange(sides)))
    return events


def ends(tasks=False, **_):
    return [Tasks(), End()] if tasks else [End()]


def outputs_of(stages, *, ordered=True, clock=False, **_):
    outputs = [output for stage in stages for output in stage.outputs()]
    if clock:  # when early results are given depends on which keys share a subtask
        outputs = [output for output in outputs if "early" not in output]
    found = by_key(outputs, lambda output: output[0])
    return found if ordered else {key: sorted(of_key, key=repr) for key, of_key in found.items()}


def run_whole(write, events, options):
    stage = Stage(write, 1)
    for event in [*events, *ends(**options)]:
        stage.give(event)
    return outputs_of([stage], **options)


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_an_operator_that_is_cut_and_restored_gives_the_same(name, before, after):
    write, options = CASES[name]
    if options.get("same") and before != after:
        pytest.skip("what a function remembers by itself does not move with the keys")
    for seed in range(2):
        rng = random.Random(f"{name} {seed}")
        events = events_of(rng, **options)
        cut = rng.randrange(5, len(events))
        first, second = Stage(write, before), Stage(write, after)
        for event in events[:cut]:
            first.give(event)
        second.take_over(first, alike=options.get("alike", False))
        for event in [*events[cut:], *ends(**options)]:
            second.give(event)
        assert outputs_of([first, second], **options) == run_whole(write, events, options), f"seed {seed}, cut {cut}"


@pytest.fixture
def small_batches(monkeypatch):
    """So that windows of five keys and timers of some seconds take several of them."""
    monkeypatch.setattr(aligned_windows, "FIRED_RECORDS", 2)
    for module in (runner, session_windows, timers_module, interval, asof):
        monkeypatch.setattr(module, "FRAME_RECORDS", 2)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_an_operator_that_is_cut_while_it_gives_its_last_results_gives_the_rest_of_them(name, after):
    write, options = CASES[name]
    if options.get("same") and after != 3:
        pytest.skip("what a function remembers by itself does not move with the keys")
    rng = random.Random(name)
    events = events_of(rng, **options)
    for steps in (1, 2, 4, 9):
        first, second = Stage(write, 3), Stage(write, after)
        for event in events:
            first.give(event)
        first.begin_end(steps)
        second.take_over(first, alike=options.get("alike", False))
        for event in ends(**options):
            second.give(event)
        assert outputs_of([first, second], **options) == run_whole(write, events, options), f"{steps} steps"


# -- sources and their splits -------------------------------------------------------------------------------


class Steps(SplitReader):
    def __init__(self, values, position):
        self.values = values
        self.at = position or 0

    def next_batch(self):
        if self.at == len(self.values):
            return END
        self.at += 1
        return [self.values[self.at - 1]]

    def position(self):
        return self.at


class InSteps(SplitSource):
    """Splits of different lengths, whose records are their times in seconds; `bounded`: one after another."""

    def __init__(self, *, bounded):
        self.bounded = bounded
        self.all = {f"split {n}": [(f"split {n}", 10 * n + at) for at in range(3 * n)] for n in range(1, 6)}

    def splits(self):
        return self.all

    def reader(self, split, position):
        return Steps(self.all[split], position)


class Largest(WatermarkGenerator):
    def __init__(self):
        self.largest = 0

    def on_record(self, value, timestamp):
        self.largest = max(self.largest, timestamp)
        return self.largest - 500


def read_in_steps(env, p, **options):
    (
        env.from_source(InSteps(bounded=options.pop("bounded")), parallelism=p)
        .assign_timestamps(lambda pair: 1000 * pair[1], **options)
        .map(lambda pair, ctx: (*pair, ctx.watermark), name="op", parallelism=p)
        .collect("out")
    )


WATERMARKS = {
    "bound": {"max_out_of_order": SECOND},
    "generator": {"watermarks": Largest},
    "in time order": {"max_out_of_order": SECOND, "in_time_order": True},
}


@pytest.mark.parametrize("bounded", [True, False], ids=["one after another", "in turn"])
@pytest.mark.parametrize("watermarks", WATERMARKS)
@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("before", [1, 2])
def test_the_clocks_of_splits_go_on_where_they_were(before, after, watermarks, bounded):
    """No record comes twice, none is lost, and none is behind the watermark."""

    def write(env, p):
        read_in_steps(env, p, bounded=bounded, **WATERMARKS[watermarks])

    for steps in (3, 20, 50, 200):
        first, second = Stage(write, before), Stage(write, after)
        for bench in first.benches:
            taken = 0
            while (taken := taken + 1) < steps or not bench.subtask.can_be_cut:
                if isinstance(bench.subtask.advance(), Done):
                    break
        reached = min(bench.subtask.parts()["assign_timestamps-1"].lowest["watermark"] for bench in first.benches)
        second.take_over(first)
        for bench in second.benches:
            bench.run()
        rest = second.outputs()
        outputs = [output[:2] for output in [*first.outputs(), *rest]]
        assert sorted(outputs) == sorted(pair for pairs in InSteps(bounded=True).all.values() for pair in pairs)
        assert all(1000 * at >= watermark for _, at, watermark in rest)
        assert all(watermark >= reached for _, _, watermark in rest), "time must not go back"


# -- what equal outputs do not show ---------------------------------------------------------------------------


def cut(stage):
    """A fresh stage that has taken over this one."""
    fresh = Stage(stage.write, stage.parallelism)
    fresh.take_over(stage)
    return fresh


def held(stage):
    operators = stage.benches[0].subtask.runner.operators
    return next(bound.held for bound in operators if bound.operator.name == "op")


def test_a_restored_subtask_tells_its_readers_how_far_time_is():
    def write(env, p):
        timed(env).map(lambda pair, ctx: pair, name="op", parallelism=p).map(
            lambda pair, ctx: pair, parallelism=p + 1
        ).collect("out")  # fmt: skip

    stage = Stage(write, 1)
    stage.give(Time(5_000))
    (watermarks,) = {tuple(cut(stage).benches[0].port.story(channel)) for channel in stage.benches[0].outs}
    assert watermarks == (Time(5_000),)


class TurnAbout(ProcessFunction):
    """Each of two timers sets the other one."""

    def process(self, value, ctx):
        ctx.timers.set("tick", after=SECOND)

    def on_timer(self, timer, ctx):
        ctx.timers.set("tock" if timer.name == "tick" else "tick", after=SECOND)
        yield ctx.key, timer.name


@pytest.mark.usefixtures("small_batches")
def test_timers_that_set_one_another_at_the_end_fire_once_each_whenever_they_are_cut():
    def write(env, p):
        timed_keyed(env).process(TurnAbout, name="op", parallelism=p).collect("out")

    for steps in range(1, 8):
        stage = Stage(write, 1)
        for key in range(5):
            stage.give(Rec(key, 1, 100 * key))
        stage.begin_end(steps)
        fresh = cut(stage)
        fresh.give(End())
        found = sorted(stage.outputs() + fresh.outputs())
        assert found == [(key, name) for key in range(5) for name in ("tick", "tock")]


@pytest.mark.usefixtures("small_batches")
def test_rows_that_have_gone_out_alone_do_not_do_so_again_after_a_restore():
    def write(env, p):
        keyed(env).join(keyed(env), pair_of, how="outer", name="op", parallelism=p).collect("out")

    for steps in range(1, 8):
        stage = Stage(write, 1)
        for number in range(7):
            stage.give(Rec("ann", number))
        stage.begin_end(steps)
        fresh = cut(stage)
        fresh.give(End())
        assert stage.outputs() + fresh.outputs() == [("ann", number, None) for number in range(7)]


def test_keys_that_were_seen_are_forgotten_as_before():
    stage = Stage(first_ones_for_a_while, 1)
    stage.give(Rec("ann", 1, 100))
    fresh = cut(stage)
    fresh.give(Time(10_000))
    assert not held(fresh).table


def test_a_batch_that_waits_goes_on_waiting():
    stage = Stage(batches_that_wait, 1)
    stage.give(Rec("ann", 1))
    fresh = cut(stage)
    fresh.give(Clock(1.1))
    assert fresh.outputs() == [("ann", 1)]


def test_early_results_of_what_has_changed_before_a_cut_come_behind_it():
    for name in ("early_tumbling", "early_sliding", "early_session", "early_whole_windows"):
        write, _ = CASES[name]
        stage = Stage(write, 1)
        stage.give(Rec("ann", 1, 100))
        stage.give(Clock(1.1))
        assert {row[4] for row in stage.outputs()} == {"early"}
        stage.give(Rec("bob", 1, 200))
        fresh = cut(stage)
        fresh.give(Clock(1.1))
        assert {row[0] for row in fresh.outputs()} == {"bob"}, name


@pytest.mark.parametrize("watermarks", ["bound", "generator"])
def test_the_clock_of_a_split_goes_on_where_it_was(watermarks):
    def write(env, p):
        options = {"bound": {"max_out_of_order": SECOND}, "generator": {"watermarks": Largest}}[watermarks]
        source(env).map(lambda pair: pair, parallelism=p, name="op").assign_timestamps(lambda p: p[1], **options).map(
            lambda pair, ctx: (*pair, ctx.watermark), parallelism=p
        ).collect("out")  # fmt: skip

    stage = Stage(write, 1)
    stage.give(Rec("ann", 5_000))
    fresh = cut(stage)
    for value in (4_700, 5_100, 5_200):
        fresh.give(Rec("ann", value))
    bound = 1_000 if watermarks == "bound" else 500
    assert [row[2] for row in fresh.outputs()] == [5_000 - bound, 5_000 - bound, 5_100 - bound]


def test_a_state_that_nobody_asks_for_stays_in_the_next_snapshot():
    stage = Stage(keyed_state, 1)
    for number in range(5):
        stage.give(Rec("ann", number))
    again = cut(cut(stage))
    again.give(Rec("ann", 5))
    assert again.outputs() == [("ann", (0, 1, 2, 3, 4, 5), [(0, 2), (1, 2), (2, 2)], 15, 4, 3)]


def test_a_state_with_another_ttl_is_refused():
    def write(env, p, ttl=None):
        def remembers(value, ctx):
            ctx.state.value("last", ttl=ttl).set(1)
            return value

        keyed(env).map(remembers, name="op", parallelism=p).collect("out")

    stage = Stage(write, 1)
    stage.give(Rec("ann", 1))
    other = Stage(lambda env, p: write(env, p, SECOND), 1)
    other.take_over(stage)
    with pytest.raises(PipelineError, match=r"'last' was kept with no ttl and cannot be restored with a ttl of 1 s"):
        other.give(Rec("ann", 1))


def test_a_function_that_has_a_snapshot_must_take_it_over():
    class Forgets(Function):
        def __call__(self, value):
            return value

        def snapshot(self):
            return 1

    stage = Stage(lambda env, p: keyed(env).map(Forgets, name="op", parallelism=p).collect("out"), 1)
    with pytest.raises(NotImplementedError, match=r"Forgets has a snapshot\(\) and must implement restore\(parts\)"):
        cut(stage)


def test_every_kind_that_keeps_something_is_cut():
    cut_kinds = {
        operator.kind
        for write, _ in CASES.values()
        for chain in plan_of(lambda env, write=write: write(env, 1)).chains
        for operator in chain.operators
    }
    keeping = {
        kind
        for kind in KINDS.values()
        if kind.is_stateful or kind.holds_back or kind.awaits or kind.has_timers or kind.assigns_time
    }
    # It goes by the wall clock and has nothing to keep.
    assert {kind.name for kind in keeping - cut_kinds} == {"assign_arrival_times"}


class EverySecond(WatermarkGenerator):
    def __init__(self):
        self.count = 0

    def on_record(self, value, timestamp):
        self.count += 1
        return timestamp if self.count % 2 == 0 else None


class Splits:
    """The time of an `assign_timestamps` that reads the splits a and b."""

    def __init__(self, **options):
        def write(env, p):
            timed = source(env).assign_timestamps(number, **(options or {"max_out_of_order": SECOND}))
            timed.map(lambda pair, ctx: pair, name="op").collect("out")

        operators = Bench(plan_of(lambda env: write(env, 1)), "assign_timestamps-1").subtask.runner.operators
        self.time = next(bound.held for bound in operators if isinstance(bound.held, AssignedTime))
        self.time.expect(["a", "b"])

    def give(self, split, *timestamps):
        """Return the watermark behind records of a split."""
        self.time.begin_batch(split)
        for timestamp in timestamps:
            self.time.on_record(timestamp, timestamp)
            self.time.largest = max(self.time.largest, timestamp)
        return self.time.move()

    def cut(self, **options):
        fresh = Splits(**options)
        fresh.time.restore(pickle.loads(pickle.dumps(self.time.parts())))
        return fresh


def test_a_split_does_not_hold_the_time_behind_where_it_was():
    splits = Splits()
    splits.give("a", 5_000)
    assert splits.give("b", 3_000) == 2_000
    assert splits.cut().give("b", 6_000) == 4_000


def test_a_split_that_was_idle_still_is():
    splits = Splits()
    splits.give("a", 5_000)
    splits.give("b", 3_000)
    splits.time.on_signal(SplitIdle("b"))
    assert splits.time.move() == 4_000
    assert splits.cut().give("a", 9_000) == 8_000


def test_a_watermark_generator_remembers():
    options = {"watermarks": EverySecond}
    splits = Splits(**options)
    splits.give("b", 9_000, 9_000)
    splits.give("a", 1_000, 2_000, 3_000)
    fresh = splits.cut(**options)
    assert fresh.give("a", 4_000) == 4_000
