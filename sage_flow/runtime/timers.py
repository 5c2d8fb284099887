"""The timers of an operator in one subtask: for each key those that its function has set, by name.

A timer of event time at x fires when the watermark is greater than x: all records up to x have been seen then. One of
the wall clock fires when that is at x, which is looked at between slices, and when the subtask waits. Timers fire in
the order of (time, order of setting). A timer that a timer sets fires in the same advance, if it is due.

At the end of input all timers of event time fire, with `at_end`. Timers that these set fire, too, but no name twice for
a key: one that sets itself again would never end. Timers of the wall clock do not fire any more.

When timers are due is kept in a heap for each clock. A timer that is set again for a later time, as after each record
of a key, stays where it is in the heap, and is put to its new place when its old one has come to the top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

from sage_flow.errors import InternalError
from sage_flow.runtime.first_values import check_outputs
from sage_flow.runtime.held import Held
from sage_flow.runtime.key_table import check_key
from sage_flow.runtime.messages import FRAME_RECORDS
from sage_flow.runtime.parts import Parts
from sage_flow.timers import Clock
from sage_flow.windows import Timer

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["KeptTimers"]

_MOST_DEAD = 64

OnTimer = Callable[[Timer, Any], "Iterable[Any] | None"]


class _Kept:
    """A timer that is set. `place` is where it is in the heap of its clock."""

    __slots__ = ("clock", "is_set", "key", "name", "number", "place", "timestamp")

    def __init__(self, key: Any, name: str, clock: Clock, timestamp: int, number: int) -> None:
        self.key = key
        self.name = name
        self.clock: Clock = clock
        self.timestamp = timestamp
        self.number = number  # in the order of setting
        self.place = (timestamp, number)
        self.is_set = True


class _Looks:
    """When to look at the timers of one clock: a heap with a place for each, and places that are no longer true."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, _Kept]] = []
        self._dead = 0

    @property
    def next(self) -> float:
        """When to look again; infinity if there is no timer."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, kept: _Kept) -> None:
        kept.place = (kept.timestamp, kept.number)
        heappush(self._heap, (*kept.place, kept))

    def leave(self) -> None:
        """The place of a timer is no longer true."""
        self._dead += 1
        if self._dead > _MOST_DEAD and self._dead > len(self._heap) // 2:
            live = [look for look in self._heap if _is_true(look)]
            heapify(live)
            self._heap, self._dead = live, 0

    def pop(self, until: float) -> _Kept | None:
        """Take out the next timer before `until`."""
        while self._heap and self._heap[0][0] < until:
            look = heappop(self._heap)
            kept = look[2]
            if not _is_true(look):
                self._dead -= 1
            elif kept.place != (kept.timestamp, kept.number):
                self.add(kept)
            else:
                return kept
        return None


def _is_true(look: tuple[int, int, _Kept]) -> bool:
    at, number, kept = look
    return kept.is_set and kept.place == (at, number)


class KeptTimers(Held):
    """What `ctx.timers` puts its timers into. `on_timer` is the user's method; without it no timer can be set."""

    goes_by_clock = True

    def __init__(self, bound: BoundOperator, on_timer: OnTimer | None) -> None:
        operator = bound.operator
        self._bound = bound
        self._on_timer = on_timer
        self.is_timed = operator.timed
        self.lacks: str | None = None
        if on_timer is None:
            self.lacks = (
                f"{operator.name!r} ({operator.location}) sets a timer and has no on_timer(timer, ctx) to call when it"
                " fires: process(...) takes an object or a class of ProcessFunction, which has one"
            )
        self.fires: tuple[Clock, int] | None = None
        self._timers: dict[Any, dict[str, _Kept]] = {}  # by key and name
        self._looks: dict[Clock, _Looks] = {"event": _Looks(), "wall": _Looks()}
        self._numbers = count()
        self._ended: set[tuple[Any, str]] = set()  # what has fired since the input ended

    # -- for ctx.timers -------------------------------------------------------------------------------------

    def now(self, clock: Clock) -> float:
        """How far a clock is."""
        return self._bound.now if clock == "event" else self._bound.wall_ms()

    def put(self, key: Any, name: str, clock: Clock, timestamp: int) -> None:
        """Set a timer, or replace it."""
        if (key, name) in self._ended:
            return
        of_key = self._timers.get(key)
        kept = None if of_key is None else of_key.get(name)
        if kept is not None and kept.clock == clock:
            kept.timestamp, kept.number = timestamp, next(self._numbers)
            if timestamp < kept.place[0]:
                self._looks[clock].add(kept)
                self._looks[clock].leave()
            return
        if kept is not None:
            self.drop(key, name)
        if of_key is None:
            check_key(key)
        kept = _Kept(key, name, clock, timestamp, next(self._numbers))
        self._timers.setdefault(key, {})[name] = kept
        self._looks[clock].add(kept)

    def drop(self, key: Any, name: str) -> None:
        """Forget a timer."""
        kept = self._timers.get(key, {}).get(name)
        if kept is not None:
            self._forget(kept)
            self._looks[kept.clock].leave()

    def find(self, key: Any, name: str) -> int | None:
        """When a timer fires."""
        kept = self._timers.get(key, {}).get(name)
        return None if kept is None else kept.timestamp

    def _forget(self, kept: _Kept) -> None:
        kept.is_set = False
        of_key = self._timers[kept.key]
        del of_key[kept.name]
        if not of_key:
            del self._timers[kept.key]

    # -- firing ---------------------------------------------------------------------------------------------

    @property
    def is_urgent(self) -> bool:  # type: ignore[override]
        """A timer was set for a time that has passed, or the wall clock has come to one."""
        return self._looks["event"].next < self._bound.now or self._wall_is_due()

    def _wall_is_due(self) -> bool:
        at = self._looks["wall"].next
        return at < math.inf and at <= self._bound.wall_ms()

    @property
    def look_at(self) -> float:
        """When, on the clock of the subtask, a timer of the wall clock is due."""
        at = self._looks["wall"].next
        return at if at == math.inf else self._bound.clock() + max(0.0, at - self._bound.wall_ms()) / 1000

    def due(self, now: float) -> Iterable[list[Any]]:
        """Fire the timers that are due, and those that they set."""
        batch: list[Any] = []
        while (kept := self._next(now)) is not None:
            batch += self._fire(kept, at_end=now == math.inf)
            if len(batch) >= FRAME_RECORDS:
                yield batch
                batch = []
        self.under_way = None
        if batch:
            yield batch

    def _next(self, now: float) -> _Kept | None:
        kept = self._looks["event"].pop(now)
        if kept is None and now < math.inf and self._wall_is_due():
            kept = self._looks["wall"].pop(self._bound.wall_ms() + 1)
        return kept

    def _fire(self, kept: _Kept, *, at_end: bool) -> Iterator[Any]:
        """Yield what `on_timer` gives; what it raises is an error of the timer, as if that were a record."""
        bound, context = self._bound, self._bound.context
        self._forget(kept)
        if at_end:
            self._ended.add((kept.key, kept.name))
        timer = self.under_way = Timer(kept.name, kept.timestamp, at_end)
        context.key = kept.key
        timestamp = kept.timestamp
        if self.is_timed:
            timestamp = context.timestamp = kept.timestamp if kept.clock == "event" else bound.watermark()
        self.fires = kept.clock, kept.timestamp
        try:
            for output in self._outputs(timer):
                yield (output, timestamp) if self.is_timed else output
        except Exception as error:
            if bound.operator.on_error == "fail":
                raise
            bound.reject(timer, error)
        finally:
            self.fires = None

    def _outputs(self, timer: Timer) -> Iterable[Any]:
        if self._on_timer is None:
            raise InternalError("a timer was set where no on_timer is, please report")
        outputs = self._on_timer(timer, self._bound.context)
        return () if outputs is None else check_outputs(self._bound.operator, outputs)

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """Clock, time and number of each timer by key and name; and the names that have fired since the input ended."""
        entries = [
            (key, (name, kept.clock, kept.timestamp, kept.number))
            for key, of_key in self._timers.items()
            for name, kept in of_key.items()
        ]
        return Parts(keyed={"timers": entries, "ended": list(self._ended)})

    def restore(self, parts: Parts) -> None:
        """Set them again, in the order in which they were set."""
        self._ended = set(parts.keyed.get("ended", ()))
        for key, (name, clock, timestamp, _) in sorted(parts.keyed.get("timers", ()), key=lambda entry: entry[1][3]):
            self.put(key, name, clock, timestamp)
