"""A condition for the hot paths of the shells."""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["BareCondition"]


class BareCondition:
    """What ports need of `threading.Condition`, at half the price: to lock and unlock runs no Python.

    `wait` and `notify_all` are for whoever holds `lock`.
    """

    __slots__ = ("_turns", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._turns: deque[threading.Lock] = deque()  # of those who wait; each is locked until it is notified

    def wait(self, timeout: float | None = None) -> bool:
        """Unlock, wait for `notify_all` at most `timeout` seconds, and lock again; whether it came."""
        turn = threading.Lock()
        turn.acquire()
        self._turns.append(turn)
        self.lock.release()
        has_come = False
        try:
            has_come = turn.acquire(timeout=-1 if timeout is None else max(timeout, 0.0))
        finally:
            self.lock.acquire()
            if not has_come and turn in self._turns:
                self._turns.remove(turn)
        return has_come

    def notify_all(self) -> None:
        """Wake who waits, once the lock is free."""
        turns = self._turns
        while turns:
            turns.popleft().release()
