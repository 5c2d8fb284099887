"""The event loop of one thread: sockets, timers, and calls from other threads.

It sleeps until one of them has something to do, and other threads wake it only if it sleeps. A process has one loop for
all its links (`exchange_loop`), except those of the services that it serves (`service_loop`) and those of the mesh of a
job. Its thread starts with the first link and stays.

A loop may share its reading: sockets that are only to be read are then in a selector of their own, which the loop's
thread watches like a socket. A thread that waits for messages takes this selector over (`read_while`), so that a
message wakes only that thread, and not the loop's thread before it.

A fork copies sockets but no thread. In the child every loop is given up: its sockets are closed there, so that the
peers still notice when the parent ends, and `exchange_loop` makes a new loop.
"""

# Theory of operation
#
# Threads. `run` is the loop: it sleeps in the selector, then serves ready sockets, timers that are due, and the calls
# that were there when it began to serve them, in this order. Timers are for this thread only; the methods that the
# class names are for any thread.
#
# Waking. A thread that has something for the loop first adds it, and then looks at `_asleep`; the loop first sets
# `_asleep`, and then looks for calls. So at least one of them sees what the other has done, without a lock, and a loop
# that is awake costs its callers no system call. `_ticks` and `is_due` work in the same way.
#
# Deferred calls wait for at most `DEFER_S`. A timer (`_tick`) repeats as long as there are new ones, so that under load
# they wake no thread. A thread that is going to wait runs them itself before (`run_deferred`), because it may wait for
# the answer to one of them. `popitem` decides which thread runs a call.
#
# Locks. `_changes` guards the table of what is watched and the registration of each socket. It is held for one change,
# and not while a callback runs. `_Readers._turn` is held by the one thread that waits for the shared sockets, and is
# only ever tried, except at the end of the loop. `_Readers._state` guards whether the loop watches the shared sockets;
# it is taken inside `_turn` or alone. No callback is called under `_changes` or `_state`; those of shared sockets run
# under `_turn`, so a callback must not wait for a message of this loop.

from __future__ import annotations

import heapq
import itertools
import os
import select
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

DEFER_S: Final = 0.002
_SPIN_S: Final = 0.0001
_LATE_S: Final = 0.001  # if polling took longer, the core had been yielded to a thread that computes
_KEEP_S: Final = 0.05  # after that no core is yielded for so long
_MOST_READY: Final = 64  # sockets at a time; then the reading thread asks again whether it waits
_SHARED: Final = 0  # stands for: to be read, by any thread
READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


_Watched = tuple[socket.socket, Callable[[int], object]]


