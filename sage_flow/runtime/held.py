"""What an operator keeps back: records that leave it when time has passed, or at the end of its input.

For each operator of a chain, when its event time moves to `now`: the batches that `due(now)` gives run through the rest
of the chain, then the watermark `holds(now)` goes on to the next operator. So results leave before the watermark that
fired them, and are never late for whoever comes behind. The end of input is `due(infinity)`, then `at_end()`.

An operator whose records have timestamps gives pairs of a value and its timestamp, another one gives values. What is
given is removed before it is given: a snapshot between two batches holds neither twice.

`parts()` is what is kept, for a snapshot, and `restore` takes it over in a subtask that has had no records yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from sage_flow.runtime.parts import Parts

__all__ = ["Held"]


class Held:
    """By default nothing is kept back."""

    is_urgent: bool = False
    """A record has made something due at the present time, or the watermark may pass: `due` and then `holds` are asked
    when its slice is processed."""

    goes_by_clock: bool = False
    """It asks the wall clock, too: `is_urgent` is asked also where records have no timestamps."""
    is_amid: bool = False
    """What it has just given is not all of something that a snapshot cannot divide: the next batch comes first."""
    under_way: Any = None
    """What is in the place of a record in the message of an error that `due` raises."""

    @property
    def look_at(self) -> float:
        """When, on the clock of the subtask, `is_urgent` is to be asked without records; infinity if never."""
        return math.inf

    def due(self, now: float) -> Iterable[list[Any]]:
        """Yield batches of what the time `now` (ms since the epoch, or infinity) makes leave."""
        return ()

    def holds(self, now: float) -> float:
        """Return the watermark that may pass: `now`, or earlier while records of an earlier time are kept."""
        return now

    def at_end(self) -> Iterable[Any]:
        """Return what is kept until the end of input."""
        return ()

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """Return what is kept; it must be pickled before the next record."""
        return Parts()

    def restore(self, parts: Parts) -> None:
        """Keep this, in place of nothing. The event time of the operator is set already."""
