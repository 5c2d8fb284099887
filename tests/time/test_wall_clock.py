"""Time that goes on with the wall clock: arrival times, and watermark generators that tick."""

from datetime import timedelta

import pytest
from waiting_source import Wait, WaitingSource, note

from sage_flow import MAX_TIMESTAMP, LocalEnvironment, TumblingWindow, WatermarkGenerator
from sage_flow.testing import PAUSE, TestSource


def noted(folder):
    """A function that notes the result of a window, and gives it with the time at which it came."""
    folder = str(folder)

    def process(result, ctx):
        note(folder, result.key)
        return [(result.key, result.value, ctx.watermark < MAX_TIMESTAMP)]

    return process


def test_a_window_of_arrival_times_fires_while_the_source_is_idle(mode, tmp_path):
    env = mode.environment()
    arrived = env.from_source(WaitingSource(tmp_path, ["a", "b", Wait(2)])).assign_arrival_times()
    counts = arrived.key_by(str).window(TumblingWindow(timedelta(milliseconds=100))).count()
    counts.process(noted(tmp_path)).collect("out")
    assert sorted(env.execute(progress=False).collected["out"]) == [("a", 1, True), ("b", 1, True)]


def test_arrival_times_never_go_back_and_no_record_is_late(mode):
    env = mode.environment()
    arrived = env.from_source(TestSource([item for n in range(20) for item in (n, PAUSE)])).assign_arrival_times()
    counts = arrived.key_by(lambda n: 0).window(TumblingWindow(timedelta(milliseconds=1))).to_list()
    counts.collect("out")
    result = env.execute(progress=False)
    rows = sorted(result.collected["out"], key=lambda row: row.start)
    assert [n for row in rows for n in row.value] == list(range(20))
    assert sum(result.late_records.values()) == 0


def test_arrival_times_begin_a_new_time(mode):
    env = mode.environment()
    old = env.from_collection([1, 2]).assign_timestamps(int, max_out_of_order=timedelta(0))
    old.assign_arrival_times().map(lambda n, ctx: ctx.timestamp > 10**12).collect("out")
    assert env.execute(progress=False).collected["out"] == [True, True]


class ByTheClock(WatermarkGenerator):
    """After three ticks the first second is complete."""

    def __init__(self):
        self.ticks = []

    def on_tick(self, wall_ms):
        self.ticks.append(wall_ms)
        return 1_000 if len(self.ticks) > 3 else None


def test_a_generator_that_ticks_moves_time_without_records(mode, tmp_path):
    env = mode.environment()
    timed = env.from_source(WaitingSource(tmp_path, [1, 2, Wait(1)])).assign_timestamps(int, watermarks=ByTheClock)
    counts = timed.key_by(lambda n: "all").window(TumblingWindow(timedelta(seconds=1))).count()
    counts.process(noted(tmp_path)).collect("out")
    assert env.execute(progress=False).collected["out"] == [("all", 2, True)]


def test_an_error_of_a_tick_names_the_operator():
    class Fails(WatermarkGenerator):
        def on_tick(self, wall_ms):
            raise ValueError(f"at {wall_ms}")

    env = LocalEnvironment("job", 1)
    env.from_collection([1]).assign_timestamps(int, watermarks=Fails, name="clock").map(
        lambda n, ctx: ctx.timestamp
    ).collect()
    with pytest.raises(ValueError, match="at ") as caught:
        env.execute(progress=False)
    assert "'clock'" in "\n".join(caught.value.__notes__)
