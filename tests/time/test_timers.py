"""Timers of event time and of the wall clock, in every mode."""

from datetime import datetime, timedelta, timezone

import pytest
from waiting_source import Wait, WaitingSource, note

from sage_flow import MIN_TIMESTAMP, CoProcessFunction, LocalEnvironment, ProcessFunction
from sage_flow.errors import InvalidTimestampError, PipelineError
from sage_flow.testing import Event, SplitEnd, SplitWatermark, TestSource

NEVER = timedelta(days=1000)


def milliseconds(number):
    return timedelta(milliseconds=number)


def timed(env, *steps, bound=0, every_record=True):
    """A stream of pairs (key, timestamp, ...)."""
    return env.from_source(TestSource(list(steps))).assign_timestamps(
        lambda record: record[1], max_out_of_order=milliseconds(bound), every_record=every_record
    )


def keyed(env, *steps, **options):
    return timed(env, *steps, **options).key_by(lambda record: record[0])


def run(env, stream, name="out", **options):
    stream.collect(name)
    return env.execute(progress=False).collected[name]


class Silent(ProcessFunction):
    """No event of a key for 100 ms."""

    def process(self, value, ctx):
        ctx.timers.set("silent", after=milliseconds(100))

    def on_timer(self, timer, ctx):
        yield ctx.key, timer.name, timer.timestamp, timer.at_end


def test_a_timer_fires_when_the_watermark_has_passed_it(mode):
    steps = [("a", 0), ("a", 50), ("b", 60), ("c", 300), ("b", 310)]
    env = mode.environment()
    fired = run(env, keyed(env, *steps).process(Silent))
    assert sorted(fired) == [
        ("a", "silent", 150, False),
        ("b", "silent", 160, False),
        ("b", "silent", 410, True),
        ("c", "silent", 400, True),
    ]


def test_a_timer_waits_until_all_records_of_its_time_are_seen():
    env = LocalEnvironment("job", 1)
    steps = [("a", 0), SplitWatermark(100), ("b", 200), SplitWatermark(101)]
    log = []

    class Logs(Silent):
        def on_timer(self, timer, ctx):
            log.append((ctx.key, timer.timestamp, ctx.watermark))
            return []

    run(env, keyed(env, *steps, bound=10_000).process(Logs))
    assert log[0] == ("a", 100, 101)


class SeveralTimers(ProcessFunction):
    def process(self, value, ctx):
        for name, after in value[2:]:
            ctx.timers.set(name, after=milliseconds(after))

    def on_timer(self, timer, ctx):
        yield timer.name, timer.timestamp


def test_timers_fire_in_the_order_of_their_times_and_then_of_setting(mode):
    env = mode.environment()
    timers = [("late", 30), ("second", 10), ("third", 10), ("first", 5), ("second", 10)]
    fired = run(env, keyed(env, ("a", 0, *timers)).process(SeveralTimers))
    assert fired == [("first", 5), ("third", 10), ("second", 10), ("late", 30)]


@pytest.mark.parametrize("last", [1_000, 5])
def test_timers_set_by_timers_fire_in_the_same_advance_and_at_the_end(mode, last):
    class Chain(ProcessFunction):
        def process(self, value, ctx):
            if value[1] == 0:
                ctx.timers.set("1", after=milliseconds(10))
            else:
                yield "record", value[1]

        def on_timer(self, timer, ctx):
            yield timer.name, timer.timestamp
            if timer.name < "3":
                ctx.timers.set(str(int(timer.name) + 1), at=timer.timestamp + 10)

    env = mode.environment()
    fired = run(env, keyed(env, ("a", 0), ("a", last)).process(Chain))
    assert fired == [("record", last), ("1", 10), ("2", 20), ("3", 30)]


def test_a_timer_that_sets_itself_again_ends_with_the_input(mode):
    class Every(ProcessFunction):
        def process(self, value, ctx):
            if ctx.timers.get("tick") is None:
                ctx.timers.set("tick", after=milliseconds(10))

        def on_timer(self, timer, ctx):
            ctx.timers.set("tick", after=milliseconds(10))
            yield timer.timestamp, timer.at_end

    env = mode.environment()
    assert run(env, keyed(env, ("a", 0), ("a", 35)).process(Every)) == [
        (10, False),
        (20, False),
        (30, False),
        (40, True),
    ]


