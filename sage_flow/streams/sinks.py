"""Where a stream ends: the methods that add a sink, on plain and keyed streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sage_flow.errors import PipelineError
from sage_flow.functions import RuntimeContext, Sink
from sage_flow.plan import kinds
from sage_flow.plan.builder import Graph, make_collect
from sage_flow.plan.graph import Tap
from sage_flow.retry import Retry, checked_retry
from sage_flow.streams.step_options import OperatorOptions, StepOptions, takes
from sage_flow.streams.written import HasOptions, add_operator

if TYPE_CHECKING:
    from datetime import timedelta

    from typing_extensions import Unpack

__all__ = ["DataStreamSink", "HasSinks"]

T = TypeVar("T")


class DataStreamSink(HasOptions):
    """A sink that was written; it can be told what it needs."""

    def __init__(self, tap: Tap) -> None:
        self._taps = (tap,)

    def __repr__(self) -> str:
        operator = self._taps[0].node.operator
        rows = "" if operator.label == operator.name else f" of the rows {operator.label!r}"
        return f"<sink {operator.name!r}{rows}>"


class HasSinks(Generic[T]):
    """A base of streams whose records, of type T, a sink can take."""

    _graph: Graph
    _taps: tuple[Tap, ...]
    _keyed: bool

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

    @takes(StepOptions)
    def for_each(
        self,
        function: Callable[[T], Any] | Callable[[T, RuntimeContext], Any],
        *,
        retry: Retry | None = None,
        **options: Unpack[StepOptions],
    ) -> DataStreamSink:
        """Call `function(value)` for its effect; what it returns is dropped.

        `retry`: call it again for a record on which it failed.
        """
        return self._sink(function, "for_each", options, own=checked_retry(retry, "for_each"))

    @takes(OperatorOptions)
    def add_sink(
        self, sink: Sink[T] | type[Sink[T]], *, retry: Retry | None = None, **options: Unpack[OperatorOptions]
    ) -> DataStreamSink:
        """Write to a Sink of your own; each subtask works on a copy of it.

        `retry`: call its `write` again with a record on which that failed; it must bear what the failed call has done.
        """
        if not isinstance(sink, Sink) and not (isinstance(sink, type) and issubclass(sink, Sink)):
            raise PipelineError(f"add_sink needs a Sink, not {sink!r}; for a function use for_each")
        return self._to(sink() if isinstance(sink, type) else sink, options, own=checked_retry(retry, "add_sink"))

    @takes(OperatorOptions)
    def print(self, prefix: str = "", **options: Unpack[OperatorOptions]) -> DataStreamSink:
        """Print every record on a line of its own."""
        from sage_flow.connectors import PrintSink

        return self._to(PrintSink(prefix), options)

    @takes(OperatorOptions)
    def write_text(
        self, path: Any, *, roll: timedelta | None = None, **options: Unpack[OperatorOptions]
    ) -> DataStreamSink:
        """Write every record, a str, as a line; published under `path` when the job has finished.

        `roll`: publish parts at checkpoints instead, as soon as one has been open for this time; the job needs
        checkpoints then.
        """
        from sage_flow.connectors import TextSink

        return self._to(TextSink(path, roll=roll), options)

    @takes(OperatorOptions)
    def write_csv(
        self,
        path: Any,
        *,
        fieldnames: list[str] | None = None,
        roll: timedelta | None = None,
        **options: Unpack[OperatorOptions],
    ) -> DataStreamSink:
        """Write dicts, dataclasses or tuples as CSV; published under `path` when the job has finished.

        `fieldnames` default to those of the first record. `roll`: publish parts at checkpoints, see `write_text`; each
        has the names of the columns.
        """
        from sage_flow.connectors import CsvSink

        return self._to(CsvSink(path, fieldnames=fieldnames, roll=roll), options)

    @takes(OperatorOptions)
    def write_jsonl(
        self,
        path: Any,
        *,
        default: Callable[[Any], Any] | None = None,
        roll: timedelta | None = None,
        **options: Unpack[OperatorOptions],
    ) -> DataStreamSink:
        """Write every record as a line of JSON; published under `path` when the job has finished.

        `default` is called with what JSON cannot express, such as a datetime or a Decimal, and returns what is written
        for it: `default=str`. `roll`: publish parts at checkpoints, see `write_text`.
        """
        from sage_flow.connectors import JsonlSink

        return self._to(JsonlSink(path, default=default, roll=roll), options)

    def _to(self, sink: Sink[Any], given: OperatorOptions, own: dict[str, Any] | None = None) -> DataStreamSink:
        return self._sink(sink, sink.default_name, given, sink.default_parallelism, own=own)

    def _sink(
        self,
        function: Any,
        base: str,
        given: Mapping[str, Any],
        parallelism: int | None = None,
        own: dict[str, Any] | None = None,
    ) -> DataStreamSink:
        if given.get("on_error") == "dead_letter":
            raise PipelineError(
                f'on_error="dead_letter" of sink {given.get("name") or base!r}: a sink has no stream to read its dead'
                " letters from; do what can fail in a map before it"
            )
        tap = add_operator(
            self._graph,
            kinds.SINK,
            [(function, 1)],
            [self._taps],
            given,
            base=base,
            keyed=self._keyed,
            parallelism=parallelism,
            own=own,
        )
        return DataStreamSink(tap)
