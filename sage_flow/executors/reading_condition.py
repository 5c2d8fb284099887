"""A condition whose waiter reads the sockets of the exchange meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sage_flow.channels.exchange import Exchange
from sage_flow.executors.condition import BareCondition

__all__ = ["ReadingCondition"]


class ReadingCondition(BareCondition):
    """What an activation waits for mostly comes by a socket. Who waits reads it himself, if nobody else does.

    So a message does not wake the exchange's thread, which wakes the activation: it saves a call between processes two
    changes of thread on each side. If another thread of the process has something for the waiter, `notify_all` gets
    him out of the read. Before anybody waits, what is on hold is written: it may be what he waits for the answer to.
    """

    __slots__ = ("_exchange", "_is_notified", "_reader")

    def __init__(self, exchange: Callable[[], Exchange | None]) -> None:
        super().__init__()
        self._exchange = exchange
        self._reader: int | None = None  # the thread that reads
        self._is_notified = False

    def wait(self, timeout: float | None = None) -> bool:
        exchange = self._exchange()
        if exchange is None or (self._reader is not None and not exchange.holds):
            return super().wait(timeout)
        if self._reader is not None:
            return self._flush(exchange)
        self._reader, self._is_notified = threading.get_ident(), False
        self.lock.release()
        try:
            has_read = exchange.read_while(self._waits, timeout)
        finally:
            self.lock.acquire()
            self._reader = None
        if not has_read and not self._is_notified:
            return super().wait(timeout)
        return self._is_notified

    def _flush(self, exchange: Exchange) -> bool:
        """Nothing is written while a condition is held; and so who waits has to ask once more."""
        self.lock.release()
        try:
            exchange.flush()
        finally:
            self.lock.acquire()
        return True

    def notify_all(self) -> None:
        super().notify_all()
        if self._reader is not None and not self._is_notified:
            self._is_notified = True
            if self._reader != threading.get_ident() and (exchange := self._exchange()) is not None:
                exchange.interrupt()

    def _waits(self) -> bool:
        return not self._is_notified
