"""The state of `join_asof`: for each key the versions of the right side, and left rows that wait for their time.

A left row meets the newest version that is not newer than itself. It waits until the time has passed it, as until then
that version may still come: a join at the arrival of the row would depend on which input is faster. Of versions that
the time has passed only the newest is needed by later rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.held import Held
from sage_flow.runtime.joins.by_time import RowsByTime
from sage_flow.runtime.joins.pairs import Pairs
from sage_flow.runtime.key_table import MISSING, KeyTable, check_key
from sage_flow.runtime.messages import FRAME_RECORDS
from sage_flow.runtime.parts import Parts

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["AsofJoin"]


class AsofJoin(Held):
    """The rows of one operator in one subtask. `left` and `right` are what the compiled chain calls.

    A result has the timestamp of the left row. `tolerance_ms`: how much older the version may be; None: any age.
    """

    def __init__(self, bound: BoundOperator, tolerance_ms: int | None) -> None:
        self._bound = bound
        self._pairs = Pairs(bound)
        self._tolerance_ms = math.inf if tolerance_ms is None else tolerance_ms
        self.table = KeyTable()  # versions
        self._waiting: list[tuple[int, int, Any, Any]] = []  # time, number, key and value of left rows, as a heap
        self._old: list[tuple[float, int, Any]] = []  # when no row can meet the versions of a key any more, as a heap
        self._numbers = count()

    # -- rows -----------------------------------------------------------------------------------------------

    def left(self, key: Any, value: Any, timestamp: int) -> Iterable[Any]:
        """Take a left row, which goes out when its time has passed."""
        if timestamp < self._bound.now:
            self._bound.too_late(value, timestamp)
            return ()
        if key not in self.table:
            check_key(key)
        heappush(self._waiting, (timestamp, next(self._numbers), key, value))
        return ()

    def right(self, key: Any, value: Any, timestamp: int) -> Iterable[Any]:
        """Take a version."""
        versions = self.table[key]
        now = self._bound.now
        if timestamp < now:
            self._bound.too_late(value, timestamp)
            return ()
        if versions is MISSING:
            versions = self.table[key] = RowsByTime()
            self._look_again(key, timestamp)
        versions.forget(max(0, versions.newest(now)))  # those that a row at `now` or later does not meet
        versions.add(timestamp, value)
        return ()

    def _look_again(self, key: Any, newest: int) -> None:
        if self._tolerance_ms != math.inf:
            heappush(self._old, (newest + self._tolerance_ms, next(self._numbers), key))

    # -- time -----------------------------------------------------------------------------------------------

    def due(self, now: float) -> Iterable[list[Any]]:
        """Give the left rows whose time has passed, in the order of time; forget keys whose versions are too old."""
        results = self._results(now)
        while batch := list(islice(results, FRAME_RECORDS)):
            yield batch
        while self._old and self._old[0][0] < now:
            key = heappop(self._old)[2]
            newest = self.table[key].times[-1]
            if newest + self._tolerance_ms < now:
                del self.table[key]
            else:
                self._look_again(key, newest)

    def _results(self, now: float) -> Iterator[tuple[Any, int]]:
        pairs, waiting = self._pairs, self._waiting
        while waiting and waiting[0][0] < now:
            timestamp, _, key, value = heappop(waiting)
            version = self._version(key, timestamp)
            if version is MISSING and not pairs.sides:
                continue
            if pairs.wants_time:
                pairs.time = timestamp
            right = None if version is MISSING else version
            try:
                result = pairs.call(value, right)
            except Exception:
                pairs.failed(value, right)
                raise
            if result is not MISSING:
                yield result, timestamp

    def _version(self, key: Any, timestamp: int) -> Any:
        """The newest version of a key at this time, MISSING if there is none."""
        versions = self.table[key]
        if versions is MISSING:
            return MISSING
        place = versions.newest(timestamp)
        if place < 0 or timestamp - versions.times[place] > self._tolerance_ms:
            return MISSING
        return versions.rows[place]

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """The versions of each key, and the left rows that wait."""
        versions = [(key, (kept.times, kept.rows)) for key, kept in self.table.entries()]
        rows = [
            (key, (timestamp, value)) for timestamp, _, key, value in sorted(self._waiting, key=lambda row: row[:2])
        ]
        return Parts(keyed={"versions": versions, "rows": rows})

    def restore(self, parts: Parts) -> None:
        """These versions and rows have come."""
        for key, (times, values) in parts.keyed.get("versions", ()):
            self.table.put(key, RowsByTime(times, values))
            self._look_again(key, times[-1])
        for key, (timestamp, value) in parts.keyed.get("rows", ()):
            heappush(self._waiting, (timestamp, next(self._numbers), key, value))
