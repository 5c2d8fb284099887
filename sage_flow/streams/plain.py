"""Streams: what operators are written on. Every method adds one operator and returns the stream of its outputs.

Methods that take a function share these options:

    name         the operator's identity in counts, state and errors; default `map-1`, `map-2` ...
    parallelism  subtasks of the operator; default that of the environment
    on_error     "fail" the job (default), "skip" the record and count it, or put it on .dead_letters()
    with_ctx     call the function with the RuntimeContext behind its values; default: if it has a parameter `ctx`
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from sage_flow.errors import PipelineError
from sage_flow.functions import DeadLetter, ProcessFunction, RuntimeContext, Sink
from sage_flow.plan.builder import Graph, checked_count, make_collect, make_operator
from sage_flow.plan.graph import DEAD_LETTERS, Kind, OnError, Partitioning, Tap
from sage_flow.streams.display import ShownStream
from sage_flow.streams.written import DataStreamSink, HasOptions

__all__ = ["ConnectedStreams", "DataStream", "KeyedStream"]

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K", bound=Hashable)
K2 = TypeVar("K2", bound=Hashable)
L = TypeVar("L")
R = TypeVar("R")

Emit = Literal["updates", "final"]
_OF_THE_RECORD = frozenset({Kind.COUNT, Kind.SUM, Kind.MIN, Kind.MAX})
"""Aggregates that need no function: they take the record itself, or none of it."""
Processing = Callable[[T], Iterable[U] | None] | Callable[[T, RuntimeContext], Iterable[U] | None]


class Stream(ShownStream, HasOptions, Generic[T]):
    """What plain and keyed streams have in common."""

    _keyed = False

    def __init__(self, graph: Graph, taps: tuple[Tap, ...]) -> None:
        self._graph = graph
        self._taps = taps

    def _inputs(self) -> tuple[tuple[Tap, ...], ...]:
        return (self._taps,)

    # -- one record at a time -------------------------------------------------------------------------------

    @overload
    def map(self, function: Callable[[T], U], *, name: str | None = ..., parallelism: int | None = ..., on_error: OnError = ..., with_ctx: bool | None = ...) -> DataStream[U]: ...  # fmt: skip # noqa: E501
    @overload
    def map(self, function: Callable[[T, RuntimeContext], U], *, name: str | None = ..., parallelism: int | None = ..., on_error: OnError = ..., with_ctx: bool | None = ...) -> DataStream[U]: ...  # fmt: skip # noqa: E501
    def map(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        with_ctx: bool | None = None,
    ) -> DataStream[Any]:
        """One output per record: `function(value)`.

        >>> collect(stream_of(1, 2, 3).map(lambda n: n * n))
        [1, 4, 9]
        """
        return self._step(Kind.MAP, function, name, parallelism, on_error, with_ctx)

    def filter(
        self,
        function: Callable[[T], Any] | Callable[[T, RuntimeContext], Any],
        *,
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        with_ctx: bool | None = None,
    ) -> DataStream[T]:
        """Keep the records for which `function(value)` is true.

        >>> collect(stream_of(1, 2, 3).filter(lambda n: n != 2))
        [1, 3]
        """
        return self._step(Kind.FILTER, function, name, parallelism, on_error, with_ctx)

    @overload
    def flat_map(self, function: Callable[[T], Iterable[U]], *, name: str | None = ..., parallelism: int | None = ..., on_error: OnError = ..., with_ctx: bool | None = ...) -> DataStream[U]: ...  # fmt: skip # noqa: E501
    @overload
    def flat_map(self, function: Callable[[T, RuntimeContext], Iterable[U]], *, name: str | None = ..., parallelism: int | None = ..., on_error: OnError = ..., with_ctx: bool | None = ...) -> DataStream[U]: ...  # fmt: skip # noqa: E501
    def flat_map(
        self,
        function: Callable[..., Iterable[Any]],
        *,
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        with_ctx: bool | None = None,
    ) -> DataStream[Any]:
        """Any number of outputs per record: what `function(value)` iterates over; a generator streams.

        >>> collect(stream_of(1, 2, 3).flat_map(range))
        [0, 0, 1, 0, 1, 2]
        """
        return self._step(Kind.FLAT_MAP, function, name, parallelism, on_error, with_ctx)

    @overload
    def process(self, function: Callable[[T, RuntimeContext], Iterable[U] | None], *, name: str | None = ..., parallelism: int | None = ..., on_error: OnError = ..., with_ctx: bool | None = ...) -> DataStream[U]: ...  # fmt: skip # noqa: E501
    @overload
    def process(self, function: ProcessFunction | type[ProcessFunction], *, name: str | None = ..., parallelism: int | None = ..., on_error: OnError = ..., with_ctx: bool | None = ...) -> DataStream[Any]: ...  # fmt: skip # noqa: E501
    @overload
    def process(self, function: Callable[[T], Iterable[U] | None], *, name: str | None = ..., parallelism: int | None = ..., on_error: OnError = ..., with_ctx: bool | None = ...) -> DataStream[U]: ...  # fmt: skip # noqa: E501
    def process(
        self,
        function: Any,
        *,
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        with_ctx: bool | None = None,
    ) -> DataStream[Any]:
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
        return self._step(Kind.PROCESS, function, name, parallelism, on_error, with_ctx)

    @overload
    def map_batches(self, function: Callable[[list[T]], Iterable[U]], *, batch_size: int = ..., on_error: OnError = ..., name: str | None = ..., parallelism: int | None = ..., with_ctx: bool | None = ...) -> DataStream[U]: ...  # fmt: skip # noqa: E501
    @overload
    def map_batches(self, function: Callable[[list[T], RuntimeContext], Iterable[U]], *, batch_size: int = ..., on_error: OnError = ..., name: str | None = ..., parallelism: int | None = ..., with_ctx: bool | None = ...) -> DataStream[U]: ...  # fmt: skip # noqa: E501
    def map_batches(
        self,
        function: Callable[..., Iterable[Any]],
        *,
        batch_size: int = 256,
        on_error: OnError = "fail",
        name: str | None = None,
        parallelism: int | None = None,
        with_ctx: bool | None = None,
    ) -> DataStream[Any]:
        """Call `function` with lists of exactly `batch_size` records (the last one may be shorter).

        For work that is cheaper by the batch, such as a model or a vectorised computation. A batch that fails is not
        run again: `on_error` holds for each of its records.

        >>> collect(stream_of(1, 2, 3).map_batches(lambda batch: [sum(batch)], batch_size=2))
        [3, 3]
        """
        options = {"batch_size": checked_count(batch_size, "batch_size", name or "map_batches")}
        return self._step(Kind.MAP_BATCHES, function, name, parallelism, on_error, with_ctx, options=options)

    def map_async(
        self,
        function: Callable[..., Awaitable[U]],
        *,
        capacity: int = 64,
        ordered: bool = True,
        timeout: float | None = None,
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        with_ctx: bool | None = None,
    ) -> DataStream[U]:
        """Like `map` with a function that waits: many records wait at the same time.

        For calls of services, databases, web pages. `function` is `async def`, or returns a ServiceFuture
        (`lambda q, ctx: ctx.service("answer").process.remote(q)`); coroutines of one subtask share an event loop.

        Args:
            capacity: records under way in each subtask; more wait, which slows the source.
            ordered: results leave in the order of the records; otherwise as they come.
            timeout: seconds a coroutine may take for one record before it ends in TimeoutError.

        >>> async def double(n):
        ...     return 2 * n
        >>> collect(stream_of(1, 2, 3).map_async(double))
        [2, 4, 6]
        """
        checked_count(capacity, "capacity", name or "map_async")
        if timeout is not None and (isinstance(timeout, bool) or not timeout > 0):
            raise PipelineError(f"timeout of map_async must be a number of seconds above 0, not {timeout!r}")
        options = {"capacity": capacity, "ordered": bool(ordered), "timeout_s": timeout}
        return self._step(Kind.MAP_ASYNC, function, name, parallelism, on_error, with_ctx, options=options)

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

    # -- sinks ----------------------------------------------------------------------------------------------

    def collect(self, name: str | None = None) -> DataStreamSink:
        """Bring the records to the driver, as `result.collected[name]`; at most 10^6 rows or 1 GB per job.

        `name` labels the rows, and may be the name of an operator. The operator itself is `collect-1`, `collect-2` ...,
        which is the label, too, if there is no `name`. `result.counts[name]` is the number of rows, unless an operator
        has that name.

        >>> collect(stream_of(1, 2))
        [1, 2]
        """
        operator = make_collect(self._graph, name)
        return DataStreamSink(Tap(self._graph.add(operator, [self._taps])))

    def for_each(
        self,
        function: Callable[[T], Any] | Callable[[T, RuntimeContext], Any],
        *,
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        with_ctx: bool | None = None,
    ) -> DataStreamSink:
        """Call `function(value)` for its effect; what it returns is dropped."""
        return self._sink(function, "for_each", name, parallelism, on_error, with_ctx)

    def add_sink(
        self, sink: Sink[T] | type[Sink[T]], *, name: str | None = None, parallelism: int | None = None
    ) -> DataStreamSink:
        """Write to a Sink of your own; each subtask works on a copy of it."""
        if not isinstance(sink, Sink) and not (isinstance(sink, type) and issubclass(sink, Sink)):
            raise PipelineError(f"add_sink needs a Sink, not {sink!r}; for a function use for_each")
        return self._sink(sink() if isinstance(sink, type) else sink, "sink", name, parallelism)

    def print(self, prefix: str = "", *, name: str | None = None, parallelism: int | None = None) -> DataStreamSink:
        """Print every record on a line of its own."""
        from sage_flow.connectors import PrintSink

        return self._sink(PrintSink(prefix), "print", name, parallelism or 1)

    def write_text(self, path: Any, *, name: str | None = None, parallelism: int | None = None) -> DataStreamSink:
        """Write every record, a str, as a line; published under `path` when the job has finished."""
        from sage_flow.connectors import TextSink

        return self._sink(TextSink(path), "write_text", name, parallelism or 1)

    def write_csv(
        self,
        path: Any,
        *,
        fieldnames: list[str] | None = None,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> DataStreamSink:
        """Write dicts, dataclasses or tuples as CSV; published under `path` when the job has finished.

        `fieldnames` default to those of the first record.
        """
        from sage_flow.connectors import CsvSink

        return self._sink(CsvSink(path, fieldnames=fieldnames), "write_csv", name, parallelism or 1)

    def write_jsonl(
        self,
        path: Any,
        *,
        default: Callable[[Any], Any] | None = None,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> DataStreamSink:
        """Write every record as a line of JSON; published under `path` when the job has finished.

        `default` is called with what JSON cannot express, such as a datetime or a Decimal, and returns what is written
        for it: `default=str`.
        """
        from sage_flow.connectors import JsonlSink

        return self._sink(JsonlSink(path, default=default), "write_jsonl", name, parallelism or 1)

    # -- engine ---------------------------------------------------------------------------------------------

    def _step(
        self,
        kind: Kind,
        function: Any,
        name: str | None,
        parallelism: int | None,
        on_error: OnError = "fail",
        with_ctx: bool | None = None,
        *,
        values: int = 1,
        options: dict[str, Any] | None = None,
    ) -> DataStream[Any]:
        without = function is None and kind in _OF_THE_RECORD
        functions = [] if without else [(function, values)]
        operator = make_operator(
            self._graph,
            kind,
            name,
            functions,
            keyed=self._keyed,
            on_error=on_error,
            with_ctx=with_ctx,
            options=options,
        )
        return self._stream_of(self._graph.add(operator, [self._taps], parallelism=parallelism))

    def _sink(
        self,
        function: Any,
        base: str,
        name: str | None,
        parallelism: int | None,
        on_error: OnError = "fail",
        with_ctx: bool | None = None,
    ) -> DataStreamSink:
        if on_error == "dead_letter":
            raise PipelineError(
                f'on_error="dead_letter" of sink {name or base!r}: a sink has no stream to read its dead letters from;'
                " do what can fail in a map before it"
            )
        operator = make_operator(
            self._graph,
            Kind.SINK,
            name,
            [(function, 1)],
            base=base,
            keyed=self._keyed,
            on_error=on_error,
            with_ctx=with_ctx,
        )
        return DataStreamSink(Tap(self._graph.add(operator, [self._taps], parallelism=parallelism)))

    def _stream_of(self, node: Any) -> DataStream[Any]:
        return DataStream(self._graph, (Tap(node),))

    def _check_other(self, other: Any, kind: type[Any]) -> None:
        if not isinstance(other, kind):
            raise PipelineError(f"a {kind.__name__} can only be joined with another one, not with {other!r}")
        if other._graph is not self._graph:
            raise PipelineError(
                f"streams of two environments cannot be joined: {self._graph.job!r} and {other._graph.job!r}"
            )


class DataStream(Stream[T]):
    """A stream of records of type T."""

    def key_by(self, function: Callable[[T], K], *, name: str | None = None) -> KeyedStream[K, T]:
        """Send records of equal `function(value)` to the same subtask, in order, and give them keyed state.

        Keys are hashable values with a stable hash (see `stable_hash`). It is no step of its own: what
        follows has the parallelism.

        >>> words = stream_of("a", "b", "a").key_by(lambda word: word)
        >>> collect(words.count())
        [('a', 1), ('b', 1), ('a', 2)]
        """
        key = make_operator(self._graph, Kind.KEY_BY, name, [(function, 1)], with_ctx=False)
        self._graph.keys.append(key)
        return KeyedStream(self._graph, tuple(tap.keyed(key) for tap in self._taps))

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
        return ConnectedStreams(self._graph, self._taps, other._taps, keyed=False)

    def forward(self) -> DataStream[T]:
        """Subtask n sends to subtask n; refused unless the parallelism is equal. The default where it is."""
        return self._spread(Partitioning.FORWARD)

    def rebalance(self) -> DataStream[T]:
        """Every subtask sends its records to the next operator's subtasks in turn."""
        return self._spread(Partitioning.REBALANCE)

    def broadcast(self) -> DataStream[T]:
        """Every record goes to every subtask of the next operator."""
        return self._spread(Partitioning.BROADCAST)

    def _spread(self, partitioning: Partitioning) -> DataStream[T]:
        return DataStream(self._graph, tuple(tap.spread(partitioning) for tap in self._taps))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in ("reduce", "fold", "count", "sum", "min", "max"):
                raise PipelineError(
                    f".{name}() works per key: put .key_by(...) before it (key_by(lambda v: 0) for one total)"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class KeyedStream(Stream[T], Generic[K, T]):
    """A stream whose records have a key; equal keys meet in one subtask, in order.

    Functions with `ctx` find the key in `ctx.key` and keyed state in `ctx.state`, except in `map_batches`: a batch has
    records of many keys. What follows an operator has no key any more. The aggregates give
    `(key, value)` pairs: one for every record (`emit="updates"`), or one per key when the input ends
    (`emit="final"`).
    """

    _keyed = True

    def reduce(
        self,
        function: Callable[[T, T], T],
        *,
        emit: Emit = "updates",
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
    ) -> DataStream[tuple[K, T]]:
        """Combine the records of a key two by two: `function(so_far, value)`.

        >>> collect(stream_of(1, 2, 3).key_by(lambda n: n % 2).reduce(lambda a, b: a + b))
        [(1, 1), (0, 2), (1, 4)]
        """
        return self._aggregate(Kind.REDUCE, function, emit, name, parallelism, on_error, values=2)

    def fold(
        self,
        initial: U | Callable[[], U],
        function: Callable[[U, T], U],
        *,
        emit: Emit = "updates",
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
    ) -> DataStream[tuple[K, U]]:
        """Combine into a value of another type, from `initial` (a value, or a factory such as `list`):
        `function(so_far, value)` returns the new value; return a new object where updates are emitted.

        >>> words = stream_of("to", "be").key_by(len)
        >>> collect(words.fold((), lambda all, word: (*all, word), emit="final"))
        [(2, ('to', 'be'))]
        """
        return self._aggregate(
            Kind.FOLD, function, emit, name, parallelism, on_error, values=2, options={"initial": initial}
        )

    def count(
        self, *, emit: Emit = "updates", name: str | None = None, parallelism: int | None = None
    ) -> DataStream[tuple[K, int]]:
        """Count the records of each key.

        >>> collect(stream_of("a", "b", "a").key_by(str).count(emit="final"))
        [('a', 2), ('b', 1)]
        """
        return self._aggregate(Kind.COUNT, None, emit, name, parallelism, "fail")

    def sum(
        self,
        function: Callable[[T], Any] | None = None,
        *,
        emit: Emit = "updates",
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
    ) -> DataStream[tuple[K, Any]]:
        """Add up `function(value)`, by default the record itself, from 0."""
        return self._aggregate(Kind.SUM, function, emit, name, parallelism, on_error)

    def min(
        self,
        function: Callable[[T], Any] | None = None,
        *,
        emit: Emit = "updates",
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
    ) -> DataStream[tuple[K, Any]]:
        """The least `function(value)`, by default the least record."""
        return self._aggregate(Kind.MIN, function, emit, name, parallelism, on_error)

    def max(
        self,
        function: Callable[[T], Any] | None = None,
        *,
        emit: Emit = "updates",
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
    ) -> DataStream[tuple[K, Any]]:
        """The greatest `function(value)`, by default the greatest record."""
        return self._aggregate(Kind.MAX, function, emit, name, parallelism, on_error)

    def connect(self, other: KeyedStream[K, R]) -> ConnectedStreams[T, R]:
        """Two keyed streams into one operator: records of equal keys of both meet and share state."""
        self._check_other(other, KeyedStream)
        return ConnectedStreams(self._graph, self._taps, other._taps, keyed=True)

    def _aggregate(
        self,
        kind: Kind,
        function: Any,
        emit: str,
        name: str | None,
        parallelism: int | None,
        on_error: OnError,
        *,
        values: int = 1,
        options: dict[str, Any] | None = None,
    ) -> DataStream[Any]:
        if emit not in ("updates", "final"):
            raise PipelineError(f'emit of {name or kind.value!r} must be "updates" or "final", not {emit!r}')
        options = {**(options or {}), "emit": emit}
        return self._step(kind, function, name, parallelism, on_error, with_ctx=False, values=values, options=options)


class ConnectedStreams(ShownStream, Generic[L, R]):
    """Two streams that one operator reads, with a function for each. Keyed state is shared by both."""

    def __init__(self, graph: Graph, left: tuple[Tap, ...], right: tuple[Tap, ...], *, keyed: bool) -> None:
        self._graph = graph
        self._sides = (left, right)
        self._keyed = keyed

    def _inputs(self) -> tuple[tuple[Tap, ...], ...]:
        return self._sides

    def map(
        self,
        left: Callable[[L], U] | Callable[[L, RuntimeContext], U],
        right: Callable[[R], U] | Callable[[R, RuntimeContext], U],
        *,
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        with_ctx: bool | None = None,
    ) -> DataStream[U]:
        """One output per record: `left(value)` or `right(value)`, by the side it came from.

        >>> both = env.from_collection([1]).connect(env.from_collection(["a"]))
        >>> sorted(collect(both.map(lambda n: f"number {n}", lambda s: f"text {s}")))
        ['number 1', 'text a']
        """
        return self._step(Kind.CONNECT_MAP, left, right, name, parallelism, on_error, with_ctx)

    def process(
        self,
        left: Processing[L, U] | ProcessFunction,
        right: Processing[R, U] | ProcessFunction,
        *,
        name: str | None = None,
        parallelism: int | None = None,
        on_error: OnError = "fail",
        with_ctx: bool | None = None,
    ) -> DataStream[U]:
        """Any number of outputs per record, with a context: `left(value, ctx)` or `right(value, ctx)`."""
        return self._step(Kind.CONNECT_PROCESS, left, right, name, parallelism, on_error, with_ctx)

    def _step(
        self,
        kind: Kind,
        left: Any,
        right: Any,
        name: str | None,
        parallelism: int | None,
        on_error: OnError,
        with_ctx: bool | None,
    ) -> DataStream[Any]:
        operator = make_operator(
            self._graph,
            kind,
            name,
            [(left, 1), (right, 1)],
            keyed=self._keyed,
            on_error=on_error,
            with_ctx=with_ctx,
        )
        return DataStream(self._graph, (Tap(self._graph.add(operator, self._sides, parallelism=parallelism)),))
