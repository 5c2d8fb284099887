"""The shell of a process that runs a part of an attempt: threads, and an exchange with the other processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sage_flow.executors.exchange import Exchange
from sage_flow.executors.reading_condition import ReadingCondition
from sage_flow.executors.resources import Resources
from sage_flow.executors.shell import Condition, records_in_memory
from sage_flow.executors.threads import LocalTransport, ThreadShell
from sage_flow.runtime.messages import Message

__all__ = ["MOST_BYTES", "ProcessShell"]

MOST_BYTES: Final = 8 * 1024 * 1024
"""The most encoded bytes that may be under way on a channel between two processes."""


class ProcessShell(ThreadShell):
    """Subtasks are threads of this process; messages for other processes go over the exchange."""

    def __init__(
        self,
        process: int,
        process_of: Mapping[int, int],
        transport: LocalTransport,
        resources: Resources | None = None,
    ) -> None:
        super().__init__(transport, resources)
        self._process = process
        self._process_of = process_of
        self.exchange: Exchange | None = None

    def condition(self, address: int | None = None) -> Condition:
        return ReadingCondition(lambda: None if self.exchange is None else self.exchange.loop)

    def send(self, sender: int, target: int, message: Message, on_hold: bool = False) -> int:
        process = self._process_of[target]
        if process == self._process or self.exchange is None:
            return super().send(sender, target, message)
        return self.exchange.send(process, target, message, on_hold)

    def flush(self) -> None:
        if self.exchange is not None:
            self.exchange.loop.run_deferred()

    def medium(self, producer: int, consumer: int) -> str:
        return "memory" if self._process_of[producer] == self._process_of[consumer] else "unix socket"

    def shares_objects(self, producer: int, consumer: int) -> bool:
        return self._process_of[producer] == self._process_of[consumer] and super().shares_objects(producer, consumer)

    def most_cost(self, producer: int, consumer: int) -> int:
        return records_in_memory(consumer) if self.medium(producer, consumer) == "memory" else MOST_BYTES
