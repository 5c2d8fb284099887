"""When to look at keys again because time has passed, without an entry in a heap for each record.

Keys stand in buckets of time, so a key with many records stands in few of them. A bucket is given when all of its times
have passed: a key may be looked at later than asked, by the length of a bucket, and never earlier.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any

__all__ = ["Expiries"]

_BUCKETS = 8


class Expiries:
    """`span_ms`: how far in the future times mostly are. A bucket is an eighth of it."""

    def __init__(self, span_ms: int) -> None:
        self._width = max(1, span_ms // _BUCKETS)
        self._buckets: dict[int, set[Any]] = {}
        self._order: list[int] = []  # a heap of the buckets

    def add(self, at: int, key: Any) -> None:
        """Look at `key` when `at` has passed."""
        bucket = at // self._width
        keys = self._buckets.get(bucket)
        if keys is None:
            keys = self._buckets[bucket] = set()
            heappush(self._order, bucket)
        keys.add(key)

    @property
    def next(self) -> float:
        """There is something to look at when this time has passed; infinity if there is nothing."""
        return (self._order[0] + 1) * self._width - 1 if self._order else math.inf

    def pop(self, now: float) -> Iterator[Any]:
        """Give the keys of all times that have passed, each once for each of its buckets."""
        while self.next < now:
            yield from self._buckets.pop(heappop(self._order))

    def __len__(self) -> int:
        return len(self._buckets)
