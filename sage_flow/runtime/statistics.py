"""Statistics of calls: how many, how they ended, how long they took and waited."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["CallStatistics", "Histogram", "merged"]

_PER_DOUBLING = 8  # buckets of equal width; a percentile is exact to 7 %
_LEAST_S = 1e-7  # added to every duration: there is a bucket for none


class Histogram:
    """Durations in buckets whose width grows with the duration. Histograms of several subtasks add up.

    >>> waits = Histogram()
    >>> for ms in range(1, 1001):
    ...     waits.add(ms / 1000)
    >>> 0.45 < waits.percentile(50) < 0.55
    True
    """

    __slots__ = ("_counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts: Counter[int] = Counter(counts)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        part, doublings = math.frexp(seconds + _LEAST_S)  # the part is from 0.5 to 1
        self._counts[doublings * _PER_DOUBLING + int((part - 0.5) * 2 * _PER_DOUBLING)] += 1

    def percentile(self, percent: float) -> float | None:
        """Return the duration in seconds that `percent` of all are not above, None if there are none."""
        left = math.ceil(self._counts.total() * percent / 100)
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return _middle(bucket)
        return None

    @property
    def count(self) -> int:
        """How many there are."""
        return self._counts.total()

    @property
    def sum(self) -> float:
        """Their sum in seconds, exact to 7 %."""
        return sum(_middle(bucket) * count for bucket, count in self._counts.items())

    def count_below(self, bound: float) -> int:
        """Return how many are not above `bound`, a power of two."""
        _, doublings = math.frexp(bound)  # the part is 0.5, so the buckets below begin with fewer doublings
        return sum(count for bucket, count in self._counts.items() if bucket < doublings * _PER_DOUBLING)

    def copy(self) -> Histogram:
        """Return one that does not change."""
        return Histogram(self._counts)

    def plus(self, other: Histogram) -> Histogram:
        """Add up."""
        return Histogram(self._counts + other._counts)

    def milliseconds(self) -> dict[str, float | None]:
        """Return p50, p90 and p99 in milliseconds."""
        found = {percent: self.percentile(percent) for percent in (50, 90, 99)}
        return {f"p{percent}": None if s is None else round(s * 1000, 4) for percent, s in found.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return Histogram, (dict(self._counts),)


def _middle(bucket: int) -> float:
    doublings, number = divmod(bucket, _PER_DOUBLING)
    middle = math.ldexp(0.5 + (number + 0.5) / (2 * _PER_DOUBLING), doublings)
    return max(0.0, middle - _LEAST_S)


class CallStatistics(NamedTuple):
    """Of one method of one service, as callers see it.

    `latency` is the time from the call to its outcome; `queue` that from the arrival of a request at the service
    to its start, which only the service knows. `batches` of a batched method have begun, with `batched_calls` in them.
    """

    calls: int = 0
    errors: int = 0
    in_flight: int = 0
    latency: Histogram = Histogram()
    queue: Histogram = Histogram()
    batches: int = 0
    batched_calls: int = 0

    def plus(self, other: CallStatistics) -> CallStatistics:
        """Add up."""
        return CallStatistics(
            self.calls + other.calls,
            self.errors + other.errors,
            self.in_flight + other.in_flight,
            self.latency.plus(other.latency),
            self.queue.plus(other.queue),
            self.batches + other.batches,
            self.batched_calls + other.batched_calls,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it in plain types, times in milliseconds; `batches` and `batched_calls` of a batched method only."""
        batches = {"batches": self.batches, "batched_calls": self.batched_calls} if self.batches else {}
        return {
            "calls": self.calls,
            "errors": self.errors,
            "in_flight": self.in_flight,
            "latency_ms": self.latency.milliseconds(),
            "queue_ms": self.queue.milliseconds(),
            **batches,
        }


def merged(parts: list[dict[str, CallStatistics]]) -> dict[str, CallStatistics]:
    """Add up what several subtasks tell, by label."""
    total: dict[str, CallStatistics] = {}
    for part in parts:
        for label, statistics in part.items():
            total[label] = total.get(label, CallStatistics()).plus(statistics)
    return total
