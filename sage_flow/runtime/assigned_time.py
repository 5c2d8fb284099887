"""The clock behind an `assign_timestamps`: one per split that its subtask reads, and their minimum.

The clock of a split says how far its records have come: the largest timestamp so far less the bound of disorder, or
what a watermark generator of the user's says, or the source. The clock of the operator is the minimum over its splits;
it never goes back. A split that is not begun holds it at the beginning of time, unless the splits are in the order of
their times: then it joins the minimum when it begins. One that has ended leaves the minimum, and so does one that has
been idle for `idle_after`.

A watermark T means that no record with a timestamp before T is expected: a window that ends at T is complete.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.plan.graph import Operator
from sage_flow.runtime.held import Held
from sage_flow.runtime.parts import Parts
from sage_flow.runtime.watermark import Advance, BecomeIdle, WatermarkMinimum
from sage_flow.splits import WHOLE, SplitEnd, SplitFound, SplitIdle, SplitSignal, SplitWatermark
from sage_flow.timestamps import MAX_TIMESTAMP, MIN_TIMESTAMP, checked_timestamp
from sage_flow.watermarks import WatermarkGenerator

__all__ = ["ArrivalTime", "AssignedTime", "NO_TIMESTAMP", "in_range"]

_log = logging.getLogger("sage_flow")

NO_TIMESTAMP = MIN_TIMESTAMP - 1
"""Before every timestamp: there was no record yet."""

_SECONDS = range(10**9, 31 * 24 * 3600 * 1000)
"""What would be in January 1970, and is today if it counts seconds: from 2001 on."""
_TICK_S = 0.05
_GENERATOR_TICK_S = 0.2


class _Clock:
    """Of one split. `generator` is None for the usual rule; `quiet_since` is infinity for a split that is not begun.

    `number` in the minimum; None: it is not part of it.

    `told` is the watermark that its records, or its source, have told last; `now` goes on from there where it is quiet.
    """

    __slots__ = ("generator", "is_idle", "largest", "now", "number", "quiet_since", "told")

    def __init__(self, generator: WatermarkGenerator[Any] | None) -> None:
        self.number: int | None = None
        self.generator = generator
        self.largest = NO_TIMESTAMP
        self.now = self.told = -math.inf
        self.is_idle = False
        self.quiet_since = math.inf


class _Ticks:
    """When generators that go by the wall clock are asked again. They are not, until `begin`."""

    def __init__(self, clock: Callable[[], float], wall_ms: Callable[[], int]) -> None:
        self._clock = clock
        self._wall_ms = wall_ms
        self.at = math.inf

    def begin(self) -> None:
        """Ask at once."""
        self.at = -math.inf

    @property
    def are_due(self) -> bool:
        """Whether to ask now."""
        return self.at < math.inf and self.at <= self._clock()

    def next(self) -> int:
        """Put the next tick off; return what the wall clock says."""
        self.at = self._clock() + _GENERATOR_TICK_S
        return self._wall_ms()


class _Quiet:
    """What becomes of quiet splits. `at`: when, on the clock, one may have been quiet for long enough."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.after_s: float | None = options["idle_after_s"]
        self.goes_on: bool = options["when_idle"] == "advance"
        self.at = math.inf


