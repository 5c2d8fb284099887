"""Queues for who must not wait: items are sent and taken by callbacks, and an item may be held until it is dealt with.

A `Consumer` takes as many items as it was granted. Each comes as a `Lease`: the item belongs to the queue until
`finish`; `give_back` puts it to the front again, and so does the queue if its taker dies.

Callbacks come in whatever thread brings the news - one that puts, one that reads a socket - and must not wait.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Consumer", "Due", "Lease", "OnLeases", "OnLost", "OnSent", "Sending"]

OnLost = Callable[[bool], object]
"""Called with True when an item that was sent is lost with its queue; with False when a consumer that held it has died,
and the item is in the queue again."""

OnSent = Callable[[Exception | None], object]
"""Called once: with None when the item is in the queue, else with why it is not."""


class Lease:
    """An item that was taken. `waited_s`: since it was put, by the clock of the queue's host.

    `begun`: how often somebody has taken it before, and neither finished it nor gave it back untouched.
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
        """The item. Raises: CodecError if it cannot be made here."""
        return self._value()

    def finish(self) -> None:
        """It is dealt with: the queue forgets it."""
        self._settle(None)

    def give_back(self, *, begun: bool) -> None:
        """To the front of the queue; `begun`: it may have been worked on."""
        self._settle(begun)


OnLeases = Callable[[list[Lease]], object]


class Consumer(ABC):
    """Takes items of a queue as they come, as many as it was granted.

    `shortcut`: what a sender in the same process may use in the place of an item, see `LiveQueue.shortcut`.
    """

    shortcut: Any = None

    @abstractmethod
    def grant(self, count: int) -> None:
        """So many items more may come."""

    @abstractmethod
    def stop(self) -> None:
        """Nothing comes any more, but for what is being brought at this moment. Leases that are held stay."""

    def return_shortcut(self) -> None:  # noqa: B027 - most kinds lend none
        """Who was given `shortcut` has used it: another item may come in its place."""


class Sending(ABC):
    """An item on its way into a queue."""

    @abstractmethod
    def withdraw(self) -> None:
        """Nobody waits for it any more: if it has no room yet it is not put, and `on_lost` is not called."""


class Due:
    """Callbacks that are due, for when no lock is held. Those that callbacks cause follow behind, not inside, them."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], object]] = deque()

    def add(self, callback: Callable[[], object]) -> None:
        """It is due."""
        self._due.append(callback)

    def run(self) -> None:
        """Call what is due, unless a call in this thread is about to."""
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
    """What is to be called in this thread, while something is."""


_here = _Here()
