"""Streams of records: the operators that every stream has, and those of a stream without keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from sage_flow.errors import PipelineError
from sage_flow.functions import DeadLetter, ProcessFunction, RuntimeContext
from sage_flow.plan import kinds
from sage_flow.plan.builder import Graph, checked_count, make_operator
from sage_flow.plan.graph import DEAD_LETTERS, Partitioning, Tap
from sage_flow.plan.kinds import Kind
from sage_flow.plan.location import caller_location
from sage_flow.retry import Retry, checked_retry
from sage_flow.streams.display import ShownStream
from sage_flow.streams.shapes import SHAPES
from sage_flow.streams.sinks import HasSinks
from sage_flow.streams.step_options import StepOptions, takes
from sage_flow.streams.timed import HasTime
from sage_flow.streams.written import HasOptions, add_operator
from sage_flow.timestamps import checked_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sage_flow.streams.connected import ConnectedStreams
    from sage_flow.streams.keyed import KeyedStream

__all__ = ["DataStream", "Stream"]

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

_PER_KEY = (
    *("reduce", "fold", "count", "sum", "min", "max", "mean", "count_distinct", "top", "aggregate"),
    *("deduplicate", "window", "count_window"),
    *("join", "join_window", "join_interval", "join_asof"),
)
"""Methods of a KeyedStream that a stream without keys has not."""


class Stream(ShownStream, HasOptions, HasSinks[T]):
    """What plain and keyed streams have in common."""

    _keyed = False

    def __init__(self, graph: Graph, taps: tuple[Tap, ...]) -> None:
        self._graph = graph
        self._taps = taps

    def _inputs(self) -> tuple[tuple[Tap, ...], ...]:
        return (self._taps,)

    # -- one record at a time -------------------------------------------------------------------------------

    @overload
    def map(self, function: Callable[[T], U], **options: Unpack[StepOptions]) -> DataStream[U]: ...
    @overload
    def map(self, function: Callable[[T, RuntimeContext], U], **options: Unpack[StepOptions]) -> DataStream[U]: ...
    @takes(StepOptions)
    def map(self, function: Callable[..., Any], **options: Unpack[StepOptions]) -> DataStream[Any]:
        """One output per record: `function(value)`.

        >>> collect(stream_of(1, 2, 3).map(lambda n: n * n))
        [1, 4, 9]
        """
        return self._step(kinds.MAP, function, options)

    @takes(StepOptions)
    def filter(
        self,
        function: Callable[[T], Any] | Callable[[T, RuntimeContext], Any],
        **options: Unpack[StepOptions],
    ) -> DataStream[T]:
        """Keep the records for which `function(value)` is true.

        >>> collect(stream_of(1, 2, 3).filter(lambda n: n != 2))
        [1, 3]
        """
        return self._step(kinds.FILTER, function, options)

    @overload
    def flat_map(self, function: Callable[[T], Iterable[U]], **options: Unpack[StepOptions]) -> DataStream[U]: ...
    @overload
    def flat_map(
        self, function: Callable[[T, RuntimeContext], Iterable[U]], **options: Unpack[StepOptions]
    ) -> DataStream[U]: ...
    @takes(StepOptions)
    def flat_map(self, function: Callable[..., Iterable[Any]], **options: Unpack[StepOptions]) -> DataStream[Any]:
        """Any number of outputs per record: what `function(value)` iterates over; a generator streams.

        >>> collect(stream_of(1, 2, 3).flat_map(range))
        [0, 0, 1, 0, 1, 2]
        """
        return self._step(kinds.FLAT_MAP, function, options)

    @overload
    def process(
        self, function: Callable[[T, RuntimeContext], Iterable[U] | None], **options: Unpack[StepOptions]
    ) -> DataStream[U]: ...
    @overload
    def process(
        self, function: ProcessFunction[T, U] | type[ProcessFunction[T, U]], **options: Unpack[StepOptions]
    ) -> DataStream[U]: ...
    @overload
    def process(self, function: Callable[[T], Iterable[U] | None], **options: Unpack[StepOptions]) -> DataStream[U]: ...
    @takes(StepOptions)
    def process(self, function: Any, **options: Unpack[StepOptions]) -> DataStream[Any]:
        """The general operator: a ProcessFunction, or `function(value, ctx)` that yields outputs or returns None.

        >>> def halves(n, ctx):
        ...     if n % 2:
        ...         ctx.output("odd", n)
        ...     else:
        ...         yield n // 2
        >>> stream = stream_of(1, 2, 3, 4).process(halves)
        >>> odd = stream.side_output("odd").for_each(lambda n: None)
        >>> collect(stream)
        [1, 2]
        """
        return self._step(kinds.PROCESS, function, options)

    @overload
    def map_batches(
        self,
        function: Callable[[list[T]], Iterable[U]],
        *,
        batch_size: int = ...,
        max_wait: timedelta | None = ...,
        **options: Unpack[StepOptions],
    ) -> DataStream[U]: ...
    @overload
    def map_batches(
        self,
        function: Callable[[list[T], RuntimeContext], Iterable[U]],
        *,
        batch_size: int = ...,
        max_wait: timedelta | None = ...,
        **options: Unpack[StepOptions],
    ) -> DataStream[U]: ...
    @takes(StepOptions)
    def map_batches(
        self,
        function: Callable[..., Iterable[Any]],
        *,
        batch_size: int = 256,
        max_wait: timedelta | None = None,
        **options: Unpack[StepOptions],
    ) -> DataStream[Any]:
        """Call `function` with lists of exactly `batch_size` records (the last one may be shorter).

        For work that is cheaper by the batch, such as a model or a vectorised computation. A batch that fails is not
        run again: `on_error` holds for each of its records.

        Args:
            max_wait: how long a record may wait for others, by the clock: then the batch is shorter. None: until there
                are `batch_size` records, or the input ends.

        >>> collect(stream_of(1, 2, 3).map_batches(lambda batch: [sum(batch)], batch_size=2))
        [3, 3]
        """
        own = {
            "batch_size": checked_count(batch_size, "batch_size", options.get("name") or "map_batches"),
            "max_wait_s": None if max_wait is None else checked_duration(max_wait, "max_wait") / 1000,
        }
        return self._step(kinds.MAP_BATCHES, function, options, own=own)

    @takes(StepOptions)
    def map_async(
        self,
        function: Callable[..., Awaitable[U]],
        *,
        capacity: int = 64,
        ordered: bool = True,
        timeout: float | None = None,
        retry: Retry | None = None,
        **options: Unpack[StepOptions],
    ) -> DataStream[U]:
        """Like `map` with a function that waits: many records wait at the same time.

        For calls of services, databases, web pages. `function` is `async def`, or returns a ServiceFuture
        (`lambda q, ctx: ctx.service("answer").process.remote(q)`); coroutines of one subtask share an event loop.

        Args:
            capacity: records under way in each subtask; more wait, which slows the source.
            ordered: results leave in the order of the records; otherwise as they come.
            timeout: seconds a coroutine may take for one record, with its retries, before it ends in TimeoutError.
            retry: call the function again for a record on which it failed.

        >>> async def double(n):
        ...     return 2 * n
        >>> collect(stream_of(1, 2, 3).map_async(double))
        [2, 4, 6]
        """
        checked_count(capacity, "capacity", options.get("name") or "map_async")
        if timeout is not None and (isinstance(timeout, bool) or not timeout > 0):
            raise PipelineError(f"timeout of map_async must be a number of seconds above 0, not {timeout!r}")
        own = {"capacity": capacity, "ordered": bool(ordered), "timeout_s": timeout}
        own.update(checked_retry(retry, options.get("name") or "map_async"))
        return self._step(kinds.MAP_ASYNC, function, options, own=own)

    # -- shape ----------------------------------------------------------------------------------------------

    def side_output(self, tag: str) -> DataStream[Any]:
        """The records that this stream's operator puts on the side with `ctx.output(tag, value)`."""
        if len(self._taps) != 1 or self._taps[0].tag is not None:
            raise PipelineError("side_output() is read from the stream of the one operator that writes it")
        return DataStream(self._graph, (Tap(self._taps[0].node, tag),))

    def dead_letters(self) -> DataStream[DeadLetter]:
        """The records on which this stream's operator failed, with on_error="dead_letter".

        >>> parsed = stream_of("1", "x").map(int, on_error="dead_letter")
        >>> good = parsed.for_each(lambda n: None)
        >>> collect(parsed.dead_letters().map(lambda letter: letter.record))
        ['x']
        """
        return cast("DataStream[DeadLetter]", self.side_output(DEAD_LETTERS))

    # -- engine ---------------------------------------------------------------------------------------------

    def _step(
        self,
        kind: Kind,
        function: Any,
        given: Mapping[str, Any],
        *,
        values: int = 1,
        own: dict[str, Any] | None = None,
    ) -> DataStream[Any]:
        """Add an operator that calls `function` with `values` values; with 0 it has no function."""
        functions = [(function, values)] if values else []
        tap = add_operator(self._graph, kind, functions, [self._taps], given, keyed=self._keyed, own=own)
        return DataStream(self._graph, (tap,))

    def _check_other(self, other: Any, kind: type[Any]) -> None:
        if not isinstance(other, kind):
            raise PipelineError(
                f"a {kind.__name__} can only be joined with another one, not with {other!r} ({caller_location()})"
            )
        if other._graph is not self._graph:
            raise PipelineError(
                f"streams of two environments cannot be joined: {self._graph.job!r} and {other._graph.job!r}"
                f" ({caller_location()})"
            )


