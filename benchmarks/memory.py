"""Peak memory of streams ten times as long: it should not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.case import Case, Figure
from sage_flow import DataStream, LocalEnvironment, TumblingWindow, WindowResult

__all__ = ["CASES"]


def counter() -> tuple[Callable[[int], None], Callable[[], int]]:
    """A sink that counts, and what reads its count."""
    count = 0

    def take(value: int) -> None:
        nonlocal count
        count += 1

    return take, lambda: count


def increment(n: int) -> int:
    return n + 1


def count_by_hand(size: int) -> int:
    sink, count = counter()
    for n in range(size):
        sink(increment(n))
    return count()


def generator(size: int) -> Iterator[int]:
    yield from range(size)


def _count(env: LocalEnvironment, stream: DataStream[int]) -> int:
    sink, count = counter()
    stream.map(increment).for_each(sink)
    env.execute(progress=False)
    return count()


def over_range(size: int) -> int:
    env = LocalEnvironment("memory-range")
    return _count(env, env.from_collection(range(size)))


def over_generator(size: int) -> int:
    env = LocalEnvironment("memory-generator")
    return _count(env, env.from_iterable(generator(size)))


def over_flat_map(size: int) -> int:
    env = LocalEnvironment("memory-flat-map")
    return _count(env, env.from_collection([size]).flat_map(range))


def over_shuffle(size: int) -> int:
    env = LocalEnvironment("memory-edge")
    return _count(env, env.from_collection(range(size)).rebalance())


def disordered(n: int) -> int:
    """Ten records in a millisecond; every fourth one is up to a second late."""
    return n // 10 - (n * 7919 % 1000 if n % 4 == 0 else 0)


def over_windows(size: int) -> int:
    """The counts of all windows are as many as there are records."""
    total = 0

    def take(result: WindowResult[int, int]) -> None:
        nonlocal total
        total += result.value

    env = LocalEnvironment("memory-windows")
    timed = env.from_collection(range(size)).assign_timestamps(disordered, max_out_of_order=timedelta(seconds=1))
    timed.key_by(lambda n: n * 48_271 % 1000).window(TumblingWindow(timedelta(seconds=10))).count().for_each(take)
    env.execute(progress=False)
    return total


def _size(size: int, folder: Path) -> Any:
    return size


def _memory(name: str, what: str, flow: Callable[[int], int]) -> Case:
    """Once: peaks hardly differ from run to run."""
    return Case(
        f"memory-{name}",
        what,
        10_000_000,
        2000,
        _size,
        count_by_hand,
        flow,
        figure=Figure.GROWTH,
        bar=1.2,
        rounds=1,
    )


CASES = (
    _memory("range", "from_collection of a range, map, for_each", over_range),
    _memory("generator", "from_iterable of a generator, map, for_each", over_generator),
    _memory("flat-map", "flat_map of one record to all of them, map, for_each", over_flat_map),
    _memory("edge", "from_collection of a range, an edge between two threads, map, for_each", over_shuffle),
    _memory("windows", "timestamps up to a second out of order, counts of 1,000 keys in windows of 10 s", over_windows),
)