class EventLoop:
    """Serves sockets, timers and calls in one thread.

    Other threads may use only `call_soon_threadsafe`, `defer`, `run_deferred`, `watch`, `forget`, `read_while` and
    `interrupt`.

    `shares_reading`: threads that wait for messages may read. Sockets that are watched with `shared` have callbacks
    that any thread may call, one at a time.
    """

    def __init__(self, *, shares_reading: bool = False) -> None:
        self.given_up = False
        """It belongs to a process that forked this one."""
        self.thread: int | None = None
        """The identity of the thread that runs it."""
        self._selector = selectors.DefaultSelector()
        self._changes = threading.Lock()  # of what is watched
        self._watched: dict[socket.socket, int] = {}  # and for which events; to ask the selector would be slow
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = itertools.count()
        self._calls: deque[Callable[[], object]] = deque()
        self._deferred: dict[Callable[[], object], None] = {}  # calls that may wait for `DEFER_S`
        self._ticks = False  # a timer is set that runs them
        self._asleep = False
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self.watch(self._wake, READ, lambda _: self._wake.recv(4096))
        self.shares_reading = shares_reading and hasattr(select, "epoll")
        self._readers = _Readers(self) if self.shares_reading else None
        _loops.add(self)

    def watch(
        self, sock: socket.socket, events: int, callback: Callable[[int], object], *, shared: bool = False
    ) -> None:
        """Call `callback(events that are due)` whenever `sock` is ready for some of `events`.

        `shared`: the socket is only to be read, and any thread that waits for messages may run the callback.
        """
        with self._changes:
            if sock.fileno() < 0:
                return
            before = self._watched.get(sock)
            wanted = _SHARED if shared and self._readers is not None else events
            if before == wanted:
                return
            if before is not None and _SHARED not in (before, wanted):
                self._selector.modify(sock, events, (sock, callback))
            else:
                if before is not None:
                    self._of(before).unregister(sock)
                self._of(wanted).register(sock, events, (sock, callback))
            self._watched[sock] = wanted

    def _of(self, events: int) -> selectors.BaseSelector | _Epoll:
        """Return the selector of the sockets that are watched for these events."""
        return self._readers.sockets if events == _SHARED and self._readers is not None else self._selector

    def forget(self, sock: socket.socket) -> None:
        """Do not watch `sock` any more, if it was; it stays open."""
        with self._changes:
            before = self._watched.pop(sock, None)
            if before is not None and sock.fileno() >= 0:
                self._of(before).unregister(sock)

    def drop(self, sock: socket.socket) -> None:
        """Close `sock`, watched or not; its callback is not called any more."""
        self.forget(sock)
        sock.close()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call `callback()` in `seconds`."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._timer_numbers), callback))

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        """Call `callback()` soon, in the loop's thread. From any thread; after `close` it is not called."""
        self._calls.append(callback)
        # Looked at after the append: see "Waking" in the theory of operation.
        if self._asleep:
            self._asleep = False
            try:
                self._waker.send(b"\0")
            except OSError:  # full: it wakes anyway; closed: nothing is called any more
                pass

    def defer(self, callback: Callable[[], object]) -> None:
        """Call `callback()` within `DEFER_S`, in the loop's thread, or earlier in one that calls `run_deferred`.

        A callback that is given again before it was called is called once. While such calls keep coming they wake no
        thread.
        """
        self._deferred[callback] = None
        self._start_ticking()

    def run_deferred(self) -> None:
        """Run the deferred calls now, because the caller is going to wait for what they lead to."""
        deferred = self._deferred
        for _ in range(len(deferred)):
            try:
                callback, _ = deferred.popitem()
            except KeyError:  # another thread was faster
                return
            callback()

    @property
    def has_deferred(self) -> bool:
        """Whether there are deferred calls."""
        return bool(self._deferred)

    def _start_ticking(self) -> None:
        # Looked at after the call was added: see "Waking" in the theory of operation.
        if not self._ticks:
            self._ticks = True
            self.call_soon_threadsafe(lambda: self.call_later(DEFER_S, self._tick))

    def _tick(self) -> None:
        goes_on = bool(self._deferred)
        self.run_deferred()
        if self._readers is not None and self._readers.look():
            goes_on = True
        self._ticks = goes_on
        if goes_on:
            self.call_later(DEFER_S, self._tick)
        elif self._deferred or (self._readers is not None and self._readers.is_due):
            self._start_ticking()

    def read_while(self, is_waiting: Callable[[], bool], timeout_s: float | None) -> bool:
        """Read in the caller's thread, which waits for messages, while `is_waiting()`; False if another thread reads.

        Callbacks run in this thread, so the caller must hold no lock that they take. See `interrupt`.
        """
        if self._deferred:
            self.run_deferred()
        return self._readers is not None and self._readers.serve_while(is_waiting, timeout_s)

    def interrupt(self) -> None:
        """Let the thread in `read_while` call `is_waiting()` again."""
        if self._readers is not None:
            self._readers.interrupt()

    def run(self, until: Callable[[], bool]) -> None:
        """Serve until `until()`, which is asked before every sleep."""
        self.thread = threading.get_ident()
        while not until():
            self._asleep = True
            pause = None if not self._timers else max(0.0, self._timers[0][0] - time.monotonic())
            ready = self._selector.select(0 if self._calls else pause)
            self._asleep = False
            for key, events in ready:
                sock, callback = key.data
                if sock.fileno() >= 0:  # not closed by a callback before this one
                    callback(events)
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()
            for _ in range(len(self._calls)):
                self._calls.popleft()()

    def close(self) -> None:
        """Close every socket that is still watched."""
        _loops.discard(self)
        for sock in list(self._watched):
            self.drop(sock)
        self._waker.close()
        self._selector.close()
        if self._readers is not None:
            self._readers.close()
        self._calls.clear()
        self._timers.clear()
        self._deferred.clear()

    def give_up(self) -> None:
        """Close our copies of the sockets in a forked child, where another process goes on to use them."""
        self.given_up = True
        self._deferred.clear()
        for sock in self._watched:
            sock.close()  # not unregistered: the epoll instance is the parent's, too
        self._waker.close()
        self._selector.close()
        if self._readers is not None:
            self._readers.give_up()


