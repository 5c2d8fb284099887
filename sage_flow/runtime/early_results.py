"""When windows give early results: some time of the wall clock after the first change since the last ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["EarlyResults"]


class EarlyResults:
    """Of the windows of one operator in one subtask; its option `early_every_ms` says how often, None: never."""

    def __init__(self, bound: BoundOperator) -> None:
        self._bound = bound
        self._every_ms: int | None = bound.operator.options.get("early_every_ms")
        self._at = math.inf

    @property
    def are_wanted(self) -> bool:
        """Whether there are any."""
        return self._every_ms is not None

    def note_change(self) -> None:
        """A window gets a record."""
        if self._every_ms is not None and self._at == math.inf:
            self._at = self._bound.wall_ms() + self._every_ms

    @property
    def are_due(self) -> bool:
        """Whether to give them now."""
        return self._at < math.inf and self._at <= self._bound.wall_ms()

    def begin(self) -> None:
        """They are given: the next ones wait for the next change."""
        self._at = math.inf

    @property
    def look_at(self) -> float:
        """When they are due, on the clock of the subtask."""
        if self._at == math.inf:
            return math.inf
        return self._bound.clock() + max(0.0, self._at - self._bound.wall_ms()) / 1000
