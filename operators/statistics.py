"""Statistics of delays, one delay after the other."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DelayStatistics"]


class DelayStatistics(NamedTuple):
    """What is known after some delays; `add` makes the next one, so it can be folded with any `emit`.

    Attributes:
        added: delays so far, those that never came (None) included.
        missing: those that never came; they are in none of the others.
        late: those above the limit.
        total_min: minutes, early ones negative.
        longest_min: minutes; None before the first delay.

    >>> statistics = DelayStatistics().add(-5, 15).add(20, 15).add(None, 15)
    >>> statistics.added, statistics.missing, statistics.late, statistics.longest_min
    (3, 1, 1, 20)
    >>> statistics.mean_min, statistics.late_share
    (7.5, 0.5)
    """

    added: int = 0
    missing: int = 0
    late: int = 0
    total_min: int = 0
    longest_min: int | None = None

    def add(self, delay_min: int | None, limit_min: int) -> DelayStatistics:
        """Return the statistics with one more delay, which is late if it is above the limit."""
        added, missing, late, total_min, longest_min = self
        if delay_min is None:
            return DelayStatistics(added + 1, missing + 1, late, total_min, longest_min)
        return DelayStatistics(
            added + 1,
            missing,
            late + (delay_min > limit_min),
            total_min + delay_min,
            delay_min if longest_min is None or delay_min > longest_min else longest_min,
        )

    def merge(self, other: DelayStatistics) -> DelayStatistics:
        """Return the statistics of the delays of both.

        >>> early, late = DelayStatistics().add(-5, 15), DelayStatistics().add(20, 15)
        >>> early.merge(late) == early.add(20, 15)
        True
        """
        known = [longest for longest in (self.longest_min, other.longest_min) if longest is not None]
        return DelayStatistics(
            self.added + other.added,
            self.missing + other.missing,
            self.late + other.late,
            self.total_min + other.total_min,
            max(known, default=None),
        )

    @property
    def mean_min(self) -> float | None:
        """Minutes, of those that came; None if none did."""
        return self.total_min / self._came if self._came else None

    @property
    def late_share(self) -> float | None:
        """How many of those that came were late, from 0 to 1; None if none came."""
        return self.late / self._came if self._came else None

    @property
    def _came(self) -> int:
        return self.added - self.missing
