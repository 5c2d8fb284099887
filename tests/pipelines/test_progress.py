"""The counts of a job that runs, while its operators wait."""

from __future__ import annotations

import threading

import pytest

from sage_flow import LocalEnvironment
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.threads import ThreadExecutor

PATIENCE = 6000  # looks, of which each takes at least a hundredth of a second


def counts_until(job, condition):
    """The counts of a running job, once `condition` holds for them."""
    for _ in range(PATIENCE):
        assert not job.status.is_final
        counts = {name: count.emitted for name, count in job.metrics()["operators"].items()}
        if condition(counts):
            return counts
        threading.Event().wait(0.01)
    raise AssertionError(f"the counts stand still: {counts}")


def test_a_source_behind_backpressure_has_the_count_of_what_it_gave():
    may_go_on = threading.Event()
    env = LocalEnvironment("slow")
    env.from_collection(range(100_000), name="numbers").rebalance().for_each(
        lambda n: may_go_on.wait(), name="slow", parallelism=2
    )
    with env.submit() as job:
        counts = counts_until(job, lambda counts: counts["numbers"] >= 2)  # one for each consumer, which are stuck
        assert counts["numbers"] < 100
        assert counts["slow"] == 0
        may_go_on.set()
        assert job.result().counts == {"numbers": 100_000, "slow": 100_000}


def test_a_source_whose_records_are_awaited_has_the_count_of_those_that_are():
    async def never(n):
        import asyncio

        await asyncio.Event().wait()

    env = LocalEnvironment("awaiting", cancel_grace_s=60)
    env.from_collection(range(50_000), name="numbers").rebalance().map_async(never, capacity=2, parallelism=2).for_each(
        str
    )
    with env.submit() as job:
        counts_until(job, lambda counts: counts["numbers"] >= 4)


def three_then_silence():
    yield from range(3)
    threading.Event().wait()


@pytest.mark.parametrize("make", [ThreadExecutor, ProcessExecutor])
def test_an_operator_that_waits_for_input_has_told_all_that_it_counted(make):
    env = LocalEnvironment("silent", executor=make())
    stream = env.from_iterable(three_then_silence, name="source").map(abs, name="step", parallelism=2)
    stream.for_each(str, name="sink", parallelism=3)
    with env.submit() as job:
        counts_until(job, lambda counts: counts == {"source": 3, "step": 3, "sink": 3})
