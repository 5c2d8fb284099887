"""The event loop of one thread: sockets, timers, and orders from other threads.

It sleeps until one of them has something to do, and others wake it only if it sleeps. A process has one
loop for all its links (`exchange_loop`); its thread starts with the first link and stays.

A fork copies sockets but no thread. In the child every loop is given up: its sockets are closed there, so
that the other ends still notice when the parent goes, and `exchange_loop` makes a new one.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


class EventLoop:
    """Only `order`, `watch` and `forget` may be called from other threads."""

    def __init__(self) -> None:
        self.given_up = False
        """It belongs to a process that forked this one."""
        self.thread: int | None = None
        """The identity of the thread that runs it."""
        self._selector = selectors.DefaultSelector()
        self._changes = threading.Lock()  # of what is watched
        self._watched: dict[socket.socket, int] = {}  # and for which events; the selector is slow to say so
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = itertools.count()
        self._orders: deque[Callable[[], object]] = deque()
        self._asleep = False
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self.watch(self._wake, READ, lambda _: self._wake.recv(4096))
        _loops.add(self)

    def watch(self, sock: socket.socket, events: int, callback: Callable[[int], object]) -> None:
        """Call `callback(events that are due)` whenever `sock` is ready for some of `events`."""
        with self._changes:
            if sock.fileno() < 0:
                return
            before = self._watched.get(sock)
            if before is None:
                self._selector.register(sock, events, (sock, callback))
            elif before != events:
                self._selector.modify(sock, events, (sock, callback))
            self._watched[sock] = events

    def forget(self, sock: socket.socket) -> None:
        """Do not watch `sock` any more, if it was; it stays open."""
        with self._changes:
            if self._watched.pop(sock, None) is not None and sock.fileno() >= 0:
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
        self.thread = threading.get_ident()
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
        _loops.discard(self)
        for sock in list(self._watched):
            self.drop(sock)
        self._waker.close()
        self._selector.close()
        self._orders.clear()
        self._timers.clear()

    def give_up(self) -> None:
        """Close our copies of the sockets in a forked child, where another process goes on to use them."""
        self.given_up = True
        for sock in self._watched:
            sock.close()  # not unregistered: the epoll instance is the parent's, too
        self._waker.close()
        self._selector.close()


_loops: weakref.WeakSet[EventLoop] = weakref.WeakSet()
_shared: EventLoop | None = None
_starting = threading.Lock()


def exchange_loop() -> EventLoop:
    """The loop of this process's links; its thread runs."""
    global _shared
    with _starting:
        if _shared is None:
            _shared = EventLoop()
            threading.Thread(target=_serve, args=(_shared,), name="exchange of links", daemon=True).start()
        return _shared


def _serve(loop: EventLoop) -> None:
    while True:
        try:
            loop.run(until=lambda: False)
        except BaseException as error:  # one callback's; the links of others go on
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))


def _after_fork() -> None:
    global _shared, _starting
    _shared, _starting = None, threading.Lock()
    for loop in list(_loops):
        loop.give_up()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
