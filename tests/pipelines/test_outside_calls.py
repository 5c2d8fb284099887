"""Calls of a job's services from outside the job."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from async_services import Adder, Gate, Keeper

from sage_flow import JobStatus, LocalEnvironment, PipelineService, errors, wait
from sage_flow.errors import PipelineError
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.simulation import SimulationExecutor
from sage_flow.executors.threads import ThreadExecutor

EXECUTORS = {"threads": ThreadExecutor, "processes": ProcessExecutor}


@pytest.fixture(params=EXECUTORS)
def executor(request):
    return EXECUTORS[request.param]()


@pytest.fixture
def open_job(executor):
    """A job with services that runs until the test lets it end."""
    lets_go = threading.Event()

    def items():
        lets_go.wait(60)
        yield from ()

    env = LocalEnvironment("served", executor=executor)
    env.register_service("adder", Adder)
    env.register_service("keeper", Keeper, parallelism=2)
    env.register_service("gate", Gate, concurrency=2)
    env.register_service("double", PipelineService(lambda requests: requests.rebalance().map(lambda n: 2 * n), 2))
    if isinstance(executor, ProcessExecutor):
        # the source is in another process, where the event is not: it ends when the job is cancelled
        env.from_iterable(forever).for_each(str)
    else:
        env.from_iterable(items).for_each(str)
    with env.submit() as job:
        yield job, lets_go


def forever():
    threading.Event().wait(60)
    yield from ()


def test_services_answer_who_is_outside(open_job):
    job, _ = open_job
    assert job.service("adder").add(1, more=2) == 3
    assert job.service(Adder).add(5) == 6
    assert job.service("double").process(21) == 42
    assert job.service("keeper").options(key="a").note("a")[0] == 1
    assert job.service("keeper").options(key="a").note("a")[0] == 2


def test_many_threads_get_their_own_replies(open_job):
    job, _ = open_job

    def ask(thread):
        return [job.service("double").process((thread * 1000) + n) for n in range(100)]

    with ThreadPoolExecutor(8) as pool:
        for thread, replies in enumerate(pool.map(ask, range(8))):
            assert replies == [2 * (thread * 1000 + n) for n in range(100)]


def test_futures_and_awaits_work_outside(open_job):
    job, _ = open_job
    futures = [job.service("adder").add.remote(n) for n in range(300)]
    done, left = wait(futures, timeout_s=60)
    assert [future.result() for future in done] == list(range(1, 301))
    assert left == []

    async def ask():
        replies = await asyncio.gather(*(job.service("double").process.remote(n) for n in range(20)))
        with pytest.raises(ValueError, match="no 3"):
            await job.service("adder").fail.remote(3)
        with pytest.raises(errors.ServiceTimeout):
            await job.service("gate").options(timeout=0.05).wait.remote()
        return replies

    assert asyncio.run(ask()) == [2 * n for n in range(20)]


def test_an_await_that_is_given_up_cancels_its_call(open_job):
    job, _ = open_job

    async def give_up():
        future = job.service("gate").wait.remote()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.05)
        return future

    assert asyncio.run(give_up()).done()


def test_errors_and_unknown_names_are_as_inside(open_job):
    job, _ = open_job
    with pytest.raises(ValueError, match="no 7"):
        job.service("adder").fail(7)
    with pytest.raises(errors.UnknownService, match="did you mean 'adder'"):
        job.service("ader")
    with pytest.raises(errors.UnknownService, match="no method 'ad'"):
        job.service("adder").ad(1)
    with pytest.raises(errors.ServiceError, match="replicas with a state"):
        job.service("keeper").note("a")
    with pytest.raises(errors.CodecError, match="lock"):
        job.service("adder").add(threading.Lock())


def test_a_call_after_the_job_ended_is_unavailable(open_job):
    job, _ = open_job
    handle = job.service("adder")
    assert handle.add(1) == 2
    job.cancel()
    with pytest.raises(errors.ServiceUnavailable, match="'served'"):
        handle.add(1)
    with pytest.raises(errors.ServiceUnavailable, match="'served'"):
        job.service("double").process.remote(1).result()


def test_a_cancel_ends_the_calls_that_are_open(open_job):
    job, _ = open_job
    future = job.service("gate").wait.remote()
    job.cancel()
    with pytest.raises(errors.ServiceUnavailable, match="cancelled by its user"):
        future.result()


def test_statistics_count_calls_of_both_sides(open_job):
    job, _ = open_job
    for n in range(10):
        job.service("adder").add(n)
    with pytest.raises(ValueError, match="no 1"):
        job.service("adder").fail(1)
    told = job.metrics()["services"]
    assert (told["adder"]["add"]["calls"], told["adder"]["add"]["errors"]) == (10, 0)
    assert (told["adder"]["fail"]["calls"], told["adder"]["fail"]["errors"]) == (1, 1)
    assert 0 < told["adder"]["add"]["latency_ms"]["p50"] <= told["adder"]["add"]["latency_ms"]["p99"]
    assert told["double"] == {}


def test_calls_that_are_open_when_the_input_ends_are_answered():
    """The source ends while calls from outside are under way: all of them get their reply, later ones are refused."""
    lets_go = threading.Event()

    def items():
        lets_go.wait(60)
        yield from ()

    env = LocalEnvironment("served")
    env.register_service("double", PipelineService(lambda requests: requests.rebalance().map(lambda n: 2 * n), 2))
    env.from_iterable(items).for_each(str)
    with env.submit() as job:
        answered, refused = [], []

        def ask(thread):
            for n in range(10_000):
                try:
                    answered.append(job.service("double").process(n) == 2 * n)
                except errors.ServiceUnavailable:
                    refused.append(n)
                    return

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, thread) for thread in range(4)]
            while len(answered) < 100:
                threading.Event().wait(0.001)
            lets_go.set()
            for future in asking:
                future.result()
        assert job.wait() is JobStatus.FINISHED
    assert all(answered)
    assert len(refused) == 4
    assert job.metrics()["services"]["double"]["process"]["calls"] == len(answered) + 4


def test_the_simulation_cannot_be_called_from_outside():
    env = LocalEnvironment("simulated", executor=SimulationExecutor())
    env.register_service("adder", Adder)
    env.from_collection([1]).for_each(str)
    job = env.submit()
    with pytest.raises(PipelineError, match="simulation"):
        job.service("adder")
    job.wait()


def test_statistics_of_calls_inside_are_complete_when_the_job_has_ended(executor):
    env = LocalEnvironment("counted", executor=executor)
    env.register_service("adder", Adder)
    env.register_service("double", PipelineService(lambda requests: requests.map(lambda n: 2 * n)))
    env.from_collection(range(40)).map(lambda n, ctx: ctx.call_service("double", ctx.service("adder").add(n))).for_each(
        str
    )
    job = env.submit()
    job.result()
    told = job.metrics()["services"]
    assert told["adder"]["add"]["calls"] == told["double"]["process"]["calls"] == 40
    assert told["adder"]["add"]["in_flight"] == 0
    assert told["adder"]["add"]["queue_ms"]["p50"] is not None
