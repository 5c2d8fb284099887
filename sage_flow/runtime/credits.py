"""Credits: how far a producer may run ahead of its consumer on one channel.

Two limits hold at once. The *cost* of what is under way is bounded by memory, in the shell's unit: records where frames
stay in the process, encoded bytes on a wire. The number of its *records* is bounded in time: a consumer has at most as
many records before it as it processed in the last half second of its working time, over all of its channels together,
but at least one on each. So a barrier passes a slow operator in about a second.

A channel begins with a window of one record. While the consumer is quick, the window grows up to fivefold with each
window that it processes, until the cost is what limits. Waiting for credit of one's own consumers is working time, so a
slow operator slows down all that is before it, as far as the source.

A frame may start whenever both windows have room, and may exceed what is left, so no frame needs a window of its own
size; but it is no longer than a quarter of the record window, or one record. The consumer returns credit in quarters of
the window: one small message per quarter, and the producer never waits for the last record.
"""

# Why nobody waits for ever. Let all frames of a channel be processed. What the consumer has not returned is less than a
# quarter of each of the producer's two windows, or nothing where that quarter is one record: `ConsumedCredit` goes by
# the record window that it has told, which the producer has or will have. So the producer may start a frame.

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from sage_flow.runtime.messages import Credit

__all__ = ["FIRST_WINDOW", "MOST_RECORDS", "ConsumedCredit", "InputCredits", "InputChannel", "RecentWork", "SendCredit"]

FIRST_WINDOW: Final = 1
"""The record window that a channel begins with: nobody knows yet how slow its consumer is."""

MOST_RECORDS: Final = 1 << 20
"""A record window that is no limit, because the cost is used up before. The driver's channels have it."""

_WINDOW_S: Final = 0.5
_MEASURE: Final = 4
"""How many times shorter than half a second is the time that is measured. A window grows faster by as much."""


class SendCredit:
    """The producer's side of a channel."""

    __slots__ = ("_cost", "_most_cost", "_records", "_window", "most_records")

    def __init__(self, most_cost: int, window: int) -> None:
        self._most_cost = most_cost
        self._cost = self._records = 0  # of what was sent and is not returned
        self._set_window(window)

    def _set_window(self, window: int) -> None:
        self._window = window
        self.most_records = max(1, window // 4)
        """The records of the next frame, at the most."""

    @property
    def may_start(self) -> bool:
        """Whether one more frame may be sent."""
        return self._records < self._window and self._cost < self._most_cost

    def take(self, records: int, cost: int) -> None:
        """A frame was sent."""
        self._records += records
        self._cost += cost

    def grant(self, credit: Credit) -> None:
        """The consumer returned credit, or changed the window."""
        self._records -= credit.records
        self._cost -= credit.cost
        self._set_window(credit.window)


class ConsumedCredit:
    """The consumer's side of a channel."""

    __slots__ = ("_channel", "_cost", "_cost_quarter", "_records", "told")

    def __init__(self, channel: int, most_cost: int, window: int) -> None:
        self._channel = channel
        self._cost_quarter = max(1, most_cost // 4)
        self._cost = self._records = 0  # processed and not returned
        self.told = window
        """The record window that the producer has, or will have."""

    def consume(self, records: int, cost: int, window: int) -> Credit | None:
        """A frame was processed; return what to send now, None while less than a quarter is due.

        `window`: how many records may be under way from now on; it is told with the credit.
        """
        self._records += records
        self._cost += cost
        quarter = (self.told if self.told < window else window) // 4
        if self._cost < self._cost_quarter and self._records < (quarter or 1):
            return None
        return self.tell(window)

    def tell(self, window: int) -> Credit:
        """Return all that was consumed, and tell the window."""
        credit = Credit(self._channel, self._records, self._cost, window)
        self._records = self._cost = 0
        self.told = window
        return credit


class RecentWork:
    """How many records are processed in half a second of working time, by what was in the last eighth of a second."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records: float = FIRST_WINDOW

    def took(self, records: int, seconds: float) -> None:
        """Processing `records` took `seconds`."""
        if seconds * _MEASURE >= _WINDOW_S:
            self.records = records * _WINDOW_S / seconds
        else:
            self.records += (records - self.records * seconds / _WINDOW_S) * _MEASURE


class InputChannel(NamedTuple):
    """A channel of a consumer. The records of an edge are alike; those of another one may take another time."""

    id: int
    edge: int
    most_cost: int


class _Edge:
    """The channels of one edge that have not ended."""

    __slots__ = ("open", "told", "work")

    def __init__(self) -> None:
        self.work = RecentWork()
        self.open: dict[int, ConsumedCredit] = {}
        self.told = FIRST_WINDOW  # no channel has a larger window


class InputCredits:
    """The credits of all channels of one consumer, which share its time equally. `ended` may be called by any thread
    under a lock, all else by the consumer's own.

    A window is told with the next credit of its channel. If it has shrunk to less than half, all channels are told at
    once: one that is quiet now must not send later what the consumer could take when it was quick.
    """

    def __init__(self, channels: Iterable[InputChannel]) -> None:
        self._edges: dict[int, _Edge] = {}
        self._by_channel: dict[int, tuple[_Edge, ConsumedCredit]] = {}
        for channel in channels:
            edge = self._edges.setdefault(channel.edge, _Edge())
            credit = edge.open[channel.id] = ConsumedCredit(channel.id, channel.most_cost, FIRST_WINDOW)
            self._by_channel[channel.id] = edge, credit
        self._open = len(self._by_channel)
        self._worked_since = 0.0  # the last frame was processed, moved forward by the time of waits

    def opened(self, now: float) -> None:
        """The consumer begins to work."""
        self._worked_since = now

    def waited(self, seconds: float) -> None:
        """The consumer had nothing to do for so long."""
        self._worked_since += seconds

    def ended(self, channel: int) -> None:
        """No more records come on a channel: its share of the time is free."""
        edge, _ = self._by_channel[channel]
        if edge.open.pop(channel, None) is not None and self._open > 1:
            self._open -= 1

    def consumed(self, channel: int, records: int, cost: int, now: float) -> Iterable[Credit]:
        """A frame was processed; return what to tell the producers now."""
        edge, credit = self._by_channel[channel]
        edge.work.took(records, now - self._worked_since)
        self._worked_since = now
        window = int(edge.work.records / self._open) or 1
        due = credit.consume(records, cost, window)
        if window * 2 < edge.told:
            edge.told = window
            shrunk = [other.tell(window) for other in list(edge.open.values()) if other.told > window]
            return shrunk if due is None else [due, *shrunk]
        if due is None:
            return ()
        edge.told = max(edge.told, window)
        return (due,)
