"""The items that wait in a hosted queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from sage_flow.queues.hosted_decisions import Run

__all__ = ["Backlog", "one_by_one"]

_DELIVERY_BYTES: Final = 8 << 20  # a delivery takes runs up to this size, and always at least one


class Backlog:
    """First in, first out. `maxsize` <= 0: unbounded; it counts items that wait, not those in transit."""

    __slots__ = ("_maxsize", "_runs", "bytes", "depth", "reserved")

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._runs: deque[Run] = deque()
        self.depth = 0
        """Items."""
        self.bytes = 0
        """Encoded bytes of the items."""
        self.reserved = 0
        """Places that are kept for puts that asked for room."""

    def has_room(self, count: int) -> bool:
        return self._maxsize <= 0 or self.depth + self.reserved + count <= self._maxsize

    def append(self, runs: list[Run]) -> int:
        """Return the number of items."""
        self._runs += runs
        return self._count(runs)

    def return_to_front(self, runs: list[Run]) -> int:
        """Return the number of items."""
        self._runs.extendleft(reversed(runs))
        return self._count(runs)

    def _count(self, runs: list[Run]) -> int:
        count = sum(run.items for run in runs)
        self.depth += count
        self.bytes += sum(run.size for run in runs)
        return count

    def take(self, most: int) -> list[Run]:
        """Remove and return at most `most` items from the front."""
        taken: list[Run] = []
        size = 0
        while self._runs and most and (not taken or size + self._runs[0].size <= _DELIVERY_BYTES):
            run = self._runs.popleft()
            if run.items > most:
                run, rest = run.split(most)
                self._runs.appendleft(rest)
            taken.append(run)
            most -= run.items
            size += run.size
            self.depth -= run.items
        self.bytes -= size
        return taken

    def clear(self) -> list[Run]:
        """Drop all items and reservations; return the items."""
        dropped = list(self._runs)
        self._runs.clear()
        self.depth = self.bytes = self.reserved = 0
        return dropped

    @property
    def oldest_since(self) -> float | None:
        """When the first item was put."""
        return self._runs[0].since if self._runs else None


def one_by_one(runs: list[Run]) -> Iterator[Run]:
    """The same items, one in each run."""
    for rest in runs:
        while rest.items > 1:
            one, rest = rest.split(1)
            yield one
        yield rest
