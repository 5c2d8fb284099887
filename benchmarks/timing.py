"""Loops that make calls and take the time of each: one by one, many in flight, from many threads.

A call is a number that goes out and comes back; the sum of what came back is the result.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from benchmarks.case import Timed

__all__ = ["CpuClock", "InFlight", "from_threads", "in_flight", "one_by_one", "p99"]

CpuClock = Callable[[], float]
Call = Callable[[int], int]


class InFlight(Protocol):
    """Calls that are made without waiting."""

    def start(self, number: int) -> None:
        """Call, and go on."""

    def finished(self) -> list[int]:
        """Wait until at least one call has come back; return all that have, once."""


def one_by_one(call: Call, size: int, cpu_clock: CpuClock = time.process_time) -> Timed:
    """Each call waits for the one before."""
    _calls(call, range(size // 10))  # warm up
    cpu, began = cpu_clock(), time.perf_counter()
    total, times = _calls(call, range(size))
    return _timed(total, times, time.perf_counter() - began, cpu_clock() - cpu)


def in_flight(calls: InFlight, most: int, size: int, cpu_clock: CpuClock = time.process_time) -> Timed:
    """At most `most` calls are open, all made by one thread. A call's time ends when `finished` has told of it."""
    _in_flight(calls, most, size // 10)
    cpu, began = cpu_clock(), time.perf_counter()
    total, times = _in_flight(calls, most, size)
    return _timed(total, times, time.perf_counter() - began, cpu_clock() - cpu)


def from_threads(caller: Callable[[], Call], threads: int, size: int, cpu_clock: CpuClock = time.process_time) -> Timed:
    """Each thread makes its part of the calls one by one, by what `caller()` gives it."""

    def make(numbers: range) -> tuple[int, list[float]]:
        return _calls(caller(), numbers)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(make, [range(size // 10 // threads)] * threads))
        cpu, began = cpu_clock(), time.perf_counter()
        parts = list(pool.map(make, [range(first, size, threads) for first in range(threads)]))
        wall, cpu = time.perf_counter() - began, cpu_clock() - cpu
    return _timed(sum(total for total, _ in parts), [s for _, times in parts for s in times], wall, cpu)


def _calls(call: Call, numbers: range) -> tuple[int, list[float]]:
    clock = time.perf_counter
    times: list[float] = []
    total = 0
    for number in numbers:
        before = clock()
        total += call(number)
        times.append(clock() - before)
    return total, times


def _in_flight(calls: InFlight, most: int, size: int) -> tuple[int, list[float]]:
    clock = time.perf_counter
    started: dict[int, float] = {}
    times: list[float] = []
    total = number = 0
    while len(times) < size:
        while number < size and len(started) < most:
            started[number] = clock()
            calls.start(number)
            number += 1
        for reply in calls.finished():
            times.append(clock() - started.pop(reply))
            total += reply
    return total, times


def _timed(total: int, times: list[float], wall: float, cpu: float) -> Timed:
    """Of calls that together took `wall` and `cpu` seconds."""
    size = len(times)
    return Timed(total, statistics.median(times), size / wall, cpu / size, p99(times))


def p99(times: list[float]) -> float:
    """What 99 % of the times stay within."""
    return statistics.quantiles(times, n=100, method="inclusive")[-1]