def test_a_timer_behind_the_watermark_fires_behind_the_records_that_set_it(mode):
    env = mode.environment()
    fired = run(env, keyed(env, ("a", 1_000), ("b", 0), ("a", 1_001)).process(Silent))
    assert ("b", "silent", 100, False) in fired


def test_a_cleared_timer_does_not_fire_and_get_tells_the_time(mode):
    class Clears(ProcessFunction):
        def process(self, value, ctx):
            yield "get", ctx.timers.get("t")
            ctx.timers.clear("t")
            yield "cleared", ctx.timers.get("t")
            if value[1] == 0:
                ctx.timers.set("t", at=datetime.fromtimestamp(0.1, timezone.utc))

        def on_timer(self, timer, ctx):
            yield "fired", timer.timestamp

    env = mode.environment()
    got = run(env, keyed(env, ("a", 0), ("a", 50), ("a", 500)).process(Clears))
    assert got == [("get", None), ("cleared", None), ("get", 100), ("cleared", None), ("get", None), ("cleared", None)]


def test_what_a_timer_gives_has_its_time_and_key_state_and_late_windows_follow(mode):
    class Counts(ProcessFunction):
        def process(self, value, ctx):
            seen = ctx.state.value("seen", 0)
            seen.set(seen.get() + 1)
            ctx.timers.set("tell", after=milliseconds(10))

        def on_timer(self, timer, ctx):
            assert ctx.timestamp == timer.timestamp
            yield ctx.key, ctx.state.value("seen", 0).get()
            ctx.output("side", ctx.key)

    env = mode.environment()
    counts = keyed(env, ("a", 0), ("a", 1), ("b", 2), ("c", 100), ("a", 500)).process(Counts)
    counts.map(lambda pair, ctx: (*pair, ctx.timestamp)).collect("timed")
    counts.side_output("side").map(lambda key, ctx: (key, ctx.timestamp)).collect("side")
    result = env.execute(progress=False).collected
    assert sorted(result["timed"]) == [("a", 2, 11), ("a", 3, 510), ("b", 1, 12), ("c", 1, 110)]
    assert sorted(result["side"]) == [("a", 11), ("a", 510), ("b", 12), ("c", 110)]


def test_on_end_is_called_once_per_subtask_behind_all_timers(mode):
    class Ends(SeveralTimers):
        def on_end(self, ctx):
            yield "end", ctx.watermark > 10**15

    env = mode.environment()
    got = run(env, keyed(env, ("a", 0, ("t", 10))).process(Ends, parallelism=2), parallelism=1)
    assert sorted(got) == [("end", True), ("end", True), ("t", 10)]
    env = LocalEnvironment("job", 1)
    assert run(env, keyed(env, ("a", 0, ("t", 10))).process(Ends)) == [("t", 10), ("end", True)]


def test_on_end_needs_no_key_and_no_time(mode):
    class Sums(ProcessFunction):
        def open(self, ctx):
            self.total = 0

        def process(self, value):
            self.total += value

        def on_end(self, ctx):
            return [self.total]

    env = mode.environment()
    assert sum(run(env, env.from_collection(range(10)).process(Sums))) == 45


class Pairs(CoProcessFunction):
    """A record of the left waits for one of the right, for 100 ms at most."""

    def process_left(self, value, ctx):
        ctx.state.value("left").set(value)
        ctx.timers.set("alone", after=milliseconds(100))

    def process_right(self, value, ctx):
        left = ctx.state.value("left")
        if left.get() is not None:
            yield left.get()[0], value[2]
            left.clear()
            ctx.timers.clear("alone")

    def on_timer(self, timer, ctx):
        yield ctx.key, "alone"

    def on_end(self, ctx):
        yield "end", "end"


@pytest.mark.parametrize("function", [Pairs, Pairs()])
def test_both_sides_of_a_co_process_function_share_state_and_timers(mode, function):
    env = mode.environment()
    left = keyed(env, ("a", 0), ("b", 0))
    right = keyed(env, ("a", 50, "found"), ("z", 60, "nobody"))
    got = run(env, left.connect(right).process(function, parallelism=1))
    # Which side comes first is open: without the left one the right one finds nothing.
    assert got[-1] == ("end", "end")
    assert set(got) >= {("b", "alone")}
    assert len([pair for pair in got if pair[0] == "a"]) == 1


