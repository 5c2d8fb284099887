"""What a window of two streams gives when it fires: a result for each pair of a left and a right row of a key.

The rows are kept as the windows of one stream keep their values (`pane_windows.py`, `session_windows.py`): the value of
a key is the lists of both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sage_flow.aggregates import Aggregate
from sage_flow.runtime.joins.pairs import Pairs
from sage_flow.state import MISSING
from sage_flow.windows import Firing, WindowResult

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["PairResults", "Sides"]

_new = tuple.__new__  # a named tuple without the call of its own `__new__`, which checks arguments

Rows = tuple[list[Any], list[Any]]


class Sides(Aggregate[tuple[int, Any], Rows, Rows]):
    """The left and the right rows as two lists. What is added is a side, 0 or 1, and a row."""

    def create(self) -> Rows:
        """No rows."""
        return [], []

    def add(self, state: Rows, value: tuple[int, Any]) -> Rows:
        """With a row at the end of its side."""
        side, row = value
        state[side].append(row)
        return state

    def merge(self, left: Rows, right: Rows) -> Rows:
        """The rows of `left`, then those of `right`."""
        left[0].extend(right[0])
        left[1].extend(right[1])
        return left

    def result(self, state: Rows) -> Rows:
        """The lists."""
        return state


class PairResults:
    """Of one operator in one subtask. The timestamp of what is given is the last one in the window."""

    def __init__(self, bound: BoundOperator) -> None:
        self._pairs = Pairs(bound)

    def of(self, values: Iterable[tuple[Any, Rows]], start: int, end: int, firing: Firing) -> Iterator[Any]:
        """Yield what a window gives for these keys, with its timestamp."""
        time, pairs, left, right = end - 1, self._pairs, None, None
        pairs.time = time
        try:
            for key, (lefts, rights) in values:
                if not rights and pairs.sides:
                    rights = [None]
                call = pairs.call
                for left in lefts:
                    for right in rights:
                        value = call(left, right)
                        if value is not MISSING:
                            yield _new(WindowResult, (key, start, end, value, firing)), time
        except Exception:
            pairs.failed(left, right)
            raise
