"""The state of `join` without a limit in time: all rows of both sides by key, until the input ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.held import Held
from sage_flow.runtime.joins.pairs import Pairs
from sage_flow.runtime.key_table import MISSING, KeyTable, TableEntries
from sage_flow.runtime.parts import Parts

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["KeyedJoin"]

Row = list[Any]
"""A value, its timestamp (0 where there are none), and whether it has met another row, or has gone out alone."""


class KeyedJoin(Held):
    """The rows of one operator in one subtask. `left` and `right` are what the compiled chain calls.

    Where rows have timestamps, a pair has the larger one of its two.
    """

    def __init__(self, bound: BoundOperator) -> None:
        self._pairs = Pairs(bound)
        self._is_timed = bound.operator.timed
        self.table = KeyTable()  # pairs of the rows of both sides

    def left(self, key: Any, value: Any, timestamp: int = 0) -> Iterable[Any]:
        """Take a left row; return what comes of it."""
        row: Row = [value, timestamp, False]
        others = self._keep(key, 0, row)
        return self._meet((row, other) for other in others) if others else ()

    def right(self, key: Any, value: Any, timestamp: int = 0) -> Iterable[Any]:
        """Take a right row; return what comes of it."""
        row: Row = [value, timestamp, False]
        others = self._keep(key, 1, row)
        return self._meet((other, row) for other in others) if others else ()

    def _keep(self, key: Any, side: int, row: Row) -> list[Row]:
        """Keep a row; return those of the other side."""
        rows = self.table[key]
        if rows is MISSING:
            rows = self.table[key] = ([], [])
        rows[side].append(row)
        others: list[Row] = rows[1 - side]
        return others

    def _meet(self, met: Iterable[tuple[Row, Row]]) -> Iterator[Any]:
        pairs = self._pairs
        for left, right in met:
            left[2] = right[2] = True
            time = max(left[1], right[1])
            if pairs.wants_time:
                pairs.time = time
            try:
                value = pairs.call(left[0], right[0])
            except Exception:
                pairs.failed(left[0], right[0])
                raise
            if value is not MISSING:
                yield (value, time) if self._is_timed else value

    def at_end(self) -> Iterator[Any]:
        """Give the rows that met none, if they go out at all."""
        for key in self.table.keys_now():
            rows = self.table.find(key)
            for side in self._pairs.sides:
                for row in rows[side]:
                    has_met, row[2] = row[2], True  # before it is given, as all that a snapshot must not hold
                    result = MISSING if has_met else self._pairs.alone(side, row[0])
                    if result is not MISSING:
                        yield result
            self.table.drop(key)

    def parts(self) -> Parts:
        """The rows of both sides by key."""
        return Parts(keyed={"rows": TableEntries(self.table)})

    def restore(self, parts: Parts) -> None:
        """These rows have come."""
        self.table.fill(parts.keyed.get("rows", ()))