def test_a_failing_timer_can_be_skipped_or_become_a_dead_letter(mode):
    class Fails(SeveralTimers):
        def on_timer(self, timer, ctx):
            yield timer.name
            raise ValueError(timer.name)

    env = mode.environment()
    fired = keyed(env, ("a", 0, ("t", 10))).process(Fails, on_error="dead_letter", name="fails")
    fired.collect("out")
    fired.dead_letters().map(lambda letter: (letter.record.name, letter.error)).collect("dead")
    result = env.execute(progress=False).collected
    assert result == {"out": ["t"], "dead": [("t", "ValueError: t")]}


def test_an_error_of_a_timer_names_the_operator_and_the_timer():
    class Fails(SeveralTimers):
        def on_timer(self, timer, ctx):
            raise ValueError("no")

    env = LocalEnvironment("job", 1)
    with pytest.raises(ValueError, match="no") as caught:
        run(env, keyed(env, ("a", 0, ("t", 10))).process(Fails, name="fails"))
    notes = "\n".join(caught.value.__notes__)
    assert "'fails'" in notes
    assert "Timer(name='t', timestamp=10, at_end=True)" in notes


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_timer_fires_at_its_time_whichever_split_ends_last(mode, order):
    env = mode.environment()
    far = {"a": 100, "b": 1_000}
    steps = [Event((split, 0), split) for split in "ab"] + [Event((split, far[split]), split) for split in "ab"]
    steps += [SplitEnd(split) for split in order]
    source = env.from_source(TestSource(steps))
    timed = source.assign_timestamps(lambda record: record[1], max_out_of_order=timedelta(0))
    fired = run(env, timed.key_by(lambda record: record[0]).process(Silent))
    assert sorted(fired) == [("a", "silent", 200, False), ("b", "silent", 1_100, True)]


# --- what is refused --------------------------------------------------------------------------------------------


class Sets(ProcessFunction):
    def __init__(self, *arguments, **options):
        self.arguments, self.options = arguments, options

    def process(self, value, ctx):
        ctx.timers.set(*self.arguments, **self.options)

    def on_timer(self, timer, ctx):
        return None


REFUSED = [
    (Sets("t"), PipelineError, "needs either at=, a time, or after="),
    (Sets("t", at=1, after=NEVER), PipelineError, "needs either at=, a time, or after="),
    (Sets("", at=1_000), PipelineError, "must be a non-empty str"),
    (Sets("t", after=5), PipelineError, r"after= of timer 't' of 'sets' must be a timedelta, not 5"),
    (Sets("t", after=timedelta(seconds=-1)), PipelineError, "must not be negative"),
    (Sets("t", at=True), InvalidTimestampError, "at= of timer 't' of 'sets'"),
    (Sets("t", at=1.5), InvalidTimestampError, "at= of timer 't' of 'sets'"),
    (Sets("t", at=datetime(2024, 1, 1)), InvalidTimestampError, "has no time zone"),
    (Sets("t", at=1_000, clock="sun"), PipelineError, 'must be "event" or "wall"'),
    (Sets("t", at=10), InvalidTimestampError, "which has passed: the watermark is at 500"),
    (Sets("t", at=10, clock="wall"), InvalidTimestampError, "which has passed: the wall clock is at"),
]


@pytest.mark.parametrize(("function", "error", "message"), REFUSED)
def test_a_wrong_timer_is_an_error_with_operator_and_record(function, error, message):
    env = LocalEnvironment("job", 1)
    source = TestSource([SplitWatermark(500), ("a", 600)])
    stream = env.from_source(source).assign_timestamps(lambda record: record[1], max_out_of_order=timedelta(0))
    with pytest.raises(error, match=message) as caught:
        run(env, stream.key_by(lambda record: record[0]).process(function, name="sets"))
    notes = "\n".join(caught.value.__notes__)
    assert "'sets'" in notes
    assert "('a', 600)" in notes


def test_a_timer_of_event_time_needs_timestamps():
    env = LocalEnvironment("job", 1)
    stream = env.from_collection(["a"]).key_by(str).process(Sets("t", at=5, clock="event"))
    with pytest.raises(PipelineError, match=r"the records have no timestamps: put \.assign_timestamps"):
        run(env, stream)


