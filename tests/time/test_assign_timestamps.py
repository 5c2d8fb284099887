"""`assign_timestamps`: what it takes for a timestamp, what it refuses, and where its time goes."""

from datetime import datetime, timedelta, timezone

import pytest

from sage_flow import (
    MAX_TIMESTAMP,
    MIN_TIMESTAMP,
    LocalEnvironment,
    SessionWindow,
    SlidingWindow,
    TumblingWindow,
    WatermarkGenerator,
)
from sage_flow.errors import InvalidTimestampError, PipelineError
from sage_flow.testing import Event, SplitEnd, TestSource

MINUTE = timedelta(minutes=1)
NONE = timedelta(0)


def timed(env, items, function=lambda value: value, **options):
    options = {"max_out_of_order": NONE, **options}
    return env.from_collection(items).assign_timestamps(function, **options)


def test_a_function_with_ctx_finds_the_time_of_its_record_and_of_the_stream(mode):
    env = mode.environment(parallelism=1)
    stream = timed(env, [1000, 3000, 2000], every_record=True)
    stream.map(lambda value, ctx: (ctx.timestamp, ctx.watermark)).collect("times")
    found = env.execute(progress=False).collected["times"]
    assert found == [(1000, MIN_TIMESTAMP), (3000, 1000), (2000, 3000)]


def test_what_comes_of_a_record_has_its_time(mode):
    env = mode.environment()
    stream = timed(env, [1000, 2000]).map(str).filter(len).flat_map(lambda text: [text, text])
    stream.rebalance().map(lambda text, ctx: (text, ctx.timestamp), parallelism=3).collect("times")
    found = env.execute(progress=False).collected["times"]
    assert sorted(found) == [("1000", 1000)] * 2 + [("2000", 2000)] * 2


def test_side_outputs_have_the_time_of_their_record(mode):
    def aside(value, ctx):
        ctx.output("aside", value)

    env = mode.environment()
    stream = timed(env, [1000, 2000]).process(aside)
    stream.for_each(print)
    stream.side_output("aside").map(lambda value, ctx: (value, ctx.timestamp), parallelism=2).collect("times")
    assert sorted(env.execute(progress=False).collected["times"]) == [(1000, 1000), (2000, 2000)]


def test_a_datetime_is_a_timestamp():
    env = LocalEnvironment("test")
    when = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
    timed(env, [when]).map(lambda value, ctx: ctx.timestamp).collect("times")
    assert env.execute().collected["times"] == [int(when.timestamp() * 1000)]


@pytest.mark.parametrize(
    "wrong", [1.5, True, None, "2024-05-01", datetime(2024, 5, 1), MAX_TIMESTAMP + 1, MIN_TIMESTAMP - 1]
)
def test_what_is_no_timestamp_is_refused_with_operator_line_and_record(wrong):
    env = LocalEnvironment("test")
    timed(env, [1, wrong]).map(lambda value, ctx: ctx.timestamp).collect("times")
    with pytest.raises(InvalidTimestampError) as raised:
        env.execute()
    told = "\n".join(raised.value.__notes__)
    assert "'assign_timestamps-1'" in told
    assert "test_assign_timestamps.py" in told


@pytest.mark.parametrize("on_error", ["skip", "dead_letter"])
def test_records_without_a_timestamp_can_be_let_through(mode, on_error):
    env = mode.environment()
    stream = timed(env, [1, None, 2], on_error=on_error)
    stream.map(lambda value, ctx: ctx.timestamp).collect("times")
    if on_error == "dead_letter":
        stream.dead_letters().map(lambda letter: letter.record).collect("letters")
    result = env.execute(progress=False)
    assert sorted(result.collected["times"]) == [1, 2]
    assert result.skipped | result.dead_letters == {"assign_timestamps-1": 1}
    assert result.collected.get("letters", [None]) == [None]


def test_the_time_that_is_assigned_last_counts(mode):
    env = mode.environment()
    stream = timed(env, [5, 6]).map(lambda value, ctx: (value, ctx.timestamp))
    again = stream.assign_timestamps(lambda pair: pair[0] * 1000, max_out_of_order=NONE)
    again.map(lambda pair, ctx: (*pair, ctx.timestamp)).collect("times")
    assert sorted(env.execute(progress=False).collected["times"]) == [(5, 5, 5000), (6, 6, 6000)]


# --- refused when built -----------------------------------------------------------------------------------


