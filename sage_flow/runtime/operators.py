"""An operator bound to its subtask: its own copy of the user's function, a context, state."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.functions import DeadLetter, Function, ProcessFunction, RuntimeContext, Sink, Source
from sage_flow.plan.graph import AGGREGATES, DEAD_LETTERS, Kind, Operator
from sage_flow.runtime.failure import is_of_pipeline, summary
from sage_flow.runtime.first_values import check_outputs, looked_items
from sage_flow.runtime.report import Counters
from sage_flow.state import KeyTable, default_factory
from sage_flow.wire import by_value

__all__ = ["BoundOperator", "own_copy"]

_LIVING = (Function, Source, Sink)


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


class BoundOperator:
    """One operator of a chain in one subtask.

    `calls` are what the compiled chain calls, one per input side; `table` is the state of an aggregate.
    """

    def __init__(self, operator: Operator, index: int, context: RuntimeContext, counters: Counters) -> None:
        self.operator = operator
        self.context = context
        self._index = index
        self._counters = counters
        copies = {id(function): own_copy(function, operator) for function in operator.functions}
        self.functions = [copies[id(function)] for function in operator.functions]
        self._living = [function for function in copies.values() if isinstance(function, _LIVING)]
        self.table = KeyTable(_initial(operator)) if operator.kind in AGGREGATES else None
        self._pending: list[Any] = []  # of map_batches
        self.batch: list[Any] = []  # that its function was called with last
        self.calls = tuple(self._call(side) for side in range(len(self.functions))) if self._has_calls() else ()

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
        if self.operator.kind is Kind.MAP_BATCHES:
            pending, self._pending = self._pending, []
            return self._run_batch(pending) if pending else ()
        if self.operator.emits_at_end and self.table is not None:
            return self.table.items()
        return ()

    def reject(self, record: Any, error: Exception) -> None:
        """A record failed and the operator's `on_error` lets the job go on.

        Raises a PipelineError: the pipeline is wrong and not the record, and every other record would fail, too.
        """
        if is_of_pipeline(error):
            raise error
        if self.operator.on_error == "skip":
            self._counters.skipped[self._index] += 1
            return
        self._counters.dead_letters[self._index] += 1
        letter = DeadLetter(record, summary(error), self.operator.name)
        self.context.output(DEAD_LETTERS, letter)

    def _has_calls(self) -> bool:
        return self.operator.kind not in (Kind.SOURCE, Kind.SERVICE)

    def _call(self, side: int) -> Callable[..., Any]:
        function = self.functions[side]
        match self.operator.kind:
            case Kind.SINK if isinstance(function, Sink):
                return function.write
            case Kind.MAP_BATCHES:
                return self._add_to_batch
            case Kind.PROCESS | Kind.CONNECT_PROCESS:
                call: Callable[..., Any] = _may_return_none(function)
            case _:
                call = function
        multiplies = self.operator.kind in (Kind.FLAT_MAP, Kind.PROCESS, Kind.CONNECT_PROCESS)
        return self._guard(call) if multiplies and self.operator.on_error != "fail" else call

    def _guard(self, call: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        """What it gave before it raised stays given; the error does not reach the loop over its outputs."""

        def guarded(value: Any, *ctx: Any) -> Iterator[Any]:
            try:
                yield from check_outputs(self.operator, call(value, *ctx))
            except Exception as error:
                self.reject(value, error)

        return guarded

    def _add_to_batch(self, value: Any, *_: Any) -> Iterable[Any]:
        self._pending.append(value)
        if len(self._pending) < self.operator.options["batch_size"]:
            return ()
        pending, self._pending = self._pending, []
        return self._run_batch(pending)

    def _run_batch(self, values: list[Any]) -> Iterable[Any]:
        self.batch = values
        self.context.forget_key()  # that of its last record is not the batch's
        return self._outputs_of_batch() if self.operator.on_error == "fail" else self._guarded_batch()

    def _outputs_of_batch(self) -> Iterable[Any]:
        context = (self.context,) if self.operator.with_ctx[0] else ()
        values = self.batch[:] if self.operator.on_error != "fail" else self.batch  # the function may change the list
        outputs = self.functions[0](values, *context)
        return looked_items(self.operator, check_outputs(self.operator, outputs))

    def _guarded_batch(self) -> Iterator[Any]:
        """What it gave before it raised stays given; it is not run again, and each of its records has failed."""
        try:
            yield from self._outputs_of_batch()
        except Exception as error:
            for value in self.batch:
                self.reject(value, error)


def _may_return_none(function: Any) -> Callable[..., Iterable[Any]]:
    """A process function may have no outputs and return None; a generator function never does."""
    call: Callable[..., Any] = function.process if isinstance(function, ProcessFunction) else function
    if inspect.isgeneratorfunction(call):
        return call

    def process(value: Any, *ctx: Any) -> Iterable[Any]:
        outputs: Iterable[Any] | None = call(value, *ctx)
        return () if outputs is None else outputs

    return process


def _initial(operator: Operator) -> Callable[[], Any] | None:
    match operator.kind:
        case Kind.COUNT | Kind.SUM:
            return lambda: 0
        case Kind.FOLD:
            return default_factory(operator.options["initial"])
        case _:
            return None
