"""One request to the host of a queue, and how hard to try to get it there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sage_flow.queues.opcodes import Opcode

__all__ = ["WAITING", "PendingRequest", "ReachPolicy"]

WAITING: Final = (Opcode.PUT, Opcode.RESERVE_ROOM, Opcode.GET)
"""Requests that may have to wait until they can be done."""


@dataclass(frozen=True)
class ReachPolicy:
    """How hard to try to get a connection: seconds per try, and how many more tries after the first.

    `served`: somebody has listened there. If nobody does, the host is gone; else it may not have come yet.
    """

    timeout_s: float = 30.0
    retries: int = 3
    served: bool = False


@dataclass(eq=False)
class PendingRequest:
    """One request, from its first opcode to its answer; `then` is called with that, if no thread waits for it."""

    number: int
    message: tuple[Any, ...]  # the first is what is asked; `done` is put in when it is sent
    answer: tuple[Any, ...] | None = None
    sent: bool = False
    waits: bool = False  # until it can be done; else it is answered at once
    abandoned: bool = False  # nobody waits any more, but it may still be answered
    then: Callable[[tuple[Any, ...]], object] | None = None
    began: float = field(default_factory=time.monotonic)
    changed: threading.Event = field(default_factory=threading.Event)  # answered, or the link broke

    def __post_init__(self) -> None:
        self.waits = self.message[0] in WAITING and bool(self.message[1])

    def settle(self, *answer: Any) -> None:
        self.answer = answer
        self.changed.set()
