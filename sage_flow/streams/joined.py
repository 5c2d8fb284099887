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
from sage_flow.streams.windowed import WindowResults
from sage_flow.streams.written import add_operator
from sage_flow.timestamps import checked_duration
from sage_flow.windows import AlignedWindow, SessionWindow, Window, WindowResult

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
                none, when the time is more than `ttl` past its timestamp. Where records have no timestamps, the wall
                clock says when they came.
        """
        own: dict[str, Any] = {"ttl_ms": None}
        if ttl is not None:
            own["ttl_ms"] = checked_duration(ttl, "ttl")
            if has_time(self._taps) or has_time(getattr(other, "_taps", ())):
                self._check_times("join with ttl=, where the other stream has timestamps,", other)
        return DataStream(self._graph, (self._join(kinds.JOIN, other, function, how, options, own, outer=True),))

    @overload
    def join_window(
        self,
        other: KeyedStream[K, R],
        window: Window,
        function: Callable[[T, R], U],
        *,
        how: Literal["inner"] = ...,
        **options: Unpack[AggregateOptions],
    ) -> WindowResults[WindowResult[K, U], T | R]: ...
    @overload
    def join_window(
        self,
        other: KeyedStream[K, R],
        window: Window,
        function: Callable[[T, R | None], U],
        *,
        how: Literal["left"],
        **options: Unpack[AggregateOptions],
    ) -> WindowResults[WindowResult[K, U], T | R]: ...
    @takes(AggregateOptions)
    def join_window(
        self,
        other: KeyedStream[K, Any],
        window: Window,
        function: Callable[[Any, Any], U],
        *,
        how: Literal["inner", "left"] = "inner",
        **options: Unpack[AggregateOptions],
    ) -> WindowResults[WindowResult[K, U], Any]:
        """Join the records of each key that are in one window: a `WindowResult` of `function(left, right)` per pair.

        Needs timestamps on both sides. A window gives its pairs when the time has come to its end. A session is made of
        the records of both sides.

        >>> shown = env.from_collection([(0, "ad"), (70, "ad")]).assign_timestamps(
        ...     lambda pair: pair[0] * 1000, max_out_of_order=timedelta(0))
        >>> clicked = env.from_collection([(10, "ad"), (20, "ad")]).assign_timestamps(
        ...     lambda pair: pair[0] * 1000, max_out_of_order=timedelta(0))
        >>> minutes = TumblingWindow(timedelta(minutes=1))
        >>> pairs = shown.key_by(lambda pair: pair[1]).join_window(
        ...     clicked.key_by(lambda pair: pair[1]), minutes, lambda left, right: (left[0], right[0]))
        >>> collect(pairs.map(lambda result: (result.start, result.value)))
        [(0, (0, 10)), (0, (0, 20))]

        Args:
            how: "left": also left records without partner in a window, as `function(left, None)`.
        """
        if not isinstance(window, (AlignedWindow, SessionWindow)):
            raise PipelineError(
                f"join_window ({caller_location()}) takes a window such as TumblingWindow(timedelta(minutes=1)), not"
                f" {window!r}"
            )
        self._check_times("join_window", other)
        own = {"window": window, "allowed_lateness_ms": 0}
        return WindowResults(self._graph, (self._join(kinds.JOIN_WINDOW, other, function, how, options, own),))

    @overload
    def join_interval(
        self,
        other: KeyedStream[K, R],
        function: Callable[[T, R], U],
        *,
        before: timedelta,
        after: timedelta,
        how: Literal["inner"] = ...,
        **options: Unpack[AggregateOptions],
    ) -> WindowResults[U, T | R]: ...
    @overload
    def join_interval(
        self,
        other: KeyedStream[K, R],
        function: Callable[[T, R | None], U],
        *,
        before: timedelta,
        after: timedelta,
        how: Literal["left"],
        **options: Unpack[AggregateOptions],
    ) -> WindowResults[U, T | R]: ...
    @takes(AggregateOptions)
    def join_interval(
        self,
        other: KeyedStream[K, Any],
        function: Callable[[Any, Any], U],
        *,
        before: timedelta,
        after: timedelta,
        how: Literal["inner", "left"] = "inner",
        **options: Unpack[AggregateOptions],
    ) -> WindowResults[U, Any]:
        """Join each record with those of its key from `before` earlier to `after` later, both ends included.

        Needs timestamps on both sides. Pairs go out as they come, with the later timestamp of the two.

        >>> orders = env.from_collection([(0, "a"), (9, "b")]).assign_timestamps(
        ...     lambda pair: pair[0] * 1000, max_out_of_order=timedelta(0))
        >>> payments = env.from_collection([(5, "a"), (6, "b")]).assign_timestamps(
        ...     lambda pair: pair[0] * 1000, max_out_of_order=timedelta(0))
        >>> paid = orders.key_by(lambda pair: pair[1]).join_interval(
        ...     payments.key_by(lambda pair: pair[1]), lambda order, payment: (order, payment),
        ...     before=timedelta(0), after=timedelta(seconds=5), how="left")
        >>> sorted(collect(paid))
        [((0, 'a'), (5, 'a')), ((9, 'b'), None)]

        Args:
            before, after: the right record's timestamp is at least the left one's minus `before`, and at most the left
                one's plus `after`. One of them may be negative: before=timedelta(minutes=-1) means a minute later at
                the earliest.
            how: "left": also left records without partner, as `function(left, None)`, when their interval is over.
                They have their own timestamp, so the watermark waits for them.
        """
        before_ms = checked_duration(before, "before", negative=True)
        after_ms = checked_duration(after, "after", negative=True)
        if before_ms + after_ms < 0:
            raise PipelineError(
                f"join_interval ({caller_location()}): no time is both {before} before a record or later, and {after}"
                " after it or earlier: before= must not be less than minus after="
            )
        self._check_times("join_interval", other)
        own = {"before_ms": before_ms, "after_ms": after_ms}
        return WindowResults(self._graph, (self._join(kinds.JOIN_INTERVAL, other, function, how, options, own),))

    @overload
    def join_asof(
        self,
        other: KeyedStream[K, R],
        function: Callable[[T, R | None], U],
        *,
        how: Literal["left"] = ...,
        tolerance: timedelta | None = ...,
        **options: Unpack[AggregateOptions],
    ) -> WindowResults[U, T | R]: ...
    @overload
    def join_asof(
        self,
        other: KeyedStream[K, R],
        function: Callable[[T, R], U],
        *,
        how: Literal["inner"],
        tolerance: timedelta | None = ...,
        **options: Unpack[AggregateOptions],
    ) -> WindowResults[U, T | R]: ...
    @takes(AggregateOptions)
    def join_asof(
        self,
        other: KeyedStream[K, Any],
        function: Callable[[Any, Any], U],
        *,
        how: Literal["left", "inner"] = "left",
        tolerance: timedelta | None = None,
        **options: Unpack[AggregateOptions],
    ) -> WindowResults[U, Any]:
        """Join each record with the newest of its key on the other side that is not newer: a price as of an order.

        Needs timestamps on both sides. A left record waits until the time has passed its timestamp, since until then
        its partner may still come. Of equal timestamps the record that came last counts.

        >>> orders = env.from_collection([(5, "tea"), (1, "tea")]).assign_timestamps(
        ...     lambda pair: pair[0] * 1000, max_out_of_order=timedelta(seconds=5))
        >>> prices = env.from_collection([(2, "tea", 3.5), (4, "tea", 4.0)]).assign_timestamps(
        ...     lambda price: price[0] * 1000, max_out_of_order=timedelta(0))
        >>> valued = orders.key_by(lambda pair: pair[1]).join_asof(
        ...     prices.key_by(lambda price: price[1]), lambda order, price: (order[0], price and price[2]))
        >>> collect(valued)
        [(1, None), (5, 4.0)]

        Args:
            how: "left": also left records without partner, as `function(left, None)`. "inner": pairs only.
            tolerance: how much older the partner may be. None: any age.
        """
        own: dict[str, Any] = {"tolerance_ms": None}
        if tolerance is not None:
            own["tolerance_ms"] = checked_duration(tolerance, "tolerance", positive=False)
        self._check_times("join_asof", other)
        return WindowResults(self._graph, (self._join(kinds.JOIN_ASOF, other, function, how, options, own),))

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
