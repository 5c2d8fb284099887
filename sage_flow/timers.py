"""`ctx.timers`: a function asks to be called again for a key when a time has come.

A timer has a name; for each key there is one timer of a name, and to set it again replaces it. It goes by event time or
by the wall clock. What keeps the timers and fires them is `runtime/timers.py`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, overload

from sage_flow.errors import InvalidTimestampError, PipelineError
from sage_flow.timestamps import MAX_TIMESTAMP, checked_duration, checked_timestamp

__all__ = ["Timers"]

Clock = Literal["event", "wall"]


class HasRecord(Protocol):
    """Whoever knows the record that is being processed."""

    operator_name: str
    key: Any
    timestamp: int


class Keeper(Protocol):
    """What keeps the timers of one operator in one subtask."""

    lacks: str | None
    """Why no timer can be set."""
    is_timed: bool
    """Whether the records have timestamps."""
    fires: tuple[Clock, int] | None
    """The clock and the time of the timer that is firing."""

    def now(self, clock: Clock) -> float:
        """How far a clock is, in ms since 1970."""

    def put(self, key: Any, name: str, clock: Clock, timestamp: int) -> None: ...

    def drop(self, key: Any, name: str) -> None: ...

    def find(self, key: Any, name: str) -> int | None: ...


class Timers:
    """The timers of the key of the record that is being processed; `ctx.timers`.

    When the time of a timer has come, `on_timer(timer, ctx)` of the function is called.
    """

    __slots__ = ("_context", "_keeper")

    def __init__(self, context: HasRecord, keeper: Keeper) -> None:
        self._context = context
        self._keeper = keeper

    @overload
    def set(self, name: str, *, at: int | datetime, clock: Clock | None = ...) -> None: ...
    @overload
    def set(self, name: str, *, after: timedelta, clock: Clock | None = ...) -> None: ...
    def set(
        self,
        name: str,
        *,
        at: int | datetime | None = None,
        after: timedelta | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Set the timer of this name for this key. One that is set already is replaced.

        Args:
            at: the time, in ms since 1970 or as an aware datetime. It must not have passed.
            after: how long after the record (`ctx.timestamp`), or with `clock="wall"` how long from now.
            clock: "event": it fires when event time has passed it, so that all records up to it have been seen.
                "wall": it fires at that time of the wall clock, whatever records come. By default "event" where the
                records have timestamps, else "wall".

        Raises:
            InvalidTimestampError: `at` is no timestamp, or has passed.
            PipelineError: anything else is wrong.
        """
        if self._keeper.lacks is not None:
            raise PipelineError(self._keeper.lacks)
        if not isinstance(name, str) or not name:
            raise PipelineError(f"the name of a timer{self._of} must be a non-empty str, not {name!r}")
        if (at is None) is (after is None):
            raise PipelineError(
                f"timer {name!r}{self._of} needs either at=, a time, or after=, such as timedelta(minutes=5)"
            )
        clock = self._clock(name, clock)
        timestamp = self._time_after(name, after, clock) if at is None else self._time_at(name, at, clock)
        fires = self._keeper.fires
        if fires is not None and fires[0] == clock and timestamp <= fires[1]:
            raise InvalidTimestampError(
                f"timer {name!r}{self._of} is set for {timestamp} by a timer that fires for {fires[1]}: it must be"
                " later than that, or timers could go on for ever"
            )
        self._keeper.put(self._context.key, name, clock, timestamp)

    def clear(self, name: str) -> None:
        """Forget the timer of this name of this key, if it is set."""
        self._keeper.drop(self._context.key, name)

    def get(self, name: str) -> int | None:
        """Return the time of the timer of this name of this key, in ms since 1970; None if it is not set."""
        return self._keeper.find(self._context.key, name)

    @property
    def _of(self) -> str:
        return f" of {self._context.operator_name!r}"

    def _clock(self, name: str, clock: Clock | None) -> Clock:
        if clock is None:
            return "event" if self._keeper.is_timed else "wall"
        if clock not in ("event", "wall"):
            raise PipelineError(f'clock= of timer {name!r}{self._of} must be "event" or "wall", not {clock!r}')
        if clock == "event" and not self._keeper.is_timed:
            raise PipelineError(
                f"timer {name!r}{self._of} goes by event time, and the records have no timestamps: put"
                ' .assign_timestamps(...) before the key_by, or set it with clock="wall"'
            )
        return clock

    def _time_after(self, name: str, after: timedelta | None, clock: Clock) -> int:
        delay_ms = checked_duration(after, f"after= of timer {name!r}{self._of}", positive=False)
        begin = self._context.timestamp if clock == "event" else int(self._keeper.now("wall"))
        return min(begin + delay_ms, MAX_TIMESTAMP)

    def _time_at(self, name: str, at: int | datetime, clock: Clock) -> int:
        try:
            timestamp = checked_timestamp(at)
        except InvalidTimestampError as error:
            raise InvalidTimestampError(f"at= of timer {name!r}{self._of}: {error}") from None
        fires = self._keeper.fires
        if fires is not None and fires[0] == clock:
            return timestamp  # it counts from the timer that fires, however far the clock is
        now = self._keeper.now(clock)
        if timestamp < now:
            clock_name = "the watermark" if clock == "event" else "the wall clock"
            raise InvalidTimestampError(
                f"timer {name!r}{self._of} is set for {timestamp}, which has passed: {clock_name} is at {now:.0f}."
                " With after= it would count from the record"
            )
        return timestamp
