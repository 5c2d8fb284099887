"""A condition whose waiter reads the sockets of an event loop meanwhile."""

# Theory of operation
#
# `lock` guards `_reader` and `_is_notified`, like all state of the port that the condition belongs to. At most one
# waiting thread reads (`_reader`), because the loop lets one thread read; the others wait as in any condition. The lock
# is released while reading, because messages are delivered in the reading thread, and `deliver` takes the lock.
#
# A notification reaches the reader in one of two ways. If its own thread delivered the message, `_is_notified` ends
# `read_while` when the callback returns. If another thread did, `interrupt` wakes the reader out of the selector as
# well. A thread that finds the loop being read by another port's thread waits like the others, unless it was notified
# while it had released the lock: then it must not wait, because that notification will not come again.

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sage_flow.executors.condition import BareCondition

if TYPE_CHECKING:
    from sage_flow.links.loop import EventLoop

__all__ = ["ReadingCondition"]


class ReadingCondition(BareCondition):
    """An activation mostly waits for a message from a socket. The waiting thread reads it, if no other thread does.

    So a message does not wake the loop's thread, which then wakes the activation: a call between processes takes two
    changes of thread less on each side. If another thread of the process has something for the waiting thread,
    `notify_all` ends its read. Before a thread waits it writes what is on hold, because it may wait for the answer to
    that. `loop` is called before every wait; None: there is nothing to read.
    """

    __slots__ = ("_is_notified", "_loop", "_reader")

    def __init__(self, loop: Callable[[], EventLoop | None]) -> None:
        super().__init__()
        self._loop = loop
        self._reader: int | None = None  # the thread that reads
        self._is_notified = False

    def wait(self, timeout: float | None = None) -> bool:
        loop = self._loop()
        if loop is None or (self._reader is not None and not loop.has_deferred):
            return super().wait(timeout)
        if self._reader is not None:
            return self._flush(loop)
        self._reader, self._is_notified = threading.get_ident(), False
        self.lock.release()
        try:
            has_read = loop.read_while(self._waits, timeout)
        finally:
            self.lock.acquire()
            self._reader = None
        if not has_read and not self._is_notified:
            return super().wait(timeout)
        return self._is_notified

    def _flush(self, loop: EventLoop) -> bool:
        """Write what is on hold, without the lock; so the waiting thread has to look again."""
        self.lock.release()
        try:
            loop.run_deferred()
        finally:
            self.lock.acquire()
        return True

    def notify_all(self) -> None:
        super().notify_all()
        if self._reader is not None and not self._is_notified:
            self._is_notified = True
            if self._reader != threading.get_ident() and (loop := self._loop()) is not None:
                loop.interrupt()

    def _waits(self) -> bool:
        return not self._is_notified
