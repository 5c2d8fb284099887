"""The event time of a subtask: the minimum over its inputs.

An input that has sent no watermark holds the minimum back at the beginning of time, unless it is idle.
Idle and ended inputs leave the minimum; when all are idle it stays where it is. It never goes back,
also not when an idle input wakes up with old records (Akidau et al. 2015, section 2.1).

The inputs stand in a heap by the clocks that they had when they were last on its top. A watermark changes only its
input's clock; entries on the top that are behind their clocks sink then. So a watermark costs O(log n) at most, and
O(1) if its input is not the slowest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace

__all__ = ["Advance", "BecomeIdle", "WatermarkMinimum"]

_NOTHING_YET = float("-inf")


@dataclass(frozen=True, slots=True)
class Advance:
    """Event time is now `timestamp`, ms since the epoch: give what is due, then forward the watermark."""

    timestamp: int


@dataclass(frozen=True, slots=True)
class BecomeIdle:
    """Every input that has not ended is idle: forward Idle."""


class WatermarkMinimum:
    """The inputs that carry watermarks; others are unknown to it, and what they do changes nothing."""

    def __init__(self, channels: Iterable[int]) -> None:
        self._clocks: dict[int, float] = dict.fromkeys(channels, _NOTHING_YET)
        self._heap = [(_NOTHING_YET, channel) for channel in self._clocks]  # one entry for each active input
        heapify(self._heap)
        self._in_heap = set(self._clocks)
        self._idle: set[int] = set()
        self._now = self.furthest = _NOTHING_YET
        self._next = max(self._clocks, default=-1) + 1

    def join(self) -> int:
        """One more input, which has sent nothing yet: return its number. What was told is not taken back."""
        channel = self._next
        self._next += 1
        self._clocks[channel] = _NOTHING_YET
        self._in_heap.add(channel)
        heappush(self._heap, (_NOTHING_YET, channel))
        return channel

    def restore(self, clocks: Mapping[int, float], idle: Iterable[int], now: float, furthest: float) -> Advance | None:
        """Go on where these inputs were. `now`: of the minimum, perhaps with an input that is elsewhere now."""
        self._clocks.update(clocks)
        self._idle.update(idle)
        self._now, self.furthest = now, furthest
        return None if self.is_idle else self._advance()

    @property
    def is_idle(self) -> bool:
        """Whether there are inputs, and all are idle."""
        return bool(self._clocks) and len(self._idle) == len(self._clocks)

    def on_watermark(self, channel: int, timestamp: int) -> Advance | None:
        """A watermark also wakes an idle input. One that goes back is ignored."""
        if timestamp > self._clocks[channel]:
            self._clocks[channel] = timestamp
        self.furthest = max(self.furthest, timestamp)
        self.on_record(channel)
        return self._advance()

    def on_record(self, channel: int) -> None:
        """A record wakes an idle input; its clock is where it was."""
        if channel in self._idle:
            self._idle.remove(channel)
            if channel not in self._in_heap:
                self._in_heap.add(channel)
                heappush(self._heap, (self._clocks[channel], channel))

    def on_idle(self, channel: int) -> Advance | BecomeIdle | None:
        """The input leaves the minimum."""
        if channel in self._idle or channel not in self._clocks:
            return None
        self._idle.add(channel)
        if self.is_idle:
            return BecomeIdle()
        return self._advance()

    def on_end_of_input(self, channel: int) -> Advance | BecomeIdle | None:
        """The input leaves the minimum for good."""
        if channel not in self._clocks:
            return None
        was_idle = channel in self._idle
        del self._clocks[channel]
        self._idle.discard(channel)
        if self.is_idle:
            return None if was_idle else BecomeIdle()
        return self._advance()

    def finish(self) -> Advance | None:
        """All inputs have ended: time is where the furthest of them was, whichever has ended last."""
        if self.furthest <= self._now:
            return None
        self._now = self.furthest
        return Advance(int(self._now))

    def _advance(self) -> Advance | None:
        heap, clocks = self._heap, self._clocks
        while heap:
            clock, channel = heap[0]
            if channel not in clocks or channel in self._idle:
                heappop(heap)
                self._in_heap.discard(channel)
            elif clock < clocks[channel]:
                heapreplace(heap, (clocks[channel], channel))
            else:
                break
        if not heap or heap[0][0] <= self._now:
            return None
        self._now = heap[0][0]
        return Advance(int(self._now))
