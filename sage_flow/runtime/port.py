"""The port: the only door of the runtime to the world. Shells implement it; tests fake it."""

from __future__ import annotations

from typing import Any, Protocol

from sage_flow.channels.frame import ControlElement, Reply, Ticket
from sage_flow.runtime.calls import Outcome

__all__ = ["Crashed", "Port"]


class Crashed(BaseException):
    """Ends an activation as kill -9 would: nothing is closed and nobody is told."""


class Port(Protocol):
    """What a shell gives a subtask. Methods that may suspend the activation say so; no other does.

    A suspended activation whose job is cancelled is unwound with `JobCancelled`.
    """

    def emit(self, channel: int, records: list[Any], tickets: list[Ticket] | None = None) -> None:
        """Send records, in order. Suspends until the channel's credit has let them all start."""

    def queue(self, channel: int, records: list[Any], tickets: list[Ticket] | None = None) -> None:
        """Like `emit`, but never suspends: what has no credit goes out while the activation waits elsewhere."""

    def emit_element(self, channel: int, element: ControlElement) -> None:
        """Send one control element behind the records sent before. Suspends like `emit`."""

    def consumed(self, channel: int, cost: int) -> None:
        """A frame of this cost was processed: its producer may send as much again."""

    def reply(self, caller: int, reply: Reply) -> None:
        """Send a share of a call's outcome to the subtask that made the call."""

    def call(
        self, service: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float
    ) -> Outcome:
        """Call a service. Suspends for a place among `max_pending`, then for the reply.

        What was emitted before is queued first and goes out while the call waits, as credit comes.
        """

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
