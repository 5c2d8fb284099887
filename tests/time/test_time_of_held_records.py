"""Operators that keep records keep the watermark, too: what leaves them is never late for whoever comes behind."""

import asyncio
from datetime import timedelta

import pytest

from sage_flow import TumblingWindow
from sage_flow.testing import PAUSE, TestSource

SECOND = timedelta(seconds=1)


async def later(value):
    await asyncio.sleep(0.001 if value % 7 == 0 else 0)
    return value


def seconds(env, count=500, *, every_record=False):
    script = [item for n in range(count) for item in ([n * 10, PAUSE] if n % 50 == 49 else [n * 10])]
    return env.from_source(TestSource(script)).assign_timestamps(
        lambda n: n, max_out_of_order=timedelta(0), every_record=every_record
    )


def counted(stream, env):
    results = stream.key_by(lambda value: "all").window(TumblingWindow(SECOND)).count()
    results.collect("counts")
    results.late_records().collect("late")
    result = env.execute(progress=False)
    assert result.collected["late"] == []
    return [(row.start, row.value) for row in result.collected["counts"]]


EXPECTED = [(start, 100) for start in range(0, 5000, 1000)]


@pytest.mark.parametrize("every_record", [False, True])
@pytest.mark.parametrize("ordered", [True, False])
def test_results_of_coroutines_have_the_time_of_their_records_and_are_not_late(mode, ordered, every_record):
    env = mode.environment()
    stream = seconds(env, every_record=every_record).map_async(later, ordered=ordered, capacity=5)
    assert sorted(counted(stream, env)) == EXPECTED


def test_batches_give_each_record_its_time_and_hold_the_watermark(mode):
    env = mode.environment()
    stream = seconds(env, every_record=True).map_batches(lambda batch: batch, batch_size=64)
    assert sorted(counted(stream, env)) == EXPECTED


def test_what_comes_of_one_record_has_its_time_also_where_results_of_earlier_records_leave_meanwhile(mode):
    env = mode.environment()
    stream = seconds(env, every_record=True).flat_map(lambda value: [value] * 3).map_async(later, capacity=2)
    assert sorted(counted(stream, env)) == [(start, 300) for start, _ in EXPECTED]


def test_a_batch_that_gives_another_number_of_records_gives_them_its_largest_time(mode):
    env = mode.environment(parallelism=1)
    stream = seconds(env, 200).map_batches(lambda batch: [sum(batch)], batch_size=100)
    assert sorted(counted(stream, env)) == [(0, 1), (1000, 1)]


def test_failed_results_are_dead_letters_with_the_time_of_their_records(mode):
    async def fails(value):
        await asyncio.sleep(0)
        raise ValueError(value)

    env = mode.environment()
    stream = seconds(env).map_async(fails, on_error="dead_letter", capacity=5)
    stream.for_each(lambda value: None)
    assert sorted(counted(stream.dead_letters(), env)) == EXPECTED


def test_a_failed_batch_gives_each_dead_letter_the_time_of_its_record(mode):
    def fails(batch):
        raise ValueError(len(batch))

    env = mode.environment()
    stream = seconds(env, every_record=True).map_batches(fails, batch_size=64, on_error="dead_letter")
    stream.for_each(lambda value: None)
    assert sorted(counted(stream.dead_letters(), env)) == EXPECTED