class _Epoll:
    """A selector of sockets that are only to be read, at a third of the cost of those in `selectors`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, _Watched] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    def register(self, sock: socket.socket, _: int, data: _Watched) -> None:
        self._watched[sock.fileno()] = data
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def unregister(self, sock: socket.socket) -> None:
        del self._watched[sock.fileno()]
        self._epoll.unregister(sock.fileno())

    def serve(self, timeout_s: float | None) -> None:
        """Run the callbacks of the sockets that are ready within `timeout_s` seconds."""
        for number, _ in self._epoll.poll(timeout_s, _MOST_READY):
            if (watched := self._watched.get(number)) is not None:  # not closed by a callback before this one
                watched[1](READ)

    def close(self) -> None:
        self._epoll.close()
        self._watched.clear()


class _Readers:
    """The shared sockets of a loop, for which any one thread may wait.

    The loop's thread watches them only while no other thread waits for them. A thread that has waited mostly waits
    again at once. So the loop's thread resumes only when no thread has read for `DEFER_S`: otherwise the reply to what
    the other thread is just sending would wake it. After a longer wait it resumes at once: a timer would cost two
    wake-ups for each message, one to set it and one when it is due.
    """

    def __init__(self, loop: EventLoop) -> None:
        self.sockets = _Epoll()
        self._loop = loop
        self._closed = False
        self._turn = threading.Lock()  # held by the thread that waits for the sockets
        self._state = threading.Lock()  # guards the next
        self._is_watched = False  # by the loop
        self._is_brisk = False  # the last wait was a short one
        self._yields_from = 0.0  # when a thread may again leave its core to others
        self.is_due = False  # a thread has stopped reading, and the loop has to see whether it must watch
        self._last_s = 0.0  # when a thread last stopped reading
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self.sockets.register(self._wake, READ, (self._wake, lambda _: self._wake.recv(4096)))
        self._watch(True)

    def serve_while(self, is_waiting: Callable[[], bool], timeout_s: float | None) -> bool:
        if self._closed or not self._turn.acquire(blocking=False):
            return False
        began = time.monotonic()
        until = None if timeout_s is None else began + timeout_s
        try:
            if self._is_watched:
                self._watch(False)
            if self._is_brisk:
                self._spin(is_waiting, began)
            while is_waiting() and not self._closed:
                left_s = None if until is None else until - time.monotonic()
                if left_s is not None and left_s <= 0:
                    break
                self.sockets.serve(left_s)
        finally:
            self._last_s = time.monotonic()
            waited_s = self._last_s - began
            self._is_brisk = waited_s < 2 * _SPIN_S
            if waited_s > DEFER_S:
                self._watch(True)  # before the turn ends, so that the next reader undoes it
            self._turn.release()
            self._come_back()
        return True

    def _spin(self, is_waiting: Callable[[], bool], began: float) -> None:
        """Poll for a moment: to be woken takes longer than most peers take to answer.

        Between two looks a thread that waits for this core gets it, because it may be the peer: otherwise two threads
        that share a core would each wait until the other one stops polling. But a thread that computes keeps the core
        for milliseconds. If that has happened, the core is not yielded for a while, because the system lets a thread
        that wakes from sleep run sooner than one that has yielded.
        """
        now = began
        while is_waiting() and not self._closed and now < began + _SPIN_S:
            self.sockets.serve(0)
            if now >= self._yields_from:
                os.sched_yield()
            now = time.monotonic()
        if now > began + _LATE_S:
            self._yields_from = now + _KEEP_S

    def _watch(self, watched: bool) -> None:
        with self._state:
            if watched == self._is_watched or self._closed:
                return
            self._is_watched = watched
            if watched:
                self._loop._selector.register(self.sockets, READ, (self._wake, self._serve_for_loop))
            else:
                self._loop._selector.unregister(self.sockets)

    def _come_back(self) -> None:
        """Let the loop see, in a while, whether a thread still reads."""
        if not self._is_watched and not self.is_due:
            self.is_due = True
            self._loop._start_ticking()

    def look(self) -> bool:
        """Watch again if no thread reads any more; return whether to look again later. For the loop's thread."""
        if not self.is_due:
            return False
        self.is_due = False  # before the turn is looked at: a thread that stops reading goes in the opposite order
        if not self._turn.locked():  # otherwise the reading thread sees to it when it stops
            if time.monotonic() - self._last_s >= DEFER_S:
                self._watch(True)
                return False
            self.is_due = True
        return True

    def _serve_for_loop(self, _: int) -> None:
        if self._turn.acquire(blocking=False):
            try:
                self.sockets.serve(0)
            finally:
                self._turn.release()

    def interrupt(self) -> None:
        try:
            self._waker.send(b"\0")
        except OSError:  # full: it wakes anyway; closed: nobody reads any more
            pass

    def close(self) -> None:
        """Called by the loop's thread. A thread that reads leaves at once."""
        self._closed = True
        self.interrupt()
        with self._turn:
            self.give_up()

    def give_up(self) -> None:
        """Close our copies of the sockets in a forked child."""
        self._closed = True
        for end in (self._wake, self._waker, self.sockets):
            end.close()


_loops: weakref.WeakSet[EventLoop] = weakref.WeakSet()
_running: dict[str, EventLoop] = {}
_starting = threading.Lock()


def exchange_loop() -> EventLoop:
    """Return the running loop of this process's links, whose callbacks all run on its one thread."""
    return _shared_loop("exchange of links", shares_reading=False)


def service_loop() -> EventLoop:
    """Return the running loop of the services that this process serves, whose threads may read for it."""
    return _shared_loop("exchange of services", shares_reading=True)


def _shared_loop(name: str, *, shares_reading: bool) -> EventLoop:
    with _starting:
        if name not in _running:
            _running[name] = EventLoop(shares_reading=shares_reading)
            threading.Thread(target=_serve, args=(_running[name],), name=name, daemon=True).start()
        return _running[name]


def _serve(loop: EventLoop) -> None:
    while True:
        try:
            loop.run(until=lambda: False)
        except BaseException as error:  # of one callback; all other links go on
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))


def _after_fork() -> None:
    global _starting
    _starting = threading.Lock()
    _running.clear()
    for loop in list(_loops):
        loop.give_up()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
