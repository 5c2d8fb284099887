"""How two keyed streams are joined."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from sage_flow.errors import PipelineError
from sage_flow.plan import kinds
from sage_flow.plan.kinds import Kind
from sage_flow.plan.location import caller_location
from sage_flow.plan.timing import has_time
from sage_flow.streams.plain import DataStream
from sage_flow.streams.shapes import SHAPES
from sage_flow.streams.step_options import AggregateOptions, takes
from sage_flow.streams.written import add_operator
from sage_flow.timestamps import checked_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sage_flow.plan.builder import Graph
    from sage_flow.plan.graph import Tap
    from sage_flow.streams.keyed import KeyedStream

__all__ = ["HasJoins"]

T = TypeVar("T")
U = TypeVar("U")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


class HasJoins(Generic[K, T]):
    """A base of streams with keys. The rows of equal keys of two streams meet; a function makes one of each pair."""

    if TYPE_CHECKING:
        _graph: Graph
        _taps: tuple[Tap, ...]

        def _check_other(self, other: Any, kind: type[Any]) -> None: ...

    @overload
    def join(
        self,
        other: KeyedStream[K, R],
        function: Callable[[T, R], U],
        *,
        how: Literal["inner"] = ...,
        ttl: timedelta | None = ...,
        **options: Unpack[AggregateOptions],
    ) -> DataStream[U]: ...
    @overload
    def join(
        self,
        other: KeyedStream[K, R],
        function: Callable[[T, R | None], U],
        *,
        how: Literal["left"],
        ttl: timedelta | None = ...,
        **options: Unpack[AggregateOptions],
    ) -> DataStream[U]: ...
    @overload
    def join(
        self,
        other: KeyedStream[K, R],
        function: Callable[[T | None, R | None], U],
        *,
        how: Literal["outer"],
        ttl: timedelta | None = ...,
        **options: Unpack[AggregateOptions],
    ) -> DataStream[U]: ...
    @takes(AggregateOptions)
    def join(
        self,
        other: KeyedStream[K, Any],
        function: Callable[[Any, Any], U],
        *,
        how: Literal["inner", "left", "outer"] = "inner",
        ttl: timedelta | None = None,
        **options: Unpack[AggregateOptions],
    ) -> DataStream[U]:
        """Join each record with all of the other stream that have its key: `function(left, right)`, as they come.

        Both sides are kept until the input ends. A row without partner goes out then, with None for the other one.

        >>> people = env.from_collection([(1, "Ada"), (2, "Bob")]).key_by(lambda person: person[0])
        >>> orders = env.from_collection([(1, "tea"), (1, "cake")]).key_by(lambda order: order[0])
        >>> joined = people.join(orders, lambda person, order: (person[1], order and order[1]), how="left")
        >>> sorted(collect(joined), key=str)
        [('Ada', 'cake'), ('Ada', 'tea'), ('Bob', None)]

        Args:
            how: "inner": pairs only. "left": also left rows that met none, as `function(left, None)`. "outer": those
                of both sides.
            ttl: rows meet if their timestamps are at most that far apart. A row is forgotten, and goes out if it met
                none, when the time is more than `ttl` past its timestamp.
        """
        own: dict[str, Any] = {"ttl_ms": None}
        if ttl is not None:
            own["ttl_ms"] = checked_duration(ttl, "ttl")
            self._check_times("join with ttl=", other)
        return DataStream(self._graph, (self._join(kinds.JOIN, other, function, how, options, own, outer=True),))

    def _check_times(self, what: str, other: Any) -> None:
        for side, taps in (("left", self._taps), ("right", getattr(other, "_taps", ()))):
            if not has_time(taps):
                raise PipelineError(
                    f"{what} ({caller_location()}) goes by the timestamps of records, and those of the {side} stream"
                    " have none: put .assign_timestamps(lambda value: ..., max_out_of_order=timedelta(...)) before its"
                    " key_by"
                )

    def _join(
        self,
        kind: Kind,
        other: Any,
        function: Any,
        how: str,
        given: Mapping[str, Any],
        own: dict[str, Any],
        *,
        outer: bool = False,
    ) -> Tap:
        """Add the operator that reads both streams."""
        self._check_other(other, SHAPES.keyed)
        if how not in ("inner", "left", *["outer"] * outer):
            choice = '"inner", "left" or "outer"' if outer else '"inner" or "left"'
            raise PipelineError(f"how of {kind} ({caller_location()}) must be {choice}, not {how!r}")
        own = {**own, "how": how}
        given = {**given, "with_ctx": False}
        sides = (self._taps, other._taps)
        return add_operator(self._graph, kind, [(function, 2)], sides, given, keyed=True, own=own)
