"""Credits: how far a producer may run ahead of its consumer on one channel.

The unit is the shell's: records where frames stay in the process, encoded bytes on a wire. A frame may
start whenever the credit is positive and may take it below zero, so that no frame needs a window of its
own size. The consumer returns credit in quarters of the window: one small message per quarter, and the
producer never waits for the last record.
"""

from __future__ import annotations

__all__ = ["ConsumedCredit", "SendCredit"]


class SendCredit:
    """The producer's side."""

    __slots__ = ("_available",)

    def __init__(self, window: int) -> None:
        self._available = window

    @property
    def may_start(self) -> bool:
        """Whether one more frame, of whatever size, may be sent."""
        return self._available > 0

    def take(self, cost: int) -> None:
        """A frame was sent."""
        self._available -= cost

    def grant(self, amount: int) -> None:
        """The consumer returned credit."""
        self._available += amount


class ConsumedCredit:
    """The consumer's side."""

    __slots__ = ("_quarter", "_unreturned")

    def __init__(self, window: int) -> None:
        self._quarter = max(1, window // 4)
        self._unreturned = 0

    def consume(self, cost: int) -> int:
        """A frame was processed; return the amount to send back now, 0 while it is below a quarter."""
        self._unreturned += cost
        if self._unreturned < self._quarter:
            return 0
        amount, self._unreturned = self._unreturned, 0
        return amount
