"""Decides how long the records that user code has emitted are held back while that code waits for an answer.

A frame for each record would cost as much as the call that the record comes from. So records are held back while
answers come within a millisecond. The limit is the time since the last frame, not the time of one wait, because user
code may ask again and again until a record has arrived. The number of waits is limited, too, because in the simulation
no time passes while there is something to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["Holding"]

_ANSWER_S: Final = 0.001
_HOLD_S: Final = 0.010
_HOLD_WAITS: Final = 64
"""Records are held back while answers come within `_ANSWER_S`, for at most `_HOLD_S` and so many waits."""


class Holding:
    """Belongs to the activation of one subtask. Times are seconds of its port's clock."""

    def __init__(self) -> None:
        self.queue_emitted: Callable[[], None] | None = None
        """Queues the records that were emitted; None: this subtask emits none."""
        self._until = 0.0
        self._waits = 0

    def begin(self, now: float) -> None:
        """All that was emitted is being sent: the time begins again."""
        self._until, self._waits = now + _HOLD_S, 0

    def wait_until(self, now: float, deadline: float | None) -> float | None:
        """Return until when a wait that begins now may hold back records; None: it may not."""
        self._waits += 1
        if self._waits >= _HOLD_WAITS or now >= self._until:
            return None
        return now + _ANSWER_S if deadline is None else min(deadline, now + _ANSWER_S)
