"""Calls of services, as one subtask makes them: names, deadlines, and the shape of what comes back."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from sage_flow.errors import PipelineError, ServiceTimeout, UnknownService
from sage_flow.plan.physical import ServicePlan
from sage_flow.plan.planner import type_key
from sage_flow.runtime.calls import Outcome
from sage_flow.runtime.failure import rebuild_error
from sage_flow.runtime.port import Port
from sage_flow.service import ServiceHandle

__all__ = ["ActivationDeadline", "Caller"]

_deadline: ContextVar[float | None] = ContextVar("deadline of the call that is being answered", default=None)


_activation: ContextVar[Caller | None] = ContextVar("the subtask that runs in this thread", default=None)


class ActivationDeadline:
    """Calls made inside the `with` block wait no longer than the call that they help to answer."""

    __slots__ = ("_deadline", "_token")

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._token = _deadline.set(self._deadline)

    def __exit__(self, *_: object) -> None:
        _deadline.reset(self._token)


class Caller:
    """The `ServiceCaller` of one subtask."""

    def __init__(self, services: Mapping[str, ServicePlan], port: Port, before_call: Callable[[], None]) -> None:
        self._services = services
        self._port = port
        self._before_call = before_call

    def enter_activation(self) -> None:
        """The calling thread is the subtask's own: its calls are preceded by `before_call`."""
        _activation.set(self)

    def handle(self, service: str | type) -> ServiceHandle:
        return ServiceHandle(self, self._find(service).name)

    def call(
        self, service: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> Any:
        plan = self._find(service)
        _check_method(plan, method)
        timeout_s = self._timeout(plan, method, timeout)
        if _activation.get() is self:
            self._before_call()
        return _value(self._port.call(service, method, args, kwargs, timeout_s))

    def _find(self, service: str | type) -> ServicePlan:
        if isinstance(service, str):
            plan = self._services.get(service)
            if plan is None:
                raise UnknownService(f"no service {service!r}; {_suggest(service, self._services, 'registered')}")
            return plan
        wanted = type_key(service)
        found = [plan for plan in self._services.values() if plan.type_key == wanted]
        if len(found) != 1:
            names = ", ".join(repr(plan.name) for plan in found) or "none"
            raise UnknownService(
                f"ctx.service({service.__name__}) needs exactly one registration of that class, not {len(found)}"
                f" ({names}): use the name"
            )
        return found[0]

    def _timeout(self, plan: ServicePlan, method: str, timeout: float | None) -> float:
        if timeout is None:
            timeout = plan.timeout_s
        elif isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise PipelineError(f"timeout of a call must be a number of seconds above 0, not {timeout!r}")
        deadline = _deadline.get()
        if deadline is None:
            return timeout
        left = deadline - self._port.now()
        if left <= 0:
            raise ServiceTimeout(
                f"no time is left for calling {plan.name}.{method}: the call being answered has timed out"
            )
        return min(timeout, left)


def _value(outcome: Outcome) -> Any:
    if outcome.remote_error is not None:
        raise rebuild_error(outcome.remote_error)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _check_method(plan: ServicePlan, method: str) -> None:
    if method.startswith("_"):
        raise UnknownService(f"{method!r} of service {plan.name!r} is private")
    if plan.methods is not None and method not in plan.methods:
        raise UnknownService(
            f"service {plan.name!r} has no method {method!r}; {_suggest(method, plan.methods, 'it has')}"
        )


def _suggest(name: str, known: Iterable[str], verb: str) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    listed = ", ".join(map(repr, names)) or "none"
    return f"did you mean {close[0]!r}? ({verb}: {listed})" if close else f"{verb}: {listed}"
