"""Calls of a service from actor to actor, against plain calls of a Ray actor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.calls import (
    Calls,
    Echo,
    Measure,
    call_case,
    calls_in_flight,
    calls_one_by_one,
    collected,
    timed_by_operator,
)
from benchmarks.case import Case, Figure, Timed
from benchmarks.ray_cluster import ProcessClock, start_ray, wait_until
from benchmarks.timing import in_flight, one_by_one
from sage_flow import IDLE, RemoteEnvironment, Source
from sage_flow.functions import SourceSignal

__all__ = ["CASES"]


# -- by hand --------------------------------------------------------------------------------------------------


class ActorCalls:
    """Calls of an actor that are made without waiting."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._open: list[Any] = []

    def start(self, number: int) -> None:
        self._open.append(self._actor.process.remote(number))

    def finished(self) -> list[int]:
        import ray

        done, self._open = ray.wait(self._open, num_returns=1, fetch_local=True)
        replies: list[int] = ray.get(done)
        return replies


class Caller:
    """An actor that calls another one."""

    def one_by_one(self, actor: Any, size: int) -> Timed:
        import ray

        return one_by_one(lambda number: int(ray.get(actor.process.remote(number))), size, time.process_time)

    def in_flight(self, actor: Any, most: int, size: int) -> Timed:
        return in_flight(ActorCalls(actor), most, size, time.process_time)


def of_actor(ask: Callable[[Any, Any, int], Any]) -> Calls:
    def run(size: int) -> Timed:
        import ray

        start_ray()
        echo = ray.remote(num_cpus=0.1)(Echo).remote()
        caller = ray.remote(num_cpus=0.1)(Caller).remote()
        timed: Timed = ray.get(ask(caller, echo, size))
        ray.kill(echo)
        ray.kill(caller)
        return timed

    return run


def actor_one_by_one() -> Calls:
    return of_actor(lambda caller, echo, size: caller.one_by_one.remote(echo, size))


def actor_in_flight(most: int) -> Calls:
    return of_actor(lambda caller, echo, size: caller.in_flight.remote(echo, most, size))


# -- by the engine --------------------------------------------------------------------------------------------


def of_service(measure: Measure) -> Calls:
    def run(size: int) -> Timed:
        start_ray()
        env = RemoteEnvironment("calls")
        env.register_service("echo", Echo)
        return timed_by_operator(env, "echo", measure, size)

    return run


def _rate_case(most: int, bar: float | None) -> Case:
    """Compared by calls/s."""
    made = call_case(
        f"ray-calls-{most}",
        f"calls of a service from actor to actor, {most} in flight, against calls of a Ray actor",
        10_000,
        actor_in_flight(most),
        _by_rate(of_service(calls_in_flight(most))),
        bar,
    )
    return replace(made, hand=_by_rate(made.hand), figure=Figure.ITEMS, rounds=3)


def _by_rate(calls: Calls) -> Calls:
    """The time of one call is that in which one is done, not that in which it is under way."""

    def run(size: int) -> Timed:
        timed = calls(size)
        return replace(timed, wall_s=1 / timed.per_s)

    return run


# -- what an actor costs --------------------------------------------------------------------------------------


class Idle(Source[int]):
    """Has nothing, for ever."""

    def next_batch(self) -> list[int] | SourceSignal:
        return IDLE


class Plain:
    """An actor that does nothing."""

    def pid(self) -> int:
        import os

        return os.getpid()


def plain_start(size: int) -> Timed:
    """Seconds until `size` plain actors answer."""
    import ray

    start_ray()
    began = time.perf_counter()
    actors = [ray.remote(num_cpus=0.01)(Plain).remote() for _ in range(size)]
    ray.get([actor.pid.remote() for actor in actors])
    wall_s = time.perf_counter() - began
    for actor in actors:
        ray.kill(actor)
    return Timed(size, wall_s, size / wall_s)


def job_start(size: int) -> Timed:
    """Seconds until a job of `size` subtasks and its master run."""
    start_ray()
    env = RemoteEnvironment("start", size)
    env.from_source(Idle()).for_each(print)
    began = time.perf_counter()
    with env.submit() as job:
        wait_until(lambda: job.status == "RUNNING")
        wall_s = time.perf_counter() - began
    return Timed(size, wall_s, size / wall_s)


_PROCESSES = 5
"""Of the idle job: its master, a source, two maps, a service."""


def plain_idle(size: int) -> Timed:
    """CPU seconds per second of as many plain actors: what Ray itself does in each."""
    import ray

    start_ray()
    actors = [ray.remote(num_cpus=0.01)(Plain).remote() for _ in range(_PROCESSES)]
    cpu_s = _cpu_per_s(ray.get([actor.pid.remote() for actor in actors]), size)
    for actor in actors:
        ray.kill(actor)
    return Timed(size, cpu_s, 1.0, cpu_s)


def job_idle(size: int) -> Timed:
    """CPU seconds per second of all processes of an idle job."""
    import ray

    start_ray()
    env = RemoteEnvironment("idle")
    env.register_service("echo", Echo)
    env.from_iterable(_nothing, name="nothing").map(abs, parallelism=2).for_each(print, parallelism=2)
    with env.submit() as job:
        wait_until(lambda: job.status == "RUNNING")
        master = ray.get_actor(f"{job.id}/master", namespace="sage_flow")
        pids = {ray.get(master.pid.remote()), *(subtask.pid for subtask in job.subtasks())}
        if len(pids) != _PROCESSES:
            raise ValueError(f"the idle job has {len(pids)} processes")
        cpu_s = _cpu_per_s(list(pids), size)
    return Timed(size, cpu_s, 1.0, cpu_s)


def _nothing() -> Iterator[int]:
    """An input that waits."""
    import threading

    threading.Event().wait()
    yield 0


def _cpu_per_s(pids: list[int], tenths: int) -> float:
    """In so many tenths of a second, behind as many in which what has just started settles."""
    time.sleep(tenths / 10)
    clock = ProcessClock(*pids)
    time.sleep(tenths / 10)
    return clock.read() / tenths * 10


def _size(size: int, folder: Path) -> int:
    return size


def _costs() -> Iterator[Case]:
    shape = {"prepare": _size, "figure": Figure.TIMES, "clock": "wall", "same_process": True, "rounds": 3}
    what = "until a job of 4 subtasks runs on Ray, against until 4 plain actors answer"
    yield Case("ray-start", what, 4, 1, hand=plain_start, flow=job_start, **shape)  # type: ignore[arg-type]
    what = "CPU seconds in a second of the 5 processes of an idle job on Ray, against 5 plain actors"
    yield Case("ray-idle", what, 50, 1, hand=plain_idle, flow=job_idle, bar=1.5, **shape)  # type: ignore[arg-type]


_ONE = replace(
    call_case(
        "ray-call",
        "call of a service from actor to actor, one by one, against a call of a Ray actor",
        2000,
        actor_one_by_one(),
        of_service(calls_one_by_one),
        bar=1 / 8,
    ),
    rounds=3,
)


def _environment(name: str) -> RemoteEnvironment:
    start_ray()
    return RemoteEnvironment(name)


_COLLECT = replace(
    call_case(
        "ray-call-collect",
        "call between actors for each record in a map whose results are collected, against the same calls in a loop",
        10_000,
        *collected(_environment),
        bar=1.3,
    ),
    rounds=7,
)

CASES = (_ONE, _COLLECT, _rate_case(16, None), _rate_case(256, 12.0), *_costs())
