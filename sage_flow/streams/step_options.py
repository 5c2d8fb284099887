"""The keyword options that methods of streams share, and how a method declares that it takes them.

A method that adds an operator ends in `**options: Unpack[StepOptions]`, from which type checkers and editors know the
options. `@takes(StepOptions)` does the same at run time: it refuses every other keyword at the call, and puts the
options into the signature and the docstring that `help()` shows.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, TypedDict, TypeVar, cast

from sage_flow.plan.graph import OnError
from sage_flow.plan.location import caller_location

__all__ = ["AggregateOptions", "OperatorOptions", "SourceOptions", "StepOptions", "takes"]

F = TypeVar("F", bound=Callable[..., Any])


class OperatorOptions(TypedDict, total=False):
    """Of every operator: `name` and `parallelism`, as `StepOptions` has them."""

    name: str | None
    parallelism: int | None


class SourceOptions(OperatorOptions, total=False):
    """Of a source whose input may be malformed: `name`, `parallelism` and `on_error`, and how fast it may be.

    max_rate: records per second at most, of all its subtasks together; each has an equal share; default: no limit.
    """

    on_error: OnError
    max_rate: float | None


class AggregateOptions(OperatorOptions, total=False):
    """Of an aggregate with a function: `name`, `parallelism` and `on_error`, as `StepOptions` has them."""

    on_error: OnError


class StepOptions(AggregateOptions, total=False):
    """Of an operator that calls a function for its records.

    name: the operator's identity in counts, state and errors; default: the method and a number, as in `map-1`.
    parallelism: the number of subtasks; default: that of the environment, but 1 for `print` and files that are written.
    on_error: "fail" the job (default), "skip" the record and count it, or put it on `.dead_letters()` ("dead_letter").
    with_ctx: call the function with the RuntimeContext behind its values; default: if it has a parameter `ctx`.
    """

    with_ctx: bool | None


_DEFAULTS: dict[str, Any] = {"on_error": "fail"}  # of the others: None


def takes(options: type[OperatorOptions]) -> Callable[[F], F]:
    """Declare that a method takes the keywords of a TypedDict of this file as its `**options`.

    The method raises TypeError for any other keyword.
    """
    shared = tuple(options.__annotations__)

    def declare(method: F) -> F:
        signature = inspect.signature(method)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        allowed = [*(one.name for one in own[1:]), *shared]

        @functools.wraps(method)
        def call(self: Any, *values: Any, **keywords: Any) -> Any:
            for keyword in keywords:
                if keyword not in allowed:
                    raise TypeError(_refusal(f"{type(self).__name__}.{method.__name__}()", keyword, allowed))
            return method(self, *values, **keywords)

        known = [_parameter(key, options.__annotations__[key]) for key in shared]
        call.__signature__ = signature.replace(parameters=[*own, *known])  # type: ignore[attr-defined]
        call.__doc__ = f"{inspect.cleandoc(method.__doc__ or '')}\n\nOptions:\n{_described(shared)}"
        return cast("F", call)

    return declare


def _refusal(method: str, keyword: str, allowed: Iterable[str]) -> str:
    return (
        f"{method} got an unexpected keyword argument {keyword!r} ({caller_location()}); its arguments are"
        f" {', '.join(allowed)}"
    )


def _parameter(key: str, annotation: Any) -> inspect.Parameter:
    text = getattr(annotation, "__forward_arg__", annotation)
    return inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(key), annotation=text)


def _described(keys: Iterable[str]) -> str:
    """What the docstrings of this file say of these options; nothing where Python runs without docstrings."""
    documented = "\n".join(inspect.cleandoc(owner.__doc__ or "") for owner in (StepOptions, SourceOptions))
    texts = dict(re.findall(r"^(\w+): (.+)$", documented, re.MULTILINE))
    return "\n".join(f"    {key}: {texts[key]}" for key in keys if key in texts)
