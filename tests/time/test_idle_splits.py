"""Splits that are quiet: with `idle_after` they leave the minimum, or their time goes on with the wall clock."""

from datetime import timedelta
from pathlib import Path

import pytest
from waiting_source import note

from sage_flow import (
    END,
    IDLE,
    MAX_TIMESTAMP,
    LocalEnvironment,
    SplitReader,
    SplitSource,
    TumblingWindow,
    WatermarkGenerator,
)
from sage_flow.testing import SimulationExecutor

SECOND = timedelta(seconds=1)
SHORT = timedelta(milliseconds=20)


class Reader(SplitReader):
    """Gives its records; then it is idle, or gives more and more of them, until something was noted."""

    def __init__(self, folder, records, is_busy):
        self.folder, self.records, self.is_busy = Path(folder), list(records), is_busy

    def next_batch(self):
        if self.records:
            return [self.records.pop(0)]
        if list(self.folder.iterdir()):
            return END
        return [5_000] if self.is_busy else IDLE

    def position(self):
        return 1


class Splits(SplitSource):
    """An endless source of splits, read in turn: their records by name."""

    def __init__(self, folder, records, busy=()):
        self.folder, self.records, self.busy = str(folder), records, busy

    def splits(self):
        return list(self.records)

    def reader(self, split, position):
        return Reader(self.folder, self.records[split], split in self.busy)


def first_result(mode, folder, source, **options):
    """The count of the first second, and whether it was given before the input ended."""

    def noted(result, ctx):
        if result.start == 0:
            note(folder, "fired")
            yield result.value, ctx.watermark < MAX_TIMESTAMP

    folder = str(folder)
    if source.busy and mode.name.startswith("simulation-"):
        pytest.skip("its time stands while a subtask is busy")
    env = mode.environment(parallelism=1)
    timed = env.from_source(source).assign_timestamps(lambda record: record, **options)
    timed.key_by(lambda record: "all").window(TumblingWindow(SECOND)).count().process(noted).collect("out")
    return env.execute(progress=False).collected["out"]


@pytest.mark.parametrize("busy", [(), ("a",)], ids=["idle", "busy"])
@pytest.mark.parametrize("quiet", [[2], []], ids=["with a record", "without one"])
def test_a_quiet_split_leaves_the_minimum_also_if_it_gave_nothing_or_another_one_is_busy(mode, tmp_path, quiet, busy):
    source = Splits(tmp_path, {"a": [1, 5_000], "b": quiet}, busy)
    found = first_result(mode, tmp_path, source, max_out_of_order=timedelta(0), idle_after=SHORT)
    assert found == [(1 + len(quiet), True)]


@pytest.mark.parametrize("busy", [(), ("a",)], ids=["idle", "busy"])
def test_the_time_of_a_quiet_split_goes_on_with_the_wall_clock(mode, tmp_path, busy):
    source = Splits(tmp_path, {"a": [5_000] if busy else [800], "b": [900]}, busy)
    options = {"idle_after": SHORT, "when_idle": "advance"}
    found = first_result(mode, tmp_path, source, max_out_of_order=timedelta(milliseconds=10), **options)
    assert found == [(1 if busy else 2, True)]


class HalfASecondBehind(WatermarkGenerator):
    def on_record(self, value, timestamp):
        return timestamp - 500


def test_the_time_of_a_quiet_split_goes_on_from_where_its_generator_says(tmp_path):
    def noted(result, ctx):
        note(tmp_path, "fired")
        yield ctx.watermark < 1_200

    env = LocalEnvironment("job", 1, executor=SimulationExecutor(0))  # its wall clock is a virtual one
    timed = env.from_source(Splits(tmp_path, {"a": [900, 1_200]})).assign_timestamps(
        lambda record: record, watermarks=HalfASecondBehind, idle_after=SHORT, when_idle="advance"
    )
    timed.key_by(lambda record: "all").window(TumblingWindow(SECOND)).count().process(noted).collect("out")
    assert env.execute(progress=False).collected["out"][0] is True
