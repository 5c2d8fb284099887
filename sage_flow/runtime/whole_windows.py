"""The state of sliding windows whose values cannot be brought together: a table for each window, not for each pane.

A `fold` without `merge=` is such a value. Each record is brought into all of its windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.early_results import EarlyResults
from sage_flow.runtime.firing import Results
from sage_flow.runtime.held import Held
from sage_flow.runtime.messages import FRAME_RECORDS
from sage_flow.state import KeyTable
from sage_flow.windows import AlignedWindow, Firing

if TYPE_CHECKING:
    from sage_flow.runtime.lines.aggregates import Aggregation
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["WholeWindows"]


class WholeWindows(Held):
    """The windows of one operator in one subtask. `add` is what the compiled chain calls."""

    def __init__(self, bound: BoundOperator, aggregation: Aggregation, window: AlignedWindow, lateness_ms: int) -> None:
        self._bound = bound
        self._aggregation = aggregation
        self._step = aggregation.adder()
        self._results = Results(bound, aggregation.result)
        self._early = EarlyResults(bound)
        self._window = window
        self._lateness_ms = lateness_ms
        self._tables: dict[int, KeyTable] = {}  # by the start of the window
        self._fired: float = -math.inf  # windows that end up to here have fired
        self._next: float = math.inf  # when a window fires, or is over
        self._touched: dict[int, set[Any]] = {}  # keys with late records, by window
        self._changed: dict[int, dict[Any, None]] = {}  # keys since early results, by window, if any are wanted

    @property
    def is_urgent(self) -> bool:  # type: ignore[override]
        """A window that has fired got a record, or early results are due."""
        return bool(self._touched) or self._early.are_due

    @property
    def look_at(self) -> float:
        """When early results are due."""
        return self._early.look_at

    def add(self, key: Any, value: Any, timestamp: int) -> bool:
        """Take a record; return False if it is late for all of its windows."""
        starts = self._window.window_starts(timestamp)
        over = self._bound.now - self._lateness_ms - self._window.size_ms
        kept = [start for start in starts if start > over]
        # All new values before the first one is stored: a record that fails is in no window.
        values = [self._step(self._table(start)[key], value) for start in kept]
        for start, new in zip(kept, values, strict=True):
            self._tables[start][key] = new
            if start + self._window.size_ms <= self._fired:
                self._touched.setdefault(start, set()).add(key)
            elif self._early.are_wanted:
                self._early.note_change()
                self._changed.setdefault(start, {})[key] = None
        return bool(kept) or not starts

    def _table(self, start: int) -> KeyTable:
        table = self._tables.get(start)
        if table is None:
            table = self._tables[start] = self._aggregation.new_table()
            self._next = min(self._next, self._look_at(start, self._fired))
        return table

    def _look_at(self, start: int, now: float) -> float:
        """When to look at a window next: it fires, or it is over."""
        end = start + self._window.size_ms
        return end if end > now else end + self._lateness_ms

    def due(self, now: float) -> Iterable[list[Any]]:
        """Fire again what got late records, then the windows that end up to `now`."""
        touched, self._touched = self._touched, {}
        for start in sorted(touched):
            table = self._tables[start]
            yield from self._fire(start, "late", [(key, table[key]) for key in touched[start]])
        if now >= self._next:
            for start in sorted(self._tables):
                end = start + self._window.size_ms
                if self._fired < end <= now:
                    yield from self._fire(start, "on_time", self._tables[start].items())
                if end + self._lateness_ms <= now:
                    del self._tables[start]
            self._next = min((self._look_at(start, now) for start in self._tables), default=math.inf)
        self._fired = now
        if self._early.are_due and now < math.inf:
            self._early.begin()
            changed, self._changed = self._changed, {}
            for start in sorted(changed):
                if start + self._window.size_ms > now:
                    table = self._tables[start]
                    yield from self._fire(start, "early", [(key, table[key]) for key in changed[start]])

    def _fire(self, start: int, firing: Firing, values: Iterable[tuple[Any, Any]]) -> Iterator[list[Any]]:
        results = self._results.of(values, start, start + self._window.size_ms, firing)
        while batch := list(islice(results, FRAME_RECORDS)):
            yield batch
