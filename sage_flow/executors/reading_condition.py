"""A condition whose waiter reads the sockets of an event loop meanwhile."""

# Theory of operation
#
# `lock` guards `_reader` and `_is_notified`, like all state of the port that the condition belongs to. At most one
# waiter reads (`_reader`), because the loop lets one thread read; the others wait as in any condition. The lock is
# released while reading: what is read is delivered in this very thread, and takes the lock.
#
# A notification reaches the reader in one of two ways. If its own thread delivered the message, `_is_notified` ends
# `read_while` when the callback returns. If another thread did, `interrupt` wakes the reader out of the selector as
# well. A waiter that found the loop read by another port's thread waits for a turn as the others do, unless it was
# notified while it had no lock: then the turn would come too late.

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sage_flow.executors.condition import BareCondition

if TYPE_CHECKING:
    from sage_flow.links.loop import EventLoop

__all__ = ["ReadingCondition"]


class ReadingCondition(BareCondition):
    """What an activation waits for mostly comes by a socket. Who waits reads it himself, if nobody else does.

    So a message does not wake the loop's thread, which wakes the activation: it saves a call between processes two
    changes of thread on each side. If another thread of the process has something for the waiter, `notify_all` gets
    him out of the read. Before anybody waits, what is on hold is written: it may be what he waits for the answer to.
    `loop` is asked before every wait; None: there is nothing to read.
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
        """Nothing is written while a condition is held; and so who waits has to ask once more."""
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
