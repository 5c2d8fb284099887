"""What tumbling and sliding windows have in common, whatever their state is: how they fire, and what a snapshot keeps.

A window fires when the time is at its end, or later. With allowed lateness its state stays for that long; keys that get
a record meanwhile fire again behind the slice. At the end of input a snapshot may be taken between two batches of a
window: it names the keys that were given.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.early_results import EarlyResults
from sage_flow.runtime.firing import FIRED_RECORDS, results_of
from sage_flow.runtime.held import Held
from sage_flow.runtime.parts import Parts
from sage_flow.windows import AlignedWindow, Firing

if TYPE_CHECKING:
    from sage_flow.runtime.lines.aggregates import Aggregation
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["AlignedWindows"]

_GIVEN = "given"


class _Given:
    """The keys of a window that fires, None for all of them, and how many of these were given."""

    __slots__ = ("count", "keys")

    def __init__(self, keys: list[Any] | None) -> None:
        self.keys = keys
        self.count = 0


class AlignedWindows(Held):
    """The windows of one operator in one subtask. A subclass has their tables."""

    def __init__(self, bound: BoundOperator, aggregation: Aggregation, window: AlignedWindow, lateness_ms: int) -> None:
        self._bound = bound
        self._aggregation = aggregation
        self._results = results_of(bound, aggregation.result)
        self._early = EarlyResults(bound)
        self._window = window
        self._lateness_ms = lateness_ms
        self._fired: float = -math.inf  # windows that end up to here have fired
        self._touched: dict[int, set[Any]] = {}  # keys of windows that have fired and got a record
        self._given: dict[int, _Given] = {}  # by the end of each window that has fired since the input ended
        self._already: dict[int, set[Any]] = {}  # keys that were given before a restore, by the end of their window

    @property
    def is_urgent(self) -> bool:  # type: ignore[override]
        """A window that has fired got a record, or early results are due."""
        return bool(self._touched) or self._early.are_due

    @property
    def look_at(self) -> float:
        """When early results are due."""
        return self._early.look_at

    def _keys_of(self, end: int) -> Iterable[Any]:
        """The keys of a window, in the order in which they are given."""
        raise NotImplementedError

    def _values(self, end: int, keys: Iterable[Any] | None) -> Iterator[tuple[Any, Any]]:
        """The values of a window by key; of all keys, or of some."""
        raise NotImplementedError

    def _fire(self, end: int, firing: Firing, keys: Iterable[Any] | None = None) -> Iterator[list[Any]]:
        results = self._results.of(self._values(end, keys), end - self._window.size_ms, end, firing)
        while batch := list(islice(results, FIRED_RECORDS)):
            yield batch

    def _fire_on_time(self, end: int, now: float) -> Iterator[list[Any]]:
        if now < math.inf:
            yield from self._fire(end, "on_time")
            return
        keys = None
        if end in self._already:
            keys = [key for key in self._keys_of(end) if key not in self._already[end]]
        given = self._given[end] = _Given(keys)
        values, start = self._values(end, keys), end - self._window.size_ms
        while some := list(islice(values, FIRED_RECORDS)):
            given.count += len(some)
            results = self._results.of(some, start, end, "on_time")
            batch = list(islice(results, FIRED_RECORDS))
            while batch:
                following = list(islice(results, FIRED_RECORDS)) if len(batch) == FIRED_RECORDS else []
                self.is_amid = bool(following)  # else a key could be half given
                yield batch
                batch = following

    def _have_fired(self, now: float) -> None:
        """All windows that end up to `now` have given their results."""
        self._fired = now
        self._given.clear()
        if self._already:
            self._already = {end: keys for end, keys in self._already.items() if end > now}

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """How far windows have fired, and the keys that those which are firing have given."""
        keyed: dict[Hashable, list[tuple[Any, Any]]] = {}
        for end in {**self._already, **self._given}:
            keyed[_GIVEN, end] = [(key, None) for key in self._already.get(end, ())]
        for end, given in self._given.items():
            keys = islice(self._keys_of(end) if given.keys is None else given.keys, given.count)
            keyed[_GIVEN, end].extend((key, None) for key in keys)
        return Parts({**keyed}, lowest={"fired": self._fired})

    def restore(self, parts: Parts) -> None:
        """A subclass fills its tables, for which it must know how far windows have fired."""
        self._fired = parts.lowest.get("fired", -math.inf)
        self._already = {end: {key for key, _ in entries} for end, entries in parts.tables(_GIVEN)}
