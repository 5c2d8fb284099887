"""Keyed streams that are cut into windows of event time, and what windows give."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from sage_flow.aggregates import Aggregate, CountDistinct, Mean, Several, ToList, Top
from sage_flow.errors import PipelineError
from sage_flow.plan import kinds
from sage_flow.plan.graph import LATE_RECORDS, Tap
from sage_flow.plan.location import caller_location
from sage_flow.plan.timing import has_time
from sage_flow.streams.display import ShownStream
from sage_flow.streams.plain import DataStream
from sage_flow.streams.shapes import SHAPES
from sage_flow.streams.step_options import AggregateOptions, OperatorOptions, StepOptions, takes
from sage_flow.streams.written import add_operator
from sage_flow.timestamps import checked_duration
from sage_flow.windows import AlignedWindow, SessionWindow, Window, WindowResult

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sage_flow.functions import RuntimeContext
    from sage_flow.plan.builder import Graph
    from sage_flow.plan.graph import OnError

__all__ = ["WindowResults", "WindowedStream"]

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")
K = TypeVar("K", bound=Hashable)


class WindowResults(DataStream[T], Generic[T, U]):
    """What windows give. `late_records()` are those that came too late for any window."""

    def late_records(self) -> DataStream[U]:
        """The records that came when all of their windows were over. They are counted, whoever reads them.

        >>> times = stream_of(0, 70_000, 1_000).assign_timestamps(int, max_out_of_order=timedelta(0), every_record=True)
        >>> counts = times.key_by(lambda t: "all").window(TumblingWindow(timedelta(minutes=1))).count()
        >>> kept = counts.for_each(lambda result: None)
        >>> collect(counts.late_records())
        [1000]
        """
        return cast("DataStream[U]", self.side_output(LATE_RECORDS))


class WindowedStream(ShownStream, Generic[K, T]):
    """A keyed stream that is cut into windows: an aggregate gives a `WindowResult` for each key and window.

    Its timestamp is the last one of the window, so that windows over results work.
    """

    def __init__(
        self, graph: Graph, taps: tuple[Tap, ...], window: Window, allowed_lateness: timedelta, early_every: Any
    ) -> None:
        where = caller_location()
        if not isinstance(window, (AlignedWindow, SessionWindow)):
            raise PipelineError(
                f"window() ({where}) takes a window such as TumblingWindow(timedelta(minutes=1)), not {window!r}"
            )
        if not has_time(taps):
            raise PipelineError(
                f"{window!r} ({where}) goes by the timestamps of records, and these have none: put"
                " .assign_timestamps(lambda value: ..., max_out_of_order=timedelta(...)) before the key_by"
            )
        self._graph = graph
        self._taps = taps
        self._window = window
        self._own = {
            "window": window,
            "early_every_ms": None if early_every is None else checked_duration(early_every, "early_every"),
            "allowed_lateness_ms": checked_duration(allowed_lateness, "allowed_lateness", positive=False),
        }

    def _inputs(self) -> tuple[tuple[Tap, ...], ...]:
        return (self._taps,)

    @takes(OperatorOptions)
    def count(self, **options: Unpack[OperatorOptions]) -> WindowResults[WindowResult[K, int], T]:
        """Count the records of each key and window."""
        return self._add(options, "count")

    @overload
    def sum(self, **options: Unpack[AggregateOptions]) -> WindowResults[WindowResult[K, T], T]: ...
    @overload
    def sum(
        self, function: Callable[[T], U], **options: Unpack[AggregateOptions]
    ) -> WindowResults[WindowResult[K, U], T]: ...
    @takes(AggregateOptions)
    def sum(
        self, function: Callable[[T], Any] | None = None, **options: Unpack[AggregateOptions]
    ) -> WindowResults[Any, T]:
        """Add up `function(value)`, by default the record itself, from 0."""
        return self._add(options, "sum", function, takes_values=1)

    @takes(AggregateOptions)
    def min(
        self, function: Callable[[T], Any] | None = None, **options: Unpack[AggregateOptions]
    ) -> WindowResults[WindowResult[K, Any], T]:
        """The least `function(value)`, by default the least record."""
        return self._add(options, "min", function, takes_values=1)

    @takes(AggregateOptions)
    def max(
        self, function: Callable[[T], Any] | None = None, **options: Unpack[AggregateOptions]
    ) -> WindowResults[WindowResult[K, Any], T]:
        """The greatest `function(value)`, by default the greatest record."""
        return self._add(options, "max", function, takes_values=1)

    @takes(AggregateOptions)
    def reduce(
        self, function: Callable[[T, T], T], **options: Unpack[AggregateOptions]
    ) -> WindowResults[WindowResult[K, T], T]:
        """Combine the records two by two: `function(so_far, value)`. It must return a new object.

        A sliding window is brought together from the results of shorter spans, by the same function.
        """
        return self._add(options, "reduce", function, takes_values=2)

    @takes(AggregateOptions)
    def fold(
        self,
        initial: U | Callable[[], U],
        function: Callable[[U, T], U],
        *,
        merge: Callable[[U, U], U] | None = None,
        **options: Unpack[AggregateOptions],
    ) -> WindowResults[WindowResult[K, U], T]:
        """Combine the records into a value of another type, from `initial`: a value, or a factory such as `list`.

        Args:
            merge: brings two values together, the earlier one first, and returns a new object. Sessions need it, since
                a record can join two of them. Without it a sliding window keeps a value for each of its windows, and
                each record is brought into all of them.
        """
        if merge is None and isinstance(self._window, SessionWindow):
            raise PipelineError(
                f"fold over sessions ({caller_location()}) needs merge=, a function of two values that returns the one"
                " for both: a record can join two sessions"
            )
        if merge is not None and not callable(merge):
            raise PipelineError(f"merge of fold ({caller_location()}) must be a function of two values, not {merge!r}")
        return self._add(options, "fold", function, takes_values=2, own={"initial": initial, "merge": merge})

    @takes(AggregateOptions)
    def mean(
        self, function: Callable[[T], Any] | None = None, **options: Unpack[AggregateOptions]
    ) -> WindowResults[WindowResult[K, Any], T]:
        """The mean of `function(value)`, by default of the records themselves."""
        return self._add(options, Mean(function))

    @takes(AggregateOptions)
    def count_distinct(
        self, function: Callable[[T], Hashable] | None = None, **options: Unpack[AggregateOptions]
    ) -> WindowResults[WindowResult[K, int], T]:
        """Count how many different `function(value)` there are, by default different records."""
        return self._add(options, CountDistinct(function))

    @takes(AggregateOptions)
    def top(
        self, n: int, *, by: Callable[[T], Any], **options: Unpack[AggregateOptions]
    ) -> WindowResults[WindowResult[K, list[T]], T]:
        """The `n` records with the greatest `by(value)`, the greatest first.

        Of equal ones, those are taken that `to_list` has first.
        """
        return self._add(options, Top(n, by))

    @takes(OperatorOptions)
    def to_list(self, **options: Unpack[OperatorOptions]) -> WindowResults[WindowResult[K, list[T]], T]:
        """The records of each key and window as a list.

        A tumbling window has them in the order in which they came. A sliding window is brought together from shorter
        spans, and a session from shorter sessions: those follow one another in time, each in the order of arrival.
        """
        return self._add(options, ToList())

    @overload
    def aggregate(
        self, aggregate: Aggregate[T, Any, V], **options: Unpack[AggregateOptions]
    ) -> WindowResults[WindowResult[K, V], T]: ...
    @overload
    def aggregate(
        self,
        *,
        name: str | None = ...,
        parallelism: int | None = ...,
        on_error: OnError = ...,
        **aggregates: Aggregate[T, Any, Any],
    ) -> WindowResults[WindowResult[K, dict[str, Any]], T]: ...
    def aggregate(
        self,
        aggregate: Aggregate[T, Any, Any] | None = None,
        *,
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        **aggregates: Aggregate[T, Any, Any],
    ) -> WindowResults[Any, T]:
        """Compute one aggregate, or several at once by name, which gives a dict.

        >>> from sage_flow.aggregates import Count, Max
        >>> bids = stream_of(3, 7, 5).assign_timestamps(int, max_out_of_order=timedelta(0))
        >>> spans = bids.key_by(lambda bid: "all").window(TumblingWindow(timedelta(seconds=1)))
        >>> collect(spans.aggregate(bids=Count(), best=Max()).map(lambda result: result.value))
        [{'bids': 3, 'best': 7}]
        """
        options = {"name": name, "parallelism": parallelism, "on_error": on_error}
        return self._add(options, one_aggregate(aggregate, aggregates))

    @takes(StepOptions)
    def process(
        self,
        function: Callable[[list[T]], Iterable[U] | None] | Callable[[list[T], RuntimeContext], Iterable[U] | None],
        **options: Unpack[StepOptions],
    ) -> WindowResults[U, T]:
        """Call `function(records, ctx)` when a window fires, with its records as a list; it yields outputs.

        `ctx.key` is the key, `ctx.window` has the window's `start` and `end`. With `on_error="skip"` or "dead_letter"
        the job goes on without a window for which the function fails; the letter's `record` is a `WindowResult` whose
        value is the list of records.

        >>> clicks = stream_of(1_000, 2_000, 61_000).assign_timestamps(int, max_out_of_order=timedelta(seconds=1))
        >>> minutes = clicks.key_by(lambda t: "all").window(TumblingWindow(timedelta(minutes=1)))
        >>> collect(minutes.process(lambda records, ctx: [(ctx.window.start, records)]))
        [(0, [1000, 2000]), (60000, [61000])]
        """
        if self._own["early_every_ms"] is not None:
            raise PipelineError(
                f"process of a window ({caller_location()}) cannot give early results: what it yields does not say that"
                " it is early. Leave out early_every=, or use an aggregate, whose results do"
            )
        return self._add(options, ToList(), function, takes_values=1, own={"process": True})

    def _add(
        self,
        given: Mapping[str, Any],
        aggregate: Any,
        function: Any = None,
        *,
        takes_values: int = 0,
        own: dict[str, Any] | None = None,
    ) -> WindowResults[Any, Any]:
        functions = [] if function is None else [(function, takes_values)]
        if not (own or {}).get("process"):
            given = {**given, "with_ctx": False}
        options = {**self._own, "aggregate": aggregate, **(own or {})}
        tap = add_operator(self._graph, kinds.WINDOW, functions, [self._taps], given, keyed=True, own=options)
        return WindowResults(self._graph, (tap,))


def one_aggregate(aggregate: Any, several: Mapping[str, Any]) -> Aggregate[Any, Any, Any]:
    """Return the aggregate that was given, or all of several by name as one. Raises PipelineError."""
    where = caller_location()
    if (aggregate is None) is not bool(several):
        raise PipelineError(
            f"aggregate() ({where}) takes one aggregate, aggregate(Count()), or several by name,"
            " aggregate(n=Count(), best=Max(f))"
        )
    for name, one in ({"": aggregate} if aggregate is not None else several).items():
        if not isinstance(one, Aggregate):
            what = f"{name}=" if name else "its argument"
            raise PipelineError(
                f"aggregate() ({where}): {what} must be an Aggregate, such as Count() or Max(f), not {one!r}"
            )
    return Several(**several) if aggregate is None else cast("Aggregate[Any, Any, Any]", aggregate)


SHAPES.windowed = WindowedStream
