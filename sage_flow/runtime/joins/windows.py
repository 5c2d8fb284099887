"""What a window of two streams gives when it fires: a result for each pair of a left and a right row of a key.

The rows are kept as the windows of one stream keep their values (`pane_windows.py`, `session_windows.py`): the value of
a key is a sequence of its rows, each followed by its side. So there is one sequence for each key; with one for each
side the garbage collector took half of the time of a join of many keys.

In panes it is a tuple while it is short, and then a list. The collector stops to track a tuple of numbers, texts and
such tuples at the first look; lists it goes through in each full collection, and many new ones bring such collections
about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sage_flow.aggregates import Aggregate
from sage_flow.runtime.joins.pairs import Pairs
from sage_flow.runtime.key_table import MISSING
from sage_flow.windows import Firing, WindowResult

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["MOST_IN_TUPLE", "PairResults", "Sides"]

MOST_IN_TUPLE = 16
"""How long the tuple of a key in a pane is at most: each row that comes makes it anew."""

_new = tuple.__new__  # a named tuple without the call of its own `__new__`, which checks arguments

Rows = Sequence[Any]
"""Rows, each followed by its side."""


class Sides(Aggregate[tuple[Any, int], list[Any], list[Any]]):
    """A list of rows, each followed by its side, 0 or 1. What is added is such a pair."""

    def create(self) -> list[Any]:
        """No rows."""
        return []

    def add(self, state: list[Any], value: tuple[Any, int]) -> list[Any]:
        """With a row and its side at the end."""
        state += value
        return state

    def merge(self, left: list[Any], right: Rows) -> list[Any]:
        """The rows of `left`, then those of `right`."""
        left += right
        return left

    def result(self, state: list[Any]) -> list[Any]:
        """The list."""
        return state


class PairResults:
    """Of one operator in one subtask. The timestamp of what is given is the last one in the window."""

    def __init__(self, bound: BoundOperator) -> None:
        self._pairs = Pairs(bound)

    def of(self, values: Iterable[tuple[Any, Rows]], start: int, end: int, firing: Firing) -> Iterator[Any]:
        """Yield what a window gives for these keys, with its timestamp."""
        time, pairs, left, right = end - 1, self._pairs, None, None
        pairs.time, is_inner = time, not pairs.sides
        try:
            for key, rows in values:
                if is_inner and len(rows) == 2:
                    continue  # a row alone
                call = pairs.call
                if len(rows) == 4 and rows[1] != rows[3]:  # what is most frequent, without lists
                    left, right = (rows[2], rows[0]) if rows[1] else (rows[0], rows[2])
                    value = call(left, right)
                    if value is not MISSING:
                        yield _new(WindowResult, (key, start, end, value, firing)), time
                    continue
                lefts, rights = _of_both_sides(rows)
                if not (rights or is_inner):
                    rights = [None]
                for left in lefts:
                    for right in rights:
                        value = call(left, right)
                        if value is not MISSING:
                            yield _new(WindowResult, (key, start, end, value, firing)), time
        except Exception:
            pairs.failed(left, right)
            raise


def _of_both_sides(rows: Rows) -> tuple[list[Any], list[Any]]:
    """Return the left and the right rows, in the order in which they came."""
    both: tuple[list[Any], list[Any]] = [], []
    rows_and_sides = iter(rows)
    for row, side in zip(rows_and_sides, rows_and_sides):
        both[side].append(row)
    return both