class DataStream(HasTime[T], Stream[T]):
    """A stream of records of type T."""

    def key_by(self, function: Callable[[T], K], *, name: str | None = None) -> KeyedStream[K, T]:
        """Send records of equal `function(value)` to the same subtask, in order, and give them keyed state.

        Keys are hashable values with a stable hash (see `stable_hash`). It is no step of its own: what
        follows has the parallelism.

        >>> words = stream_of("a", "b", "a").key_by(lambda word: word)
        >>> collect(words.count())
        [('a', 1), ('b', 1), ('a', 2)]
        """
        key = make_operator(self._graph, kinds.KEY_BY, name, [(function, 1)], with_ctx=False)
        self._graph.keys.append(key)
        return SHAPES.keyed(self._graph, tuple(tap.keyed(key) for tap in self._taps))

    def union(self, *others: DataStream[T]) -> DataStream[T]:
        """The records of all these streams; the order between streams is open.

        >>> small, big = env.from_collection([1, 2]), env.from_collection([300])
        >>> sorted(collect(small.union(big)))
        [1, 2, 300]
        """
        for other in others:
            self._check_other(other, DataStream)
        return DataStream(self._graph, self._taps + tuple(tap for other in others for tap in other._taps))

    def connect(self, other: DataStream[R]) -> ConnectedStreams[T, R]:
        """Two streams of different types into one operator: `.connect(b).map(on_a, on_b)`."""
        self._check_other(other, DataStream)
        return SHAPES.connected(self._graph, self._taps, other._taps, keyed=False)

    def forward(self) -> DataStream[T]:
        """Subtask n sends to subtask n; refused unless the parallelism is equal. The default where it is."""
        return self._spread(Partitioning.FORWARD)

    def rebalance(self) -> DataStream[T]:
        """Every subtask sends its records to the next operator's subtasks in turn."""
        return self._spread(Partitioning.REBALANCE)

    def broadcast(self) -> DataStream[T]:
        """Every record goes to every subtask of the next operator."""
        return self._spread(Partitioning.BROADCAST)

    def _is_broadcast(self) -> bool:
        return all(tap.partitioning is Partitioning.BROADCAST for tap in self._taps)

    def _spread(self, partitioning: Partitioning) -> DataStream[T]:
        return DataStream(self._graph, tuple(tap.spread(partitioning) for tap in self._taps))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in _PER_KEY:
                raise PipelineError(
                    f".{name}() works per key: put .key_by(...) before it (key_by(lambda v: 0) for one total);"
                    f" {caller_location()}"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
