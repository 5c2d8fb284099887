"""A condition for the hot paths of the shells."""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["BareCondition"]


class BareCondition:
    """The part of `threading.Condition` that ports need, at half the cost: locking and unlocking runs no Python code.

    A thread that calls `wait` or `notify_all` holds `lock`.
    """

    __slots__ = ("_turns", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._turns: deque[threading.Lock] = deque()  # one for each waiting thread, locked until that is notified

    def wait(self, timeout: float | None = None) -> bool:
        """Unlock, wait for `notify_all` at most `timeout` seconds, lock again; return whether it was called."""
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
        """Wake all waiting threads; they go on once the lock is free."""
        turns = self._turns
        while turns:
            turns.popleft().release()
