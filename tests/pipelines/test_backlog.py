"""The backlog before a slow operator is bounded in time, so that a barrier passes it soon."""

import asyncio
import os
import time
from datetime import timedelta

import pytest

from sage_flow import LocalEnvironment, PipelineService, Service
from sage_flow.checkpoint.metadata import CheckpointMetadata
from sage_flow.checkpoint.runs import job_folder, latest_run
from sage_flow.checkpoint.storage import open_storage
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.testing import SimulationExecutor


class Clock(Service):
    """Lets virtual seconds pass."""

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


def oldest(seed, records, record_s, producers=1, consumers=1, between=lambda stream: stream, expand=1):
    """Run a job with a slow operator; return how long records wait before it at the most, in virtual seconds.

    A barrier that is sent just before a record has to wait as long.
    """
    executor = SimulationExecutor(seed=seed)
    env, now, ages = LocalEnvironment("backlog", executor=executor), executor.clock.now, []
    env.register_service("clock", Clock)

    def slow(sent_at, ctx):
        ages.append(now() - sent_at)
        ctx.service("clock").options(timeout=1000.0).sleep(record_s)
        return sent_at

    spread = env.from_collection(range(records)).map(lambda n: n, name="spread", parallelism=producers + 1)
    sent = spread.flat_map(lambda n: [now()] * expand, name="send", parallelism=producers).rebalance()
    between(sent).map(slow, name="slow", parallelism=consumers).collect("out")
    assert len(env.execute().collected["out"]) == records * expand == len(ages)
    return max(ages)


@pytest.mark.parametrize("seed", range(5))
def test_records_wait_a_second_at_most_before_an_operator_of_ten_milliseconds(seed):
    assert oldest(seed, 500, 0.01, consumers=2) <= 1.0


@pytest.mark.parametrize("seed", range(3))
def test_many_producers_of_one_slow_operator_share_its_time(seed):
    assert oldest(seed, 500, 0.01, producers=8) <= 2.0


def test_under_their_share_producers_send_one_record_at_a_time():
    assert oldest(1, 600, 0.01, producers=32) <= 2.0  # in frames of 16 records: 5 s


@pytest.mark.parametrize("seed", range(3))
def test_a_quick_operator_before_a_slow_one_is_as_slow_as_that(seed):
    assert oldest(seed, 500, 0.01, between=lambda stream: stream.map(lambda sent_at: sent_at, parallelism=2)) <= 2.0


def test_an_operator_of_a_second_for_each_record_has_one_in_work_and_one_in_its_channel():
    assert oldest(1, 30, 1.0, consumers=2) <= 3.0


def test_a_function_that_gives_several_records_for_one_is_not_far_ahead_either():
    assert oldest(1, 60, 0.01, consumers=2, expand=10) <= 2.0


@pytest.mark.parametrize("producers", [1, 8])
def test_a_barrier_passes_an_operator_of_ten_milliseconds_in_two_seconds(producers):
    """In virtual time: the simulation gives the same times again."""
    storage = f"memory://backlog-{producers}"
    env = LocalEnvironment("barriers", executor=SimulationExecutor(seed=1))
    env.enable_checkpointing(storage, interval=timedelta(seconds=1), keep=100)
    env.register_service("clock", Clock)
    sent = env.from_collection(range(1000)).map(lambda n: n, name="send", parallelism=producers).rebalance()
    sent.map(wait, name="slow", parallelism=3 - min(2, producers)).collect("out")
    assert len(env.execute().collected["out"]) == 1000
    jobs = open_storage(storage).at(job_folder("barriers"))
    run = jobs.at(latest_run(jobs))
    files = [f"checkpoints/{name}" for name in run.names("checkpoints")]
    aligned_ms = [CheckpointMetadata.from_bytes(run.read(name), name).alignment_ms for name in files]
    assert len(aligned_ms) >= 5
    assert max(aligned_ms) <= 2500
    assert sorted(aligned_ms)[len(aligned_ms) // 2] <= 1500


def slow_pipeline(requests):
    """A slow step behind another one, between which records carry tickets."""
    return requests.map(lambda n: n, parallelism=2).map(wait, parallelism=1)


def wait(n, ctx):
    ctx.service("clock").options(timeout=1000.0).sleep(0.01)
    return n


@pytest.mark.parametrize("seed", range(3))
def test_calls_of_a_slow_pipeline_all_have_their_replies(seed):
    env = LocalEnvironment("calls", executor=SimulationExecutor(seed=seed))
    env.register_service("clock", Clock)
    env.register_service("slow", PipelineService(slow_pipeline))
    numbers = env.from_collection(range(100))

    async def ask(n, ctx):
        return await ctx.service("slow").options(timeout=1000.0).process.remote(n)

    numbers.map_async(ask, capacity=64).collect("out")
    assert sorted(env.execute().collected["out"]) == list(range(100))


@pytest.mark.parametrize("executor", ["threads", ProcessExecutor(workers=3)], ids=["threads", "processes"])
def test_a_producer_is_ahead_by_no_more_than_a_slow_consumer_can_take(tmp_path, executor):
    path = str(tmp_path / "sent")  # its size is the number of records that were sent

    def send(n):
        with open(path, "ab") as file:
            file.write(b".")
        return n

    def ahead(taken):
        time.sleep(0.01)  # a machine that is busy makes it slower, and the window smaller
        return os.path.getsize(path) - taken

    env = LocalEnvironment("ahead", executor=executor)
    spread = env.from_collection(range(400)).map(lambda n: n, name="spread", parallelism=3)
    spread.map(send, parallelism=1).map(ahead, parallelism=2).collect("ahead")
    assert max(env.execute().collected["ahead"]) <= 250
