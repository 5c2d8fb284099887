"""The sinks of one subtask at checkpoints and at the end of a job: what they prepare, publish, take back.

What a sink has prepared stays pending until it is committed: every checkpoint, and the end, names all of it. So a
checkpoint that fails loses nothing, and neither does a commit that fails: the next one tries it again.
"""

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
        self.pending: tuple[Prepared, ...] = ()
        """What is prepared and not committed, oldest first."""

    @property
    def has_at_least_once(self) -> bool:
        """Whether some publish before the end of the job is recorded."""
        return any(is_at_least_once(member.sink) for member in self._sinks)

    def prepare(self, checkpoint: int = LAST, *, keeps: bool = False) -> tuple[Prepared, ...]:
        """Prepare what was written; return all that is pending. `keeps`: with the snapshots of the sinks."""
        found: list[Prepared] = []

        def prepare(member: SinkOperator) -> None:
            handle = member.sink.prepare(checkpoint)
            if handle is not None:
                kept = member.sink.snapshot() if keeps else None
                found.append(Prepared(member.operator.name, self._index, handle, checkpoint, kept))

        self._each(prepare)
        self.pending += tuple(found)
        return self.pending

    def publish(self) -> None:
        """Let the at-least-once sinks publish."""
        self._each(lambda member: member.sink.commit() if is_at_least_once(member.sink) else None)

    def commit(self) -> None:
        """The end is recorded: publish all that is pending."""
        self._commit(self.pending)

    def commit_through(self, checkpoint: int) -> None:
        """This checkpoint is recorded: publish what was prepared up to it. What fails stays pending."""
        self._commit(tuple(p for p in self.pending if LAST < p.checkpoint <= checkpoint))

    def take_over(self, prepared: Sequence[Prepared]) -> None:
        """An earlier attempt has prepared this, and its checkpoint is recorded: publish it, and remove all else."""
        self.pending = tuple(prepared)
        self._each(lambda member: member.sink.recover(_handles_of(member, prepared)))
        self._commit(tuple(p for p in prepared if p.checkpoint != LAST))

    def _commit(self, prepared: Sequence[Prepared]) -> None:
        committed: list[Prepared] = []

        def commit(member: SinkOperator) -> None:
            for one in prepared:
                if one.operator == member.operator.name:
                    member.sink.commit(one.handle)
                    committed.append(one)

        try:
            self._each(commit)
        finally:
            self.pending = tuple(p for p in self.pending if not any(p is done for done in committed))

    def commit_all(self, prepared: Sequence[Prepared]) -> None:
        """Publish what this subtask has prepared in an earlier attempt."""
        self._commit(prepared)

    def recover(self, prepared: Sequence[Prepared]) -> None:
        """Remove all that this subtask has prepared, except this."""
        self._each(lambda member: member.sink.recover(_handles_of(member, prepared)))

    def take_back(self, *, keeps_prepared: bool = False) -> None:
        """The attempt does not publish: remove what was written.

        `keeps_prepared`: but for what is prepared, since a checkpoint may name it; the next attempt decides. Without
        checkpoints it goes, too.
        """
        try:
            self._each(lambda member: member.sink.abort())
        finally:
            if not keeps_prepared:
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
