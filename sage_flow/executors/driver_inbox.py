"""What has reached the driver of a job: messages for its activation, and the answers to inspections of the job."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from sage_flow.executors.shell import Shell
from sage_flow.runtime.messages import DRIVER, Inspect, Inspected
from sage_flow.runtime.report import PortReport

__all__ = ["DriverInbox"]

T = TypeVar("T")


class DriverInbox(Generic[T]):
    """Messages (of type `T`) wait for `take`. Its methods may be called from any thread; one condition guards all."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._condition = shell.condition()
        self._lock = self._condition.lock
        self._messages: deque[T] = deque()
        self._inspections = 0
        self._inspected: dict[int, Inspected] = {}  # the latest answer of each subtask

    def put(self, message: T | Inspected) -> None:
        """Take a message. Answers to `inspect` do not wait for the driver's activation, which may be busy."""
        with self._lock:
            if isinstance(message, Inspected):
                self._inspected[message.subtask] = message
            else:
                self._messages.append(message)
            self._condition.notify_all()

    def take(self, until: float) -> list[T]:
        """Return the messages that wait; wait for the first one until `until` at most, which may be infinite."""
        with self._lock:
            while not self._messages:
                left_s = until - self._shell.now()
                if left_s <= 0:
                    return []
                self._condition.wait(None if math.isinf(left_s) else left_s)
            taken = list(self._messages)
            self._messages.clear()
            return taken

    def inspect(
        self, subtasks: Iterable[int], timeout_s: float, is_over: Callable[[], bool], *, stacks: bool = False
    ) -> dict[int, PortReport | None]:
        """Ask these subtasks what their ports see; None: no answer came in time, or before the job was over.

        `stacks`: see `Inspect`.
        """
        found: dict[int, PortReport | None] = dict.fromkeys(subtasks)
        with self._lock:
            self._inspections += 1
            number = self._inspections
        for address in found:
            self._shell.send(DRIVER, address, Inspect(number, stacks))
        until = self._shell.now() + timeout_s
        with self._lock:
            while True:
                for address in found:
                    told = self._inspected.get(address)
                    if told is not None and told.number >= number:
                        found[address] = told.report
                left_s = until - self._shell.now()
                if None not in found.values() or left_s <= 0 or is_over():
                    return found
                self._condition.wait(left_s)
