"""What a running job tells about its channels and services."""

from __future__ import annotations

import threading

import pytest
from async_services import Adder, Gate

from sage_flow import END, FixedDelay, LocalEnvironment, Source
from sage_flow.errors import PipelineError
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.simulation import SimulationExecutor
from sage_flow.executors.threads import ThreadExecutor
from sage_flow.metrics.shares import by_operator, shares_between


def stuck_job(executor):
    """A job whose map waits for a gate that nobody opens."""
    env = LocalEnvironment("stuck", executor=executor, cancel_grace_s=5)
    env.register_service("gate", Gate, timeout=60)
    env.register_service("adder", Adder)
    stream = env.from_collection(range(3000)).rebalance().map(wait_at_gate, parallelism=2)
    stream.for_each(str)
    return env.submit()


def wait_at_gate(n, ctx):
    ctx.service("adder").add(n)
    return ctx.service("gate").wait()


def until(condition):
    for _ in range(2000):
        found = condition()
        if found:
            return found
        threading.Event().wait(0.01)
    raise AssertionError("it never came to be")


@pytest.mark.parametrize("make", [ThreadExecutor, ProcessExecutor])
def test_a_job_that_is_stuck_tells_where(make):
    with stuck_job(make()) as job:

        def both_wait():
            told = job.statistics()
            waiting = told["services"]["gate"].get("wait")
            depths = [c["depth"] for c in told["channels"] if c["name"] == "requests of gate"]
            # one is being answered, the other one has come and waits
            return told if waiting and waiting["in_flight"] == 2 and depths == [1] else None

        told = until(both_wait)
        assert told["unresponsive"] == []
        assert told["services"]["adder"]["add"]["calls"] == 2
        edges = [c for c in told["channels"] if c["kind"] == "edge" and c["host"].startswith("map-1")]
        assert {edge["host"] for edge in edges} == {"map-1[1/2]", "map-1[2/2]"}
        assert all(edge["producers"] == ["collection-1[1/1]"] for edge in edges)
        assert [edge["received"] for edge in edges] == [1, 1]  # no more before consumers that have done nothing
        assert [edge["depth"] for edge in edges] == [1, 1]
        assert all(edge["oldest_s"] > 0 for edge in edges)
        wires = [edge for edge in edges if edge["medium"] == "unix socket"]
        assert all(edge["bytes"] > edge["received"] for edge in wires)
        assert bool(wires) == (make is ProcessExecutor)
        (requests,) = (c for c in told["channels"] if c["name"] == "requests of gate")
        assert requests["received"] == 2
        assert len(requests["producers"]) == 2
        responses = [c for c in told["channels"] if c["kind"] == "responses"]
        assert [c["depth"] for c in responses] == [1, 1]
    assert job.statistics()["channels"] == []


def test_a_story_tells_what_went_wrong():
    def ask(n, ctx):
        for failing in (ctx.service("adder").fail, ctx.service("gate").options(timeout=0.02).wait):
            with pytest.raises((ValueError, TimeoutError)):
                failing(n) if failing._name == "fail" else failing()
        asked.set()
        lets_go.wait(60)
        return n

    asked, lets_go = threading.Event(), threading.Event()
    env = LocalEnvironment("story")
    env.register_service("adder", Adder)
    env.register_service("gate", Gate)
    env.from_collection([1]).map(ask, name="asker").for_each(str)
    with env.submit() as job:
        assert asked.wait(60)
        told = job.statistics()["stories"]
        lets_go.set()
        job.result()
    (story,) = (events for name, events in told.items() if "asker" in name)
    assert [event.split(": ", 1)[1] for event in story] == ["adder.fail raised ValueError", "gate.wait timed out"]


def test_a_rate_is_that_since_the_last_look():
    lets_go, received = threading.Semaphore(0), threading.Semaphore(0)

    def items():
        for n in range(30):
            lets_go.acquire()
            yield n

    env = LocalEnvironment("rates")
    env.from_iterable(items).rebalance().map(lambda n: n, parallelism=2).for_each(lambda n: received.release())
    with env.submit() as job:

        def rates():
            return sum(channel["rate_per_s"] for channel in job.statistics()["channels"])

        for _ in range(10):
            lets_go.release()
            received.acquire()
        assert rates() > 0
        assert rates() == 0
        lets_go.release()
        received.acquire()
        assert rates() > 0
        lets_go.release(100)
        job.result()


