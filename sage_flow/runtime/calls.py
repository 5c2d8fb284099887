"""The open calls of one subtask, and how shares become a reply.

A call of a pipeline has weight 1. Its record's k outputs carry 1/k each, and so on down the pipeline;
a filtered record returns its share with no output. When the shares that came back sum to 1 nothing of
the call is left in the pipeline, and the outputs that came are the reply. (Weight-throwing termination
detection: Huang 1989, Mattern 1989.) A class service replies once, with share 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sage_flow.channels.frame import Reply
from sage_flow.errors import NoReply, ProtocolError, ServiceError

if TYPE_CHECKING:
    from fractions import Fraction

__all__ = ["CallTable", "OpenCall", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: a value, an error made here, or an error packed by the responder."""

    value: Any = None
    error: BaseException | None = None
    remote_error: Any = None


@dataclass(slots=True)
class OpenCall:
    """One call that waits for shares. `label` is what messages call it, e.g. "memory.retrieve"."""

    service: str
    label: str
    deadline: float
    received: Fraction | int = 0
    outputs: list[Any] = field(default_factory=list)
    outcome: Outcome | None = None


class CallTable:
    """Numbers calls, counts those open per service, and completes them."""

    def __init__(self) -> None:
        self._calls: dict[int, OpenCall] = {}
        self._in_flight: dict[str, int] = {}
        self._next_id = 0

    def in_flight(self, service: str) -> int:
        """How many calls of this service are open."""
        return self._in_flight.get(service, 0)

    def open(self, service: str, label: str, deadline: float) -> int:
        """Register a call and return its id."""
        call_id = self._next_id
        self._next_id += 1
        self._calls[call_id] = OpenCall(service, label, deadline)
        self._in_flight[service] = self.in_flight(service) + 1
        return call_id

    def outcome(self, call_id: int) -> Outcome | None:
        """Return how the call ended, None while it is open."""
        return self._calls[call_id].outcome

    def close(self, call_id: int) -> OpenCall:
        """Forget the call: its outcome was taken, or nobody waits for it any more."""
        call = self._calls.pop(call_id)
        if call.outcome is None:
            self._in_flight[call.service] -= 1
        return call

    def on_reply(self, reply: Reply) -> bool:
        """Add one share; return whether the call has its outcome now. A late reply finds no call: False."""
        call = self._calls.get(reply.call_id)
        if call is None or call.outcome is not None:
            return False
        call.received += reply.share
        call.outputs.extend(reply.outputs)
        if reply.error is not None:
            self._complete(call, Outcome(remote_error=reply.error))
        elif call.received > 1:
            raise ProtocolError(f"the shares of a call of {call.label} sum to {call.received}")
        elif call.received == 1:
            self._complete(call, _outcome(call))
        return call.outcome is not None

    def fail_all(self, service: str, error: BaseException) -> bool:
        """End every open call of a service that is gone; return whether there was one."""
        waiting = [call for call in self._calls.values() if call.service == service and call.outcome is None]
        for call in waiting:
            self._complete(call, Outcome(error=error))
        return bool(waiting)

    def _complete(self, call: OpenCall, outcome: Outcome) -> None:
        call.outcome = outcome
        self._in_flight[call.service] -= 1


def _outcome(call: OpenCall) -> Outcome:
    if len(call.outputs) == 1:
        return Outcome(value=call.outputs[0])
    if not call.outputs:
        return Outcome(error=NoReply(f"{call.label} gave no output for this request: it was filtered or skipped"))
    return Outcome(
        error=ServiceError(
            f"{call.label} gave {len(call.outputs)} outputs for one request, where one is the reply;"
            " reduce them to one inside the service"
        )
    )
