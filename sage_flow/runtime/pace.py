"""How many records to process before looking up.

Between slices a subtask sends what it has, returns credit and obeys commands. A slice should therefore
be short in time, whatever a record costs: it doubles while slices are quick and shrinks when one is slow.
There is nothing to configure and no linger. It should not give more than its consumers take in a short time either:
while that is being sent, nothing comes between its records, above all no barrier. Nor should it be shorter than it has
to: each slice costs its receivers, perhaps other processes, that they are woken for what it gave.
"""

from __future__ import annotations

__all__ = ["Pace"]

_MOST = 4096
"""More records do not make a slice cheaper per record; frames are shorter still."""
_QUICK_S = 0.005
_SLOW_S = 0.010
_BLOCKED_S = 0.100
"""More time than that, to send what a slice gave, is that of a slow consumer: half of it is aimed at."""


class Pace:
    """The length of the next slice, in records."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 1  # a slow operator shows its first record at once; a quick one is soon at the full length

    def took(self, records: int, seconds: float, sending_s: float = 0.0) -> None:
        """The last slice of `records` took `seconds`, and then `sending_s` until all that it gave was sent."""
        if sending_s > _BLOCKED_S:
            self.size = max(1, int(records * _BLOCKED_S / 2 / sending_s))
        elif seconds > _SLOW_S:
            self.size = max(1, int(records * _QUICK_S / seconds))
        elif seconds < _QUICK_S and records >= self.size:
            self.size = min(_MOST, self.size * 2)