def test_a_timer_may_not_set_one_for_its_own_time():
    class Circles(SeveralTimers):
        def on_timer(self, timer, ctx):
            ctx.timers.set("again", after=timedelta(0))

    env = LocalEnvironment("job", 1)
    with pytest.raises(InvalidTimestampError, match="or timers could go on for ever"):
        run(env, keyed(env, ("a", 0, ("t", 10))).process(Circles))


class WithoutOnTimer(ProcessFunction):
    def process(self, value, ctx):
        ctx.timers.set("t", at=5)


def hides(value, ctx):
    (lambda context: context.timers.set("t", at=5))(ctx)


def test_a_timer_without_on_timer_is_refused_when_built_or_when_set():
    env = LocalEnvironment("job", 1)
    stream = env.from_collection(["a"]).key_by(str)
    with pytest.raises(PipelineError, match=r"sets timers and has no on_timer\(timer, ctx\)"):
        stream.process(WithoutOnTimer)
    with pytest.raises(PipelineError, match=r"sets timers and has no on_timer\(timer, ctx\)"):
        stream.process(lambda value, ctx: ctx.timers.set("t", at=5))
    with pytest.raises(PipelineError, match=r"sets a timer and has no on_timer\(timer, ctx\)"):
        run(env, stream.process(hides))


def test_timers_outside_a_keyed_process_are_refused():
    env = LocalEnvironment("job", 1)
    stream = env.from_collection(["a"])
    with pytest.raises(PipelineError, match=r"has timers, which belong to a key: put \.key_by"):
        stream.process(Silent)
    with pytest.raises(PipelineError, match=r"uses ctx\.timers, which only process\(\.\.\.\) has"):
        stream.key_by(str).map(lambda value, ctx: ctx.timers.get("t"))


@pytest.mark.parametrize(("keyed_by", "message"), [(None, "they belong to a key"), (str, r"only \.process")])
def test_hidden_uses_of_timers_are_refused_when_they_run(keyed_by, message):
    env = LocalEnvironment("job", 1)
    stream = env.from_collection(["a"])
    with pytest.raises(PipelineError, match=f"has no timers: {message}"):
        run(env, (stream.key_by(keyed_by) if keyed_by else stream).map(hides))


def test_timers_of_two_functions_belong_into_one():
    env = LocalEnvironment("job", 1)
    left, right = (env.from_collection(["a"]).key_by(str) for _ in range(2))
    with pytest.raises(PipelineError, match="write one CoProcessFunction"):
        left.connect(right).process(Silent, SeveralTimers)
    with pytest.raises(PipelineError, match="takes one CoProcessFunction, or two functions"):
        left.connect(right).process(Silent)


# --- the wall clock -----------------------------------------------------------------------------------------------


class AfterAWhile(ProcessFunction):
    """By the wall clock. It notes in a folder that it has fired."""

    def __init__(self, folder, clock=None):
        self.folder, self.clock = str(folder), clock

    def process(self, value, ctx):
        ctx.timers.set("t", after=milliseconds(20), clock=self.clock)

    def on_timer(self, timer, ctx):
        note(self.folder, ctx.key)
        yield ctx.key, timer.at_end


def test_a_timer_without_timestamps_goes_by_the_wall_clock_while_the_source_is_idle(mode, tmp_path):
    env = mode.environment()
    stream = env.from_source(WaitingSource(tmp_path, ["a", "b", Wait(2)])).key_by(str).process(AfterAWhile(tmp_path))
    assert sorted(run(env, stream)) == [("a", False), ("b", False)]


def test_a_timer_of_the_wall_clock_on_a_timed_stream_gives_the_present_event_time(mode, tmp_path):
    env = mode.environment()
    stream = env.from_source(WaitingSource(tmp_path, [("a", 7), Wait(1)])).assign_timestamps(
        lambda record: record[1], max_out_of_order=timedelta(0)
    )
    fired = stream.key_by(lambda record: record[0]).process(AfterAWhile(tmp_path, "wall"))
    (row,) = run(env, fired.map(lambda value, ctx: (*value, ctx.timestamp)))
    assert row[:2] == ("a", False)
    assert row[2] in (7, MIN_TIMESTAMP)  # the watermark may be on its way


def test_timers_of_the_wall_clock_do_not_fire_at_the_end():
    env = LocalEnvironment("job", 1)
    stream = env.from_collection(["a"]).key_by(str)
    assert run(env, stream.process(Sets("t", after=NEVER))) == []