def window(env, **options):
    return timed(env, []).key_by(lambda value: 0).window(TumblingWindow(MINUTE), **options)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda env: env.from_collection([]).assign_timestamps(int), "either max_out_of_order"),
        (lambda env: timed(env, [], max_out_of_order=5), r"must be a timedelta, not 5: write timedelta\(seconds=5\)"),
        (lambda env: timed(env, [], max_out_of_order=-MINUTE), "must not be negative"),
        (lambda env: timed(env, [], watermarks=WatermarkGenerator), "either max_out_of_order"),
        (lambda env: timed(env, [], max_out_of_order=None, watermarks=7), "must be a class of WatermarkGenerator"),
        (lambda env: timed(env, [], idle_after=NONE), "idle_after must be longer than 0"),
        (lambda env: timed(env, [], when_idle="advance"), "give that, too"),
        (lambda env: timed(env, [], when_idle="sleep", idle_after=MINUTE), '"leave" or "advance"'),
        (lambda env: env.from_collection([]).key_by(len).window(TumblingWindow(MINUTE)), "put .assign_timestamps"),
        (lambda env: env.from_collection([]).window(TumblingWindow(MINUTE)), "works per key"),
        (lambda env: timed(env, []).key_by(len).window(MINUTE), "takes a window such as"),
        (lambda env: timed(env, []).key_by(len).window(TumblingWindow), "takes a window such as"),
        (lambda env: window(env, allowed_lateness=5), "allowed_lateness must be a timedelta"),
        (lambda env: window(env).aggregate(), "takes one aggregate"),
        (lambda env: window(env).aggregate(n=len), "must be an Aggregate"),
        (lambda env: window(env).fold(0, max, merge=3), "merge of fold"),
        (lambda env: timed(env, []).key_by(len).window(SessionWindow(MINUTE)).fold(0, max), "needs merge="),
        (lambda env: SlidingWindow(MINUTE, 2 * MINUTE), "allow_gaps=True"),
    ],
)
def test_what_cannot_be_right_is_refused_when_it_is_written(write, told):
    with pytest.raises(PipelineError, match=told) as raised:
        write(LocalEnvironment("test"))
    assert "test_assign_timestamps.py" in str(raised.value)


def test_a_union_of_a_stream_with_timestamps_and_one_without_is_refused_where_time_is_used():
    env = LocalEnvironment("test")
    both = timed(env, [1]).union(env.from_collection([2]))
    both.map(lambda value, ctx: value).collect()
    with pytest.raises(PipelineError, match="reads a union of a stream that has them"):
        env.execute()


def test_a_union_may_mix_them_where_nobody_uses_time():
    env = LocalEnvironment("test")
    timed(env, [1]).union(env.from_collection([2])).collect("all")
    assert sorted(env.execute().collected["all"]) == [1, 2]


def test_without_timestamps_a_function_is_told_what_is_missing():
    env = LocalEnvironment("test")
    env.from_collection([1]).map(lambda value, ctx: ctx.timestamp).collect()
    with pytest.raises(PipelineError, match=r"put \.assign_timestamps"):
        env.execute()


# --- splits -----------------------------------------------------------------------------------------------


def test_a_split_that_is_not_begun_holds_the_time():
    """Files that are read one after another lose nothing, whatever their order."""
    env = LocalEnvironment("test", parallelism=1)
    later, earlier = [Event(n * 1000, "later") for n in range(100, 110)], [Event(n * 1000, "sooner") for n in range(10)]
    source = TestSource([*later, SplitEnd("later"), *earlier])
    stream = env.from_source(source).assign_timestamps(lambda t: t, max_out_of_order=NONE, every_record=True)
    counts = stream.key_by(lambda t: 0).window(TumblingWindow(timedelta(seconds=10))).count()
    counts.collect("counts")
    counts.late_records().collect("late")
    result = env.execute()
    assert result.collected["late"] == []
    assert [row.value for row in result.collected["counts"]] == [10, 10]


def test_a_generator_of_watermarks_has_a_split_of_its_own_and_says_how_far_it_is():
    class Marks(WatermarkGenerator):
        def on_record(self, value, timestamp):
            return timestamp if value == "mark" else None

    env = LocalEnvironment("test", parallelism=1)
    events = [Event(("x", 5), "a"), Event(("mark", 20), "a"), Event(("x", 9), "b"), Event(("mark", 12), "b")]
    stream = env.from_source(TestSource(events)).map(lambda event: event)
    timed = stream.assign_timestamps(lambda event: event[1], watermarks=lambda: Marked())

    class Marked(Marks):
        def on_record(self, value, timestamp):
            return super().on_record(value[0], timestamp)

    timed.map(lambda event, ctx: ctx.watermark).collect("told")
    timed.key_by(lambda event: 0).window(TumblingWindow(timedelta(milliseconds=10))).count().collect("counts")
    result = env.execute()
    assert [(row.start, row.value) for row in result.collected["counts"]] == [(0, 2), (10, 1), (20, 1)]


def test_every_window_of_a_window_is_right(mode):
    env = mode.environment()
    stream = timed(env, list(range(0, 60_000, 100)), max_out_of_order=timedelta(seconds=1))
    seconds = stream.key_by(lambda t: t % 300).window(TumblingWindow(timedelta(seconds=1))).count()
    totals = seconds.key_by(lambda row: 0).window(TumblingWindow(timedelta(seconds=10))).sum(lambda row: row.value)
    totals.collect("totals")
    totals.late_records().collect("late")
    result = env.execute(progress=False)
    assert result.collected["late"] == []
    assert sorted((row.start, row.value) for row in result.collected["totals"]) == [
        (start, 100) for start in range(0, 60_000, 10_000)
    ]
