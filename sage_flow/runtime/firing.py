"""What a window gives when it fires: a result for each key, or what the user's function yields for its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.first_values import check_outputs
from sage_flow.runtime.joins.windows import PairResults
from sage_flow.windows import Firing, TimeSpan, WindowResult

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["FIRED_RECORDS", "Results", "results_of"]

FIRED_RECORDS = 320
"""At most so many results are made before they run through the rest of the chain. Each is two new objects, and behind
700 that are not freed again the garbage collector looks at those of the last time: larger batches made it do so for
each result that a window gave, and by that go through the whole heap more often."""

_new = tuple.__new__  # a third of the time of calling the class of a named tuple


def results_of(bound: BoundOperator, result: Callable[[Any], Any] | None) -> Results | PairResults:
    """What makes the results of the windows of an operator. `result` makes what users see of an aggregate's value."""
    return PairResults(bound) if bound.operator.kind.pairs else Results(bound, result)


class Results:
    """Of one operator in one subtask. `result` makes what users see of the value of an aggregate.

    Its option `process` is a function of the list of records and the context, which yields outputs. The timestamp of
    what is given is the last one in the window.
    """

    def __init__(self, bound: BoundOperator, result: Callable[[Any], Any] | None) -> None:
        self._bound = bound
        self._result = result
        self._process: bool = bool(bound.operator.options.get("process"))

    def of(self, values: Iterable[tuple[Any, Any]], start: int, end: int, firing: Firing) -> Iterator[tuple[Any, int]]:
        """Yield what a window gives for these keys, with its timestamp."""
        time, result = end - 1, self._result
        if self._process:
            for key, records in values:
                yield from self._processed(WindowResult(key, start, end, records, firing))
        elif result is None:
            for key, value in values:
                yield _new(WindowResult, (key, start, end, value, firing)), time
        else:
            for key, value in values:
                try:
                    made = result(value)
                except Exception as error:
                    self._failed(WindowResult(key, start, end, value, firing), error)
                    continue
                yield _new(WindowResult, (key, start, end, made, firing)), time

    def _processed(self, window: WindowResult[Any, list[Any]]) -> Iterator[tuple[Any, int]]:
        bound = self._bound
        context, time = bound.context, window.end - 1
        context.key, context.timestamp, context.window = window.key, time, TimeSpan(window.start, window.end)
        arguments = (context,) if bound.operator.with_ctx[0] else ()
        try:
            outputs = bound.functions[0](list(window.value), *arguments)
            for output in () if outputs is None else check_outputs(bound.operator, outputs):
                yield output, time
        except Exception as error:
            self._failed(window, error)

    def _failed(self, window: WindowResult[Any, Any], error: Exception) -> None:
        """The user's code has raised `error` for this window, which stands for the record in errors and letters."""
        bound = self._bound
        if bound.operator.on_error == "fail":
            bound.held.under_way = window
            raise error
        bound.context.timestamp = window.end - 1
        bound.reject(window, error)
