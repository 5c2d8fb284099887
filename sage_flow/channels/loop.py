"""The event loop of one thread: sockets, timers, and orders from other threads.

It sleeps until one of them has something to do, and others wake it only if it sleeps.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


class EventLoop:
    """Only `order` may be called from other threads."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = itertools.count()
        self._orders: deque[Callable[[], object]] = deque()
        self._asleep = False
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self.watch(self._wake, READ, lambda _: self._wake.recv(4096))

    def watch(self, sock: socket.socket, events: int, callback: Callable[[int], object]) -> None:
        """Call `callback(events that are due)` whenever `sock` is ready for some of `events`."""
        key = self._selector.get_map().get(sock)
        if key is None:
            self._selector.register(sock, events, (sock, callback))
        elif key.events != events:
            self._selector.modify(sock, events, (sock, callback))

    def forget(self, sock: socket.socket) -> None:
        """Do not watch `sock` any more; it stays open."""
        if sock in self._selector.get_map():
            self._selector.unregister(sock)

    def drop(self, sock: socket.socket) -> None:
        """Close `sock`, watched or not; its callback is not called any more."""
        self.forget(sock)
        sock.close()

    def after(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call `callback()` in `seconds`."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._timer_numbers), callback))

    def order(self, callback: Callable[[], object]) -> None:
        """Call `callback()` soon, in the loop's thread. From any thread; after `close` it is not called."""
        self._orders.append(callback)
        # Asked after the append, as the loop looks for orders after it set this: one of us sees the other.
        if self._asleep:
            self._asleep = False
            try:
                self._waker.send(b"\0")
            except OSError:  # full: it wakes anyway; closed: nothing is called any more
                pass

    def run(self, until: Callable[[], bool]) -> None:
        """Serve until `until()`, which is asked before every sleep."""
        while not until():
            self._asleep = True
            pause = None if not self._timers else max(0.0, self._timers[0][0] - time.monotonic())
            ready = self._selector.select(0 if self._orders else pause)
            self._asleep = False
            for key, events in ready:
                sock, callback = key.data
                if sock.fileno() >= 0:  # not closed by a callback before this one
                    callback(events)
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()
            for _ in range(len(self._orders)):
                self._orders.popleft()()

    def close(self) -> None:
        """Close every socket that is still watched."""
        for key in list(self._selector.get_map().values()):
            self.drop(key.data[0])
        self._waker.close()
        self._selector.close()
        self._orders.clear()
        self._timers.clear()
