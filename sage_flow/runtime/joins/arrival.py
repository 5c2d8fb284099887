"""The state of `join(ttl=)` without timestamps: rows meet that come at most `ttl` apart, by the wall clock."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.held import Held
from sage_flow.runtime.joins.interval import IntervalJoin
from sage_flow.runtime.parts import Parts

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["ArrivalJoin"]


class ArrivalJoin(Held):
    """The rows of one operator in one subtask: an interval join whose timestamps are the times of arrival."""

    goes_by_clock = True

    def __init__(self, bound: BoundOperator, ttl_ms: int) -> None:
        self._bound = bound
        self._join = IntervalJoin(bound, ttl_ms, ttl_ms, is_of_intervals=False, time=bound.wall_ms)
        self.table = self._join.table

    def left(self, key: Any, value: Any) -> Iterable[Any]:
        """Take a left row; return what comes of it."""
        return (result for result, _ in self._join.left(key, value, self._bound.wall_ms()))

    def right(self, key: Any, value: Any) -> Iterable[Any]:
        """Take a right row; return what comes of it."""
        return (result for result, _ in self._join.right(key, value, self._bound.wall_ms()))

    @property
    def is_urgent(self) -> bool:  # type: ignore[override]
        """The clock has come to where rows go out alone, or are forgotten."""
        return self._join.next < self._bound.wall_ms()

    @property
    def look_at(self) -> float:
        """When, on the clock of the subtask, rows go out alone."""
        at = self._join.next_alone
        return at if at == math.inf else self._bound.clock() + max(0.0, at + 1 - self._bound.wall_ms()) / 1000

    def due(self, now: float) -> Iterable[list[Any]]:
        """Give the rows that met none and are over; forget all that are over."""
        for batch in self._join.due(now if now == math.inf else self._bound.wall_ms()):
            yield [result for result, _ in batch]

    def parts(self) -> Parts:
        """The rows of both sides by key."""
        return self._join.parts()

    def restore(self, parts: Parts) -> None:
        """These rows have come."""
        self._join.restore(parts)
