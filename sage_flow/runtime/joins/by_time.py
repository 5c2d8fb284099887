"""Rows sorted by time; equal ones stay in the order in which they came."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

__all__ = ["RowsByTime"]


class RowsByTime:
    """Two lists of one length: the times, ms since the epoch, and the rows."""

    __slots__ = ("rows", "times")

    def __init__(self, times: list[int] | None = None, rows: list[Any] | None = None) -> None:
        self.times: list[int] = [] if times is None else times
        self.rows: list[Any] = [] if rows is None else rows

    def add(self, timestamp: int, row: Any) -> None:
        """Put a row behind those of its time."""
        if not self.times or timestamp >= self.times[-1]:
            self.times.append(timestamp)
            self.rows.append(row)
            return
        place = bisect_right(self.times, timestamp)
        self.times.insert(place, timestamp)
        self.rows.insert(place, row)

    def between(self, first: float, last: float) -> list[tuple[int, Any]]:
        """The times and rows from `first` to `last`, both included."""
        times = self.times
        if not times or times[-1] < first or times[0] > last:
            return []
        low, high = bisect_left(times, first), bisect_right(times, last)
        return list(zip(times[low:high], self.rows[low:high], strict=True))

    def newest(self, timestamp: float) -> int:
        """The place of the newest row that is not newer than `timestamp`, -1 if there is none."""
        return bisect_right(self.times, timestamp) - 1

    def cut(self, before: float) -> None:
        """Forget the rows with times below `before`."""
        self.forget(bisect_left(self.times, before))

    def forget(self, count: int) -> None:
        """Forget so many of the oldest rows."""
        del self.times[:count], self.rows[:count]
