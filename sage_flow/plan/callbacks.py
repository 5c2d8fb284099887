"""What is called apart from records: the `on_timer` and the `on_end` of a function, and whether they can be.

Whether a function sets timers is seen where it names `ctx.timers` itself. If a function that it calls sets them, that
is refused when it runs (`timers.py`).
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Sequence
from types import CodeType
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.functions import CoProcessFunction, ProcessFunction
from sage_flow.plan.callables import process_method
from sage_flow.plan.kinds import Kind

__all__ = ["check_timers", "with_on_end", "with_on_timer"]

_HAVE_THEM = (ProcessFunction, CoProcessFunction)


def with_on_timer(functions: Sequence[Any]) -> list[Any]:
    """Return those of an operator's functions that have a method `on_timer`, each once."""
    return _with("on_timer", functions)


def with_on_end(functions: Sequence[Any]) -> list[Any]:
    """Return those of an operator's functions that have a method `on_end`, each once."""
    return _with("on_end", functions)


def _with(name: str, functions: Sequence[Any]) -> list[Any]:
    unique = {id(function): function for function in functions}.values()
    return [function for function in unique if _has(name, function)]


def _has(name: str, function: Any) -> bool:
    kind = function if isinstance(function, type) else type(function)
    return issubclass(kind, _HAVE_THEM) and getattr(kind, name) is not getattr(ProcessFunction, name)


def check_timers(kind: Kind, functions: Sequence[Any], owner: str, *, keyed: bool) -> None:
    """Raises PipelineError if the functions of an operator set timers that could not fire, or not be set."""
    on_timer = with_on_timer(functions)
    uses = any(_names_timers(process_method(function, side)) for side, function in enumerate(functions))
    if not on_timer and not uses:
        return
    if not kind.has_timers:
        if uses:
            raise PipelineError(
                f"{owner} uses ctx.timers, which only process(...) has: let it be the process(value, ctx) of a"
                " ProcessFunction that has an on_timer(timer, ctx), too"
            )
        return
    if not keyed:
        raise PipelineError(f"{owner} has timers, which belong to a key: put .key_by(...) directly before it")
    if not on_timer:
        raise PipelineError(
            f"{owner} sets timers and has no on_timer(timer, ctx) to call when they fire: process(...) takes an object"
            " or a class of ProcessFunction, which has one"
        )
    if len(on_timer) > 1:
        raise PipelineError(
            f"{owner} has two functions with on_timer, and its timers belong to both: write one CoProcessFunction"
        )


def _names_timers(function: Any) -> bool:
    """Whether a function reads the attribute `timers` of one of its parameters other than `self`."""
    called = inspect.unwrap(function) if callable(function) else function
    code = getattr(getattr(called, "__func__", called), "__code__", None)
    if not isinstance(code, CodeType) or "timers" not in code.co_names:
        return False
    parameters = set(code.co_varnames[: code.co_argcount]) - {"self"}
    before: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.argval == "timers" and before in parameters:
            return True
        before = instruction.argval[-1] if isinstance(instruction.argval, tuple) else instruction.argval
    return False
