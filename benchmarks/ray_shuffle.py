"""Source, shuffle, keyed count on Ray, against what one would write with actors, with queues, and with pickle alone."""

from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.case import Case, Figure, Timed
from benchmarks.ray_cluster import ProcessClock, start_ray, wait_until
from sage_flow import END, IDLE, RemoteEnvironment, Source
from sage_flow.functions import SourceSignal
from sage_flow.keys import key_group

__all__ = ["CASES"]

_BATCH = 1000
_UNDER_WAY = 8  # calls of one producer
_KEYS = 1000

Bid = dict[str, Any]


def bids(first: int, count: int) -> list[Bid]:
    return [
        {"auction": n % _KEYS, "bidder": n * 7 % 10_007, "price": n % 977, "channel": "web", "time": n}
        for n in range(first, first + count)
    ]


def auction(bid: Bid) -> int:
    number: int = bid["auction"]
    return number


# -- by hand --------------------------------------------------------------------------------------------------


class Count:
    """An actor that counts; it hashes keys to groups as the engine does, else it would not be the same work."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def take(self, batch: list[Bid]) -> None:
        counts = self._counts
        for bid in batch:
            counts[bid["auction"]] += 1

    def total(self) -> int:
        return sum(self._counts.values())

    def pid(self) -> int:
        return os.getpid()


class Produce:
    """An actor that makes bids and sends them, by key group, to the actors that count."""

    def __init__(self, counts: list[Any]) -> None:
        self._counts = counts
        self._groups: dict[int, int] = {}

    def pid(self) -> int:
        return os.getpid()

    def send(self, size: int) -> None:
        import ray

        under_way: list[Any] = []
        for first in range(0, size, _BATCH):
            for part, count in zip(self._parts(bids(first, _BATCH)), self._counts, strict=True):
                under_way.append(count.take.remote(part))
            while len(under_way) > _UNDER_WAY * len(self._counts):
                _, under_way = ray.wait(under_way)
        ray.get(under_way)

    def _parts(self, batch: list[Bid]) -> list[list[Bid]]:
        parts: list[list[Bid]] = [[] for _ in self._counts]
        groups, ways = self._groups, len(parts)
        for bid in batch:
            key = bid["auction"]
            group = groups.get(key)
            if group is None:
                group = groups[key] = key_group(key, 128)
            parts[group * ways // 128].append(bid)
        return parts


def by_calls(ways: int) -> Callable[[int], Timed]:
    def run(size: int) -> Timed:
        import ray

        start_ray()
        counts = [ray.remote(num_cpus=0.1)(Count).remote() for _ in range(ways)]
        producers = [ray.remote(num_cpus=0.1)(Produce).remote(counts) for _ in range(ways)]
        clock = ProcessClock(*ray.get([actor.pid.remote() for actor in (*counts, *producers)]))
        began = time.perf_counter()
        ray.get([producer.send.remote(size // ways) for producer in producers])
        wall_s, cpu_s = time.perf_counter() - began, clock.read()
        total = sum(ray.get([count.total.remote() for count in counts]))
        for actor in (*counts, *producers):
            ray.kill(actor)
        return Timed(total, wall_s / size, size / wall_s, cpu_s / size)

    return run


def by_queue(size: int) -> Timed:
    """One by one through a `ray.util.queue.Queue`, a thousandth of the records: it would take minutes."""
    import ray
    from ray.util.queue import Queue

    start_ray()
    queue = Queue(actor_options={"num_cpus": 0.1})
    few = max(100, size // 1000)

    @ray.remote(num_cpus=0.1)
    def produce() -> None:
        for bid in bids(0, few):
            queue.put(bid)

    count = Count()
    queue.put(bids(0, 1)[0])
    queue.get()
    producing = produce.remote()
    count.take([queue.get()])
    began = time.perf_counter()
    for _ in range(few - 1):
        count.take([queue.get()])
    wall_s = time.perf_counter() - began
    ray.get(producing)
    queue.shutdown()
    return Timed(size if count.total() == few else None, wall_s / (few - 1), (few - 1) / wall_s)


def by_pickle(size: int) -> Timed:
    """The batches are pickled and unpickled, and nothing else happens to them."""
    wall, cpu = time.perf_counter(), time.process_time()
    total = 0
    for first in range(0, size, _BATCH):
        total += len(pickle.loads(pickle.dumps(bids(first, _BATCH), 5)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Timed(total, wall / size, size / wall, cpu / size)


# -- by the engine --------------------------------------------------------------------------------------------


class Bids(Source[Bid]):
    """Waits until `gate` is there; notes when it began, and its CPU time, beside it."""

    def __init__(self, gate: Path, size: int) -> None:
        self._gate = gate
        self._left = size

    def open(self, ctx: Any) -> None:
        self._left //= ctx.parallelism
        self._next = 0
        self._index = ctx.subtask_index

    def next_batch(self) -> list[Bid] | SourceSignal:
        if not self._next and not self._gate.exists():
            return IDLE
        if not self._next:
            Path(f"{self._gate}.began-{self._index}").write_text(str(time.time()))
        if self._next >= self._left:
            return END
        self._next += _BATCH
        return bids(self._next - _BATCH, _BATCH)


@dataclass(frozen=True)
class Layout:
    """How the job is laid out: subtasks of source and count, and whether they share actors."""

    ways: int
    shares_slots: bool = False


def by_flow(layout: Layout) -> Callable[[int], Timed]:
    def run(size: int) -> Timed:
        import tempfile

        start_ray()
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            return _run_flow(layout, size, Path(folder, "gate"))

    return run


def _run_flow(layout: Layout, size: int, gate: Path) -> Timed:
    group = {"slot_sharing_group": "one"} if layout.shares_slots else {}
    env = RemoteEnvironment("shuffle", layout.ways)
    source = env.from_source(Bids(gate, size), name="bids").options(num_cpus=0.1, **group)
    counts = source.key_by(auction).count(emit="final", name="count").options(num_cpus=0.2, **group)
    counts.collect("counts")
    with env.submit() as job:
        wait_until(lambda: [s for s in job.subtasks() if s.status == "RUNNING"] and job.status == "RUNNING")
        clock = ProcessClock(*{subtask.pid for subtask in job.subtasks()})
        gate.touch()
        wait_until(lambda: _read(job) >= 0.7 * size, pause_s=size * 25e-9)  # seldom: a question is work, too
        cpu_s = clock.read() / _read(job)  # while the processes are there
        rows = job.result().collected["counts"]
        ended = time.time()
    began = min(float(path.read_text()) for path in gate.parent.glob("gate.began-*"))
    total = sum(count for _, count in rows)
    return Timed(total, (ended - began) / size, size / (ended - began), cpu_s)


def _read(job: Any) -> int:
    """How many bids there were, a fifth of a second ago."""
    emitted: int = job.metrics()["operators"]["bids"].emitted
    return emitted


# -- the cases ------------------------------------------------------------------------------------------------


def _size(size: int, folder: Path) -> int:
    return size


def _case(name: str, what: str, hand: Callable[[int], Timed], layout: Layout, bar: float | None) -> Case:
    return Case(
        name,
        f"bids, shuffle by auction, count on Ray, {what}",
        8_000_000,
        10_000,
        _size,
        hand,
        by_flow(layout),
        figure=Figure.ITEMS,
        bar=bar,
        clock="wall",
        rounds=3,
        same_process=True,
    )


def _cases() -> Iterator[Case]:
    one, two = Layout(1), Layout(2)
    yield _case("ray-shuffle-queue", "1 to 1, against ray.util.queue.Queue one by one", by_queue, one, 1000.0)
    yield _case("ray-shuffle-calls", "1 to 1, against actor calls of 1,000", by_calls(1), one, 1.5)
    yield _case("ray-shuffle-pickle", "1 to 1, against pickling and unpickling the batches", by_pickle, one, 0.4)
    yield _case("ray-shuffle-2x2", "2 to 2, against actor calls of 1,000", by_calls(2), two, None)
    shared = Layout(1, shares_slots=True)
    yield _case("ray-shuffle-slots", "in one actor by slot sharing, against two actors", by_flow(one), shared, None)


CASES = tuple(_cases())
