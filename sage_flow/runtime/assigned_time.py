"""The clock behind an `assign_timestamps`: one per split that its subtask reads, and their minimum.

The clock of a split says how far its records have come: the largest timestamp so far less the bound of disorder, or
what a watermark generator of the user's says. The clock of the operator is the minimum over its splits; it never goes
back. A split that is not begun holds it at the beginning of time, one that has ended leaves the minimum, and so does
one that has been idle for `idle_after`.

A watermark T means that no record with a timestamp before T is expected: a window that ends at T is complete.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.plan.graph import Operator
from sage_flow.runtime.held import Held
from sage_flow.timestamps import MAX_TIMESTAMP, MIN_TIMESTAMP, checked_timestamp
from sage_flow.watermarks import WatermarkGenerator

__all__ = ["AssignedTime", "NO_TIMESTAMP"]

_log = logging.getLogger("sage_flow")

NO_TIMESTAMP = MIN_TIMESTAMP - 1
"""Before every timestamp: there was no record yet."""

_JANUARY_1970 = range(1, 31 * 24 * 3600 * 1000)

WHOLE = ""
"""The only split of records whose source says nothing of splits."""


class _Clock:
    """Of one split. `generator` is None for the usual rule."""

    __slots__ = ("generator", "is_idle", "largest", "now", "quiet_since")

    def __init__(self, generator: WatermarkGenerator[Any] | None, since: float) -> None:
        self.generator = generator
        self.largest = NO_TIMESTAMP
        self.now = -math.inf
        self.is_idle = False
        self.quiet_since = since


class AssignedTime(Held):
    """The time of one `assign_timestamps` in one subtask. `clock()` are seconds that never go back."""

    def __init__(self, operator: Operator, clock: Callable[[], float]) -> None:
        options = operator.options
        self._operator = operator
        self._clock = clock
        self._bound_ms: int = options["max_out_of_order_ms"]
        self._make: Callable[[], WatermarkGenerator[Any]] | None = options["watermarks"]
        self._idle_after_s: float | None = options["idle_after_s"]
        self.every_record: bool = options["every_record"]
        """The watermark moves behind each record, not behind each slice of them."""
        self._is_checked = False
        self._waiting: set[str] = set()
        self._clocks = {WHOLE: self._new()}
        self._current = self._clocks[WHOLE]
        self.largest = NO_TIMESTAMP
        """Of the split whose records come now; the compiled chain keeps it in a local variable."""
        self.now = -math.inf
        """The watermark."""
        self.is_idle = False
        """No split holds the watermarks of others back."""

    def _new(self) -> _Clock:
        return _Clock(None if self._make is None else self._checked_generator(self._make()), self._clock())

    def _checked_generator(self, made: Any) -> WatermarkGenerator[Any]:
        if not isinstance(made, WatermarkGenerator):
            raise PipelineError(
                f"watermarks= of {self._operator.name!r} ({self._operator.location}) must make a WatermarkGenerator,"
                f" not a {type(made).__name__}: pass the class, or a function that returns an instance"
            )
        return made

    # -- splits ---------------------------------------------------------------------------------------------

    def expect(self, splits: Iterable[str]) -> None:
        """These are all the splits that this subtask is going to read: those not begun hold the time."""
        self._clocks.clear()
        self._waiting = set(splits)

    def begin_batch(self, split: str) -> None:
        """The next records are of this split."""
        if (clock := self._clocks.get(split)) is None:
            self._waiting.discard(split)
            clock = self._clocks[split] = self._new()
        self._current = clock
        self.largest = clock.largest

    def end_split(self, split: str) -> None:
        """Nothing more comes of this split."""
        self._waiting.discard(split)
        self._clocks.pop(split, None)

    # -- records --------------------------------------------------------------------------------------------

    def on_record(self, value: Any, timestamp: int) -> None:
        """Show a record to the generator of its split."""
        clock = self._current
        if clock.generator is not None and (told := clock.generator.on_record(value, timestamp)) is not None:
            self.declare(told)

    def declare(self, watermark: Any) -> None:
        """A generator says how far its split is; it may say less than before, which changes nothing."""
        self._current.now = max(self._current.now, checked_timestamp(watermark))

    def move(self) -> float:
        """Some records were processed, or time has passed: return the watermark, which is `now` from here on."""
        clock = self._current
        if self.largest > clock.largest:
            clock.largest = self.largest
            if self._make is None:
                clock.now = self.largest - self._bound_ms
            if not self._is_checked:
                self._check_unit(self.largest)
        return self._minimum()

    def wake(self) -> None:
        """Records of the current split have come."""
        self._current.is_idle = False
        self._current.quiet_since = self._clock()

    def look_for_idle(self) -> None:
        """Let splits leave the minimum that have been quiet for long enough."""
        if self._idle_after_s is not None:
            late = self._clock() - self._idle_after_s
            for clock in self._clocks.values():
                clock.is_idle = clock.is_idle or clock.quiet_since <= late

    @property
    def idle_at(self) -> float:
        """When, on the clock, the next split will have been quiet for long enough; infinity if none will."""
        if self._idle_after_s is None:
            return math.inf
        waiting = (clock.quiet_since for clock in self._clocks.values() if not clock.is_idle)
        return min(waiting, default=math.inf) + self._idle_after_s

    def _minimum(self) -> float:
        if not self._waiting:
            active = [clock.now for clock in self._clocks.values() if not clock.is_idle]
            self.is_idle = not active
            if active and (now := min(active)) > self.now:
                self.now = now
        return self.now

    def _check_unit(self, largest: int) -> None:
        self._is_checked = True
        if largest in _JANUARY_1970:
            _log.warning(
                "%r (%s): the first timestamps are in January 1970 (%d): timestamps are milliseconds since the epoch;"
                ' if these are seconds, write to_timestamp(value, unit="s")',
                self._operator.name,
                self._operator.location,
                largest,
            )


def in_range(timestamp: float) -> int:
    """A watermark as users see it: the beginning and the end of time are the smallest and the largest timestamp."""
    return int(min(max(timestamp, MIN_TIMESTAMP), MAX_TIMESTAMP))
