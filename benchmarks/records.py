"""Records in memory: stateless chains, keyed counts, parallelism."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from benchmarks.case import Case
from sage_flow import LocalEnvironment
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.metrics.prometheus import registry_of

__all__ = ["CASES"]

# The functions of the chain, for both sides: Python calls that do next to nothing, which shows the engine most.
_STEPS: tuple[Callable[[int], int], ...] = (lambda n: n + 1, lambda n: n % 3, lambda n: n * 2)
FIRST, KEEP, LAST = _STEPS


_READ_S = 0.25


def adder() -> tuple[Callable[[int], None], Callable[[], int]]:
    """A sink that adds up, and what reads its sum."""
    total = 0

    def add(value: int) -> None:
        nonlocal total
        total += value

    return add, lambda: total


def numbers(size: int, folder: Path) -> list[int]:
    return list(range(size))


# -- stateless ------------------------------------------------------------------------------------------------


def chain_by_hand(items: list[int]) -> int:
    first, keep, last = FIRST, KEEP, LAST
    sink, total = adder()
    for item in items:
        value = first(item)
        if keep(value):
            sink(last(value))
    return total()


def chain(items: list[int]) -> int:
    sink, total = adder()
    env = LocalEnvironment("chain")
    env.from_collection(items).map(FIRST).filter(KEEP).map(LAST).for_each(sink)
    env.execute(progress=False)
    return total()


def chain_exported(items: list[int]) -> int:
    """The chain, while somebody reads its metrics several times a second."""
    sink, total = adder()
    env = LocalEnvironment("chain")
    env.from_collection(items).map(FIRST).filter(KEEP).map(LAST).for_each(sink)
    is_over = threading.Event()

    def read() -> None:
        while not is_over.wait(_READ_S):
            generate_latest(registry)

    with env.submit() as job:
        registry = registry_of(job)
        reader = threading.Thread(target=read)
        reader.start()
        job.wait()
        is_over.set()
        reader.join()
    return total()


def collect_by_hand(items: list[int]) -> list[int]:
    first, keep, last = FIRST, KEEP, LAST
    rows: list[int] = []
    for item in items:
        value = first(item)
        if keep(value):
            rows.append(last(value))
    return rows


def chain_collect(items: list[int]) -> list[int]:
    env = LocalEnvironment("chain-collect")
    env.from_collection(items).map(FIRST).filter(KEEP).map(LAST).collect("rows")
    return env.execute(progress=False).collected["rows"]


def generated(items: list[int]) -> int:
    sink, total = adder()
    env = LocalEnvironment("iterable")
    env.from_iterable(n for n in items).map(FIRST).filter(KEEP).map(LAST).for_each(sink)
    env.execute(progress=False)
    return total()


def generated_by_hand(items: list[int]) -> int:
    first, keep, last = FIRST, KEEP, LAST
    sink, total = adder()
    for item in (n for n in items):
        value = first(item)
        if keep(value):
            sink(last(value))
    return total()


def append_by_hand(items: list[int]) -> list[int]:
    first, keep, last = FIRST, KEEP, LAST
    rows: list[int] = []
    sink = rows.append
    for item in items:
        value = first(item)
        if keep(value):
            sink(last(value))
    return rows


def parallel_chain(items: list[int], parallelism: int) -> list[int]:
    """The sink is an append, which several threads may call; the order between them is open."""
    rows: list[int] = []
    env = LocalEnvironment("parallel", parallelism)
    env.from_collection(items).map(FIRST).filter(KEEP).map(LAST).for_each(rows.append)
    env.execute(progress=False)
    rows.sort()  # in order, or nearly: a fraction of the time
    return rows


# -- keyed ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keyed:
    """Numbers, and the function that gives their keys."""

    items: Sequence[int]
    key: Callable[[int], int]


def keyed(size: int, folder: Path, *, keys: int) -> Keyed:
    return Keyed(list(range(size)), lambda n: n % keys)


def last_pairs() -> tuple[Callable[[tuple[int, int]], None], Callable[[], tuple[int, int]]]:
    """A sink for (key, count) pairs, and what reads how many came and the sum of their counts."""
    received = total = 0

    def take(pair: tuple[int, int]) -> None:
        nonlocal received, total
        received += 1
        total += pair[1]

    return take, lambda: (received, total)


def count_by_hand(work: Keyed) -> tuple[int, int]:
    key = work.key
    sink, outcome = last_pairs()
    counts: dict[int, int] = {}
    for item in work.items:
        k = key(item)
        n = counts.get(k, 0) + 1
        counts[k] = n
        sink((k, n))
    return outcome()


def count(work: Keyed) -> tuple[int, int]:
    sink, outcome = last_pairs()
    env = LocalEnvironment("keyed-count")
    env.from_collection(work.items).key_by(work.key).count().for_each(sink)
    env.execute(progress=False)
    return outcome()


def final_count_by_hand(work: Keyed) -> list[tuple[int, int]]:
    key = work.key
    counts: dict[int, int] = {}
    for item in work.items:
        k = key(item)
        counts[k] = counts.get(k, 0) + 1
    return list(counts.items())


def final_count(work: Keyed) -> list[tuple[int, int]]:
    env = LocalEnvironment("keyed-count-final")
    env.from_collection(work.items).key_by(work.key).count(emit="final").collect("counts")
    return env.execute(progress=False).collected["counts"]


# -- processes ------------------------------------------------------------------------------------------------

_BATCH = 1000
_QUEUED_BATCHES = 8


def remainder(n: int) -> int:
    return n % 1000


def itself(key: int) -> int:
    return key


def process_count(size: int) -> list[tuple[int, int]]:
    """The source in one process, the count in another."""
    env = LocalEnvironment("processes", executor=ProcessExecutor(2))
    counts = env.from_collection(range(size)).rebalance().map(remainder).key_by(itself).count(emit="final")
    counts.collect("counts")
    return sorted(env.execute(progress=False).collected["counts"])


def process_count_by_hand(size: int) -> list[tuple[int, int]]:
    """The same over two queues of `multiprocessing`, in batches."""
    context = multiprocessing.get_context("spawn")
    batches: Any = context.Queue(_QUEUED_BATCHES)
    replies: Any = context.Queue()
    producer = context.Process(target=produce, args=(size, batches))
    consumer = context.Process(target=consume, args=(batches, replies))
    producer.start()
    consumer.start()
    counts: dict[int, int] = replies.get()
    producer.join()
    consumer.join()
    return sorted(counts.items())


def produce(size: int, batches: Any) -> None:
    for batch in batched(range(size), _BATCH):
        batches.put(batch)
    batches.put(None)


def consume(batches: Any, replies: Any) -> None:
    counts: dict[int, int] = {}
    while (batch := batches.get()) is not None:
        for item in batch:
            k = itself(remainder(item))
            counts[k] = counts.get(k, 0) + 1
    replies.put(counts)


def batched(items: Iterable[int], size: int) -> Iterator[list[int]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


# -- the cases ------------------------------------------------------------------------------------------------


def _keys(keys: int) -> Case:
    return Case(
        f"keys-{keys:.0e}".replace("+0", ""),
        f"running count, {keys:,} keys",
        1_000_000,
        2000,
        partial(keyed, keys=keys),
        count_by_hand,
        count,
    )


def _parallel(parallelism: int) -> Case:
    return Case(
        f"parallel-{parallelism}",
        f"the chain at parallelism {parallelism}, in threads: for its semantics, not for speed",
        1_000_000,
        2000,
        numbers,
        append_by_hand,
        partial(parallel_chain, parallelism=parallelism),
    )


CASES = (
    Case("chain", "map, filter, map, for_each", 2_000_000, 2000, numbers, chain_by_hand, chain, bar=0.75, rounds=9),
    Case(
        "chain-exported",
        "the chain whose metrics are read four times a second, beside the chain alone",
        2_000_000,
        2000,
        numbers,
        chain,
        chain_exported,
        bar=0.99,
        rounds=9,
    ),
    Case("chain-collect", "map, filter, map, collect", 1_000_000, 2000, numbers, collect_by_hand, chain_collect),
    Case(
        "iterable",
        "the chain over a generator, which a thread reads ahead record by record",
        500_000,
        2000,
        numbers,
        generated_by_hand,
        generated,
    ),
    Case(
        "keyed-count",
        "running count, 1,000 keys, for_each",
        2_000_000,
        2000,
        partial(keyed, keys=1000),
        count_by_hand,
        count,
        bar=0.5,
        rounds=9,
    ),
    Case(
        "keyed-count-final",
        "count at the end, 1,000 keys, collect",
        2_000_000,
        2000,
        partial(keyed, keys=1000),
        final_count_by_hand,
        final_count,
    ),
    *(_keys(10**exponent) for exponent in (3, 4, 5, 6)),
    *(_parallel(parallelism) for parallelism in (1, 2, 4)),
    Case(
        "processes",
        "count in another process, against multiprocessing.Queue with batches of 1,000; start included",
        2_000_000,
        2000,
        lambda size, folder: size,
        process_count_by_hand,
        process_count,
    ),
)
