"""The clock, conditions and sending of a `CallingPort` that belongs to no job."""

from __future__ import annotations

import time
from collections.abc import Callable

from sage_flow.executors.condition import BareCondition
from sage_flow.executors.shell import Condition
from sage_flow.runtime.messages import Message

__all__ = ["LinkTransport"]


class LinkTransport:
    """What a CallingPort needs: a clock, conditions, and a function that sends."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send

    def condition(self, address: int | None = None) -> Condition:
        return BareCondition()

    now = staticmethod(time.monotonic)

    def send(self, sender: int, target: int, message: Message, on_hold: bool = False) -> int:
        self._send(message)
        return 0

    def flush(self) -> None:
        """Nothing to do: the thread that waits for a call flushes the link."""

    def medium(self, producer: int, consumer: int) -> str:
        return "tcp"
