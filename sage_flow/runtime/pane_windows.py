"""The state of tumbling and sliding windows: a table of values by key for each pane of time.

A record is counted once, in its pane; a window is brought together from its panes when it fires. There is no timer for
a key: to fire a window is to look at the tables of its panes. Whether a record is late is decided where its pane is
looked up, which the compiled chain does once for a run of records of one pane, as the time does not move inside a
slice.

A window fires when the time is at its end, or later. With allowed lateness its panes stay for that long; keys that get
a record meanwhile are marked, and fire again behind the slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.aligned_windows import AlignedWindows
from sage_flow.runtime.key_table import MISSING, KeyTable, TableEntries
from sage_flow.runtime.parts import Parts
from sage_flow.windows import AlignedWindow

if TYPE_CHECKING:
    from sage_flow.runtime.lines.aggregates import Aggregation
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["PaneWindows"]

_PANE, _CHANGED, _MARKED = "pane", "changed", "marked"


class _Discarded(KeyTable):
    """Of a pane in a gap between windows: its records belong to none."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep nothing."""


class _Changed(KeyTable):
    """Where early results are wanted: it marks the keys that get a record."""

    __slots__ = ("changed",)

    def __init__(self, default: Callable[[], Any] | None) -> None:
        super().__init__(default)
        self.changed: set[Any] = set()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changed.add(key)
        super().__setitem__(key, value)


class _Touched(_Changed):
    """Of a pane of a window that has fired: it marks the keys that get a record, whose results are given again."""

    __slots__ = ("touched",)

    def __init__(self, default: Callable[[], Any] | None) -> None:
        super().__init__(default)
        self.touched: set[Any] = set()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.touched.add(key)
        super().__setitem__(key, value)


