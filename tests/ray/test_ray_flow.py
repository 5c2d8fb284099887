"""How records flow between actors: a slow sink slows its source, memory stays, nobody starves, nothing is left over."""

import os
import re
import time
from pathlib import Path

import pytest
from job_parts import Ticking, wait_for

from sage_flow import END, FixedDelay, JobStatus, PipelineService, RemoteEnvironment, Service, Source
from sage_flow.errors import ServiceUnavailable, WorkerDied
from sage_flow.links.address import UnixAddress

_MB = 1 << 20


def peak_mb(_=None):
    """The most memory that this process has had, in MB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


class Blocks(Source):
    """So many blocks of so many bytes, made when they are asked for."""

    parallel = False

    def __init__(self, count, size):
        self._left = count
        self._size = size

    def next_batch(self):
        if not self._left:
            return END
        self._left -= 1
        return [(self._left, bytes(self._size))]


def slowly(block):
    time.sleep(0.001)
    return block


def measured(blocks, size):
    """Peak memory of source and sink when that much has gone through a slow sink."""
    env = RemoteEnvironment("flows")
    sent = env.from_source(Blocks(blocks, size)).map(lambda block: (peak_mb(), *block), name="send")
    sent.rebalance().map(slowly, parallelism=2, name="take").map(lambda row: (row[0], peak_mb())).collect("peaks")
    rows = env.execute(progress=False).collected["peaks"]
    assert len(rows) == blocks
    return [max(column) for column in zip(*rows, strict=True)]


def test_a_gigabyte_goes_through_windows_of_8_mb(ray_cluster):
    idle = measured(10, 1000)
    busy = measured(4096, _MB // 4)
    for before, after in zip(idle, busy, strict=True):
        assert after - before < 64


class SmallRecords(Source):
    """So many thousands of small dicts."""

    parallel = False

    def __init__(self, thousands):
        self._left = thousands

    def next_batch(self):
        if not self._left:
            return END
        self._left -= 1
        first = self._left * 1000
        return [
            {"number": n, "name": "n", "price": n % 977, "place": n * 7, "time": n} for n in range(first, first + 1000)
        ]


def sometimes_slow(record):
    if record["number"] % 999:
        return 0
    time.sleep(0.006)
    return peak_mb()


def peak_of_a_slow_sink(thousands):
    env = RemoteEnvironment("flows")
    taken = env.from_source(SmallRecords(thousands)).rebalance().map(sometimes_slow, parallelism=2, name="take")
    taken.filter(bool).collect("peaks")
    return max(env.execute(progress=False).collected["peaks"])


def test_small_records_that_wait_take_their_bytes_on_the_wire_not_ten_times_as_much(ray_cluster):
    idle = peak_of_a_slow_sink(2)
    assert peak_of_a_slow_sink(600) - idle < 64


def test_one_hot_key_of_a_million_records_holds_nobody_up(ray_cluster):
    def records(n):
        return "cold" if n % 1000 == 0 else "hot"

    env = RemoteEnvironment("hot")
    keyed = env.from_collection(range(1_000_000)).map(records).key_by(lambda key: key)
    keyed.count(emit="final", parallelism=2).collect("counts")
    assert sorted(env.execute(progress=False).collected["counts"]) == [("cold", 1000), ("hot", 999_000)]


def test_a_full_object_store_does_not_matter_to_a_job(ray_cluster):
    import ray

    held = [ray.put(bytes(20 * _MB)) for _ in range(5)]  # more than the store of this node has
    env = RemoteEnvironment("stored")
    env.from_collection(range(1000)).map(lambda n: bytes(1000)).rebalance().map(len, parallelism=2).collect("sizes")
    assert env.execute(progress=False).collected["sizes"] == [1000] * 1000
    assert len(held) == 5


# --- services ---------------------------------------------------------------------------------------------


class Twice(Service):
    def twice(self, n):
        return 2 * n


class Relay(Service):
    def ask(self, n):
        return self.twice.twice(n) + 1

    def open(self, ctx):
        self.twice = ctx.service("twice")


def nested(calls, callers=2, name="nested"):
    """(n, reply) of so many calls of a pipeline service that calls a service that calls a service."""
    env = RemoteEnvironment(name)
    env.register_service("twice", Twice, parallelism=2, stateless=True)
    env.register_service("relay", Relay, parallelism=2, stateless=True)
    env.register_service("answer", PipelineService(lambda s: s.map(lambda n, ctx: (n, ctx.service("relay").ask(n)))))
    numbers = env.from_collection(range(calls)).rebalance()
    asked = numbers.map_async(
        lambda n, ctx: ctx.call_service_async("answer", n, timeout=120.0), capacity=64, parallelism=callers
    )
    asked.map(lambda reply: reply[1] - 2 * reply[0]).key_by(lambda off: off).count(emit="final").collect("offsets")
    return env.execute(progress=False).collected["offsets"]


def test_20_000_nested_calls_are_all_answered_right(ray_cluster):
    assert nested(20_000 // 3) == [(1, 20_000 // 3)]  # each is three calls


@pytest.mark.soak
def test_a_million_nested_calls_of_eight_callers_are_all_answered_right(ray_cluster):
    assert nested(1_000_000 // 3, callers=8) == [(1, 1_000_000 // 3)]


def test_several_jobs_at_once_do_not_meet(ray_cluster):
    class Named(Service):
        def __init__(self, name):
            self.name = name

        def tell(self):
            return self.name

    jobs = []
    for name in ("one", "two", "three"):
        env = RemoteEnvironment(name)
        env.register_service("named", Named, name)
        env.from_collection(range(500)).map(lambda n, ctx: ctx.service("named").tell()).collect("names")
        jobs.append((name, env.submit()))
    for name, job in jobs:
        assert job.result(timeout=120).collected["names"] == [name] * 500


def test_callers_outside_hear_at_once_that_a_service_has_died(ray_cluster):
    class Mortal(Service):
        def die(self):
            os.kill(os.getpid(), 9)

    env = RemoteEnvironment("mortal")
    env.register_service("mortal", Mortal)
    env.from_source(Ticking()).for_each(lambda n: None)
    job = env.submit()
    with pytest.raises(ServiceUnavailable):
        job.service("mortal").options(timeout=60.0).die()
    with pytest.raises(WorkerDied, match=r"actor 'mortal\[1/1\]'"):
        job.result(timeout=60)


# --- zombies, and what is left over -----------------------------------------------------------------------


def test_a_zombie_of_an_earlier_attempt_changes_nothing(ray_cluster, tmp_path):
    """A worker is stopped for longer than its lease; the job starts again; the worker wakes up and is fenced.

    Detached: that this process, too, is silent for so long must not end it.
    """
    import signal

    gate = tmp_path / "gate"
    env = RemoteEnvironment("zombie", restart=FixedDelay(3, 0.1), lease_s=2.0, detached=True)
    numbers = env.from_source(Ticking(str(gate))).map(abs, name="first")
    numbers.rebalance().map(abs, parallelism=2, name="last").collect("rows")
    job = env.submit()
    wait_for(lambda: len(job.collected().get("rows", ())) == 10)
    zombie = next(subtask.pid for subtask in job.subtasks() if subtask.name.startswith("last"))
    attempt = job._execution.record.attempt
    os.kill(zombie, signal.SIGSTOP)

    def has_started_again():
        record = job._execution.record
        assert not record.status.is_final, record
        return record.attempt > attempt

    wait_for(has_started_again)
    if Path(f"/proc/{zombie}").exists():
        os.kill(zombie, signal.SIGCONT)
    wait_for(lambda: job.status is JobStatus.RUNNING and len(job.collected().get("rows", ())) == 10)
    gate.touch()
    wait_for(lambda: len(job.collected().get("rows", ())) > 1000)
    assert job.drain() is JobStatus.FINISHED
    rows = sorted(job.result().collected["rows"])
    assert rows == list(range(len(rows)))
    wait_for(lambda: not Path(f"/proc/{zombie}").exists())


def actors_of_jobs():
    """The named actors of jobs; each is a process."""
    import ray

    named = ray.util.list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in named if "/" in actor["name"]}


def test_nothing_is_left_of_jobs_however_they_ended(ray_cluster):
    before = actors_of_jobs()
    fine = RemoteEnvironment("fine")
    fine.from_collection(range(10)).map(lambda n: os.getpid()).collect("pids")
    pids = set(fine.execute(progress=False).collected["pids"])
    killed = RemoteEnvironment("killed")
    killed.from_source(Ticking()).map(abs, name="first").for_each(lambda n: None)
    job = killed.submit()
    pids |= {subtask.pid for subtask in wait_for(lambda: [s for s in job.subtasks() if s.pid])}
    wait_for(lambda: job.status is JobStatus.RUNNING)
    os.kill(next(iter(job.subtasks())).pid, 9)
    with pytest.raises(WorkerDied):
        job.result(timeout=60)
    wait_for(lambda: actors_of_jobs() <= before)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert not UnixAddress.unnamed().is_file  # so no socket can be left in the file system
