"""Two streams that one operator reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from sage_flow.errors import PipelineError
from sage_flow.functions import CoProcessFunction, ProcessFunction, RuntimeContext
from sage_flow.plan import kinds
from sage_flow.plan.builder import Graph
from sage_flow.plan.graph import Tap
from sage_flow.plan.kinds import Kind
from sage_flow.plan.location import caller_location
from sage_flow.streams.display import ShownStream
from sage_flow.streams.plain import DataStream
from sage_flow.streams.shapes import SHAPES
from sage_flow.streams.step_options import StepOptions, takes
from sage_flow.streams.written import add_operator

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ConnectedStreams"]

L = TypeVar("L")
R = TypeVar("R")
T = TypeVar("T")
U = TypeVar("U")

Processing = Callable[[T], Iterable[U] | None] | Callable[[T, RuntimeContext], Iterable[U] | None]


class ConnectedStreams(ShownStream, Generic[L, R]):
    """Two streams that one operator reads, with a function for each. Keyed state is shared by both."""

    def __init__(self, graph: Graph, left: tuple[Tap, ...], right: tuple[Tap, ...], *, keyed: bool) -> None:
        self._graph = graph
        self._sides = (left, right)
        self._keyed = keyed

    def _inputs(self) -> tuple[tuple[Tap, ...], ...]:
        return self._sides

    @takes(StepOptions)
    def map(
        self,
        left: Callable[[L], U] | Callable[[L, RuntimeContext], U],
        right: Callable[[R], U] | Callable[[R, RuntimeContext], U],
        **options: Unpack[StepOptions],
    ) -> DataStream[U]:
        """One output per record: `left(value)` or `right(value)`, by the side it came from.

        >>> both = env.from_collection([1]).connect(env.from_collection(["a"]))
        >>> sorted(collect(both.map(lambda n: f"number {n}", lambda s: f"text {s}")))
        ['number 1', 'text a']
        """
        return self._step(kinds.CONNECT_MAP, left, right, options)

    @overload
    def process(
        self,
        left: CoProcessFunction[L, R, U] | type[CoProcessFunction[L, R, U]],
        **options: Unpack[StepOptions],
    ) -> DataStream[U]: ...
    @overload
    def process(
        self,
        left: Processing[L, U] | ProcessFunction[L, U],
        right: Processing[R, U] | ProcessFunction[R, U],
        **options: Unpack[StepOptions],
    ) -> DataStream[U]: ...
    @takes(StepOptions)
    def process(self, left: Any, right: Any = None, **options: Unpack[StepOptions]) -> DataStream[Any]:
        """Any number of outputs per record, with a context: `left(value, ctx)` or `right(value, ctx)`, or the methods
        of one CoProcessFunction, which can set timers.

        >>> class Total(CoProcessFunction):
        ...     def open(self, ctx):
        ...         self.total = 0
        ...     def process_left(self, value, ctx):
        ...         self.total += value
        ...     def process_right(self, value, ctx):
        ...         self.total -= value
        ...     def on_end(self, ctx):
        ...         yield self.total
        >>> both = env.from_collection([5, 6]).connect(env.from_collection([1]))
        >>> sum(collect(both.process(Total)))
        10
        """
        is_one = isinstance(left, CoProcessFunction) or (isinstance(left, type) and issubclass(left, CoProcessFunction))
        if is_one is not (right is None):
            raise PipelineError(
                f"process of connected streams ({caller_location()}) takes one CoProcessFunction, or two functions, one"
                " for the records of each stream"
            )
        return self._step(kinds.CONNECT_PROCESS, left, left if is_one else right, options)

    def _step(self, kind: Kind, left: Any, right: Any, given: Mapping[str, Any]) -> DataStream[Any]:
        functions = [(left, 1), (right, 1)]
        tap = add_operator(self._graph, kind, functions, self._sides, given, keyed=self._keyed)
        return DataStream(self._graph, (tap,))


SHAPES.connected = ConnectedStreams
