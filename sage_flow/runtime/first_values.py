"""Checks the first values that functions return: a coroutine, a future or a generator is not a value.

Such a *promise* in place of a value would pass through a pipeline without an error, and its code would never run, or
its outcome would never show. Often the function itself does not show that it returns one (a lambda that calls `async
def`, a partial, a decorator), so its first values are checked. A compiled chain calls a function through a `Look` for
its first `LOOKS` values and directly afterwards, so the check costs nothing per record. A function that returns its
first promise later is not caught. To emit a promise as a record, wrap it in a tuple.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain, islice
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.plan.graph import Operator

__all__ = ["LOOKS", "Look", "check_outputs", "check_value", "look_at", "looked_items", "not_iterable"]

LOOKS = 32
"""The number of values of each function that each subtask checks."""

_TEXTS = (str, bytes, bytearray)
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, tuple, list, dict, set, frozenset})
_NOT_CHANGED = frozenset({type(None), bool, int, float, complex, str, bytes, tuple, frozenset})


class Look:
    """Calls a function, and `check` for its first values: `check(value, args)` returns what to go on with."""

    def __init__(self, call: Callable[..., Any], check: Callable[[Any, tuple[Any, ...]], Any]) -> None:
        self.call = call
        self.on_done: Callable[[], object] = lambda: None
        self._check = check
        self._left = LOOKS

    def __call__(self, *args: Any) -> Any:
        value = self.call(*args)
        if self._left:
            self._left -= 1
            value = self._check(value, args)
            if not self._left:
                self.on_done()
        return value

    @property
    def is_done(self) -> bool:
        """Whether the values have been looked at."""
        return not self._left


def look_at(operator: Operator, call: Callable[..., Any]) -> Look | None:
    """Return the look for what a chain calls for an operator; None for what looks itself, at each value."""
    if operator.kind.takes_batches or operator.kind.awaits:
        return None
    if operator.kind.iterates:
        return Look(call, lambda outputs, _: looked_items(operator, check_outputs(operator, outputs)))
    if operator.kind.folds:
        return Look(call, _FoldCheck(operator))
    return Look(call, lambda value, _: check_value(operator, value))


def check_value(operator: Operator, value: Any) -> Any:
    """Return what an operator's function returned. Raises PipelineError if it is the promise of a value."""
    if type(value) in _PLAIN or not _is_promise(value):
        return value
    name = type(value).__name__
    if isinstance(value, GeneratorType):
        _refuse(operator, value, "returned a generator, whose body has not run", "return list(...), or use flat_map")
    if isinstance(value, AsyncGeneratorType):
        cure = "collect its items in an `async def` function that returns a list, and use map_async"
        _refuse(operator, value, "returned an async generator, whose body has not run", cure)
    _refuse(operator, value, f"returned a {name} instead of a value, and nothing awaits it", _cure(operator, value))


def check_outputs(operator: Operator, outputs: Any) -> Iterable[Any]:
    """Return what the function of an operator with any number of outputs returned.

    Raises PipelineError for a promise or a text, TypeError if it cannot be looped over.
    """
    kind = type(outputs)
    if kind is list or kind is tuple or kind is GeneratorType:
        return outputs  # type: ignore[no-any-return]
    if isinstance(outputs, _TEXTS):
        what = f"returned a {kind.__name__}, so each output would be a single character"
        _refuse(operator, outputs, what, "return [text] for one output, list(text) for characters, text.split() ...")
    check_value(operator, outputs)
    try:
        iter(outputs)
    except TypeError as error:
        raise not_iterable(operator, error) from None
    return outputs  # type: ignore[no-any-return]


def looked_items(operator: Operator, outputs: Iterable[Any]) -> Iterator[Any]:
    """Return the outputs, of which the first are looked at as they are asked for."""
    items = iter(outputs)
    return chain((check_value(operator, item) for item in islice(items, LOOKS)), items)


def not_iterable(operator: Operator, error: TypeError) -> TypeError:
    """Return the error of a loop over what a function returned, with what it should return."""
    cure = "" if operator.kind.takes_batches else "; for one output per record use map"
    return TypeError(
        f"{error}: the function of {operator.kind} must return an iterable of outputs: return a list, or yield the"
        f" outputs{cure}"
    )


class _FoldCheck:
    """Of `function(so_far, value)`: also a function that changes `so_far` and forgets to return it."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._is_first = True

    def __call__(self, value: Any, args: tuple[Any, ...]) -> Any:
        is_first, self._is_first = self._is_first, False
        if is_first and value is None and type(args[0]) not in _NOT_CHANGED:
            what = f"returned None instead of the {type(args[0]).__name__} that it was given"
            _refuse(self._operator, value, what, "return the new value, even if it is the same object")
        return check_value(self._operator, value)


def _is_promise(value: Any) -> bool:
    if isinstance(value, (GeneratorType, AsyncGeneratorType, Awaitable)):
        return True
    futures = sys.modules.get("concurrent.futures")  # who has one has imported it
    return futures is not None and isinstance(value, futures.Future)


def _cure(operator: Operator, value: Any) -> str:
    if not isinstance(value, Awaitable):
        return "return its result()"
    return operator.kind.cure


def _refuse(operator: Operator, value: Any, what: str, cure: str) -> None:
    if inspect.iscoroutine(value):
        value.close()  # else the interpreter warns, too, that nobody awaited it
    raise PipelineError(f"{operator.name!r} ({operator.location}): its function {what}: {cure}")
