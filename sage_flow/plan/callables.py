"""What an operator is given to call: which functions are refused before anything runs, and who gets the context."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.functions import CoProcessFunction, Function, ProcessFunction, Sink, Source
from sage_flow.plan.kinds import Kind

__all__ = ["check_function", "check_life_cycle", "process_method", "takes_context"]

_LIFE_CYCLE = ("open", "close", "commit", "abort", "next_batch", "snapshot", "restore", "on_timer", "on_end")
_SIDES = ("process_left", "process_right")


def process_method(function: Any, side: int = 0) -> Any:
    """Return what is called for the records of an input side: a method of a ProcessFunction, or the function itself."""
    if _is_a(function, CoProcessFunction):
        return getattr(function, _SIDES[side])
    return function.process if _is_a(function, ProcessFunction) else function


def _is_a(function: Any, kind: type) -> bool:
    """Whether it is an instance of `kind`, or a class of it."""
    return isinstance(function, kind) or (isinstance(function, type) and issubclass(function, kind))


def _has_call(function: Any) -> bool:
    """Whether its class has a `__call__`, as an instance that is called for records needs."""
    made = function if isinstance(function, type) else type(function)
    return any("__call__" in vars(base) for base in made.__mro__)


def check_function(
    kind: Kind, function: Any, owner: str, side: int = 0, *, sides: int = 1, iterates: bool = False
) -> None:
    """Refuse a function whose body would never run, and a class that is called for every record by mistake.

    sides: how many input sides the operator has, of which the function serves `side`.
    iterates: the operator loops over what this function returns, also if its kind does not say so.

    What only shows in the values that a function returns is looked at when it runs (`runtime/first_values.py`).
    Raises PipelineError.
    """
    called = _called(function, side)
    if not (kind.has_timers and sides == 2) and _is_a(function, CoProcessFunction):
        raise PipelineError(
            f"{owner} has one input, and a CoProcessFunction has a method for each of two: write"
            " left.connect(right).process(...), or make it a ProcessFunction"
        )
    if not kind.has_timers and _is_a(function, ProcessFunction) and not _has_call(function):
        raise PipelineError(
            f"{owner} needs a function, and would not call the methods of a ProcessFunction: write"
            " .key_by(...).process(...), or pass a function"
        )
    if inspect.isasyncgenfunction(called):
        raise PipelineError(
            f"{owner} cannot read its function, which is an async generator (`async def` with a `yield`):"
            " collect the items in an `async def` function that returns a list, use map_async with it, followed by"
            " flat_map"
        )
    if not kind.awaits and inspect.iscoroutinefunction(called):
        raise PipelineError(f"{owner} would not wait for its function, which is `async def`: use map_async")
    if not (iterates or kind.iterates) and inspect.isgeneratorfunction(called):
        raise PipelineError(
            f"{owner} would never run the body of its function, which has a `yield`:"
            " let it return its result, or use flat_map"
        )
    if _makes_callables(function):
        name = function.__name__
        raise PipelineError(
            f"{owner} would make an instance of {name} for every record and never call it: pass an instance,"
            f" {name}(...), or let {name} extend Function, so that each subtask makes one of its own"
        )


def check_life_cycle(owner: str, living: Any) -> None:
    """Of a Function, Source or Sink: raises PipelineError if a method that the engine calls is `async def`.

    Nobody would wait for it.
    """
    kind = living if isinstance(living, type) else type(living)
    if not issubclass(kind, (Function, Source, Sink)):
        return
    for name in _LIFE_CYCLE:
        method = inspect.getattr_static(kind, name, None)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise PipelineError(
                f"{owner} would not wait for {kind.__name__}.{name}(), which is `async def`: make it a plain method;"
                " asyncio.run(...) in it waits for coroutines"
            )


def takes_context(function: Any, values: int, with_ctx: bool | None, owner: str, side: int = 0) -> bool:
    """Whether the function is called with the context behind its `values` values; checks that it can be.

    Raises PipelineError.
    """
    if isinstance(function, Sink):
        return False
    if not callable(function) and not isinstance(function, (ProcessFunction, CoProcessFunction)):
        raise PipelineError(f"{owner} needs a function, not {function!r} (a {type(function).__name__})")
    parameters = _parameters(function, side)
    if parameters is None:  # a builtin without a signature
        return bool(with_ctx)
    takes = with_ctx if with_ctx is not None else "ctx" in parameters
    try:
        inspect.Signature(list(parameters.values())).bind(*[None] * (values + takes))
    except (TypeError, ValueError) as error:
        expected = " and ".join([f"{values} value{'s' * (values > 1)}", *["the context"] * takes])
        raise PipelineError(
            f"{owner} calls its function with {expected}, by position: {error}{_cure_for_class(function)}"
        ) from None
    return takes


def _called(function: Any, side: int) -> Any:
    """What runs when the function, or an object or class in its place, is called for a record."""
    while isinstance(function, functools.partial):
        function = function.func
    if (method := process_method(function, side)) is not function:
        return method
    if isinstance(function, Sink):
        return function.write
    if inspect.isroutine(function):
        return function
    return getattr(function, "__call__", None)  # noqa: B004 - of the class itself, if it is one


def _makes_callables(function: Any) -> bool:
    """Whether it is a class whose instances are functions, and that is no Function: a record makes no function."""
    if not isinstance(function, type) or issubclass(function, (Function, Source, Sink, type)):
        return False
    return any("__call__" in vars(base) for base in function.__mro__)


def _cure_for_class(function: Any) -> str:
    if not isinstance(function, type) or issubclass(function, Function):
        return ""
    name = function.__name__
    return (
        f". {name} is a class, so the call makes an instance from each record: pass an instance that can be called,"
        f" {name}(...), or let {name} extend Function"
    )


def _parameters(function: Any, side: int) -> dict[str, inspect.Parameter] | None:
    """The parameters that a caller gives."""
    called = process_method(function, side)
    if isinstance(function, type):
        if not issubclass(function, Function):
            return _signature(function)
        found = _signature(function.__call__ if called is function else called)
        return None if found is None else dict(list(found.items())[1:])  # without self
    return _signature(called)


def _signature(function: Any) -> dict[str, inspect.Parameter] | None:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
