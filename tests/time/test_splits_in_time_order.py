"""`in_time_order=True`: splits that are not begun do not hold the time, since their records come later."""

import json
from datetime import timedelta

from waiting_source import Wait, WaitingSource, note

from sage_flow import MIN_TIMESTAMP, TumblingWindow
from sage_flow.testing import Event, SplitEnd, SplitIdle, SplitWatermark, TestSource

NONE = timedelta(0)


def events(split, *times):
    return [Event(time, split) for time in times]


def seen(mode, items, **options):
    """Each record with the watermark that it finds."""
    options = {"max_out_of_order": NONE, "every_record": True, "in_time_order": True, **options}
    env = mode.environment(parallelism=1)
    stream = env.from_source(TestSource(items)).assign_timestamps(lambda time: time, **options)
    stream.map(lambda time, ctx: (time, ctx.watermark)).collect("seen")
    return env.execute(progress=False).collected["seen"]


FILES = [*events("a", 1, 3), SplitEnd("a"), *events("b", 5, 7), SplitEnd("b"), *events("c", 9)]


def test_a_begun_split_stands_for_those_that_are_not_begun(mode):
    assert seen(mode, FILES) == [(1, MIN_TIMESTAMP), (3, 1), (5, 3), (7, 5), (9, 7)]


def test_without_it_splits_that_are_not_begun_hold_the_time(mode):
    found = seen(mode, FILES, in_time_order=False)
    assert found == [(time, MIN_TIMESTAMP) for time in (1, 3, 5, 7, 9)]


def test_two_begun_splits_have_the_time_of_the_slower_one(mode):
    items = [*events("a", 10, 20), *events("b", 12, 16), *events("a", 30), *events("b", 18), *events("c", 40)]
    assert [watermark for _, watermark in seen(mode, items)] == [MIN_TIMESTAMP, 10, 20, 20, 20, 20, 20]
    # Behind it: b is at 18, which is below what was told when b began, and time does not go back.


def test_an_empty_split_changes_nothing(mode):
    items = [SplitEnd("a"), *events("b", 5), SplitIdle("d"), SplitEnd("c"), *events("b", 7), *events("d", 9, 11)]
    assert seen(mode, items) == [(5, MIN_TIMESTAMP), (7, 5), (9, 7), (11, 7)]


def test_a_split_begins_with_a_watermark_too(mode):
    items = [*events("a", 1), SplitEnd("a"), SplitWatermark(50, "b"), *events("a", 60)]
    assert seen(mode, items) == [(1, MIN_TIMESTAMP), (60, 50)]


def test_windows_fire_while_files_are_read_and_lose_nothing(mode, tmp_path):
    """A window of the first file is told before the last file is read to its end."""
    for n in range(6):
        lines = (json.dumps(time) + "\n" for time in range(n * 10_000, (n + 1) * 10_000, 100))
        (tmp_path / f"{n}.jsonl").write_text("".join(lines))
    env = mode.environment()
    times = env.read_jsonl(str(tmp_path / "*.jsonl"), parallelism=2)
    timed = times.assign_timestamps(lambda time: time, max_out_of_order=NONE, in_time_order=True)
    counts = timed.key_by(lambda time: "all").window(TumblingWindow(timedelta(seconds=5))).count()
    counts.map(lambda result: (result.start, result.value)).collect("counts")
    result = env.execute(progress=False)
    assert sorted(result.collected["counts"]) == [(start, 50) for start in range(0, 60_000, 5_000)]
    assert not sum(result.late_records.values())


class SecondPartWaits(WaitingSource):
    """Its records are of the split "a" before the first `Wait`, and of "b" behind it."""

    def splits_read(self):
        return ["a", "b"]

    def next_batch(self):
        self.split = "a" if any(isinstance(step, Wait) for step in self.steps) else "b"
        return super().next_batch()


def test_results_come_before_the_last_split_is_begun(mode, tmp_path):
    """The second split begins when the window over the first one has been told: else the job would wait for ever."""
    env = mode.environment()
    source = SecondPartWaits(tmp_path, [1_000, 12_000, Wait(1), 30_000])
    timed = env.from_source(source).assign_timestamps(lambda time: time, max_out_of_order=NONE, in_time_order=True)
    windows = timed.key_by(lambda time: "all").window(TumblingWindow(timedelta(seconds=10)))
    starts = windows.count().map(lambda result: result.start)
    starts.for_each(lambda start: note(tmp_path, start))
    starts.collect("starts")
    assert sorted(env.execute(progress=False).collected["starts"]) == [0, 10_000, 30_000]
