"""The state of sliding windows whose values cannot be brought together: a table for each window, not for each pane.

A `fold` without `merge=` is such a value. Each record is brought into all of its windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.aligned_windows import AlignedWindows
from sage_flow.runtime.key_table import KeyTable, TableEntries
from sage_flow.runtime.parts import Parts
from sage_flow.windows import AlignedWindow

if TYPE_CHECKING:
    from sage_flow.runtime.lines.aggregates import Aggregation
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["WholeWindows"]

_WINDOW, _CHANGED, _TOUCHED = "window", "changed", "touched"


class WholeWindows(AlignedWindows):
    """The windows of one operator in one subtask. `add` is what the compiled chain calls."""

    def __init__(self, bound: BoundOperator, aggregation: Aggregation, window: AlignedWindow, lateness_ms: int) -> None:
        super().__init__(bound, aggregation, window, lateness_ms)
        self._step = aggregation.adder()
        self._tables: dict[int, KeyTable] = {}  # by the end of the window
        self._next: float = math.inf  # when a window fires, or is over
        self._changed: dict[int, dict[Any, None]] = {}  # keys since early results, by window, if any are wanted

    def add(self, key: Any, value: Any, timestamp: int) -> bool:
        """Take a record; return False if it is late for all of its windows."""
        starts, size = self._window.window_starts(timestamp), self._window.size_ms
        over = self._bound.now - self._lateness_ms
        kept = [start + size for start in starts if start + size > over]
        # All new values before the first one is stored: a record that fails is in no window.
        values = [self._step(self._table(end)[key], value) for end in kept]
        for end, new in zip(kept, values, strict=True):
            self._tables[end][key] = new
            if end <= self._fired:
                self._touched.setdefault(end, set()).add(key)
            elif self._early.are_wanted:
                self._early.note_change()
                self._changed.setdefault(end, {})[key] = None
        return bool(kept) or not starts

    def _table(self, end: int) -> KeyTable:
        table = self._tables.get(end)
        if table is None:
            table = self._tables[end] = self._aggregation.new_table()
            self._next = min(self._next, self._look_at(end, self._fired))
        return table

    def _look_at(self, end: int, now: float) -> float:
        """When to look at a window next: it fires, or it is over."""
        return end if end > now else end + self._lateness_ms

    def _keys_of(self, end: int) -> Iterable[Any]:
        return self._tables[end].plain() if end in self._tables else ()

    def _values(self, end: int, keys: Iterable[Any] | None) -> Iterator[tuple[Any, Any]]:
        table = self._tables[end]
        return iter(table.entries()) if keys is None else ((key, table[key]) for key in keys)

    def due(self, now: float) -> Iterable[list[Any]]:
        """Fire again what got late records, then the windows that end up to `now`."""
        touched, self._touched = self._touched, {}
        self.is_amid = bool(touched)
        for end in sorted(touched):
            yield from self._fire(end, "late", touched[end])
        self.is_amid = False
        if now >= self._next:
            for end in sorted(self._tables):
                if self._fired < end <= now:
                    yield from self._fire_on_time(end, now)
                if end + self._lateness_ms <= now:
                    del self._tables[end]
            self._next = min((self._look_at(end, now) for end in self._tables), default=math.inf)
        self._have_fired(now)
        if self._early.are_due and now < math.inf:
            self._early.begin()
            changed, self._changed = self._changed, {}
            for end in sorted(changed):
                if end > now:
                    yield from self._fire(end, "early", changed[end])

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """The value of each key in each window, and the keys that have to be given again, or early."""
        parts = super().parts()
        parts.keyed |= {(_WINDOW, end): TableEntries(table) for end, table in self._tables.items()}
        parts.keyed |= {(_CHANGED, end): list(keys.items()) for end, keys in self._changed.items()}
        parts.keyed |= {(_TOUCHED, end): [(key, None) for key in keys] for end, keys in self._touched.items()}
        return parts

    def restore(self, parts: Parts) -> None:
        """These windows have values. When to look at them follows from their ends."""
        super().restore(parts)
        for end, entries in parts.tables(_WINDOW):
            self._table(end).fill(entries)
        for end, entries in parts.tables(_CHANGED):
            self._early.note_change()
            self._changed[end] = dict(entries)
        self._touched = {end: {key for key, _ in entries} for end, entries in parts.tables(_TOUCHED) if entries}
