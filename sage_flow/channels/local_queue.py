"""A queue inside one process: the items themselves, handed from thread to thread."""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from sage_flow.channels.queue_methods import LiveQueue, check_count, check_most, waiting_time
from sage_flow.channels.queue_record import QueueRecord
from sage_flow.errors import QueueClosed

_log = logging.getLogger("sage_flow.channels")


class Turn(Protocol):
    """What a thread in a line waits for."""

    def wait(self, seconds: float | None) -> None:
        """Return when it has come, or in `seconds`."""

    def come(self) -> None:
        """It has; called while the queue's lock is held."""


class _LockTurn:
    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, seconds: float | None) -> None:
        self._lock.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))

    def come(self) -> None:
        self._lock.release()


class _Ways(threading.local):
    """How this thread waits."""

    make_turn: Callable[[], Turn] = _LockTurn


_ways = _Ways()


def wait_by(make_turn: Callable[[], Turn]) -> None:
    """This thread waits in another way at all queues: the simulation's, where time is not the clock's."""
    _ways.make_turn = make_turn


class _Waiter:
    """A thread in a line. `settled` once somebody has served it, which is done while the queue's lock is held."""

    __slots__ = ("items", "most", "settled", "turn")

    def __init__(self, items: list[Any], most: int) -> None:
        self.items = items  # to put, or got
        self.most = most
        self.settled = False
        self.turn = _ways.make_turn()

    def settle(self) -> None:
        self.settled = True
        self.turn.come()


class LocalQueue(LiveQueue):
    """Who waits stands in line and is handed what it waits for, so nobody wakes in vain or is overtaken."""

    owns_contents = True

    def __init__(self, name: str, maxsize: int) -> None:
        self._name = name
        self._maxsize = maxsize
        self._closed = False
        self._lock = threading.Lock()  # guards all below
        self._items: deque[tuple[Any, float]] = deque()  # and since when
        self._putters: deque[_Waiter] = deque()
        self._getters: deque[_Waiter] = deque()
        self._record = QueueRecord(time.monotonic())
        weakref.finalize(self, _tell_lost, name, self._items).atexit = False

    @property
    def maxsize(self) -> int:
        """How many items may wait; 0 or less: any number."""
        return self._maxsize

    @property
    def closed(self) -> bool:
        """Nothing goes in or out any more."""
        return self._closed

    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """See `QueueMethods.put_many`."""
        seconds, items = waiting_time(block, timeout), list(items)
        check_count(len(items), self._maxsize)
        with self._lock:
            self._check_open()
            if not items or (not self._putters and self._has_room(len(items))):
                self._add(items)
                return
            if seconds == 0:
                raise queue.Full
            waiter = _Waiter(items, 0)
            self._putters.append(waiter)
        self._wait(waiter, seconds, self._putters)
        if not waiter.settled:
            self._check_open()
            raise queue.Full

    def get_many(self, max_items: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        """See `QueueMethods.get_many`."""
        seconds = waiting_time(block, timeout)
        check_most(max_items)
        with self._lock:
            self._check_open()
            if self._items:
                items = self._take(max_items)
                self._let_in()
                return items
            if seconds == 0:
                raise queue.Empty
            waiter = _Waiter([], max_items)
            self._getters.append(waiter)
        self._wait(waiter, seconds, self._getters)
        if not waiter.settled:
            self._check_open()
            raise queue.Empty
        return waiter.items

    def qsize(self) -> int:
        """How many items wait, at this moment."""
        self._check_open()
        return len(self._items)

    def close(self) -> None:
        """End it; waiters get QueueClosed; what is in it is dropped, counted and logged."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            dropped = len(self._items)
            self._record.dropped += dropped
            self._record.tell(time.monotonic(), f"closed with {dropped} items in it")
            self._items.clear()
            for line in (self._putters, self._getters):
                while line:
                    line.popleft().turn.come()
        if dropped:
            _log.warning("queue %s was closed with %d items in it, which are dropped", self._name, dropped)

    def statistics(self) -> dict[str, Any]:
        """What is in it, who waits, what has happened. `bytes` is None: objects have no size here."""
        with self._lock:
            now = time.monotonic()
            told = self._record.statistics(now)
            return {
                "depth": len(self._items),
                "bytes": None,
                "maxsize": self._maxsize,
                "closed": self._closed,
                "producers": int(told["puts"] > 0),
                "waiting_getters": len(self._getters),
                "waiting_putters": len(self._putters),
                "leases": 0,
                "sessions": 1,
                "oldest_s": now - self._items[0][1] if self._items else None,
                **told,
            }

    # Inside.

    def _check_open(self) -> None:
        if self._closed:
            raise QueueClosed(f"queue {self._name} is closed")

    def _has_room(self, count: int) -> bool:
        return self._maxsize <= 0 or len(self._items) + count <= self._maxsize

    def _wait(self, waiter: _Waiter, seconds: float | None, line: deque[_Waiter]) -> None:
        """Return when `waiter` is settled, the queue is closed, or time is over and it left the line."""
        try:
            waiter.turn.wait(seconds)
        except BaseException:  # Ctrl-C: what was handed over must not be lost
            with self._lock:
                self._leave(waiter, line)
                if waiter.settled and line is self._getters:
                    self._items.extendleft((item, time.monotonic()) for item in reversed(waiter.items))
                    self._serve()
            raise
        if not waiter.settled:
            with self._lock:
                self._leave(waiter, line)

    def _leave(self, waiter: _Waiter, line: deque[_Waiter]) -> None:
        if not waiter.settled and not self._closed:
            line.remove(waiter)
            self._let_in()  # a large put may have stood before small ones

    def _add(self, items: list[Any]) -> None:
        now = time.monotonic()
        self._record.put(now, len(items))
        for item in items:
            self._items.append((item, now))
        if self._getters:
            self._serve()

    def _take(self, most: int) -> list[Any]:
        items = [self._items.popleft()[0] for _ in range(min(most, len(self._items)))]
        self._record.got(time.monotonic(), len(items))
        return items

    def _serve(self) -> None:
        while self._getters and self._items:
            getter = self._getters.popleft()
            getter.items = self._take(getter.most)
            getter.settle()
        self._let_in()

    def _let_in(self) -> None:
        while self._putters and self._has_room(len(self._putters[0].items)):
            putter = self._putters.popleft()
            self._add(putter.items)
            putter.settle()


def _tell_lost(name: str, items: deque[Any]) -> None:
    """Nobody has a handle of the queue any more, nor a name."""
    if items:
        _log.warning("queue %s is gone, as its last descriptor is, with %d items in it", name, len(items))
