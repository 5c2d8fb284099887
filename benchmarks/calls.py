"""What a call of a service costs, against handing a number to another thread and back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.case import Case, Figure, Timed
from benchmarks.handover import Desk, Handover, Mailbox
from benchmarks.timing import CpuClock, from_threads, in_flight, one_by_one
from sage_flow import (
    Environment,
    LocalEnvironment,
    PipelineService,
    RuntimeContext,
    Service,
    ServiceFuture,
    ServiceHandle,
    wait,
)
from sage_flow.service import ServiceMethod

__all__ = [
    "CASES",
    "Busy",
    "Calls",
    "Echo",
    "Measure",
    "busy_thread",
    "call_case",
    "calls_in_flight",
    "collected",
    "calls_one_by_one",
    "timed_by_operator",
]


def same(number: int) -> int:
    """What both services do."""
    return number


class Echo:
    """The class service."""

    def process(self, number: int) -> int:
        return same(number)


ECHO_PIPELINE = PipelineService(lambda requests: requests.map(same))


class Futures:
    """Calls in flight as a user would make them: `.remote`, and `wait` for the next that is done."""

    def __init__(self, method: ServiceMethod) -> None:
        self._method = method
        self._open: list[ServiceFuture] = []

    def start(self, number: int) -> None:
        self._open.append(self._method.remote(number))

    def finished(self) -> list[int]:
        done, self._open = wait(self._open, count=1)
        return [future.result() for future in done]


# -- both sides: (size) -> Timed ------------------------------------------------------------------------------

Calls = Callable[[int], Timed]
Measure = Callable[[ServiceHandle, int, CpuClock], Timed]


def handover(size: int) -> Timed:
    peer = Handover()
    try:
        return one_by_one(peer.call, size)
    finally:
        peer.stop()


def desk_in_flight(most: int) -> Calls:
    return lambda size: at_desk(lambda desk: in_flight(Mailbox(desk), most, size))


def desk_from_threads(threads: int) -> Calls:
    return lambda size: at_desk(lambda desk: from_threads(lambda: Mailbox(desk).call, threads, size))


def at_desk(measure: Callable[[Desk], Timed]) -> Timed:
    desk = Desk()
    try:
        return measure(desk)
    finally:
        desk.stop()


def calls_one_by_one(echo: ServiceHandle, size: int, cpu_clock: CpuClock) -> Timed:
    return one_by_one(echo.process, size, cpu_clock)


def calls_in_flight(most: int) -> Measure:
    return lambda echo, size, cpu_clock: in_flight(Futures(echo.process), most, size, cpu_clock)


def calls_from_threads(threads: int) -> Measure:
    return lambda echo, size, cpu_clock: from_threads(lambda: echo.process, threads, size, cpu_clock)


def of(service: Callable[..., Any] | PipelineService, measure: Measure) -> Calls:
    """Calls of one service by one operator."""

    def run(size: int) -> Timed:
        env = LocalEnvironment("calls")
        env.register_service("echo", service)
        return timed_by_operator(env, "echo", measure, size)

    return run


def timed_by_operator(env: Environment, service: str, measure: Measure, size: int) -> Timed:
    """What an operator of this job measures that calls the service."""

    def call(size: int, ctx: RuntimeContext) -> Timed:
        return measure(ctx.service(service), size, time.process_time)

    env.from_collection([size]).map(call).collect("timed")
    timed: Timed = env.execute(progress=False).collected["timed"][0]
    return timed


def call_and_collect(env: Environment, service: str, size: int) -> float:
    """Mean seconds of a call that a map makes for each record, where the replies are collected.

    The map takes the time from its first record to its last, so the start of the job is not in it.
    """

    def call(number: int, ctx: RuntimeContext) -> tuple[int, float]:
        return ctx.service(service).process(number), time.perf_counter()

    env.from_collection(range(size + 1)).map(call).collect("timed")
    rows = env.execute(progress=False).collected["timed"]
    times = [when for _, when in rows]
    return (times[-1] - times[0]) / size


def collected(make: Callable[[str], Environment]) -> tuple[Calls, Calls]:
    """Calls by an operator that does nothing else, and calls by a map record by record."""

    def bare(size: int) -> Timed:
        env = make("bare")
        env.register_service("echo", Echo)
        return timed_by_operator(env, "echo", mean_of_calls, size)

    def by_map(size: int) -> Timed:
        env = make("collect")
        env.register_service("echo", Echo)
        mean_s = call_and_collect(env, "echo", size)
        return Timed(size, mean_s, 1 / mean_s)

    return bare, by_map


def mean_of_calls(echo: ServiceHandle, size: int, _: CpuClock) -> Timed:
    """Without a clock around each call, as in a map."""
    echo.process(0)
    began = time.perf_counter()
    for number in range(size):
        echo.process(number)
    mean_s = (time.perf_counter() - began) / size
    return Timed(size, mean_s, 1 / mean_s)


# -- beside a busy neighbour ----------------------------------------------------------------------------------


class Busy:
    """A neighbour that computes until it is told to leave."""

    def __init__(self) -> None:
        self._left = threading.Event()

    def compute(self, _: object = None) -> None:
        while not self._left.is_set():
            sum(range(100))

    def leave(self) -> None:
        self._left.set()


@contextmanager
def busy_thread() -> Iterator[None]:
    busy = Busy()
    neighbour = threading.Thread(target=busy.compute)
    neighbour.start()
    try:
        yield
    finally:
        busy.leave()
        neighbour.join()


def beside_thread(calls: Calls) -> Calls:
    def run(size: int) -> Timed:
        with busy_thread():
            return replace(calls(size), cpu_s=None)  # the neighbour's is in it

    return run


def beside_operator(service: Callable[..., Any] | PipelineService, measure: Measure) -> Calls:
    """The neighbour is an operator of the same job, in a thread of its own."""

    def run(size: int) -> Timed:
        busy = Busy()

        def measure_and_leave(echo: ServiceHandle, size: int, cpu_clock: CpuClock) -> Timed:
            try:
                return replace(measure(echo, size, cpu_clock), cpu_s=None)
            finally:
                busy.leave()

        env = LocalEnvironment("busy")
        env.register_service("echo", service)
        env.from_collection([None]).for_each(busy.compute)
        return timed_by_operator(env, "echo", measure_and_leave, size)

    return run


# -- services that call services ------------------------------------------------------------------------------


class Level(Service):
    """Asks the service below before it answers; the lowest just answers."""

    def __init__(self, below: str | None) -> None:
        self._name_below = below

    def open(self, ctx: RuntimeContext) -> None:
        self._below = same if self._name_below is None else ctx.service(self._name_below).process

    def process(self, number: int) -> int:
        reply: int = self._below(number)
        return reply


def nested_by_hand(depth: int) -> Calls:
    def run(size: int) -> Timed:
        peers = [Handover()]
        try:
            for _ in range(depth - 1):
                peers.append(Handover(peers[-1].call))
            return per_level(one_by_one(peers[-1].call, size), depth)
        finally:
            for peer in peers:
                peer.stop()

    return run


def nested(depth: int) -> Calls:
    def run(size: int) -> Timed:
        env = LocalEnvironment("nested")
        for level in range(1, depth + 1):
            env.register_service(f"level-{level}", Level, f"level-{level - 1}" if level > 1 else None)
        return per_level(timed_by_operator(env, f"level-{depth}", calls_one_by_one, size), depth)

    return run


def per_level(timed: Timed, depth: int) -> Timed:
    """One of the calls that a call is made of."""
    cpu_s, p99_s = (None if value is None else value / depth for value in (timed.cpu_s, timed.p99_s))
    return Timed(timed.result, timed.wall_s / depth, timed.per_s * depth, cpu_s, p99_s)


# -- the cases ------------------------------------------------------------------------------------------------


def _size(size: int, folder: Path) -> int:
    return size


def call_case(name: str, what: str, size: int, hand: Calls, flow: Calls, bar: float | None = None) -> Case:
    """Both sides in one process, one after the other."""
    return Case(
        name,
        what,
        size,
        max(20, size // 100),
        _size,
        hand,
        flow,
        figure=Figure.CALLS,
        bar=bar,
        clock="wall",
        rounds=7 if bar else 5,
        same_process=True,
    )


def _cases(prefix: str, kind: str, service: Callable[..., Any] | PipelineService, bar: float | None) -> Iterator[Case]:
    """Of one kind of service: one by one, many at once, beside a neighbour."""
    what = f"call of {kind} in the same process"
    yield call_case(prefix, f"{what}, one by one", 5000, handover, of(service, calls_one_by_one), bar)
    for most in (16, 256):
        flow = of(service, calls_in_flight(most))
        yield call_case(f"{prefix}-{most}", f"{what}, {most} in flight", 10_000, desk_in_flight(most), flow)
    flow = of(service, calls_from_threads(16))
    yield call_case(f"{prefix}-16-threads", f"{what}, from 16 threads", 5000, desk_from_threads(16), flow)
    flow = beside_operator(service, calls_one_by_one)
    yield call_case(f"{prefix}-busy", f"{what}, one by one, beside a busy thread", 300, beside_thread(handover), flow)
    for most in (16, 256):
        hand, flow = beside_thread(desk_in_flight(most)), beside_operator(service, calls_in_flight(most))
        yield call_case(f"{prefix}-{most}-busy", f"{what}, {most} in flight, beside a busy thread", 2000, hand, flow)


def _nested(depth: int) -> Case:
    what = f"call through {depth} services; the times are for one of the {depth} calls"
    return call_case(f"nested-{depth}", what, 2000, nested_by_hand(depth), nested(depth))


CASES = (
    *_cases("call", "a class service", Echo, bar=4.0),
    *_cases("call-pipeline", "a pipeline service", ECHO_PIPELINE, bar=None),
    *(_nested(depth) for depth in (2, 3, 4)),
    call_case(
        "call-collect",
        "call for each record in a map whose results are collected, against the same calls in a loop",
        5000,
        *collected(LocalEnvironment),
        bar=1.3,
    ),
)
