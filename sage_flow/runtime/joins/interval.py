"""The state of joins in which rows meet that are close in time: `join_interval`, and `join(ttl=)`.

A left row at l meets the right rows of its key from l - before to l + after, both ends included. A row is over when the
time has passed the last one that it could meet; rows of a key are sorted by time, so those that meet are a slice.

Rows that are over are not looked for one by one: keys that got rows are cut when their `Expiries` have passed. Rows
that have not met another one yet, where they matter, wait in a heap by time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.expiries import Expiries
from sage_flow.runtime.held import Held
from sage_flow.runtime.joins.by_time import RowsByTime
from sage_flow.runtime.joins.pairs import Pairs
from sage_flow.runtime.key_table import MISSING, KeyTable
from sage_flow.runtime.messages import FRAME_RECORDS
from sage_flow.runtime.parts import Parts
from sage_flow.timestamps import MAX_TIMESTAMP

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["IntervalJoin"]

Row = list[Any]
"""A value, and whether it has met another row, or has gone out alone."""


class IntervalJoin(Held):
    """The rows of one operator in one subtask. `left` and `right` are what the compiled chain calls.

    A pair has the larger one of its two timestamps. Of a row that met none, `keeps_time` says which one it has: its
    own, for which the watermark is held back, or the last one at which it could have met another row.
    A row behind the watermark is late if `refuses_late`; otherwise it meets what is still there. `time()` is the
    present time, by default the operator's event time.
    """

    def __init__(
        self,
        bound: BoundOperator,
        before_ms: int,
        after_ms: int,
        *,
        is_of_intervals: bool,
        time: Callable[[], float] | None = None,
    ) -> None:
        self._bound = bound
        self._pairs = Pairs(bound)
        self._refuses_late = self._keeps_time = is_of_intervals
        self._reach = ((-before_ms, after_ms), (-after_ms, before_ms))  # from a row's time to those that it meets
        self._time = time or _event_time(bound)
        self.table = KeyTable()  # pairs of the rows of both sides
        self._expiries = Expiries(before_ms + after_ms)
        self._waiting: dict[int, list[tuple[int, int, Row]]] = {side: [] for side in self._pairs.sides}
        self._numbers = count()

    # -- rows -----------------------------------------------------------------------------------------------

    def left(self, key: Any, value: Any, timestamp: int) -> Iterable[Any]:
        """Take a left row; return what comes of it."""
        return self._add(0, key, value, timestamp)

    def right(self, key: Any, value: Any, timestamp: int) -> Iterable[Any]:
        """Take a right row; return what comes of it."""
        return self._add(1, key, value, timestamp)

    def _add(self, side: int, key: Any, value: Any, timestamp: int) -> Iterable[Any]:
        sides = self.table[key]  # also of a late row: a key that cannot be placed is an error
        now = self._time()
        if timestamp < now and self._refuses_late:
            self._bound.too_late(value, timestamp)
            return ()
        first, last = self._reach[side]
        # Rows that are over are forgotten, whenever the bucket of their key is looked at.
        oldest = max(timestamp + first, now - self._reach[1 - side][1])
        met = [] if sides is MISSING else sides[1 - side].between(oldest, timestamp + last)
        row: Row = [value, bool(met)]
        if timestamp + last >= now:
            if sides is MISSING:
                sides = self.table[key] = (RowsByTime(), RowsByTime())
            sides[side].add(timestamp, row)
            self._expiries.add(timestamp + last, key)
        self._wait_alone(side, timestamp, row)
        return self._meet(side, timestamp, value, met) if met else ()

    def _wait_alone(self, side: int, timestamp: int, row: Row) -> None:
        """Let a row that has met none go out when it is over, if it does so at all."""
        if not row[1] and side in self._waiting:
            heappush(self._waiting[side], (timestamp, next(self._numbers), row))

    def _meet(self, side: int, timestamp: int, value: Any, met: list[tuple[int, Row]]) -> Iterator[tuple[Any, int]]:
        pairs = self._pairs
        for other_time, other in met:
            other[1] = True
            left, right = (value, other[0]) if side == 0 else (other[0], value)
            time = max(timestamp, other_time)
            if pairs.wants_time:
                pairs.time = time
            try:
                result = pairs.call(left, right)
            except Exception:
                pairs.failed(left, right)
                raise
            if result is not MISSING:
                yield result, time

    # -- time -----------------------------------------------------------------------------------------------

    @property
    def is_urgent(self) -> bool:  # type: ignore[override]
        """A row came that met none, and whose time was over; or the watermark waits for one that has met another."""
        return self.next_alone < self._time() or (
            self._keeps_time and any(heap and heap[0][2][1] for heap in self._waiting.values())
        )

    @property
    def next_alone(self) -> float:
        """When this time has passed, a row may go out alone; infinity if none waits."""
        ends = (heap[0][0] + self._reach[side][1] for side, heap in self._waiting.items() if heap)
        return min(ends, default=math.inf)

    @property
    def next(self) -> float:
        """When this time has passed, a row may go out alone, or rows are forgotten."""
        return min(self.next_alone, self._expiries.next)

    def due(self, now: float) -> Iterable[list[Any]]:
        """Give the rows that met none and are over; forget all that are over."""
        alone = self._alone(now)
        while batch := list(islice(alone, FRAME_RECORDS)):
            yield batch
        for key in self._expiries.pop(now):
            self._cut(key, now)

    def _alone(self, now: float) -> Iterator[tuple[Any, int]]:
        for side, heap in self._waiting.items():
            last = self._reach[side][1]
            while heap and heap[0][0] + last < now:
                timestamp, _, row = heappop(heap)
                (value, has_met), row[1] = row, True  # before it is given, as all that a snapshot must not hold
                time = timestamp if self._keeps_time else min(timestamp + last, MAX_TIMESTAMP)
                if self._pairs.wants_time:
                    self._pairs.time = time
                result = MISSING if has_met else self._pairs.alone(side, value)
                if result is not MISSING:
                    yield result, time

    def _cut(self, key: Any, now: float) -> None:
        sides = self.table[key]
        if sides is MISSING:
            return
        for rows, (_, last) in zip(sides, self._reach, strict=True):
            rows.cut(now - last)
        if not sides[0].rows and not sides[1].rows:
            del self.table[key]

    def holds(self, now: float) -> float:
        """A row that met none so far leaves with its own time: the watermark waits for it."""
        for heap in self._waiting.values() if self._keeps_time else ():
            while heap and heap[0][2][1]:
                heappop(heap)
            if heap:
                now = min(now, heap[0][0])
        return now

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """The times and rows of both sides by key. Rows that came too late for the table have gone out already."""
        return Parts(
            keyed={"rows": [(key, [(rows.times, rows.rows) for rows in sides]) for key, sides in self.table.entries()]}
        )

    def restore(self, parts: Parts) -> None:
        """These rows have come."""
        for key, kept in parts.keyed.get("rows", ()):
            sides = tuple(RowsByTime(*rows) for rows in kept)
            self.table.put(key, sides)
            for side, rows in enumerate(sides):
                for time, row in zip(rows.times, rows.rows, strict=True):
                    self._expiries.add(time + self._reach[side][1], key)
                    self._wait_alone(side, time, row)


def _event_time(bound: BoundOperator) -> Callable[[], float]:
    return lambda: bound.now
