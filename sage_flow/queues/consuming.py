"""Put and get with callbacks, for code that must not block, and items that are held until they are finished.

A `Consumer` takes as many items as it was granted, each as a `HeldItem`. The item belongs to the queue until `finish`.
`give_back` returns it to the front of the queue, and so does the queue when the consumer's process dies.

A callback runs in the thread that brings the message, such as a thread that puts or one that reads a socket, and must
not block.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Consumer", "Due", "HeldItem", "OnItems", "OnLost", "OnSent", "Sending"]

OnLost = Callable[[bool], object]
"""Called with True when an item that was sent is lost with its queue; with False when a consumer that held it has died,
and the item is in the queue again."""

OnSent = Callable[[Exception | None], object]
"""Called once, with None when the item is in the queue, or else with the error."""


class HeldItem:
    """An item that was taken. `waited_s`: seconds since it was put, measured by the host of the queue.

    `begun`: how many consumers have died while they held it, or have given it back as begun.
    """

    __slots__ = ("_settle", "_value", "begun", "waited_s")

    def __init__(
        self, value: Callable[[], Any], waited_s: float, begun: int, settle: Callable[[bool | None], object]
    ) -> None:
        self._value = value
        self.waited_s = waited_s
        self.begun = begun
        self._settle = settle

    def value(self) -> Any:
        """Return the item. Raises: CodecError if it cannot be unpickled here."""
        return self._value()

    def finish(self) -> None:
        """The item is done; the queue forgets it."""
        self._settle(None)

    def give_back(self, *, begun: bool) -> None:
        """Return the item to the front of the queue; `begun`: it may have been worked on."""
        self._settle(begun)


OnItems = Callable[[list[HeldItem]], object]


class Consumer(ABC):
    """Takes items of a queue as they come, as many as it was granted.

    `shortcut`: what a sender in the same process may use in the place of an item, see `LiveQueue.shortcut`.
    """

    shortcut: Any = None

    @abstractmethod
    def grant(self, count: int) -> None:
        """Allow `count` more items."""

    @abstractmethod
    def stop(self) -> None:
        """Take no more items. A callback may still be running. Items that are held stay valid."""

    def return_shortcut(self) -> None:  # noqa: B027 - most kinds have no shortcut
        """The sender that got `shortcut` has used it; another item may come in its place."""


class Sending(ABC):
    """An item on its way into a queue."""

    @abstractmethod
    def withdraw(self) -> None:
        """Give up: if the item still waits for room it is not put; `on_lost` is not called."""


class Due:
    """Callbacks to be called when no lock is held. Callbacks that they cause run after them, not inside them."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], object]] = deque()

    def add(self, callback: Callable[[], object]) -> None:
        """Add a callback."""
        self._due.append(callback)

    def run(self) -> None:
        """Call them, unless a `run` further up in this thread will do it."""
        if not self._due:
            return
        if _here.queues is not None:
            _here.queues.append(self._due)
            return
        _here.queues = deque([self._due])
        try:
            while _here.queues:
                due = _here.queues.popleft()
                while due:
                    try:
                        callback = due.popleft()
                    except IndexError:  # another thread was faster
                        break
                    callback()
        finally:
            _here.queues = None


class _Here(threading.local):
    queues: deque[deque[Callable[[], object]]] | None = None
    """The callbacks that the `run` of this thread has still to call; None: no `run` is active."""


_here = _Here()
