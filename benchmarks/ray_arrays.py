"""Arrays from actor to actor, over our sockets, against Ray's object store: from which size on is the store better?

An actor cannot write to an array that it has from the store. An operator can: its records are its own. So the store is
measured in two ways, with actors that only read, and (`-own`) with actors that make a copy of their own first.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.case import Case, Figure, Timed
from benchmarks.ray_cluster import ProcessClock, start_ray, wait_until
from sage_flow import END, IDLE, RemoteEnvironment, Source
from sage_flow.functions import SourceSignal

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

__all__ = ["CASES"]

_UNDER_WAY = 4
_SIZES = {"100k": 100_000, "1m": 1 << 20, "16m": 16 << 20, "128m": 128 << 20}
_TOTAL = 1 << 30  # bytes, but
_FEWEST = 64  # arrays


def array(size: int, number: int) -> Array:
    import numpy

    return numpy.full(size // 8, number % 7)


def total(array: Array) -> int:
    """Look at every element, as whoever gets an array does."""
    return int(array.sum())


# -- by hand --------------------------------------------------------------------------------------------------


class Add:
    """An actor that takes arrays; Ray shows it the object store's memory."""

    def __init__(self) -> None:
        self._total = 0

    def take(self, array: Array, is_own: bool) -> None:
        self._total += total(array.copy() if is_own else array)

    def total(self) -> int:
        return self._total

    def pid(self) -> int:
        return os.getpid()


class Make:
    """An actor that makes arrays and passes them on by the object store."""

    def pid(self) -> int:
        return os.getpid()

    def send(self, to: Any, is_own: bool, size: int, count: int) -> None:
        import ray

        under_way: list[Any] = []
        for number in range(count):
            under_way.append(to.take.remote(ray.put(array(size, number)), is_own))
            if len(under_way) > _UNDER_WAY:
                _, under_way = ray.wait(under_way)
        ray.get(under_way)


def by_store(size: int, is_own: bool) -> Callable[[int], Timed]:
    def run(count: int) -> Timed:
        import ray

        start_ray()
        add, make = ray.remote(num_cpus=0.1)(Add).remote(), ray.remote(num_cpus=0.1)(Make).remote()
        ray.get(make.send.remote(add, is_own, size, 2))  # imports, and memory that the store takes for the first time
        warm = ray.get(add.total.remote())
        clock = ProcessClock(*ray.get([add.pid.remote(), make.pid.remote()]))
        began = time.perf_counter()
        ray.get(make.send.remote(add, is_own, size, count))
        wall_s, cpu_s = time.perf_counter() - began, clock.read()
        result = ray.get(add.total.remote()) - warm
        for actor in (add, make):
            ray.kill(actor)
        return Timed(result, wall_s / count, count / wall_s, cpu_s / count)

    return run


# -- by the engine --------------------------------------------------------------------------------------------


class Arrays(Source["Array"]):
    """Two tiny ones, for the imports; waits until `gate` is there, notes beside it when it begins, gives the rest."""

    def __init__(self, gate: Path, size: int, count: int) -> None:
        self._gate, self._size, self._count = gate, size, count
        self._next = -2

    def next_batch(self) -> list[Array] | SourceSignal:
        if self._next == 0 and not self._gate.exists():
            return IDLE
        if self._next == 0:
            Path(f"{self._gate}.began").write_text(str(time.time()))
        if self._next >= self._count:
            return END
        number, self._next = self._next, self._next + 1
        return [array(self._size, number) if number >= 0 else array(8, 0)]


def total_and_time(array: Array) -> tuple[int, float]:
    return total(array), time.time()


def sum_and_last(one: tuple[int, float], other: tuple[int, float]) -> tuple[int, float]:
    return one[0] + other[0], max(one[1], other[1])


def by_flow(size: int) -> Callable[[int], Timed]:
    def run(count: int) -> Timed:
        start_ray()
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            return _run_flow(size, count, Path(folder, "gate"))

    return run


def _run_flow(size: int, count: int, gate: Path) -> Timed:
    env = RemoteEnvironment("arrays")
    made = env.from_source(Arrays(gate, size, count), name="arrays").options(num_cpus=0.1)
    totals = made.map(total_and_time, name="total").options(num_cpus=0.2)
    totals.key_by(lambda _: 0).reduce(sum_and_last, emit="final").collect("all")
    with env.submit() as job:
        wait_until(lambda: [s for s in job.subtasks() if s.status == "RUNNING"] and job.status == "RUNNING")
        clock = ProcessClock(*{subtask.pid for subtask in job.subtasks()})
        gate.touch()
        wait_until(lambda: _made(job) >= 0.7 * count, pause_s=0.05)
        cpu_s = clock.read() / _made(job)
        ((_, (result, ended)),) = job.result().collected["all"]
    wall_s = ended - float(Path(f"{gate}.began").read_text())
    return Timed(result, wall_s / count, count / wall_s, cpu_s)


def _made(job: Any) -> int:
    emitted: int = job.metrics()["operators"]["arrays"].emitted
    return emitted


# -- the cases ------------------------------------------------------------------------------------------------


def _count(count: int, folder: Path) -> int:
    return count


def _cases() -> Iterator[Case]:
    for name, size in _SIZES.items():
        for is_own in (False, True):
            yield Case(
                f"ray-array-{name}{'-own' if is_own else ''}",
                f"arrays of {name.upper()}B from actor to actor, against Ray's object store"
                + (" and a copy that may be changed" if is_own else ""),
                max(_FEWEST, _TOTAL // size),
                4,
                _count,
                by_store(size, is_own),
                by_flow(size),
                figure=Figure.ITEMS,
                clock="wall",
                rounds=3,
                same_process=True,
            )


CASES = tuple(_cases())
