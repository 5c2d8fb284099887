"""An operator bound to its subtask: its own copy of the user's function, a context, state."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterable
from typing import Any

from sage_flow.errors import InvalidKeyError, PipelineError
from sage_flow.functions import DeadLetter, Function, RuntimeContext, Sink, Source
from sage_flow.plan.graph import DEAD_LETTERS, LATE_RECORDS, Operator
from sage_flow.runtime.assigned_time import in_range
from sage_flow.runtime.failure import is_of_pipeline, summary
from sage_flow.runtime.key_table import TableEntries
from sage_flow.runtime.lines import writer_of
from sage_flow.runtime.lines.writer import NOTHING_HELD
from sage_flow.runtime.parts import Parts
from sage_flow.runtime.report import Counters
from sage_flow.split_source import SplitSource
from sage_flow.wire import by_value

__all__ = ["BoundOperator", "own_copy"]

_LIVING = (Function, Source, Sink)

_TABLE, _STATE, _FUNCTION = "table", "state", "function"  # names in the parts of an operator


def own_copy(function: Any, operator: Operator) -> Any:
    """Return this subtask's copy of a function, source or sink; a plain callable is shared.

    Raises PipelineError naming the operator if the object cannot be pickled.
    """
    if isinstance(function, type) and issubclass(function, _LIVING):
        try:
            return function()
        except TypeError as error:
            raise PipelineError(
                f"{operator.name!r} ({operator.location}): {function.__name__}() cannot be made ({error}):"
                " pass an instance of it"
            ) from error
    if not isinstance(function, _LIVING):
        return function
    if isinstance(function, Source) and function._hands_over:
        return copy.copy(function)
    try:
        return pickle.loads(by_value.dumps(function))
    except Exception as error:
        raise PipelineError(
            f"{operator.name!r} ({operator.location}): each subtask needs its own copy of this"
            f" {type(function).__name__}, which cannot be pickled ({error}): make such attributes in open()"
        ) from error


def add_kept_of_sink(parts: Parts, kept: Any) -> None:
    """Add the snapshot of one more former sink to what an operator takes over."""
    parts.own.setdefault((_FUNCTION, 0), []).append(kept)


class BoundOperator:
    """One operator of a chain in one subtask.

    `calls` are what the compiled chain calls, one per input side; `table` is the state of an aggregate. The writer of
    the operator's kind makes both (`lines/`).
    """

    def __init__(
        self,
        operator: Operator,
        index: int,
        context: RuntimeContext,
        counters: Counters,
        clock: Callable[[], float] = lambda: 0.0,
        wall_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        """`clock()` are seconds that never go back, `wall_ms()` milliseconds since 1970 that do not either."""
        self.clock = clock
        self.wall_ms = wall_ms
        self.operator = operator
        self.context = context
        self._index = index
        self._counters = counters
        copies = {id(function): own_copy(function, operator) for function in operator.functions}
        self.functions = [copies[id(function)] for function in operator.functions]
        self._living = [function for function in copies.values() if isinstance(function, _LIVING)]
        self.batch: list[Any] = []  # that a function of batches was called with last
        self.now = -math.inf
        """Its event time: no record with an earlier timestamp is expected."""
        self.reads_late = False
        """Whether somebody reads its late records."""
        context.watermark_of = self.watermark if operator.timed else None
        if operator.keyed:
            context.state.wall_ms = self.wall_ms
        binding = writer_of(operator.kind).bind(self)
        self.calls = binding.calls
        self.table = binding.table
        self.held = binding.held
        self._at_end = binding.at_end

    def open(self) -> None:
        """Open what has a life cycle. A function that serves both sides is one copy, opened once."""
        for function in self._living:
            function.open(self.context)

    def close(self) -> None:
        """Close what was opened."""
        self.context.forget_key()
        for function in self._living:
            function.close()

    def at_end(self) -> Iterable[Any]:
        """Return what was held back until the end of input."""
        return self._at_end()

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self, reader: Source[Any] | None = None) -> Parts:
        """Return all that the operator keeps. It must be pickled before the next record.

        `reader`: of a source, who knows how far what was read has been processed.
        """
        parts = self.held.parts()
        parts.lowest["now"] = self.now
        if self.held is NOTHING_HELD and self.table is not None:
            parts.keyed[_TABLE] = TableEntries(self.table)
        if self.operator.keyed:
            for name, ttl_ms, entries in self.context.state.parts():
                parts.keyed[_STATE, (name, ttl_ms)] = entries
        for number, function in enumerate(self._living):
            if isinstance(function, Function) and (kept := function.snapshot()) is not None:
                parts.own[_FUNCTION, number] = [kept]
            elif isinstance(function, SplitSource):
                positions = (reader or function).snapshot()
                parts.splits = {split: [position] for split, position in positions.items()}
            elif isinstance(function, Source):
                parts.own[_FUNCTION, number] = [(reader or function).snapshot()]
            elif isinstance(function, Sink) and (kept := function.snapshot()) is not None:
                parts.own[_FUNCTION, number] = [kept]
        return parts

    def restore(self, parts: Parts) -> None:
        """Take over a share of what the former subtasks have kept; called after `open`, before the first record."""
        self.now = parts.now
        for (name, ttl_ms), entries in parts.tables(_STATE):
            self.context.state.restore(name, ttl_ms, entries)
        for number, function in enumerate(self._living):
            kept = parts.own.get((_FUNCTION, number))
            if isinstance(function, Sink) or (isinstance(function, Function) and kept):
                function.restore(kept or [])
            elif isinstance(function, SplitSource):
                function.restore({split: positions[0] for split, positions in parts.splits.items()})
            elif isinstance(function, Source) and kept:
                function.restore(kept[0])
        if self.held is NOTHING_HELD and self.table is not None:
            self.table.fill(parts.keyed.get(_TABLE, ()))
        self.held.restore(parts)

    # -- for the chain --------------------------------------------------------------------------------------

    def watermark(self) -> int:
        """Return its event time as users see it."""
        return in_range(self.now)

    def timestamp(self) -> int:
        """Return the timestamp of the record under way or, without one, its event time."""
        known: int | None = self.context.__dict__.get("timestamp")
        return self.watermark() if known is None else known

    def too_late(self, record: Any, timestamp: int) -> None:
        """A record came when all its windows were over: count it, and give it to whoever reads late records."""
        counters, index = self._counters, self._index
        counters.late[index] += 1
        counters.late_by_ms[index] = max(counters.late_by_ms[index], in_range(self.now) - timestamp)
        if self.reads_late:
            self.context.timestamp = timestamp
            self.context.output(LATE_RECORDS, record)

    def reject(self, record: Any, error: Exception) -> None:
        """A record failed and the operator's `on_error` lets the job go on.

        Raises a PipelineError: the pipeline is wrong and not the record, and every other record would fail, too.
        """
        if is_of_pipeline(error) or isinstance(error, InvalidKeyError):
            raise error
        if self.operator.on_error == "skip":
            self._counters.skipped[self._index] += 1
            return
        self._counters.dead_letters[self._index] += 1
        letter = DeadLetter(record, summary(error), self.operator.name)
        self.context.output(DEAD_LETTERS, letter)
