"""The calls of batched methods that wait in one replica until they are a batch; pure.

A batch is whole when it has as many calls as its method takes, and due when its first call has waited for as long as it
may. Time counts from the arrival of the call, so calls that came while another batch ran wait no longer for others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from sage_flow.batching import BatchLimits
from sage_flow.runtime.messages import Request

__all__ = ["CallBatch", "CallBatches"]


class CallBatch(NamedTuple):
    """Calls of one method that are answered together, in the order of their arrival."""

    method: str
    requests: list[Request]


class CallBatches:
    """Gathers calls by their method."""

    def __init__(self, limits: Mapping[str, BatchLimits]) -> None:
        self._limits = dict(limits)
        self._waiting: dict[str, list[Request]] = {}
        self._due: dict[str, float] = {}  # by method: when its first call has waited long enough
        self.due_at = math.inf
        """When the first batch is due; infinite while none waits."""
        self.is_closing = False
        """No call will come any more, so that whatever waits is due."""

    @property
    def methods(self) -> frozenset[str]:
        """The methods that are batched."""
        return frozenset(self._limits)

    def __contains__(self, method: object) -> bool:
        """Whether the method is batched."""
        return method in self._limits

    def __len__(self) -> int:
        """How many calls wait."""
        return sum(map(len, self._waiting.values()))

    def add(self, request: Request, arrived: float) -> bool:
        """Add a call that came at `arrived`; return whether its batch is whole."""
        method = request.method
        limits = self._limits[method]
        waiting = self._waiting.setdefault(method, [])
        waiting.append(request)
        if len(waiting) == 1:
            self._due[method] = arrived + limits.max_wait_s
            self.due_at = min(self._due.values())
        return len(waiting) >= limits.max_size

    def drop(self, reply_to: int, call_id: int) -> None:
        """A call is taken back by its caller; it may be none of these."""
        for method, waiting in self._waiting.items():
            for request in waiting:
                if (request.reply_to, request.call_id) == (reply_to, call_id):
                    waiting.remove(request)
                    if not waiting:
                        self.take(method)
                    return

    def take(self, method: str) -> CallBatch:
        """Take out what waits for a method."""
        del self._due[method]
        self.due_at = min(self._due.values(), default=math.inf)
        return CallBatch(method, self._waiting.pop(method))

    def take_due(self, now: float) -> CallBatch | None:
        """Take out the batch that has been due for longest; None: none is due."""
        if not self._due or (now < self.due_at and not self.is_closing):
            return None
        return self.take(min(self._due, key=self._due.__getitem__))
