"""The sinks of one subtask at the end of a job: what they prepare, publish, take back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sage_flow.checkpoint.prepared import Prepared
from sage_flow.functions import Sink
from sage_flow.plan.graph import Operator
from sage_flow.runtime.port import Crashed

__all__ = ["LAST", "SinkOperator", "SubtaskSinks", "call_all", "is_at_least_once", "prepares"]

LAST = 0
"""The number that `Sink.prepare` gets at the end of a job."""


@dataclass(frozen=True, slots=True)
class SinkOperator:
    """A sink, and the operator that it belongs to."""

    operator: Operator
    sink: Sink[Any]


def prepares(sink: Any) -> bool:
    """Whether the output of a sink is published exactly once: it is prepared, and any process can commit it."""
    return isinstance(sink, Sink) and type(sink).prepare is not Sink.prepare


def is_at_least_once(sink: Any) -> bool:
    """Whether a sink has an end of its own that no other process can repeat."""
    return isinstance(sink, Sink) and not prepares(sink) and type(sink).commit is not Sink.commit


class SubtaskSinks:
    """The sinks of subtask number `index` of its chain, in the order of the chain.

    Every method does its work for all sinks, whatever one of them raises, and then raises the first error.
    `explain(error, operator)` adds to an error where it was raised.
    """

    def __init__(
        self, sinks: Iterable[SinkOperator], index: int, explain: Callable[[BaseException, Operator], None]
    ) -> None:
        self._sinks = tuple(sinks)
        self._index = index
        self._explain = explain
        self._prepared: tuple[Prepared, ...] = ()

    @property
    def has_at_least_once(self) -> bool:
        """Whether some publish before the end of the job is recorded."""
        return any(is_at_least_once(member.sink) for member in self._sinks)

    def prepare(self) -> tuple[Prepared, ...]:
        """The end of the job: prepare all that was written, and return it."""
        found: list[Prepared] = []

        def prepare(member: SinkOperator) -> None:
            handle = member.sink.prepare(LAST)
            if handle is not None:
                found.append(Prepared(member.operator.name, self._index, handle))

        self._each(prepare)
        self._prepared = tuple(found)
        return self._prepared

    def publish(self) -> None:
        """Let the at-least-once sinks publish."""
        self._each(lambda member: member.sink.commit() if is_at_least_once(member.sink) else None)

    def commit(self) -> None:
        """Publish what was prepared here."""
        self.commit_all(self._prepared)

    def commit_all(self, prepared: Sequence[Prepared]) -> None:
        """Publish what this subtask has prepared, here or in an earlier attempt."""

        def commit(member: SinkOperator) -> None:
            for handle in _handles_of(member, prepared):
                member.sink.commit(handle)

        self._each(commit)

    def recover(self, prepared: Sequence[Prepared]) -> None:
        """Remove all that this subtask has prepared, except this."""
        self._each(lambda member: member.sink.recover(_handles_of(member, prepared)))

    def take_back(self) -> None:
        """Remove all that was written and prepared: the attempt does not publish."""
        try:
            self._each(lambda member: member.sink.abort())
        finally:
            self.recover(())

    def _each(self, action: Callable[[SinkOperator], None]) -> None:
        call_all([(member.operator, partial(action, member)) for member in self._sinks], self._explain)


def call_all(
    actions: Iterable[tuple[Operator, Callable[[], None]]], explain: Callable[[BaseException, Operator], None]
) -> None:
    """Call each, whatever the others raise; raise the first error."""
    first: BaseException | None = None
    for operator, action in actions:
        try:
            action()
        except Crashed:
            raise
        except BaseException as error:  # also SystemExit: the others are still to be called
            explain(error, operator)
            first = first or error
    if first is not None:
        raise first


def _handles_of(member: SinkOperator, prepared: Sequence[Prepared]) -> list[Any]:
    return [entry.handle for entry in prepared if entry.operator == member.operator.name]
