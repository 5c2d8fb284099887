"""The event time of a subtask: the minimum over its inputs.

An input that has sent no watermark holds the minimum back at the beginning of time, unless it is idle.
Idle and ended inputs leave the minimum; when all are idle it stays where it is. It never goes back,
also not when an idle input wakes up with old records (Akidau et al. 2015, section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Advance", "BecomeIdle", "WatermarkMinimum"]

_NOTHING_YET = float("-inf")


@dataclass(frozen=True, slots=True)
class Advance:
    """Event time is now `timestamp` (ms since the epoch): fire timers, then forward the watermark."""

    timestamp: int


@dataclass(frozen=True, slots=True)
class BecomeIdle:
    """Every input that has not ended is idle: forward Idle."""


class WatermarkMinimum:
    def __init__(self, channels: Iterable[int]) -> None:
        self._clocks: dict[int, float] = dict.fromkeys(channels, _NOTHING_YET)
        self._idle: set[int] = set()
        self._now = _NOTHING_YET

    def on_watermark(self, channel: int, timestamp: int) -> Advance | None:
        """A watermark also wakes an idle input. One that goes back is ignored."""
        self._idle.discard(channel)
        self._clocks[channel] = max(self._clocks[channel], timestamp)
        return self._advance()

    def on_record(self, channel: int) -> None:
        """A record wakes an idle input; its clock is where it was."""
        self._idle.discard(channel)

    def on_idle(self, channel: int) -> Advance | BecomeIdle | None:
        """The input leaves the minimum."""
        if channel in self._idle:
            return None
        self._idle.add(channel)
        if len(self._idle) == len(self._clocks):
            return BecomeIdle()
        return self._advance()

    def on_end_of_input(self, channel: int) -> Advance | BecomeIdle | None:
        """The input leaves the minimum for good."""
        was_idle = channel in self._idle
        del self._clocks[channel]
        self._idle.discard(channel)
        if self._clocks and len(self._idle) == len(self._clocks):
            return None if was_idle else BecomeIdle()
        return self._advance()

    def _advance(self) -> Advance | None:
        active = [clock for channel, clock in self._clocks.items() if channel not in self._idle]
        if not active or min(active) <= self._now:
            return None
        self._now = min(active)
        return Advance(int(self._now))
