"""Two streams that one operator reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sage_flow.functions import ProcessFunction, RuntimeContext
from sage_flow.plan import kinds
from sage_flow.plan.builder import Graph
from sage_flow.plan.graph import Tap
from sage_flow.plan.kinds import Kind
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

    @takes(StepOptions)
    def process(
        self,
        left: Processing[L, U] | ProcessFunction,
        right: Processing[R, U] | ProcessFunction,
        **options: Unpack[StepOptions],
    ) -> DataStream[U]:
        """Any number of outputs per record, with a context: `left(value, ctx)` or `right(value, ctx)`."""
        return self._step(kinds.CONNECT_PROCESS, left, right, options)

    def _step(self, kind: Kind, left: Any, right: Any, given: Mapping[str, Any]) -> DataStream[Any]:
        functions = [(left, 1), (right, 1)]
        tap = add_operator(self._graph, kind, functions, self._sides, given, keyed=self._keyed)
        return DataStream(self._graph, (tap,))


SHAPES.connected = ConnectedStreams
