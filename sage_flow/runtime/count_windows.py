"""The state of count windows: for each key the records since its last full window, and how many they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.key_table import MISSING, KeyTable

if TYPE_CHECKING:
    from sage_flow.runtime.lines.aggregates import Aggregation

__all__ = ["CountWindows"]


class CountWindows:
    """Windows of `size` records of a key. `table` has pairs of the count and the value so far."""

    def __init__(self, aggregation: Aggregation, size: int) -> None:
        self._aggregation = aggregation
        self._step = aggregation.adder()
        self._size = size
        self.table = KeyTable()

    def add(self, key: Any, value: Any) -> Any:
        """Take a record. Return the key and the value of its window if it has filled it, else MISSING."""
        known = self.table[key]
        count, state = (0, self._aggregation.first()) if known is MISSING else known
        state = self._step(state, value)
        if count + 1 < self._size:
            self.table[key] = (count + 1, state)
            return MISSING
        self.table.drop(key)
        return self._result(key, state)

    def at_end(self) -> Iterator[Any]:
        """Give the windows that are not full."""
        for key in self.table.keys_now():
            _, value = self.table.find(key)
            self.table.drop(key)
            yield self._result(key, value)

    def _result(self, key: Any, state: Any) -> Any:
        result = self._aggregation.result
        return key, state if result is None else result(state)
