"""What a source has given and its subtask has not processed: the rests of batches, by split.

They were read by an earlier attempt, or too early for the `max_rate` of the source.

A rest goes before everything else of its split. Of a source with splits it goes to whoever reads the split after a
restore; of another source it stays with the position of its subtask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from sage_flow.functions import Source
from sage_flow.runtime.parts import Parts
from sage_flow.runtime.rate_limit import RateLimit
from sage_flow.splits import WHOLE

__all__ = ["Rest", "Rests", "keep_rests", "kept_rests"]

Rest = tuple[str, list[Any]]
"""The name of a split, and records of it."""

_REST = "rest"  # in the parts of a source without splits


class Rests:
    """Those of one subtask, in the order in which they are processed."""

    def __init__(self, rate: float | None) -> None:
        """`rate`: how many of their records may be taken per second."""
        self._rests: deque[Rest] = deque()
        self._limit = None if rate is None else RateLimit(rate)

    def __bool__(self) -> bool:
        return bool(self._rests)

    def __iter__(self) -> Iterator[Rest]:
        return iter(self._rests)

    @property
    def are_limited(self) -> bool:
        """Whether the source has a `max_rate`, so that what it gives waits here."""
        return self._limit is not None

    @property
    def next_at(self) -> float:
        """When it is worth while to ask again, after `take` has returned None."""
        return 0.0 if self._limit is None else self._limit.next_at

    def add(self, split: str, records: list[Any]) -> None:
        """Put records of a split behind the others."""
        if records:
            self._rests.append((split, records))

    def take(self, now: float) -> Rest | None:
        """Take out the first rest, or as much of it as the rate allows now; None: nothing."""
        if self._limit is None:
            return self._rests.popleft()
        split, records = self._rests[0]
        count = self._limit.take(len(records), now)
        if count == 0:
            return None
        self._rests.popleft()
        if count < len(records):
            self._rests.appendleft((split, records[count:]))
        return split, records[:count]

    def drop_for_rate(self) -> None:
        """The source ends, and knows where: what waits for its rate counts as not read."""
        if self._limit is not None:
            self._rests.clear()


def keep_rests(parts: Parts, source: Source[Any], rests: Iterable[Rest]) -> None:
    """Add them to the parts of a source, in their order."""
    if source.splits_read() is None:
        parts.own[_REST] = [[record for _, records in rests for record in records]]
        return
    for split, records in rests:
        parts.rests[split] = parts.rests.get(split, []) + records


def kept_rests(parts: Parts, source: Source[Any]) -> list[Rest]:
    """Return those that are for this subtask."""
    mine = source.splits_read()
    if mine is None:
        return [(WHOLE, records) for records in parts.own.get(_REST, ()) if records]
    read = set(mine)
    return [(split, records) for split, records in parts.rests.items() if records and split in read]
