"""Which methods of a service can be called, and which names callers need for themselves."""

from __future__ import annotations

import contextlib
import inspect
from functools import cached_property

from sage_flow.errors import PipelineError

__all__ = ["check_methods", "public_methods", "type_key"]

_LIFE_CYCLE = frozenset({"open", "close", "snapshot", "restore", "warm_up", "check_health"})
_RESERVED_METHODS = frozenset({"options"})
_RESERVED_PARAMETERS = frozenset({"method", "timeout"})


def public_methods(service_class: object) -> frozenset[str]:
    """The names a caller may use, of a class or of what was made. No property is one, and none is read."""
    kind = service_class if isinstance(service_class, type) else type(service_class)
    names = (name for name in dir(service_class) if not name.startswith("_") and name not in _LIFE_CYCLE)
    return frozenset(
        name
        for name in names
        if not isinstance(getattr(kind, name, None), (property, cached_property))
        and callable(getattr(service_class, name))
    )


def check_methods(service: str, service_class: object) -> None:
    """Of a class, or of what a function made. Raises PipelineError for a name that whoever calls could not say,
    and for an `open` or `close` that nobody would wait for."""
    for name in sorted(_LIFE_CYCLE):
        if inspect.iscoroutinefunction(getattr(service_class, name, None)):
            raise PipelineError(
                f"service {service!r} would not wait for its {name}(), which is `async def`: make it a plain method;"
                " asyncio.run(...) in it waits for coroutines"
            )
    for name in sorted(public_methods(service_class)):
        if name in _RESERVED_METHODS:
            raise PipelineError(
                f"service {service!r} has a method named {name!r}, which handles use themselves: rename it"
            )
        with contextlib.suppress(ValueError, TypeError):  # some builtin methods have no signature
            clash = _RESERVED_PARAMETERS.intersection(inspect.signature(getattr(service_class, name)).parameters)
            if clash:
                raise PipelineError(
                    f"method {name!r} of service {service!r} has a parameter {min(clash)!r}, which call_service uses"
                    " itself: rename it"
                )


def type_key(service_class: object) -> str:
    """Names a class alike in every process."""
    return f"{service_class.__module__}.{service_class.__qualname__}"  # type: ignore[attr-defined]