class PaneWindows(AlignedWindows):
    """The windows of one operator in one subtask. `pane(t)` is what the compiled chain calls."""

    def __init__(self, bound: BoundOperator, aggregation: Aggregation, window: AlignedWindow, lateness_ms: int) -> None:
        super().__init__(bound, aggregation, window, lateness_ms)
        self._panes: dict[int, KeyTable] = {}
        self._discarded = _Discarded(aggregation.initial)
        self._next_look: float = math.inf  # when a window with records ends, or a pane is over

    # -- records --------------------------------------------------------------------------------------------

    def pane(self, timestamp: int) -> tuple[KeyTable | None, int, int]:
        """Return the table for a record, and the timestamps from and up to which it holds; None: the record is late."""
        window = self._window
        self._early.note_change()
        start = window.pane_start(timestamp)
        table = self._panes.get(start)
        if table is None:
            table = self._new_pane(start)
        elif isinstance(table, _Touched):
            self._touched.setdefault(start, table.touched)
        return table, start, start + window.pane_ms

    def _new_pane(self, start: int) -> KeyTable | None:
        table: KeyTable
        ends = self._ends(start)
        if not ends:
            return self._discarded
        if ends[-1] + self._lateness_ms <= self._bound.now:
            return None
        initial = self._aggregation.initial
        self._keep(start, _Changed(initial) if self._early.are_wanted else KeyTable(initial))
        table = self._panes[start]
        if isinstance(table, _Touched):
            self._touched[start] = table.touched
        return table

    def _keep(self, start: int, table: KeyTable) -> None:
        ends = self._ends(start)
        self._panes[start] = table
        if self._lateness_ms and ends[0] <= self._fired:
            self._marking(start)
        self._next_look = min(self._next_look, self._look_at(ends, self._fired))

    def _marking(self, start: int) -> None:
        """Let a pane mark the keys that get records."""
        table = self._panes[start]
        if not isinstance(table, _Touched):
            marking = self._panes[start] = _Touched(self._aggregation.initial)
            marking.take_over(table)
            if isinstance(table, _Changed):
                marking.changed = table.changed

    def _ends(self, pane: int) -> range:
        """The ends of the windows that a pane belongs to, in order."""
        starts, size = self._window.window_starts(pane), self._window.size_ms
        return range(starts.start + size, starts.stop + size, starts.step)

    # -- results --------------------------------------------------------------------------------------------

    def due(self, now: float) -> Iterable[list[Any]]:
        """Fire again what got late records, then the windows that end up to `now`."""
        touched, self._touched = self._touched, {}
        if touched:
            self.is_amid = True
            yield from self._fire_again(touched)
            self.is_amid = False
        if now >= self._next_look:
            for end in self._ends_until(now):
                yield from self._fire_on_time(end, now)
                if not self._lateness_ms and self._is_tumbling:
                    del self._panes[end - self._window.size_ms]  # before those of the next windows are looked at
            self._close(now)
        self._have_fired(now)  # also of a time in which there was no window: what comes for it now is late for it
        if self._early.are_due and now < math.inf:
            self._early.begin()
            yield from self._fire_early()

    def _fire_early(self) -> Iterator[list[Any]]:
        keys_by_end: dict[int, dict[Any, None]] = {}
        for start, table in self._panes.items():
            if isinstance(table, _Changed):
                for end in _between(self._ends(start), self._fired, math.inf):
                    keys_by_end.setdefault(end, {}).update(dict.fromkeys(table.changed))
                table.changed.clear()
        for end in sorted(keys_by_end):
            yield from self._fire(end, "early", keys_by_end[end])

    def _fire_again(self, touched: dict[int, set[Any]]) -> Iterator[list[Any]]:
        keys_by_end: dict[int, dict[Any, None]] = {}
        for start, keys in touched.items():
            # Those that are over get no more results, whoever counts in a later window of the pane.
            for end in _between(self._ends(start), self._bound.now - self._lateness_ms, self._fired):
                keys_by_end.setdefault(end, {}).update(dict.fromkeys(keys))
            keys.clear()
        for end in sorted(keys_by_end):
            yield from self._fire(end, "late", keys_by_end[end])

    def _ends_until(self, now: float) -> list[int]:
        found: set[int] = set()
        for start in self._panes:
            found.update(_between(self._ends(start), self._fired, now))
        return sorted(found)

    @property
    def _is_tumbling(self) -> bool:
        """A window is one pane."""
        return self._window.pane_ms == self._window.size_ms

    def _tables(self, end: int) -> list[KeyTable]:
        starts = self._window.pane_starts(end - self._window.size_ms)
        return [self._panes[pane] for pane in starts if pane in self._panes]

    def _keys_of(self, end: int) -> Iterable[Any]:
        return _all_keys([table.plain() for table in self._tables(end)])

    def _values(self, end: int, keys: Iterable[Any] | None) -> Iterator[tuple[Any, Any]]:
        tables = self._tables(end)
        if keys is None and self._is_tumbling:
            return iter(tables[0].entries())
        merged = self._aggregation.merged
        found: Iterator[tuple[Any, list[Any]]]
        if keys is None:
            panes = [table.plain() for table in tables]
            found = ((key, [pane[key] for pane in panes if key in pane]) for key in _all_keys(panes))
        else:
            found = ((key, [v for table in tables if (v := table.find(key)) is not MISSING]) for key in keys)
        return ((key, values[0] if len(values) == 1 else merged(values)) for key, values in found)

    def _close(self, now: float) -> None:
        """Forget panes whose windows are over; let those that may get late records mark their keys."""
        self._next_look = math.inf
        for start in list(self._panes):
            ends = self._ends(start)
            if ends[-1] + self._lateness_ms <= now:
                del self._panes[start]
                continue
            if self._lateness_ms and ends[0] <= now:
                self._marking(start)
            self._next_look = min(self._next_look, self._look_at(ends, now))

    def _look_at(self, ends: range, now: float) -> float:
        """When a pane must be looked at next: its next window ends or, behind the last one, it is over."""
        return next(iter(_between(ends, now, math.inf)), ends[-1] + self._lateness_ms)

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """The value of each key in each pane, and the keys that have to be given again, or early."""
        parts = super().parts()
        for start, table in self._panes.items():
            parts.keyed[_PANE, start] = TableEntries(table)
            if isinstance(table, _Changed) and table.changed:
                parts.keyed[_CHANGED, start] = [(key, None) for key in table.changed]
        for start, keys in self._touched.items():
            parts.keyed[_MARKED, start] = [(key, None) for key in keys]
        return parts

    def restore(self, parts: Parts) -> None:
        """These panes have values. When to look at them follows from the ends of their windows."""
        super().restore(parts)
        changed, marked = dict(parts.tables(_CHANGED)), dict(parts.tables(_MARKED))
        initial = self._aggregation.initial
        for start, entries in parts.tables(_PANE):
            table = KeyTable(initial)
            if self._early.are_wanted:
                table = marking = _Changed(initial)
                marking.changed = {key for key, _ in changed.get(start, ())}
                if marking.changed:
                    self._early.note_change()
            table.fill(entries)
            self._keep(start, table)
            if (keys := marked.get(start)) and isinstance(touched := self._panes[start], _Touched):
                touched.touched.update(key for key, _ in keys)
                self._touched[start] = touched.touched


def _all_keys(panes: list[dict[Any, Any]]) -> Iterable[Any]:
    return dict.fromkeys(key for pane in panes for key in pane)


def _between(ends: range, after: float, until: float) -> Sequence[int]:
    """The part of `ends` that is greater than `after` and not greater than `until`."""
    first = 0 if after < ends[0] else len(ends)
    if ends[0] <= after < ends[-1]:
        first = int((after - ends[0]) // ends.step) + 1
    last = 0 if until < ends[0] else len(ends)
    if ends[0] <= until < ends[-1]:
        last = int((until - ends[0]) // ends.step) + 1
    return ends[first:last]
