"""A condition whose waiter reads the sockets of the exchange meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sage_flow.channels.exchange import Exchange

__all__ = ["ReadingCondition"]


class ReadingCondition(threading.Condition):
    """What an activation waits for mostly comes by a socket. Who waits reads it himself, if nobody else does.

    So a message does not wake the exchange's thread, which wakes the activation: it saves a call between processes two
    changes of thread on each side. If another thread of the process has something for the waiter, `notify_all` gets
    him out of the read. Before anybody waits, what is on hold is written: it may be what he waits for the answer to.
    """

    def __init__(self, exchange: Callable[[], Exchange | None]) -> None:
        super().__init__(threading.Lock())
        self._exchange = exchange
        self._sleepers = 0  # threads that wait while another one reads
        self._reader: int | None = None  # the thread that reads
        self._is_notified = False

    def wait(self, timeout: float | None = None) -> bool:
        exchange = self._exchange()
        if exchange is None or (self._reader is not None and not exchange.holds):
            return self._sleep(timeout)
        if self._reader is not None:
            return self._flush(exchange)
        self._reader, self._is_notified = threading.get_ident(), False
        self.release()
        try:
            has_read = exchange.read_while(self._waits, timeout)
        finally:
            self.acquire()
            self._reader = None
        if not has_read and not self._is_notified:
            return self._sleep(timeout)
        return self._is_notified

    def _flush(self, exchange: Exchange) -> bool:
        """Nothing is written while a condition is held; and so who waits has to ask once more."""
        self.release()
        try:
            exchange.flush()
        finally:
            self.acquire()
        return True

    def _sleep(self, timeout: float | None) -> bool:
        self._sleepers += 1
        try:
            return super().wait(timeout)
        finally:
            self._sleepers -= 1

    def notify_all(self) -> None:
        if self._sleepers:
            super().notify_all()
        if self._reader is not None and not self._is_notified:
            self._is_notified = True
            if self._reader != threading.get_ident() and (exchange := self._exchange()) is not None:
                exchange.interrupt()

    def _waits(self) -> bool:
        return not self._is_notified
