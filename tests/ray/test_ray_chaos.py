"""Processes of a job are killed at random moments; with a restart strategy it finishes all the same, and is right."""

import os
import random
import signal
import threading
import time

import pytest
from job_parts import wait_for

from sage_flow import END, FixedDelay, JobStatus, PipelineService, RemoteEnvironment, Service, Source
from sage_flow.errors import SageFlowError

_RECORDS = 300


class Slow(Source):
    """Gives numbers at a pace that leaves time to kill somebody."""

    parallel = False

    def __init__(self):
        self._next = 0

    def next_batch(self):
        if self._next == _RECORDS:
            return END
        time.sleep(0.005)
        self._next += 1
        return [self._next - 1]


class Twice(Service):
    def twice(self, n):
        return 2 * n


def submitted():
    env = RemoteEnvironment("chaos", restart=FixedDelay(1000, 0.05), lease_s=5.0)
    env.register_service("twice", Twice, stateless=True)
    env.register_service("answer", PipelineService(lambda s: s.map(lambda n, ctx: ctx.service("twice").twice(n))))
    numbers = env.from_source(Slow(), name="numbers").rebalance()
    replies = numbers.map(lambda n, ctx: (n, ctx.call_service("answer", n)), name="ask", parallelism=2)
    replies.key_by(lambda pair: pair[0] % 5).map(lambda pair: pair, name="keyed", parallelism=2).collect("pairs")
    return env.submit()


def victims(job, kind):
    """The processes of that kind that are there now."""
    import ray

    if kind == "master":
        return [ray.get(ray.get_actor(f"{job.id}/master", namespace="sage_flow").pid.remote())]
    names = {"caller": ("ask",), "responder": ("twice", "answer/requests"), "source": ("numbers",)}[kind]
    return [subtask.pid for subtask in job.subtasks() if subtask.pid and subtask.name.startswith(names)]


def kill_at_random(job, kinds, seed, count):
    """Kill one process after the other, each some time after the job has begun to run again."""
    import ray

    chance = random.Random(seed)
    for number in range(count):
        attempt = job._execution.record.attempt
        wait_for(lambda: job.status is JobStatus.RUNNING or job.status.is_final)
        time.sleep(chance.uniform(0.0, 0.6))
        try:
            pids = victims(job, kinds[number % len(kinds)])
            os.kill(chance.choice(pids), signal.SIGKILL)
        except (ray.exceptions.RayError, SageFlowError, ProcessLookupError, ValueError, IndexError):
            continue  # it restarts just now, or has finished
        wait_for(lambda attempt=attempt: job._execution.record.attempt > attempt or job.status.is_final)


def check(kinds, seed, count):
    job = submitted()
    killer = threading.Thread(target=kill_at_random, args=(job, kinds, seed, count))
    killer.start()
    killer.join()
    result = job.result(timeout=300)
    assert sorted(result.collected["pairs"]) == [(n, 2 * n) for n in range(_RECORDS)]
    assert result.counts["numbers"] == _RECORDS


@pytest.mark.race
@pytest.mark.parametrize("kind", ["caller", "responder", "master"])
def test_a_job_survives_the_death_of_any_of_its_processes(ray_cluster, kind):
    check([kind], seed=kind, count=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_a_job_survives_many_deaths(ray_cluster, seed):
    check(["caller", "responder", "master", "source"], seed, count=12)
