"""A queue inside one process: the items themselves, handed from thread to thread."""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

from sage_flow.errors import QueueClosed
from sage_flow.queues.consuming import Consumer, Due, HeldItem, OnItems, OnLost, OnSent, Sending
from sage_flow.queues.methods import LiveQueue, check_count, check_most, waiting_time
from sage_flow.queues.record import QueueRecord

_log = logging.getLogger("sage_flow.channels")


class Turn(Protocol):
    """What a put or a get in a line waits for."""

    def wait(self, seconds: float | None) -> None:
        """Return when the turn has come, or after `seconds`."""

    def come(self) -> None:
        """The turn has come; called while the queue's lock is held."""


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
    """Let this thread wait in another way at all queues. The simulation does, because its time is virtual."""
    _ways.make_turn = make_turn


class _Entry(NamedTuple):
    item: Any
    since: float
    begun: int = 0
    on_lost: OnLost | None = None


class _Waiter:
    """A put or a get that stands in a line. `settled`: it was served, which is done while the queue's lock is held."""

    __slots__ = ("consumer", "entries", "items", "most", "on_lost", "settled", "turn")

    def __init__(self, items: list[Any], most: int, turn: Turn | None = None, on_lost: OnLost | None = None) -> None:
        self.items = items  # to put
        self.on_lost = on_lost
        self.entries: list[_Entry] = []  # got
        self.most = most
        self.consumer: _LocalConsumer | None = None
        self.settled = False
        self.turn = turn or _ways.make_turn()

    def settle(self) -> None:
        self.settled = True
        self.turn.come()


class LocalQueue(LiveQueue):
    """A put or a get that has to wait stands in line until it is served: no thread wakes in vain, or is overtaken."""

    owns_contents = True

    def __init__(self, name: str, maxsize: int) -> None:
        self._name = name
        self._maxsize = maxsize
        self._closed = False
        self._lock = threading.Lock()  # guards all below
        self._items: deque[_Entry] = deque()
        self._putters: deque[_Waiter] = deque()
        self._getters: deque[_Waiter] = deque()
        self._record = QueueRecord(time.monotonic())
        weakref.finalize(self, _warn_lost, name, self._items).atexit = False
        self._held = 0
        self._due = Due()

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
            waiter = None
            if not items or (not self._putters and self._has_room(len(items))):
                self._add(items)
            elif seconds == 0:
                raise queue.Full
            else:
                waiter = _Waiter(items, 0)
                self._putters.append(waiter)
        self._due.run()
        if waiter is None:
            return
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
            entries = self._take(max_items) if self._items else []
            if entries:
                self._let_in()
            elif seconds == 0:
                raise queue.Empty
            else:
                waiter = _Waiter([], max_items)
                self._getters.append(waiter)
        self._due.run()
        if not entries:
            self._wait(waiter, seconds, self._getters)
            if not waiter.settled:
                self._check_open()
                raise queue.Empty
            entries = waiter.entries
        return [entry.item for entry in entries]

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
            self._record.note(time.monotonic(), f"closed with {dropped} items in it")
            for entry in self._items:
                if entry.on_lost is not None:
                    self._due.add(partial(entry.on_lost, True))
            self._items.clear()
            for line in (self._putters, self._getters):
                while line:
                    line.popleft().turn.come()
        self._due.run()
        if dropped:
            _log.warning("queue %s was closed; the %d items in it were dropped", self._name, dropped)

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
                "held": self._held,
                "sessions": 1,
                "oldest_s": now - self._items[0].since if self._items else None,
                **told,
            }

    def send(self, item: Any, on_sent: OnSent, on_lost: OnLost | None = None) -> Sending:
        """See `LiveQueue.send`. No consumer dies before the sender, because both are in this process."""
        sending = _LocalSending(self, item, on_sent, on_lost)
        with self._lock:
            self._check_open()
            self._putters.append(sending.waiter)
            self._let_in()
        self._due.run()
        return sending

    def consume(self, on_items: OnItems, on_closed: Callable[[Exception], object], *, holds: bool) -> Consumer:
        """See `LiveQueue.consume`."""
        self._check_open()
        return _LocalConsumer(self, on_items, on_closed, holds)

    def shortcut(self) -> Any:
        """See `LiveQueue.shortcut`."""
        with self._lock:
            if self._items or self._putters or not self._getters:  # earlier items and puts go first
                return None
            consumer = self._getters[0].consumer
            if consumer is None or consumer.shortcut is None:
                return None
            consumer.give_place()
            now = time.monotonic()
            self._record.put(now, 1)
            self._record.got(now, 1)
            return consumer.shortcut

    # Inside.

    def _check_open(self) -> None:
        if self._closed:
            raise QueueClosed(f"queue {self._name} is closed")

    def _has_room(self, count: int) -> bool:
        return self._maxsize <= 0 or len(self._items) + count <= self._maxsize

    def _wait(self, waiter: _Waiter, seconds: float | None, line: deque[_Waiter]) -> None:
        """Return when `waiter` is settled, the queue is closed, or the time is over and `waiter` has left the line."""
        try:
            waiter.turn.wait(seconds)
        except BaseException:  # Ctrl-C: what was handed over must not be lost
            with self._lock:
                self._leave(waiter, line)
                if waiter.settled and line is self._getters:
                    self._give_back(waiter.entries)
            self._due.run()
            raise
        if not waiter.settled:
            with self._lock:
                self._leave(waiter, line)
            self._due.run()

    def _leave(self, waiter: _Waiter, line: deque[_Waiter]) -> None:
        if not waiter.settled and not self._closed:
            line.remove(waiter)
            self._let_in()  # a large put may have held up smaller ones

    def _add(self, items: list[Any], on_lost: OnLost | None = None) -> None:
        now = time.monotonic()
        self._record.put(now, len(items))
        for item in items:
            self._items.append(_Entry(item, now, 0, on_lost))
        if self._getters:
            self._serve()

    def _give_back(self, entries: list[_Entry]) -> None:
        """Return items to the front, in order."""
        if self._closed:
            self._record.dropped += len(entries)
            return
        self._record.returned += len(entries)
        self._items.extendleft(reversed(entries))
        self._serve()

    def _take(self, most: int) -> list[_Entry]:
        entries = [self._items.popleft() for _ in range(min(most, len(self._items)))]
        self._record.got(time.monotonic(), len(entries))
        return entries

    def _serve(self) -> None:
        while self._getters and self._items:
            getter = self._getters.popleft()
            getter.entries = self._take(getter.most)
            getter.settle()
        self._let_in()

    def _let_in(self) -> None:
        while self._putters and self._has_room(len(self._putters[0].items)):
            putter = self._putters.popleft()
            self._add(putter.items, putter.on_lost)
            putter.settle()


