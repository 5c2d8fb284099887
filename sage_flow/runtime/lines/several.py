"""Operators that give any number of records for one: a loop over what their function returns.

With `on_error`, what a function gave before it raised stays given. The error must not reach the loop, which is behind
it in the generated text: the function is guarded by a generator.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, zip_longest
from typing import TYPE_CHECKING, Any

from sage_flow.plan.callables import process_method
from sage_flow.plan.callbacks import with_on_end, with_on_timer
from sage_flow.runtime.first_values import check_outputs, looked_items
from sage_flow.runtime.held import Held
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
        text.loop(text.call(step), step, gives_time=step.operator.timed)


class Awaits(LaterLoops):
    """The lines call what the subtask puts in the place of the function: it needs the port (`async_map.py`)."""


class Batches(LaterLoops):
    """The function is called with lists of records."""

    def bind(self, bound: BoundOperator) -> Binding:
        if bound.operator.timed:
            timed = _TimedBatch(bound)
            return Binding((timed.add,), held=timed)
        if bound.operator.options["max_wait_s"] is not None:
            waiting = _WaitingBatch(bound)
            return Binding((waiting.add,), held=waiting)
        batch = _Batch(bound)
        return Binding((batch.add,), batch.at_end)


class _Batch:
    """The records that wait until they are enough; `bound.batch` are those that the function was called with last."""

    def __init__(self, bound: BoundOperator) -> None:
        self._bound = bound
        self._size: int = bound.operator.options["batch_size"]
        self._pending: list[Any] = []
        self.times: list[int] = []
        """The timestamps of the records, where they have some."""

    def add(self, value: Any, *_: Any) -> Iterable[Any]:
        self._pending.append(value)
        return () if len(self._pending) < self._size else self.at_end()

    @property
    def waits(self) -> bool:
        """Whether records wait."""
        return bool(self._pending)

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
            for value, timestamp in zip_longest(self._bound.batch, self.times):
                if timestamp is not None:
                    self._bound.context.timestamp = timestamp
                self._bound.reject(value, error)


class _WaitingBatch(Held):
    """A batch that leaves at the end of input or, with `max_wait`, so long after its first record has come."""

    def __init__(self, bound: BoundOperator) -> None:
        self._bound = bound
        self._batch = _Batch(bound)
        self._max_wait_s: float | None = bound.operator.options["max_wait_s"]
        self._leaves_at = math.inf
        self.goes_by_clock = self._max_wait_s is not None

    @property
    def is_urgent(self) -> bool:  # type: ignore[override]
        """Its first record has waited for long enough."""
        return self._leaves_at < math.inf and self._leaves_at <= self._bound.clock()

    @property
    def look_at(self) -> float:
        """When its first record has waited for long enough."""
        return self._leaves_at

    def add(self, value: Any, *_: Any) -> Iterable[Any]:
        """Take a record; give what the function gives, if they are enough now."""
        if self._max_wait_s is not None and not self._batch.waits:
            self._leaves_at = self._bound.clock() + self._max_wait_s
        outputs = self._batch.add(value)
        if not self._batch.waits:
            self._leaves_at = math.inf
        return outputs

    def due(self, now: float) -> Iterable[list[Any]]:
        """What has waited for long enough; at the end of input, what has not been enough for a batch."""
        if self._batch.waits and (now == math.inf or self.is_urgent):
            self._leaves_at = math.inf
            yield self._given(self._batch.at_end())

    def _given(self, outputs: Iterable[Any]) -> list[Any]:
        return list(outputs)


class _TimedBatch(_WaitingBatch):
    """The same, where records have timestamps.

    Outputs have those of the records if there are as many, else the largest. The watermark does not pass the records
    that wait.
    """

    def add(self, value: Any, *_: Any) -> Iterable[tuple[Any, int]]:
        self._batch.times.append(self._bound.context.timestamp)
        outputs = super().add(value)
        return () if self._batch.waits else self._given(outputs)

    def holds(self, now: float) -> float:
        """A record that waits is not behind the watermark when it leaves."""
        return min([now, *self._batch.times])

    def _given(self, outputs: Iterable[Any]) -> list[tuple[Any, int]]:
        given = list(outputs)
        times, self._batch.times = self._batch.times, []
        if len(given) != len(times):
            times = [max(times)] * len(given)
        return list(zip(given, times, strict=True))


def _guarded(bound: BoundOperator, call: Callable[..., Iterable[Any]]) -> Callable[..., Iterator[Any]]:
    def guarded(value: Any, *ctx: Any) -> Iterator[Any]:
        try:
            yield from check_outputs(bound.operator, call(value, *ctx))
        except Exception as error:
            bound.reject(value, error)

    return guarded
