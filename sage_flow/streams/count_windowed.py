"""Keyed streams that are cut into windows of a number of records."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from sage_flow.aggregates import Aggregate, CountDistinct, Mean, ToList, Top
from sage_flow.plan import kinds
from sage_flow.plan.builder import Graph, checked_count
from sage_flow.plan.graph import Tap
from sage_flow.streams.display import ShownStream
from sage_flow.streams.plain import DataStream
from sage_flow.streams.step_options import AggregateOptions, OperatorOptions, takes
from sage_flow.streams.windowed import one_aggregate
from sage_flow.streams.written import add_operator

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sage_flow.plan.graph import OnError

__all__ = ["CountWindowedStream"]

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")
K = TypeVar("K", bound=Hashable)


class CountWindowedStream(ShownStream, Generic[K, T]):
    """A keyed stream that is cut into windows of `n` records of a key: an aggregate gives a `(key, value)` pair each.

    Records that are left when the input ends are a last, shorter window.
    """

    def __init__(self, graph: Graph, taps: tuple[Tap, ...], n: int) -> None:
        self._graph = graph
        self._taps = taps
        self._size = checked_count(n, "n", "count_window")

    def _inputs(self) -> tuple[tuple[Tap, ...], ...]:
        return (self._taps,)

    @takes(OperatorOptions)
    def count(self, **options: Unpack[OperatorOptions]) -> DataStream[tuple[K, int]]:
        """Count the records of each window: `n`, or fewer at the end."""
        return self._add(options, "count")

    @overload
    def sum(self, **options: Unpack[AggregateOptions]) -> DataStream[tuple[K, T]]: ...
    @overload
    def sum(self, function: Callable[[T], U], **options: Unpack[AggregateOptions]) -> DataStream[tuple[K, U]]: ...
    @takes(AggregateOptions)
    def sum(
        self, function: Callable[[T], Any] | None = None, **options: Unpack[AggregateOptions]
    ) -> DataStream[tuple[K, Any]]:
        """Add up `function(value)`, by default the record itself, from 0.

        >>> collect(stream_of(1, 2, 3).key_by(lambda n: "all").count_window(2).sum())
        [('all', 3), ('all', 3)]
        """
        return self._add(options, "sum", function)

    @takes(AggregateOptions)
    def min(
        self, function: Callable[[T], Any] | None = None, **options: Unpack[AggregateOptions]
    ) -> DataStream[tuple[K, Any]]:
        """The least `function(value)`, by default the least record."""
        return self._add(options, "min", function)

    @takes(AggregateOptions)
    def max(
        self, function: Callable[[T], Any] | None = None, **options: Unpack[AggregateOptions]
    ) -> DataStream[tuple[K, Any]]:
        """The greatest `function(value)`, by default the greatest record."""
        return self._add(options, "max", function)

    @takes(AggregateOptions)
    def reduce(self, function: Callable[[T, T], T], **options: Unpack[AggregateOptions]) -> DataStream[tuple[K, T]]:
        """Combine the records of a window two by two: `function(so_far, value)`."""
        return self._add(options, "reduce", function, takes_values=2)

    @takes(AggregateOptions)
    def fold(
        self,
        initial: U | Callable[[], U],
        function: Callable[[U, T], U],
        **options: Unpack[AggregateOptions],
    ) -> DataStream[tuple[K, U]]:
        """Combine the records into a value of another type, from `initial`: a value, or a factory such as `list`."""
        return self._add(options, "fold", function, takes_values=2, own={"initial": initial})

    @takes(AggregateOptions)
    def mean(
        self, function: Callable[[T], Any] | None = None, **options: Unpack[AggregateOptions]
    ) -> DataStream[tuple[K, Any]]:
        """The mean of `function(value)`, by default of the records themselves."""
        return self._add(options, Mean(function))

    @takes(AggregateOptions)
    def count_distinct(
        self, function: Callable[[T], Hashable] | None = None, **options: Unpack[AggregateOptions]
    ) -> DataStream[tuple[K, int]]:
        """Count how many different `function(value)` there are, by default different records."""
        return self._add(options, CountDistinct(function))

    @takes(AggregateOptions)
    def top(
        self, n: int, *, by: Callable[[T], Any], **options: Unpack[AggregateOptions]
    ) -> DataStream[tuple[K, list[T]]]:
        """The `n` records with the greatest `by(value)`, the greatest first."""
        return self._add(options, Top(n, by))

    @takes(OperatorOptions)
    def to_list(self, **options: Unpack[OperatorOptions]) -> DataStream[tuple[K, list[T]]]:
        """The records of each window as a list, in the order in which they came.

        >>> collect(stream_of(1, 2, 3).key_by(lambda n: "all").count_window(2).to_list())
        [('all', [1, 2]), ('all', [3])]
        """
        return self._add(options, ToList())

    @overload
    def aggregate(
        self, aggregate: Aggregate[T, Any, V], **options: Unpack[AggregateOptions]
    ) -> DataStream[tuple[K, V]]: ...
    @overload
    def aggregate(
        self,
        *,
        name: str | None = ...,
        parallelism: int | None = ...,
        on_error: OnError = ...,
        **aggregates: Aggregate[T, Any, Any],
    ) -> DataStream[tuple[K, dict[str, Any]]]: ...
    def aggregate(
        self,
        aggregate: Aggregate[T, Any, Any] | None = None,
        *,
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        **aggregates: Aggregate[T, Any, Any],
    ) -> DataStream[Any]:
        """Compute one aggregate, or several at once by name, which gives a dict."""
        options = {"name": name, "parallelism": parallelism, "on_error": on_error}
        return self._add(options, one_aggregate(aggregate, aggregates))

    def _add(
        self,
        given: Mapping[str, Any],
        aggregate: Any,
        function: Any = None,
        *,
        takes_values: int = 1,
        own: dict[str, Any] | None = None,
    ) -> DataStream[Any]:
        functions = [] if function is None else [(function, takes_values)]
        given = {**given, "with_ctx": False}
        options = {"size": self._size, "aggregate": aggregate, **(own or {})}
        tap = add_operator(self._graph, kinds.COUNT_WINDOW, functions, [self._taps], given, keyed=True, own=options)
        return DataStream(self._graph, (tap,))
