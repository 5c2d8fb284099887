"""For how long somebody has been silent, as far as one can tell who may have stood still himself.

A process that is stopped (SIGSTOP, a frozen container, a machine that swaps) finds, when it goes on, that everybody has
been silent for long: what they said waits unread in its sockets and its queues. So it looks at the clock several times
in the span of a limit. A look that comes much too late says that this process stood still, and everybody has the whole
limit again; by then, what has come is taken.
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
    >>> [silence.is_over(now) for now in (0.5, 60.0, 60.5, 61.0, 61.5, 62.0)]  # this process stood still
    [False, False, False, False, False, True]
    """

    def __init__(self, limit_s: float, now: float) -> None:
        self.pause_s = limit_s / _LOOKS
        self._limit_s = limit_s
        self._since = self._looked = now
        self.starts_anew = False
        """The last look found that this process had stood still."""

    def heard(self, now: float) -> None:
        """It has said something."""
        self._since = now

    def is_over(self, now: float) -> bool:
        """Look: whether it has been silent for the whole limit, and this process there to hear it."""
        self.starts_anew = now - self._looked > _LATE * self.pause_s
        if self.starts_anew:
            self._since = now
        self._looked = now
        return now - self._since >= self._limit_s
