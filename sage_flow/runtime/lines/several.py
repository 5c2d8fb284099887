"""Operators that give any number of records for one: a loop over what their function returns.

With `on_error`, what a function gave before it raised stays given. The error must not reach the loop, which is behind
it in the generated text: the function is guarded by a generator.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from sage_flow.plan.callables import process_method
from sage_flow.plan.callbacks import with_on_end, with_on_timer
from sage_flow.runtime.batches import Batch, TimedBatch, WaitingBatch
from sage_flow.runtime.first_values import check_outputs
from sage_flow.runtime.lines.text import ChainText, Step
from sage_flow.runtime.lines.writer import Binding, LineWriter
from sage_flow.runtime.timers import KeptTimers
from sage_flow.timers import Timers

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
        calls = map(self.call_of, bound.functions, count())
        return Binding(tuple(calls if bound.operator.on_error == "fail" else (_guarded(bound, call) for call in calls)))

    def call_of(self, function: Any, side: int) -> Callable[..., Iterable[Any]]:
        """What is called for the function of an input side."""
        call: Callable[..., Iterable[Any]] = function
        return call


class Processes(Iterates):
    """The function may have no outputs and return None; a generator function never does.

    A function with an `on_timer` or an `on_end` gives more when time has passed; a keyed one has timers.
    """

    def bind(self, bound: BoundOperator) -> Binding:
        binding = super().bind(bound)
        functions = bound.functions
        if bound.operator.keyed:
            on_timer = [function.on_timer for function in with_on_timer(functions)]
            timers = KeptTimers(bound, on_timer[0] if on_timer else None)
            bound.context.own_timers = Timers(bound.context, timers)
            binding = replace(binding, held=timers if on_timer else binding.held)
        if on_end := with_on_end(functions):
            binding = replace(binding, at_end=partial(_at_end, bound, on_end))
        return binding

    def call_of(self, function: Any, side: int) -> Callable[..., Iterable[Any]]:
        call: Callable[..., Any] = process_method(function, side)
        if inspect.isgeneratorfunction(call):
            return call

        def process(value: Any, *ctx: Any) -> Iterable[Any]:
            outputs: Iterable[Any] | None = call(value, *ctx)
            return () if outputs is None else outputs

        return process


def _at_end(bound: BoundOperator, functions: Sequence[Any]) -> Iterator[Any]:
    bound.context.forget_key()
    bound.context.__dict__.pop("timestamp", None)
    for function in functions:
        outputs = function.on_end(bound.context)
        yield from () if outputs is None else check_outputs(bound.operator, outputs)


class LaterLoops(LineWriter):
    """Results come with a later record, so each has the timestamp of its own: `for v1, t in f1(v0):`."""

    def write(self, text: ChainText, step: Step) -> None:
        text.show_time(step)
        text.show_key(step)  # they go where the records of their key go, also if they wait while there is a restore
        text.loop(text.call(step), step, gives_time=step.operator.timed)


class Awaits(LaterLoops):
    """The lines call what the subtask puts in the place of the function: it needs the port (`async_map.py`)."""


class Batches(LaterLoops):
    """The function is called with lists of records (`batches.py`)."""

    def bind(self, bound: BoundOperator) -> Binding:
        waits = bound.operator.options["max_wait_s"] is not None
        made = TimedBatch(bound) if bound.operator.timed else WaitingBatch(bound) if waits else Batch(bound)
        return Binding((made.add,), held=made)


def _guarded(bound: BoundOperator, call: Callable[..., Iterable[Any]]) -> Callable[..., Iterator[Any]]:
    def guarded(value: Any, *ctx: Any) -> Iterator[Any]:
        try:
            yield from check_outputs(bound.operator, call(value, *ctx))
        except Exception as error:
            bound.reject(value, error)

    return guarded
