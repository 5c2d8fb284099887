"""Operators that give any number of records for one: a loop over what their function returns.

With `on_error`, what a function gave before it raised stays given. The error must not reach the loop, which is behind
it in the generated text: the function is guarded by a generator.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sage_flow.functions import ProcessFunction
from sage_flow.runtime.first_values import check_outputs, looked_items
from sage_flow.runtime.lines.text import ChainText, Step
from sage_flow.runtime.lines.writer import Binding, LineWriter

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["Awaits", "Batches", "Iterates", "Processes"]


class Loops(LineWriter):
    """`for v1 in f1(v0):`, and what follows is inside the loop."""

    def write(self, text: ChainText, step: Step) -> None:
        text.loop(text.call(step), step)


class Iterates(Loops):
    """The function returns an iterable."""

    def bind(self, bound: BoundOperator) -> Binding:
        calls = map(self.call_of, bound.functions)
        return Binding(tuple(calls if bound.operator.on_error == "fail" else (_guarded(bound, call) for call in calls)))

    def call_of(self, function: Any) -> Callable[..., Iterable[Any]]:
        """What is called for a function."""
        call: Callable[..., Iterable[Any]] = function
        return call


class Processes(Iterates):
    """The function may have no outputs and return None; a generator function never does."""

    def call_of(self, function: Any) -> Callable[..., Iterable[Any]]:
        call: Callable[..., Any] = function.process if isinstance(function, ProcessFunction) else function
        if inspect.isgeneratorfunction(call):
            return call

        def process(value: Any, *ctx: Any) -> Iterable[Any]:
            outputs: Iterable[Any] | None = call(value, *ctx)
            return () if outputs is None else outputs

        return process


class Awaits(Loops):
    """The lines call what the subtask puts in the place of the function: it needs the port (`async_map.py`)."""


class Batches(Loops):
    """The function is called with lists of records."""

    def bind(self, bound: BoundOperator) -> Binding:
        batch = _Batch(bound)
        return Binding((batch.add,), batch.at_end)


class _Batch:
    """The records that wait until they are enough; `bound.batch` are those that the function was called with last."""

    def __init__(self, bound: BoundOperator) -> None:
        self._bound = bound
        self._size: int = bound.operator.options["batch_size"]
        self._pending: list[Any] = []

    def add(self, value: Any, *_: Any) -> Iterable[Any]:
        self._pending.append(value)
        return () if len(self._pending) < self._size else self.at_end()

    def at_end(self) -> Iterable[Any]:
        pending, self._pending = self._pending, []
        if not pending:
            return ()
        bound = self._bound
        bound.batch = pending
        bound.context.forget_key()  # that of its last record is not the batch's
        return self._outputs() if bound.operator.on_error == "fail" else self._guarded()

    def _outputs(self) -> Iterable[Any]:
        bound, operator = self._bound, self._bound.operator
        context = (bound.context,) if operator.with_ctx[0] else ()
        values = bound.batch[:] if operator.on_error != "fail" else bound.batch  # the function may change the list
        outputs = bound.functions[0](values, *context)
        return looked_items(operator, check_outputs(operator, outputs))

    def _guarded(self) -> Iterator[Any]:
        """It is not run again, and each of its records has failed."""
        try:
            yield from self._outputs()
        except Exception as error:
            for value in self._bound.batch:
                self._bound.reject(value, error)


def _guarded(bound: BoundOperator, call: Callable[..., Iterable[Any]]) -> Callable[..., Iterator[Any]]:
    def guarded(value: Any, *ctx: Any) -> Iterator[Any]:
        try:
            yield from check_outputs(bound.operator, call(value, *ctx))
        except Exception as error:
            bound.reject(value, error)

    return guarded
