"""What a queue remembers of its past: counts, rates, and its story."""

from __future__ import annotations

from typing import Any, Final

from sage_flow.links.story import Story

_WINDOW_S: Final = 10  # of rates


class _Meter:
    """Events per second over the last `_WINDOW_S` seconds, in slots of one second."""

    __slots__ = ("_second", "_slots", "total")

    def __init__(self) -> None:
        self.total = 0
        self._second = 0
        self._slots = [0] * _WINDOW_S

    def add(self, now: float, count: int) -> None:
        self.total += count
        second = int(now)
        if second != self._second:
            self._turn(second)
        self._slots[second % _WINDOW_S] += count

    def per_s(self, now: float, start: float) -> float:
        """`start`: when counting began."""
        self._turn(int(now))
        return sum(self._slots) / min(max(now - start, 1.0), _WINDOW_S)

    def _turn(self, second: int) -> None:
        for passed in range(self._second + 1, min(second, self._second + _WINDOW_S) + 1):
            self._slots[passed % _WINDOW_S] = 0
        self._second = second


class QueueRecord:
    """Counts of items, and the story, whose times are seconds since the queue was made."""

    def __init__(self, now: float) -> None:
        self.dropped = 0
        self.returned = 0
        self._start = now
        self._puts, self._gets = _Meter(), _Meter()
        self._story = Story()
        self.note(now, "created")

    def put(self, now: float, count: int) -> None:
        """`count` items went in."""
        self._puts.add(now, count)

    def got(self, now: float, count: int) -> None:
        """`count` items went out."""
        self._gets.add(now, count)

    def note(self, now: float, event: str) -> None:
        """Add to the story."""
        self._story.note(round(now - self._start, 6), event)

    def statistics(self, now: float) -> dict[str, Any]:
        """Totals, rates over the last 10 s, what was dropped by `close` and what came back from lost sessions."""
        return {
            "puts": self._puts.total,
            "gets": self._gets.total,
            "puts_per_s": self._puts.per_s(now, self._start),
            "gets_per_s": self._gets.per_s(now, self._start),
            "dropped": self.dropped,
            "returned": self.returned,
            "story": self._story.events(),
        }
