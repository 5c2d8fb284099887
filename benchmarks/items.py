"""Items that go from a producer to a consumer, and how many of them in a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.case import Timed
from benchmarks.other_process import Work

__all__ = ["DIFFERENT", "Get", "Load", "Producer", "Put", "ThreadProducer", "measure", "producer"]

DIFFERENT = 1000
"""Items that are not the same object; sizes and batches divide evenly."""

Put = Callable[[Any], object]
"""Takes one item, or a list of them where the batch is greater than 1."""
Get = Callable[[], list[Any]]
"""Waits for items, and gives at least one."""


@dataclass(frozen=True)
class Load:
    """What travels. `shape`: a key of `_SHAPES`; `batch`: items that are put at once."""

    shape: str
    batch: int

    def objects(self) -> list[Any]:
        """What to put, one after the other: DIFFERENT items in all."""
        make, _ = _SHAPES[self.shape]
        items = [make(number) for number in range(DIFFERENT)]
        if self.batch == 1:
            return items
        return [items[first : first + self.batch] for first in range(0, DIFFERENT, self.batch)]

    def number(self, item: Any) -> int:
        """Which one it is."""
        found: int = item[_SHAPES[self.shape][1]]
        return found


def _a_dict(number: int) -> dict[str, Any]:
    return {"number": number, "carrier": f"carrier {number}", "distance": number * 1.5, "late": False, "gate": None}


def _a_text(number: int) -> tuple[str, int]:
    return f"{number:0100}", number


_SHAPES: dict[str, tuple[Callable[[int], Any], Any]] = {"dict": (_a_dict, "number"), "text": (_a_text, 1)}


class Producer(Protocol):
    """Puts items, somewhere else; see `OtherProcess`."""

    def begin(self, order: int) -> None:
        """Put so many items, and meanwhile go on."""

    def end(self) -> float:
        """Wait until they are put."""

    def cpu_s(self) -> float:
        """Seconds of CPU so far that this process does not count."""


class ThreadProducer:
    """A producer in a thread of this process."""

    def __init__(self, put: Put, load: Load) -> None:
        self._work = _produce(put, load)

    def begin(self, order: int) -> None:
        self._thread = threading.Thread(target=self._work, args=(order,))
        self._thread.start()

    def end(self) -> float:
        self._thread.join()
        return self.cpu_s()

    def cpu_s(self) -> float:
        return 0.0


@contextmanager
def producer(connect: Callable[[], AbstractContextManager[Put]], load: Load) -> Iterator[tuple[None, Work]]:
    """The body of another process; `connect()` gives what puts."""
    with connect() as put:
        yield None, _produce(put, load)


def measure(source: Producer, get: Get, load: Load, size: int) -> Timed:
    """Let `size` items go through, some others before them. Raises ValueError if one is not where it belongs."""
    _move(source, get, load, DIFFERENT)
    cpu, began = _cpu_s(source), time.perf_counter()
    wall = _move(source, get, load, size) - began
    return Timed(size, wall / size, size / wall, (_cpu_s(source) - cpu) / size)


def _move(source: Producer, get: Get, load: Load, size: int) -> float:
    """Return when the last one had come."""
    source.begin(size)
    received = 0
    while received < size:
        items = get()
        received += len(items)
        if load.number(items[-1]) != (received - 1) % DIFFERENT:
            raise ValueError(f"item {received} of {size} is {items[-1]!r}")
    ended = time.perf_counter()
    source.end()
    return ended


def _produce(put: Put, load: Load) -> Work:
    objects = load.objects()

    def work(size: int) -> None:
        for _ in range(size // DIFFERENT):
            for one in objects:
                put(one)

    return work


def _cpu_s(source: Producer) -> float:
    return time.process_time() + source.cpu_s()
