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
                yield from self._processed(key, records, TimeSpan(start, end))
        elif result is None:
            for key, value in values:
                yield _new(WindowResult, (key, start, end, value, firing)), time
        else:
            for key, value in values:
                yield _new(WindowResult, (key, start, end, result(value), firing)), time

    def _processed(self, key: Any, records: list[Any], span: TimeSpan) -> Iterator[tuple[Any, int]]:
        bound = self._bound
        context, time = bound.context, span.end - 1
        context.key, context.timestamp, context.window = key, time, span
        arguments = (context,) if bound.operator.with_ctx[0] else ()
        outputs = bound.functions[0](list(records), *arguments)
        for output in () if outputs is None else check_outputs(bound.operator, outputs):
            yield output, time
