"""How many records a source may give now, so that it gives at most `max_rate` a second.

The limit is that of virtual scheduling (ITU-T I.371, the generic cell rate algorithm): each record moves the time of
the next one on by 1 / rate. A subtask that is woken late catches up, by `_CATCH_UP_S` at most, so a source that stood
still does not give a burst afterwards.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from sage_flow.errors import PipelineError
from sage_flow.plan.physical import Chain

__all__ = ["RateLimit", "checked_rate", "rate_of"]

_CATCH_UP_S: Final = 0.1
_STEP_S: Final = 0.01
"""The subtask is woken once for the records of so much time: at a million a second, not for each of them."""


class RateLimit:
    """Of one subtask; `rate` is its share, in records per second."""

    def __init__(self, rate: float) -> None:
        self._interval_s = 1.0 / rate
        self._next_at: float | None = None  # when the next record may go
        self._asked_at = 0.0

    @property
    def next_at(self) -> float:
        """When it is worth while to ask again, after `take` has returned 0 or less than was asked for."""
        if self._next_at is None:
            return self._asked_at
        return max(self._next_at, self._asked_at + _STEP_S)

    def take(self, wanted: int, now: float) -> int:
        """Return how many of `wanted` records may go at `now`, and count them as gone."""
        self._asked_at = now
        next_at = now if self._next_at is None else max(self._next_at, now - _CATCH_UP_S)
        if next_at > now:
            return 0
        count = min(wanted, 1 + int((now - next_at) / self._interval_s))
        self._next_at = next_at + count * self._interval_s
        return count


def rate_of(chain: Chain) -> float | None:
    """The share of `max_rate` that each subtask of a chain has; None: its source may give as much as it can."""
    rate: float | None = chain.head.options.get("max_rate")
    return None if rate is None else rate / chain.parallelism


def checked_rate(given: Any, owner: str) -> float | None:
    """What was given as `max_rate`. Raises PipelineError unless it is a number above 0, or None."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given <= sys.float_info.max:
        raise PipelineError(f"max_rate of {owner} must be a number of records per second above 0, not {given!r}")
    return float(given)
