"""`batched`: a method of a service that answers several calls at once, as models like it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

from sage_flow.errors import PipelineError, ServiceError

__all__ = ["BatchLimits", "batch_limits", "batched", "replies_of", "unbatched"]

T = TypeVar("T")
U = TypeVar("U")

_LIMITS = "_sage_flow_batch_limits"


class BatchLimits(NamedTuple):
    """How many calls a batch has at most, and for how many seconds its first call waits for others."""

    max_size: int
    max_wait_s: float


def batched(
    *misplaced: NoReturn, max_size: int = 32, max_wait: timedelta = timedelta(milliseconds=5)
) -> Callable[[Callable[[Any, list[T]], list[U]]], Callable[[Any, T], U]]:
    """Make a method of a service answer its calls in batches: it gets a list, and returns a list of as many replies.

    Callers pass one value each and get their own reply. A batch begins as soon as `max_size` calls wait for it, or the
    first of them has waited for `max_wait`. A reply that is an exception is raised at its caller only; an exception
    that the method raises is raised at all callers of the batch. The method may be `async def`. Called directly, and
    not as a service, it answers one value as a batch of one.

    >>> class Lengths:
    ...     @batched(max_size=64)
    ...     def length(self, texts):
    ...         return [len(text) for text in texts]
    >>> Lengths().length("four")
    4

    Raises:
        PipelineError: a limit is none, what is decorated is no method, or the parentheses are missing.
    """
    if misplaced:
        raise PipelineError("write @batched() with parentheses, and its limits by name: @batched(max_size=32)")
    if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
        raise PipelineError(f"max_size of @batched must be an int of at least 1, not {max_size!r}")
    if not isinstance(max_wait, timedelta) or max_wait < timedelta(0):
        raise PipelineError(f"max_wait of @batched must be a timedelta that is not negative, not {max_wait!r}")
    limits = BatchLimits(max_size, max_wait.total_seconds())

    def decorate(method: Callable[[Any, list[T]], list[U]]) -> Callable[[Any, T], U]:
        if not inspect.isfunction(method):
            raise PipelineError(f"@batched decorates a method of a service, not {method!r}")
        single = _awaiting_single(method) if inspect.iscoroutinefunction(method) else _single(method)
        setattr(single, _LIMITS, limits)
        return cast("Callable[[Any, T], U]", single)

    return decorate


def batch_limits(service: object, methods: Iterable[str]) -> dict[str, BatchLimits]:
    """Return the limits of those methods of a service, or of its class, that are batched."""
    found = {name: getattr(getattr(service, name), _LIMITS, None) for name in methods}
    return {name: limits for name, limits in found.items() if isinstance(limits, BatchLimits)}


def unbatched(method: Any) -> Callable[[list[Any]], Any]:
    """Return the method as it was written, which takes a list; `method` is a batched one of an object."""
    written: Callable[[list[Any]], Any] = functools.partial(method.__wrapped__, method.__self__)
    return written


def replies_of(method: str, returned: Any, calls: int) -> list[Any]:
    """Return what a batched method has returned, if it is a list of one reply for each call. Raises ServiceError."""
    if not isinstance(returned, list):
        raise ServiceError(
            f"batched method {method!r} got a batch of {calls} and returned {_kind(returned)}, not a list: return a"
            " list of one reply for each call"
        )
    if len(returned) != calls:
        raise ServiceError(
            f"batched method {method!r} got a batch of {calls} and returned {len(returned)}"
            f" {'reply' if len(returned) == 1 else 'replies'}: return one for each call, in the same order; an"
            " exception in the list fails only its call"
        )
    return returned


def _kind(value: Any) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _single(method: Callable[[Any, list[Any]], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(method)
    def single(self: Any, value: Any, /) -> Any:
        return _only(method.__name__, method(self, [value]))

    return single


def _awaiting_single(method: Callable[[Any, list[Any]], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(method)
    async def single(self: Any, value: Any, /) -> Any:
        return _only(method.__name__, await method(self, [value]))

    return single


def _only(method: str, returned: Any) -> Any:
    (reply,) = replies_of(method, returned, 1)
    if isinstance(reply, BaseException):
        raise reply
    return reply
