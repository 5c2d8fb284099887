"""How records get their timestamps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from sage_flow.errors import PipelineError
from sage_flow.plan import kinds
from sage_flow.plan.location import caller_location
from sage_flow.streams.step_options import OperatorOptions, StepOptions, takes
from sage_flow.timestamps import checked_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sage_flow.functions import RuntimeContext
    from sage_flow.plan.graph import Tap
    from sage_flow.streams.plain import DataStream
    from sage_flow.watermarks import WatermarkGenerator

__all__ = ["HasTime"]

T = TypeVar("T")

WhenIdle = Literal["leave", "advance"]


class HasTime(Generic[T]):
    """A base of streams whose records can be given timestamps."""

    if TYPE_CHECKING:
        _taps: tuple[Tap, ...]

        def _step(self, *arguments: Any, **options: Any) -> DataStream[Any]: ...

    @overload
    def assign_timestamps(
        self,
        function: Callable[[T], int | datetime] | Callable[[T, RuntimeContext], int | datetime],
        *,
        max_out_of_order: timedelta,
        idle_after: timedelta | None = ...,
        when_idle: WhenIdle = ...,
        in_time_order: bool = ...,
        every_record: bool = ...,
        **options: Unpack[StepOptions],
    ) -> DataStream[T]: ...
    @overload
    def assign_timestamps(
        self,
        function: Callable[[T], int | datetime] | Callable[[T, RuntimeContext], int | datetime],
        *,
        watermarks: Callable[[], WatermarkGenerator[T]],
        idle_after: timedelta | None = ...,
        when_idle: WhenIdle = ...,
        in_time_order: bool = ...,
        every_record: bool = ...,
        **options: Unpack[StepOptions],
    ) -> DataStream[T]: ...
    @takes(StepOptions)
    def assign_timestamps(
        self,
        function: Callable[..., Any],
        *,
        max_out_of_order: timedelta | None = None,
        watermarks: Callable[[], WatermarkGenerator[Any]] | None = None,
        idle_after: timedelta | None = None,
        when_idle: WhenIdle = "leave",
        in_time_order: bool = False,
        every_record: bool = False,
        **options: Unpack[StepOptions],
    ) -> DataStream[Any]:
        """Give each record the time `function(value)`: ms since the epoch, or an aware datetime.

        Windows, timers and joins in time go by these timestamps. How far the time is (the watermark) follows from
        them: `max_out_of_order` behind the largest timestamp so far, for each split of the source; the slowest split
        counts. A record that is further behind may come too late for its window.

        >>> words = stream_of((1_000, "to"), (2_000, "be"), (61_000, "or"))
        >>> timed = words.assign_timestamps(lambda pair: pair[0], max_out_of_order=timedelta(seconds=5))
        >>> minutes = timed.key_by(lambda pair: "all").window(TumblingWindow(timedelta(minutes=1)))
        >>> collect(minutes.count().map(lambda result: (result.start, result.value)))
        [(0, 2), (60000, 1)]

        Args:
            max_out_of_order: how far a record may be behind the largest timestamp before it. 0 if they are in order.
            watermarks: instead of that, a class of `WatermarkGenerator`; one is made for each split.
            idle_after: a split that gives no record for so long does not hold the time of the others.
            when_idle: "leave": the time stands while all splits are idle. "advance": it goes on with the wall clock.
            in_time_order: the splits that a subtask reads, such as files, follow each other in time. One that is not
                begun does not hold the time of the others then, so windows fire while the files are read. Otherwise
                they fire when the last file is begun, which loses no record, whatever the order.
            every_record: the watermark follows each record, and not each batch of them: exact, and slow.
        """
        where = caller_location()
        if (max_out_of_order is None) is (watermarks is None):
            raise PipelineError(
                f"assign_timestamps ({where}) needs either max_out_of_order=timedelta(...), how far a record may be"
                " behind the largest timestamp before it (timedelta(0) if they are in order), or watermarks="
            )
        if watermarks is not None and not callable(watermarks):
            raise PipelineError(
                f"watermarks of assign_timestamps ({where}) must be a class of WatermarkGenerator, or a function that"
                f" makes one, not {watermarks!r}"
            )
        if when_idle not in ("leave", "advance"):
            raise PipelineError(
                f'when_idle of assign_timestamps ({where}) must be "leave" or "advance", not {when_idle!r}'
            )
        if when_idle == "advance" and idle_after is None:
            raise PipelineError(
                f'when_idle="advance" of assign_timestamps ({where}) says what happens after idle_after=timedelta(...):'
                " give that, too"
            )
        own = {
            "max_out_of_order_ms": 0 if max_out_of_order is None else _checked("max_out_of_order", max_out_of_order),
            "watermarks": watermarks,
            "idle_after_s": None if idle_after is None else checked_duration(idle_after, "idle_after") / 1000,
            "when_idle": when_idle,
            "in_time_order": bool(in_time_order),
            "every_record": bool(every_record),
        }
        return self._step(kinds.ASSIGN_TIMESTAMPS, function, options, own=own)

    @takes(OperatorOptions)
    def assign_arrival_times(self, **options: Unpack[OperatorOptions]) -> DataStream[T]:
        """Give each record the time at which it arrives here, by the wall clock, as its timestamp.

        For records that have no time of their own, or whose order of arrival is what counts. No record is late. Time
        goes on with the wall clock, also while no records come. Results differ from run to run.

        >>> words = stream_of("to", "be").assign_arrival_times()
        >>> days = words.key_by(lambda word: "all").window(TumblingWindow(timedelta(days=10_000)))
        >>> collect(days.count().map(lambda result: result.value))
        [2]
        """
        own = {
            "max_out_of_order_ms": 0,
            "watermarks": None,
            "idle_after_s": None,
            "when_idle": "leave",
            "in_time_order": False,
            "every_record": False,
        }
        return self._step(kinds.ASSIGN_ARRIVAL_TIMES, None, options, values=0, own=own)


def _checked(what: str, duration: timedelta) -> int:
    return checked_duration(duration, what, positive=False)
