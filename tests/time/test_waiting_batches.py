"""`map_batches(max_wait=)`: a batch does not wait for ever, in every mode."""

from datetime import timedelta

import pytest
from waiting_source import Wait, WaitingSource, note

from sage_flow import LocalEnvironment, TumblingWindow
from sage_flow.errors import PipelineError

SOON = timedelta(milliseconds=20)
LATE = timedelta(days=1)


def noting(folder):
    folder = str(folder)

    def function(batch):
        note(folder, batch)
        return [list(batch)]

    return function


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_batch_leaves_when_its_first_record_has_waited_long_enough(mode, tmp_path, parallelism):
    env = mode.environment()
    source = env.from_source(WaitingSource(tmp_path, [1, 2, Wait(1), 3, Wait(2)]))
    source.key_by(lambda n: 0).map_batches(
        noting(tmp_path), batch_size=100, max_wait=SOON, parallelism=parallelism
    ).collect("out")
    assert sorted(env.execute(progress=False).collected["out"]) == [[1, 2], [3]]


def test_a_full_batch_leaves_at_once_and_the_rest_at_the_end(mode):
    env = mode.environment()
    env.from_collection(range(5)).map_batches(
        lambda batch: [list(batch)], batch_size=2, max_wait=LATE, parallelism=1
    ).collect("out")
    assert sorted(env.execute(progress=False).collected["out"]) == [[0, 1], [2, 3], [4]]


def test_the_watermark_goes_on_when_the_batch_has_left(mode, tmp_path):
    folder = str(tmp_path)

    def tell(result):
        note(folder, result.start)
        return result.start, result.value

    env = mode.environment()
    timed = env.from_source(WaitingSource(tmp_path, [100, 200, 1_500, Wait(1)])).assign_timestamps(
        int, max_out_of_order=timedelta(0)
    )
    batched = timed.map_batches(lambda batch: batch, batch_size=100, max_wait=SOON)
    counts = batched.key_by(lambda n: 0).window(TumblingWindow(timedelta(seconds=1))).count()
    counts.map(tell).collect("out")
    assert env.execute(progress=False).collected["out"] == [(0, 2), (1000, 1)]


def test_max_wait_is_a_timedelta_above_0():
    stream = LocalEnvironment("job", 1).from_collection([1])
    with pytest.raises(PipelineError, match="max_wait must be a timedelta, not 5"):
        stream.map_batches(list, max_wait=5)
    with pytest.raises(PipelineError, match="max_wait must be longer than 0"):
        stream.map_batches(list, max_wait=timedelta(0))