def test_the_failures_of_earlier_attempts_are_told():
    begins, ends, attempts = threading.Event(), threading.Event(), []

    def divide(n):
        attempts.append(n)
        if len(attempts) <= 2:
            return n // 0
        begins.set()
        ends.wait(60)
        return n

    env = LocalEnvironment("failures", restart=FixedDelay(5, 0.01))
    env.from_collection([1]).map(divide, name="divide").for_each(str)
    with env.submit() as job:
        assert begins.wait(60)
        told = job.statistics()
        ends.set()
        job.result()
    assert told["attempt"] == 3
    first_lines = [failure.splitlines()[0] for failure in told["failures"]]
    assert first_lines == ["ZeroDivisionError: integer division or modulo by zero"] * 2
    assert "in divide" in told["failures"][0]


class Blocks:
    """Blocks where it is told to, in this process."""

    where, begins, ends = "", threading.Event(), threading.Event()

    @classmethod
    def at(cls, name):
        if name == cls.where:
            cls.begins.set()
            cls.ends.wait(60)


class Once(Source):
    is_given = False

    def next_batch(self):
        if self.is_given:
            return END
        Blocks.at("source")
        self.is_given = True
        return [1]


@pytest.mark.parametrize("where", ["first", "second", "out", "source"])
def test_inside_a_chain_samples_tell_which_operator_takes_the_time(where):
    Blocks.where, Blocks.begins, Blocks.ends = where, threading.Event(), threading.Event()
    env = LocalEnvironment("sampled")
    first = env.from_source(Once(), name="source").map(lambda n: Blocks.at("first") or n, name="first")
    first.map(lambda n: Blocks.at("second") or n, name="second").for_each(lambda n: Blocks.at("out"), name="out")
    with env.submit() as job:
        assert Blocks.begins.wait(60)
        before = job.statistics()
        told = [job.statistics() for _ in range(3)][-1]
        Blocks.ends.set()
        job.result()
    assert told["subtasks"][0]["sampled"] == {where: 4}
    assert next(iter(by_operator(told, shares_between(before, told)))) == where


def test_the_simulation_cannot_be_asked_from_outside():
    env = LocalEnvironment("simulated", executor=SimulationExecutor())
    env.from_collection([1]).for_each(str)
    job = env.submit()
    with pytest.raises(PipelineError, match="simulation"):
        job.statistics()
    job.wait()


def work_of(told, name):
    (found,) = (one["work"] for one in told["subtasks"] if name in one["name"])
    return found


@pytest.mark.parametrize("make", [ThreadExecutor, ProcessExecutor])
def test_a_subtask_tells_what_it_spends_its_time_on(make):
    with stuck_job(make()) as job:

        def first_waits():
            told = job.statistics()
            times = [one["work"] for one in told["subtasks"] if one["name"].startswith("map-1")]
            is_clear = len(times) == 2 and all(work and work["calls_s"] > 10 * work["idle_s"] for work in times)
            return told if is_clear and work_of(told, "collection-1")["credit_s"] > 0.2 else None

        told = until(first_waits)
        source, *maps = (one["flow"] for one in told["subtasks"] if "map-1" in one["name"] or "coll" in one["name"])
        assert source["records_in"] == 0
        assert source["records_out"] == sum(flow["records_in"] for flow in maps) > 0
        if make is ProcessExecutor:
            assert source["bytes_out"] >= source["records_out"]
            assert source["bytes_out"] == sum(flow["bytes_in"] or 0 for flow in maps)
        else:
            assert source["bytes_out"] is None
        assert all(sum(one["work"].values()) > 0 for one in told["subtasks"])
        boxes = {box["id"]: box["operators"] for box in told["pipeline"]["boxes"]}
        assert boxes[told["subtasks"][0]["chain"]]


def test_a_thread_that_computes_is_busy_and_its_service_idle():
    begins, ends = threading.Event(), threading.Event()

    def compute(n):
        begins.set()
        while not ends.is_set():
            sum(range(1000))
        return n

    env = LocalEnvironment("busy")
    env.register_service("adder", Adder)
    env.from_collection([1]).rebalance().map(compute, parallelism=2).for_each(str)
    with env.submit() as job:
        assert begins.wait(60)

        def is_busy():
            told = job.statistics()
            shares = sorted(one["work"]["busy_s"] / sum(one["work"].values()) for one in told["subtasks"])
            return told if shares[-1] > 0.9 else None

        told = until(is_busy)
        service = work_of(told, "adder")
        assert service["idle_s"] > service["busy_s"]
        ends.set()
        job.result()
