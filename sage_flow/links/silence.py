"""Decides whether a peer is silent, even if this process itself may have been suspended.

A process that was suspended (SIGSTOP, a frozen container, a machine that swaps) would find every peer silent when it
resumes, because their messages are still unread in its sockets and queues. So it checks each peer several times per
limit, and counts checks instead of seconds. A check that comes much too late means that this process was suspended; it
does not count, so the messages that have arrived are read before the next one. Of two late checks in a row the second
one counts, because a process that is always late must detect dead peers, too.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Silence"]

_LOOKS: Final = 4  # per limit
_LATE: Final = 2  # a look is late if it comes after this many pauses


class Silence:
    """The silence of one peer. Call `is_over` every `pause_s` seconds; times are seconds of a monotonic clock.

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
        """Seconds for which this process was suspended before the last look; 0 if it was not."""
        self._looked = now
        self._looks = 0

    def is_over(self, now: float, *, heard: bool = False) -> bool:
        """Look: whether the peer was silent for the whole limit. `heard`: a message has come since the last look."""
        elapsed_s, self._looked = now - self._looked, now
        stands_still = elapsed_s > _LATE * self.pause_s and not self.stood_still_s
        self.stood_still_s = elapsed_s if stands_still else 0.0
        if heard:
            self._looks = 0
        elif not stands_still:
            self._looks += 1
        return self._looks >= _LOOKS
