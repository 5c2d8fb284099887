"""Calls of services, as one subtask makes them: names, deadlines, and the shape of what comes back."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from sage_flow.errors import (
    InternalError,
    OutsideActivation,
    PipelineError,
    ServiceError,
    ServiceOverloaded,
    ServiceTimeout,
    UnknownService,
)
from sage_flow.keys import key_group
from sage_flow.plan.physical import MAX_PARALLELISM, ServicePlan
from sage_flow.plan.service_methods import type_key
from sage_flow.runtime.port import CallPort
from sage_flow.service import Call, ServiceFuture, ServiceHandle

__all__ = ["Caller", "activation_deadline", "check_request", "find_service"]

activation_deadline: ContextVar[float | None] = ContextVar("deadline of the call being answered", default=None)
"""Calls made while it is set wait no longer than the call that they help to answer."""


class Caller:
    """The `ServiceCaller` of one subtask, and of those outside the job."""

    def __init__(self, services: Mapping[str, ServicePlan], port: CallPort) -> None:
        self._services = services
        self._port = port
        self._found: dict[tuple[str, str], ServicePlan] = {}  # by service and method, which were found to be right
        self._closing = False

    def begin_close(self) -> None:
        """From now on only the subtask's own activation may call: a pool of the user's would call into nowhere."""
        self._closing = True

    def handle(self, service: str | type) -> ServiceHandle:
        return ServiceHandle(self, find_service(self._services, service).name)

    def call(self, call: Call) -> Any:
        return self._get(call, *self._checked(call))

    def _get(self, call: Call, plan: ServicePlan, timeout_s: float, group: int | None) -> Any:
        made = self._port.call(plan, call, timeout_s, group)
        outcome = self._port.await_call(made)
        if outcome is None:
            raise InternalError(f"a call of {made.label} came back without an outcome")
        return outcome.get()

    def start(self, call: Call) -> ServiceFuture:
        plan, timeout_s, group = self._checked(call)
        return ServiceFuture(self._port, self._port.call(plan, call, timeout_s, group))

    def start_if_free(self, call: Call, pool: str) -> ServiceFuture:
        """Like `start`, but never wait for a place: the calls of `pool` have `max_pending` of their own.

        Raises ServiceOverloaded if all of them are taken.
        """
        plan, timeout_s, group = self._checked(call)
        if not self._port.has_place(plan, pool):
            raise ServiceOverloaded(
                f"{call.service}.{call.method} was not called: {plan.max_pending} calls (max_pending) are open"
            )
        return ServiceFuture(self._port, self._port.call(plan, call, timeout_s, group, pool))

    def is_open(self, service: str) -> bool:
        """Whether a service has opened, as far as the caller knows."""
        return service in self._port.openings

    def _checked(self, call: Call) -> tuple[ServicePlan, float, int | None]:
        """Return whom to call, seconds to wait, and the key group, None if any replica may answer."""
        if self._closing and not self._port.in_activation():
            raise OutsideActivation(
                f"{call.service}.{call.method} was called by a thread of its own after close() of the operator had"
                " begun: let such threads end in close()"
            )
        plan = self._found.get((call.service, call.method)) or self._find(call.service, call.method)
        timeout = plan.timeout_s if call.timeout is None else _checked_timeout(call.timeout)
        if (deadline := activation_deadline.get()) is not None:
            timeout = min(timeout, self._left(deadline, call))
        return plan, timeout, _key_group(plan, call.key)

    def _find(self, service: str, method: str) -> ServicePlan:
        plan = find_service(self._services, service)
        _check_method(plan, method)
        self._found[service, method] = plan
        return plan

    def _left(self, deadline: float, call: Call) -> float:
        left = deadline - self._port.now()
        if left <= 0:
            raise ServiceTimeout(
                f"no time is left for calling {call.service}.{call.method}: the call being answered has timed out"
            )
        return left


def find_service(services: Mapping[str, ServicePlan], service: str | type) -> ServicePlan:
    """The service of this name, or of this class if there is exactly one. Raises UnknownService."""
    if isinstance(service, str):
        plan = services.get(service)
        if plan is None:
            raise UnknownService(f"no service {service!r}; {_suggest(service, services, 'registered')}")
        return plan
    if not isinstance(service, type):
        raise UnknownService(f"a service is called by its name or its class, not by {service!r}")
    wanted = type_key(service)
    found = [plan for plan in services.values() if plan.type_key == wanted]
    if len(found) != 1:
        names = ", ".join(repr(plan.name) for plan in found) or "none"
        raise UnknownService(
            f"ctx.service({service.__name__}) needs exactly one registration of that class, not {len(found)}"
            f" ({names}): use the name"
        )
    return found[0]


def check_request(plan: ServicePlan, method: str, group: int | None) -> None:
    """A call whose caller did not know the service can be made. Raises UnknownService, ServiceError."""
    _check_method(plan, method)
    if group is None and plan.needs_key:
        _key_group(plan, None)


def _checked_timeout(timeout: Any) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise PipelineError(f"timeout of a call must be a number of seconds above 0, not {timeout!r}")
    return timeout


def _key_group(plan: ServicePlan, key: Any) -> int | None:
    """The key group of a call, None if any replica may answer it. Raises ServiceError, InvalidKeyError."""
    if key is not None:
        return key_group(key, MAX_PARALLELISM)
    if plan.needs_key:
        raise ServiceError(
            f"service {plan.name!r} has {plan.parallelism} replicas with a state of their own each: say whose by"
            f" ctx.service({plan.name!r}).options(key=...), or register it with stateless=True if it keeps none"
        )
    return None


def _check_method(plan: ServicePlan, method: str) -> None:
    if not isinstance(method, str):
        raise UnknownService(f"a method of service {plan.name!r} is called by its name, not by {method!r}")
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