class AssignedTime(Held):
    """The time of one `assign_timestamps` in one subtask.

    `clock()` are seconds that never go back, `wall_ms()` the wall clock.
    """

    def __init__(self, operator: Operator, clock: Callable[[], float], wall_ms: Callable[[], int]) -> None:
        options = operator.options
        self._operator = operator
        self._clock = clock
        self._ticks = _Ticks(clock, wall_ms)
        self._bound_ms: int = options["max_out_of_order_ms"]
        self._make: Callable[[], WatermarkGenerator[Any]] | None = options["watermarks"]
        self._quiet = _Quiet(options)
        self.every_record: bool = options["every_record"]
        """The watermark moves behind each record, not behind each slice of them."""
        self._is_checked = False
        self.largest = NO_TIMESTAMP
        """Of the split whose records come now; the compiled chain keeps it in a local variable."""
        self.now = -math.inf
        """The watermark."""
        self.is_idle = False
        """No split holds the watermarks of others back."""
        self.expect([WHOLE])
        self.begin_batch(WHOLE)

    # -- splits ---------------------------------------------------------------------------------------------

    def expect(self, splits: Iterable[str], *, are_begun: bool = False) -> None:
        """These are the splits that this subtask is going to read: those not begun hold the time, unless in order.

        `are_begun`: all of them are read from now on, and one that gives nothing is a quiet one.
        """
        self._clocks: dict[str, _Clock] = {}
        self._minimum = WatermarkMinimum(())
        self._current: _Clock | None = None
        for split in splits:
            clock = self._add(split)
            if are_begun and clock.number is not None:
                self._wake(clock)

    def _add(self, split: str) -> _Clock:
        clock = self._clocks[split] = _Clock(self._new_generator())
        if not self._operator.options["in_time_order"]:
            clock.number = self._minimum.join()
            self.is_idle = False
        return clock

    def begin_batch(self, split: str) -> None:
        """The next records are of this split."""
        clock = self._clocks.get(split) or self._add(split)
        self._current = clock
        self.largest = clock.largest
        self._wake(clock)

    def on_signal(self, signal: SplitSignal) -> None:
        """The source says something about a split."""
        if (clock := self._clocks.get(signal.split)) is None:
            if isinstance(signal, SplitFound) and (found := self._add(signal.split)).number is not None:
                self._wake(found)
            return
        match signal:
            case SplitWatermark(timestamp):
                self._wake(clock)
                self._declare(clock, timestamp)
            case SplitIdle():
                self._leave(clock)
            case SplitEnd():
                del self._clocks[signal.split]
                if self._current is clock:
                    self._current = None
                if clock.number is not None:
                    self._note(self._minimum.on_end_of_input(clock.number))

    def on_records(self) -> None:
        """Records come from elsewhere than a source with splits."""
        if self._current is not None:
            self._wake(self._current)

    def _wake(self, clock: _Clock) -> None:
        number = self._begin(clock)
        if clock.is_idle:
            clock.is_idle = self.is_idle = False
            self._minimum.on_record(number)

    def _begin(self, clock: _Clock) -> int:
        """A split is read from now on; return its number in the minimum."""
        if (after_s := self._quiet.after_s) is not None:
            clock.quiet_since = self._clock()
            self._quiet.at = min(self._quiet.at, clock.quiet_since + after_s)
        if clock.number is None:
            clock.number = self._minimum.join()
            clock.is_idle = self.is_idle = False
        return clock.number

    def _leave(self, clock: _Clock) -> None:
        if clock.number is not None and not clock.is_idle:
            clock.is_idle = True
            self._note(self._minimum.on_idle(clock.number))

    def _new_generator(self) -> WatermarkGenerator[Any] | None:
        made = None if self._make is None else self._make()
        if made is not None and not isinstance(made, WatermarkGenerator):
            raise PipelineError(
                f"watermarks= of {self._operator.name!r} ({self._operator.location}) must make a WatermarkGenerator,"
                f" not a {type(made).__name__}: pass the class, or a function that returns an instance"
            )
        if made is not None and type(made).on_tick is not WatermarkGenerator.on_tick:
            self._ticks.begin()
        return made

    # -- time -----------------------------------------------------------------------------------------------

    def on_record(self, value: Any, timestamp: int) -> None:
        """Show a record to the generator of its split."""
        clock = self._current
        if clock is None or clock.generator is None:
            return
        if (told := clock.generator.on_record(value, timestamp)) is not None:
            self._declare(clock, checked_timestamp(told))

    def move(self) -> float:
        """Some records were processed: return the watermark, which is `now` from here on."""
        clock = self._current
        if clock is not None and self.largest > clock.largest:
            clock.largest = self.largest
            if not self._is_checked:
                self._check_unit(self.largest)
            if self._make is None:
                self._declare(clock, self.largest - self._bound_ms)
        if self._ticks.are_due:
            self._tick()
        if self._quiet.at < math.inf:
            self.look_at_clock()  # the subtask may never wait, as other splits may always have records
        return self.now

    def _tick(self) -> None:
        wall_ms = self._ticks.next()
        for clock in self._clocks.values():
            if clock.generator is not None and (told := clock.generator.on_tick(wall_ms)) is not None:
                self._declare(clock, checked_timestamp(told))

    def look_at_clock(self) -> None:
        """Time has passed: splits may have been quiet for long enough, and time goes on for them."""
        now, quiet = self._clock(), self._quiet
        if quiet.after_s is None or now < quiet.at:
            return
        quiet.at = math.inf
        # The slowest first: once all others have left, the time of the last one is what stays.
        for clock in sorted(self._clocks.values(), key=lambda clock: clock.now):
            if (idle_at := clock.quiet_since + quiet.after_s) > now:
                quiet.at = min(quiet.at, idle_at)
            elif quiet.goes_on and clock.told > -math.inf:
                quiet.at = min(quiet.at, now + _TICK_S)
                quiet_ms = int((now - clock.quiet_since) * 1000)
                self._raise(clock, min(int(clock.told) + quiet_ms, MAX_TIMESTAMP))
            else:
                self._leave(clock)

    @property
    def look_at(self) -> float:
        """When, on the clock, `look_at_clock` or `move` has something to do without records; infinity if never."""
        return min(self._quiet.at, self._ticks.at)

    @property
    def furthest(self) -> float:
        """The watermark of the split that has come furthest."""
        return self._minimum.furthest

    def _declare(self, clock: _Clock, watermark: int) -> None:
        """How far a split is, as it says; less than before changes nothing."""
        clock.told = max(clock.told, watermark)
        self._raise(clock, watermark)

    def _raise(self, clock: _Clock, watermark: float) -> None:
        if watermark > clock.now and clock.number is not None:
            clock.now = watermark
            self._note(self._minimum.on_watermark(clock.number, int(watermark)))

    def _note(self, decision: Advance | BecomeIdle | None) -> None:
        match decision:
            case Advance(timestamp):
                self.now = timestamp
            case BecomeIdle():
                self.is_idle = True

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """How far each split is, and what its generator remembers."""
        is_ordered = self._operator.options["in_time_order"]
        clocks = {
            name: [
                (
                    clock.largest,
                    clock.now,
                    clock.told,
                    clock.is_idle,
                    clock.number is not None if is_ordered else clock.quiet_since < math.inf,
                    None if clock.generator is None else clock.generator.snapshot(),
                )
            ]
            for name, clock in self._clocks.items()
        }
        return Parts(splits=clocks, lowest={"watermark": self.now, "furthest": self._minimum.furthest})

    def restore(self, parts: Parts) -> None:
        """Go on where the splits of this subtask were; the slowest counts where several subtasks had one."""
        for name, clock in self._clocks.items():
            if name not in parts.splits:
                continue
            kept = min(parts.splits[name], key=lambda kept: kept[:2])
            clock.largest, clock.now, clock.told, is_idle, is_begun, remembered = kept
            if clock.generator is not None:
                clock.generator.restore(remembered)
            if is_begun:
                self._begin(clock)
            clock.is_idle = is_idle
        # All at once: one by one, the first ones would be the whole minimum for a while.
        numbers = {clock.number: clock for clock in self._clocks.values() if clock.number is not None}
        self.now = parts.lowest.get("watermark", -math.inf)
        decision = self._minimum.restore(
            {number: clock.now for number, clock in numbers.items()},
            [number for number, clock in numbers.items() if clock.is_idle],
            self.now,
            parts.lowest.get("furthest", -math.inf),
        )
        self._note(decision)
        self.is_idle = self._minimum.is_idle
        if self._current is not None:
            self.largest = self._current.largest
            self._is_checked = self.largest > NO_TIMESTAMP

    def _check_unit(self, largest: int) -> None:
        self._is_checked = True
        if largest in _SECONDS:
            _log.warning(
                "%r (%s): the first timestamps are in January 1970 (%d): timestamps are milliseconds since the epoch;"
                ' if these are seconds, write to_timestamp(value, unit="s")',
                self._operator.name,
                self._operator.location,
                largest,
            )


class ArrivalTime(AssignedTime):
    """The time of one `assign_arrival_times`: the wall clock, whatever records come and from where."""

    def __init__(self, operator: Operator, clock: Callable[[], float], wall_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms
        super().__init__(operator, clock, wall_ms)
        self._ticks.begin()

    def arrival(self) -> int:
        """Return the timestamp of the records that come now."""
        return self._wall_ms()

    def on_signal(self, signal: SplitSignal) -> None:
        """The wall clock goes on, whatever a split says."""

    def move(self) -> float:
        """Return the watermark: what arrives from now on is not earlier than now."""
        self.now = self._ticks.next()
        return self.now


def in_range(timestamp: float) -> int:
    """A watermark as users see it: the beginning and the end of time are the smallest and the largest timestamp."""
    return int(min(max(timestamp, MIN_TIMESTAMP), MAX_TIMESTAMP))
