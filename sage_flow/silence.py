"""For how long somebody has been silent, as far as one can tell who may have stood still himself.

A process that is stopped (SIGSTOP, a frozen container, a machine that swaps) finds, when it goes on, that everybody has
been silent for long: what they said waits unread in its sockets and its queues. So it looks several times in the span
of a limit, and counts looks. One that comes much too late says that this process stood still, and does not count: until
the next, what has come is taken. Of two such looks in a row the second counts, as a process that is always late must
find out about others, too.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Silence"]

_LOOKS: Final = 4  # in the span of a limit
_LATE: Final = 2  # a look after so many times the pause between two of them came too late


class Silence:
    """Whoever counts it looks every `pause_s`; times are seconds of a monotonic clock.

    >>> silence = Silence(limit_s=2.0, now=0.0)
    >>> [silence.is_over(now) for now in (0.5, 1.0, 1.5, 2.0)]
    [False, False, False, True]
    >>> silence = Silence(limit_s=2.0, now=0.0)
    >>> [silence.is_over(now) for now in (0.5, 1.0, 1.5, 60.0, 60.5)]  # this process stood still
    [False, False, False, False, True]
    """

    def __init__(self, limit_s: float, now: float) -> None:
        self.pause_s = limit_s / _LOOKS
        self.stood_still_s = 0.0
        """For how long this process did before the last look, if it did."""
        self._looked = now
        self._looks = 0

    def is_over(self, now: float, *, heard: bool = False) -> bool:
        """Look: whether it has been silent for the whole limit. `heard`: it has said something since the last look."""
        elapsed_s, self._looked = now - self._looked, now
        stands_still = elapsed_s > _LATE * self.pause_s and not self.stood_still_s
        self.stood_still_s = elapsed_s if stands_still else 0.0
        if heard:
            self._looks = 0
        elif not stands_still:
            self._looks += 1
        return self._looks >= _LOOKS
