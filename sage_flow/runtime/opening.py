"""Which services are open, as one caller knows: the time of a call does not begin before.

Making and opening a service's object may take long, a model's import above all; that has a limit of its own,
`open_timeout`. The driver tells every subtask once when all subtasks of a service are open, so a call costs nothing
more afterwards. Until then a call whose time is over waits on. Times are seconds of the caller's clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from sage_flow.plan.physical import Plan, ServicePlan

if TYPE_CHECKING:
    from sage_flow.runtime.calls import OpenCall

__all__ = ["OpeningServices", "Openings"]

_SHORTEST_S: Final = 0.05
"""Between two looks at a call that waits for its service to open."""


class Openings:
    """The services that a caller may call; `began`: when it, and with it mostly the job, began."""

    def __init__(self, services: Mapping[str, ServicePlan], began: float) -> None:
        self._services = services
        self._began = began
        self._opened: dict[str, float] = {}  # when

    def __contains__(self, service: str) -> bool:
        return service in self._opened

    def note(self, service: str, when: float) -> None:
        """All of it is open."""
        self._opened[service] = when

    def forget(self, service: str, now: float) -> None:
        """It has moved, and may be opening again."""
        self._opened.pop(service, None)
        self._began = now

    def waits_until(self, call: OpenCall) -> float:
        """Until when a call may wait for its service to open; infinitely long ago if it is open."""
        if call.service in self._opened or call.service not in self._services:
            return -math.inf
        return min(self.limit(call.service), call.limit)

    def limit(self, service: str) -> float:
        """When the service must be open."""
        return self._began + self._services[service].open_timeout_s

    def next_look(self, call: OpenCall, now: float) -> float:
        """The new deadline of a call that waits on: no later than its time is over if its service opens now."""
        return min(self.waits_until(call), now + max(call.timeout_s, _SHORTEST_S))

    def deadline(self, call: OpenCall) -> float:
        """The deadline of a call of a service that is open."""
        return min(max(call.began, self._opened[call.service]) + call.timeout_s, call.limit)

    def why_late(self, call: OpenCall, now: float) -> str | None:
        """What a call is told whose service has not opened in time; None if that is not the reason."""
        if call.service in self._opened or call.service not in self._services:
            return None
        open_timeout_s = self._services[call.service].open_timeout_s
        limit = f"open_timeout is {open_timeout_s:g} s"
        if now < self.limit(call.service):
            limit = "the call that is being answered has no more time"
        waited_s = now - self._began
        return (
            f"{call.label} was not answered: service {call.service!r} is still opening, since"
            f" {waited_s:{'.0f' if waited_s >= 10 else '.2g'}} s ({limit})"
        )


class OpeningServices:
    """Which services are open, as the driver knows from their subtasks."""

    def __init__(self, plan: Plan) -> None:
        self._service_of = {s.address: s.chain.service for s in plan.subtasks if s.chain.service is not None}
        self._opening: dict[str, set[int]] = {name: set() for name in plan.services}
        for address, name in self._service_of.items():
            self._opening[name].add(address)

    def service(self, address: int) -> str:
        """Return the service that a subtask is part of."""
        return self._service_of[address]

    def replicas(self, address: int) -> list[int]:
        """Return all subtasks of the service that a subtask is part of."""
        return [a for a, service in self._service_of.items() if service == self._service_of[address]]

    def on_opened(self, address: int) -> str | None:
        """A subtask is open; return its service if that is open now."""
        name = self._service_of[address]
        self._opening[name].discard(address)
        return None if self._opening[name] else name
