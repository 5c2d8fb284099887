"""Streams whose records have a key, and the aggregates over the records of each key."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from sage_flow.aggregates import Aggregate, CountDistinct, Mean, Top
from sage_flow.errors import PipelineError
from sage_flow.plan import kinds
from sage_flow.plan.kinds import Kind
from sage_flow.plan.location import caller_location
from sage_flow.streams.count_windowed import CountWindowedStream
from sage_flow.streams.joined import HasJoins
from sage_flow.streams.plain import DataStream, Stream
from sage_flow.streams.shapes import SHAPES
from sage_flow.streams.step_options import AggregateOptions, OperatorOptions, takes
from sage_flow.streams.windowed import one_aggregate
from sage_flow.streams.written import add_operator
from sage_flow.timestamps import checked_duration
from sage_flow.windows import Window

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sage_flow.plan.graph import OnError
    from sage_flow.streams.connected import ConnectedStreams
    from sage_flow.streams.windowed import WindowedStream

__all__ = ["KeyedStream"]

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
V = TypeVar("V")

Emit = Literal["updates", "final"]


class KeyedStream(HasJoins[K, T], Stream[T], Generic[K, T]):
    """A stream whose records have a key; equal keys meet in one subtask, in order.

    Functions with `ctx` find the key in `ctx.key` and keyed state in `ctx.state`, except in `map_batches`: a batch has
    records of many keys. What follows an operator has no key any more. The aggregates give
    `(key, value)` pairs: one for every record (`emit="updates"`), or one per key when the input ends
    (`emit="final"`).
    """

    _keyed = True

    @takes(AggregateOptions)
    def reduce(
        self, function: Callable[[T, T], T], *, emit: Emit = "updates", **options: Unpack[AggregateOptions]
    ) -> DataStream[tuple[K, T]]:
        """Combine the records of a key two by two: `function(so_far, value)`.

        >>> collect(stream_of(1, 2, 3).key_by(lambda n: n % 2).reduce(lambda a, b: a + b))
        [(1, 1), (0, 2), (1, 4)]
        """
        return self._aggregate(kinds.REDUCE, function, emit, options, values=2)

    @takes(AggregateOptions)
    def fold(
        self,
        initial: U | Callable[[], U],
        function: Callable[[U, T], U],
        *,
        emit: Emit = "updates",
        **options: Unpack[AggregateOptions],
    ) -> DataStream[tuple[K, U]]:
        """Combine into a value of another type, from `initial` (a value, or a factory such as `list`):
        `function(so_far, value)` returns the new value; return a new object where updates are emitted.

        >>> words = stream_of("to", "be").key_by(len)
        >>> collect(words.fold((), lambda all, word: (*all, word), emit="final"))
        [(2, ('to', 'be'))]
        """
        return self._aggregate(kinds.FOLD, function, emit, options, values=2, own={"initial": initial})

    @takes(OperatorOptions)
    def count(self, *, emit: Emit = "updates", **options: Unpack[OperatorOptions]) -> DataStream[tuple[K, int]]:
        """Count the records of each key.

        >>> collect(stream_of("a", "b", "a").key_by(str).count(emit="final"))
        [('a', 2), ('b', 1)]
        """
        return self._aggregate(kinds.COUNT, None, emit, options, values=0)

    @takes(AggregateOptions)
    def sum(
        self,
        function: Callable[[T], Any] | None = None,
        *,
        emit: Emit = "updates",
        **options: Unpack[AggregateOptions],
    ) -> DataStream[tuple[K, Any]]:
        """Add up `function(value)`, by default the record itself, from 0."""
        return self._aggregate(kinds.SUM, function, emit, options, values=0 if function is None else 1)

    @takes(AggregateOptions)
    def min(
        self,
        function: Callable[[T], Any] | None = None,
        *,
        emit: Emit = "updates",
        **options: Unpack[AggregateOptions],
    ) -> DataStream[tuple[K, Any]]:
        """The least `function(value)`, by default the least record."""
        return self._aggregate(kinds.MIN, function, emit, options, values=0 if function is None else 1)

    @takes(AggregateOptions)
    def max(
        self,
        function: Callable[[T], Any] | None = None,
        *,
        emit: Emit = "updates",
        **options: Unpack[AggregateOptions],
    ) -> DataStream[tuple[K, Any]]:
        """The greatest `function(value)`, by default the greatest record."""
        return self._aggregate(kinds.MAX, function, emit, options, values=0 if function is None else 1)

    @takes(AggregateOptions)
    def mean(
        self,
        function: Callable[[T], Any] | None = None,
        *,
        emit: Emit = "updates",
        **options: Unpack[AggregateOptions],
    ) -> DataStream[tuple[K, Any]]:
        """The mean of `function(value)`, by default of the records themselves.

        >>> collect(stream_of(1, 2, 6).key_by(lambda n: "all").mean())
        [('all', 1.0), ('all', 1.5), ('all', 3.0)]
        """
        return self._aggregate_object("mean", Mean(function), emit, options)

    @takes(AggregateOptions)
    def count_distinct(
        self,
        function: Callable[[T], Hashable] | None = None,
        *,
        emit: Emit = "updates",
        **options: Unpack[AggregateOptions],
    ) -> DataStream[tuple[K, int]]:
        """Count how many different `function(value)` there are, by default different records.

        >>> collect(stream_of("to", "be", "to").key_by(len).count_distinct(emit="final"))
        [(2, 2)]
        """
        return self._aggregate_object("count_distinct", CountDistinct(function), emit, options)

    @takes(AggregateOptions)
    def top(
        self,
        n: int,
        *,
        by: Callable[[T], Any],
        emit: Emit = "updates",
        **options: Unpack[AggregateOptions],
    ) -> DataStream[tuple[K, list[T]]]:
        """The `n` records with the greatest `by(value)`, the greatest first; of equal ones those that came first.

        >>> words = stream_of("to", "be", "not").key_by(lambda word: "all")
        >>> collect(words.top(2, by=len, emit="final"))
        [('all', ['not', 'to'])]
        """
        return self._aggregate_object("top", Top(n, by), emit, options)

    @overload
    def aggregate(
        self, aggregate: Aggregate[T, Any, V], *, emit: Emit = ..., **options: Unpack[AggregateOptions]
    ) -> DataStream[tuple[K, V]]: ...
    @overload
    def aggregate(
        self,
        *,
        emit: Emit = ...,
        name: str | None = ...,
        parallelism: int | None = ...,
        on_error: OnError = ...,
        **aggregates: Aggregate[T, Any, Any],
    ) -> DataStream[tuple[K, dict[str, Any]]]: ...
    def aggregate(
        self,
        aggregate: Aggregate[T, Any, Any] | None = None,
        *,
        emit: Emit = "updates",
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        **aggregates: Aggregate[T, Any, Any],
    ) -> DataStream[Any]:
        """Compute one aggregate, or several at once by name, which gives a dict.

        >>> from sage_flow.aggregates import Count, Max
        >>> bids = stream_of(3, 7, 5).key_by(lambda bid: "all")
        >>> collect(bids.aggregate(bids=Count(), best=Max(), emit="final"))
        [('all', {'bids': 3, 'best': 7})]
        """
        options = {"name": name, "parallelism": parallelism, "on_error": on_error}
        return self._aggregate_object("aggregate", one_aggregate(aggregate, aggregates), emit, options)

    @takes(OperatorOptions)
    def deduplicate(self, *, ttl: timedelta | None = None, **options: Unpack[OperatorOptions]) -> DataStream[T]:
        """Keep the first record of each key, or with `ttl` the first one for so long.

        >>> collect(stream_of("to", "be", "not").key_by(len).deduplicate())
        ['to', 'not']

        Args:
            ttl: a key is forgotten when so much time has passed since the record that was kept: by its timestamp, or
                by the wall clock where records have none. None: never, so that the state grows with the keys.
        """
        own = {"ttl_ms": None if ttl is None else checked_duration(ttl, "ttl")}
        return self._step(kinds.DEDUPLICATE, None, options, values=0, own=own)

    def count_window(self, n: int) -> CountWindowedStream[K, T]:
        """Cut the records of each key into windows of `n` records; an aggregate follows, such as `.sum()`.

        >>> collect(stream_of(1, 2, 3).key_by(lambda n: "all").count_window(2).sum())
        [('all', 3), ('all', 3)]
        """
        return CountWindowedStream(self._graph, self._taps, n)

    def window(
        self,
        window: Window,
        *,
        allowed_lateness: timedelta = timedelta(0),
        early_every: timedelta | None = None,
    ) -> WindowedStream[K, T]:
        """Cut the stream into windows of event time; an aggregate of it follows, such as `.count()`.

        Needs timestamps (`assign_timestamps`). A window gives its results when the time has come to its end, or at the
        end of the input.

        >>> clicks = stream_of(1_000, 2_000, 61_000).assign_timestamps(int, max_out_of_order=timedelta(seconds=1))
        >>> minutes = clicks.key_by(lambda t: "all").window(TumblingWindow(timedelta(minutes=1)))
        >>> collect(minutes.count())
        [WindowResult(key='all', start=0, end=60000, value=2, firing='on_time'), \
WindowResult(key='all', start=60000, end=120000, value=1, firing='on_time')]

        Args:
            allowed_lateness: for so long after its end a window still takes records, and gives its result again for
                each key that got some (`firing="late"`).
            early_every: give results also before the end (`firing="early"`): so long after the first change, by the
                wall clock, the value so far of each key that has changed.
        """
        return SHAPES.windowed(self._graph, self._taps, window, allowed_lateness, early_every)

    def connect(self, other: KeyedStream[K, R] | DataStream[R]) -> ConnectedStreams[T, R]:
        """Two keyed streams into one operator: records of equal keys of both meet and share state. Or a keyed stream
        and a table, `connect(table.broadcast())`, whose records go to every subtask and have no key.

        >>> class Converts(CoProcessFunction):
        ...     def open(self, ctx):
        ...         self.rates, self.waiting = {}, []
        ...     def process_left(self, price, ctx):
        ...         self.waiting.append(price)
        ...         return self.converted()
        ...     def process_right(self, rate, ctx):
        ...         self.rates[rate[0]] = rate[1]
        ...         return self.converted()
        ...     def converted(self):
        ...         known = [price for price in self.waiting if price[0] in self.rates]
        ...         self.waiting = [price for price in self.waiting if price not in known]
        ...         return [amount * self.rates[currency] for currency, amount in known]
        >>> prices = env.from_collection([("EUR", 2), ("USD", 3)]).key_by(lambda price: price[0])
        >>> rates = env.from_collection([("EUR", 10), ("USD", 9)])
        >>> sorted(collect(prices.connect(rates.broadcast()).process(Converts)))
        [20, 27]
        """
        if isinstance(other, DataStream) and other._is_broadcast():
            self._check_other(other, DataStream)
        elif isinstance(other, DataStream) and other._graph is self._graph:
            raise PipelineError(
                f"connect() ({caller_location()}): a KeyedStream can be connected with another KeyedStream, whose"
                " records of equal keys it meets, or with a table that goes to every subtask, table.broadcast()"
            )
        else:
            self._check_other(other, KeyedStream)
        return SHAPES.connected(self._graph, self._taps, other._taps, keyed=True)

    def _aggregate(
        self,
        kind: Kind,
        function: Any,
        emit: str,
        given: Mapping[str, Any],
        *,
        values: int = 1,
        own: dict[str, Any] | None = None,
    ) -> DataStream[Any]:
        """Add an aggregate that calls `function` with `values` values; with 0 it takes the records themselves."""
        own = {**(own or {}), "emit": _checked(emit, given.get("name") or kind.name)}
        return self._step(kind, function, {**given, "with_ctx": False}, values=values, own=own)

    def _aggregate_object(
        self, base: str, aggregate: Aggregate[T, Any, Any], emit: str, given: Mapping[str, Any]
    ) -> DataStream[Any]:
        own = {"aggregate": aggregate, "emit": _checked(emit, given.get("name") or base)}
        tap = add_operator(self._graph, kinds.AGGREGATE, [], [self._taps], given, base=base, keyed=True, own=own)
        return DataStream(self._graph, (tap,))


def _checked(emit: str, owner: str) -> str:
    """Return `emit`. Raises PipelineError."""
    if emit not in ("updates", "final"):
        raise PipelineError(f'emit of {owner!r} must be "updates" or "final", not {emit!r} ({caller_location()})')
    return emit


SHAPES.keyed = KeyedStream
