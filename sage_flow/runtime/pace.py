"""How many records to process before looking up.

Between slices a subtask sends what it has, returns credit and obeys commands. A slice should therefore
be short in time, whatever a record costs: it doubles while slices are quick and shrinks when one is slow.
There is nothing to configure and no linger. Nor should it be shorter than it has to: each slice costs its receivers,
perhaps other processes, that they are woken for what it gave.
"""

from __future__ import annotations

__all__ = ["Pace"]

_MOST = 4096
"""More records do not make a slice cheaper per record; frames are shorter still."""
_QUICK_S = 0.005
_SLOW_S = 0.010


class Pace:
    """The length of the next slice, in records."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 1  # a slow operator shows its first record at once; a quick one is soon at the full length

    def took(self, records: int, seconds: float) -> None:
        """The last slice of `records` took `seconds`."""
        if seconds > _SLOW_S:
            self.size = max(1, int(records * _QUICK_S / seconds))
        elif seconds < _QUICK_S and records >= self.size:
            self.size = min(_MOST, self.size * 2)