def _warn_lost(name: str, items: deque[Any]) -> None:
    """The last descriptor of the queue is gone, and its name is known nowhere else."""
    if items:
        _log.warning("queue %s ended with its last descriptor; the %d items in it were dropped", name, len(items))


class _CallBack:
    """A turn that leads to a callback, for puts and gets for which no thread waits."""

    def __init__(self, due: Due, callback: Callable[[], object]) -> None:
        self._due = due
        self._callback = callback

    def wait(self, seconds: float | None) -> None:
        """No thread waits."""

    def come(self) -> None:
        self._due.add(self._callback)


_NOBODY = _CallBack(Due(), lambda: None)


class _LocalSending(Sending):
    def __init__(self, live: LocalQueue, item: Any, on_sent: OnSent, on_lost: OnLost | None) -> None:
        self._live = live
        self._on_sent = on_sent
        self.waiter = _Waiter([item], 0, _CallBack(live._due, self._report), on_lost)

    def _report(self) -> None:
        self._on_sent(None if self.waiter.settled else QueueClosed(f"queue {self._live._name} is closed"))

    def withdraw(self) -> None:
        live = self._live
        with live._lock:
            if self.waiter in live._putters:
                live._leave(self.waiter, live._putters)
        live._due.run()


class _LocalConsumer(Consumer):
    def __init__(
        self, live: LocalQueue, on_items: OnItems, on_closed: Callable[[Exception], object], holds: bool
    ) -> None:
        self._live = live
        self._on_items = on_items
        self._on_closed = on_closed
        self._holds = holds
        self._granted = 0  # guarded by the queue's lock, as is what follows
        self._waiter: _Waiter | None = None
        self._spare: _Waiter | None = None  # to be used again
        self._is_stopped = False

    def give_place(self) -> None:
        """Use one of the granted places, without an item. The lock is held, and this consumer is the first in line."""
        waiter, self._live._held = self._waiter, self._live._held + self._holds
        self._granted -= 1
        if waiter is not None and waiter.most > 1:
            waiter.most -= 1
        else:
            self._spare, self._waiter = waiter, None
            self._live._getters.popleft()

    def return_shortcut(self) -> None:
        live = self._live
        with live._lock:
            live._held -= self._holds
            self._granted += 1
            self._line_up()
        live._due.run()

    def grant(self, count: int) -> None:
        live = self._live
        with live._lock:
            self._granted += count
            self._line_up()
        live._due.run()

    def stop(self) -> None:
        live = self._live
        with live._lock:
            self._is_stopped = True
            waiter, self._waiter = self._waiter, None
            if waiter is not None:
                live._leave(waiter, live._getters)
        live._due.run()

    def _line_up(self) -> None:
        """Wait in line for as many items as were granted. The lock is held."""
        live = self._live
        if self._is_stopped or self._waiter is not None or self._granted <= 0:
            return
        if live._closed:
            live._due.add(self._report_closed)
            return
        waiter, self._spare = self._spare, None
        if waiter is None:
            waiter = _Waiter([], 0, _NOBODY)
            waiter.consumer = self
            waiter.turn = _CallBack(live._due, partial(self._take, waiter))
        waiter.most = self._granted
        self._waiter = waiter
        live._getters.append(waiter)
        if live._items:
            live._serve()

    def _take(self, waiter: _Waiter) -> None:
        live = self._live
        with live._lock:
            if waiter is self._waiter:
                self._waiter = None
            if waiter.settled and self._is_stopped:
                live._give_back(waiter.entries)
                waiter.entries = []
            elif waiter.settled:
                self._granted -= len(waiter.entries)
                live._held += len(waiter.entries) * self._holds
                self._line_up()
            now = time.monotonic()
        if not waiter.settled and not self._is_stopped:
            self._report_closed()
        elif waiter.entries:
            self._on_items([self._held_item(entry, now) for entry in waiter.entries])
        live._due.run()

    def _report_closed(self) -> None:
        self._on_closed(QueueClosed(f"queue {self._live._name} is closed"))

    def _held_item(self, entry: _Entry, now: float) -> HeldItem:
        return HeldItem(lambda: entry.item, now - entry.since, entry.begun, partial(self._settle, entry))

    def _settle(self, entry: _Entry, begun: bool | None) -> None:
        live = self._live
        with live._lock:
            live._held -= self._holds
            if begun is not None:
                live._give_back([entry._replace(begun=entry.begun + begun)])
        live._due.run()
