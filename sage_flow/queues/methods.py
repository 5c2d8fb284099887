"""The methods that descriptors and live queues have in common: those of `queue.Queue`, and two for many items."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from sage_flow.queues.consuming import Consumer, OnItems, OnLost, OnSent, Sending


class QueueMethods(ABC):
    """The methods of `queue.Queue`, and `put_many` and `get_many`. A closed queue raises QueueClosed.

    `timeout`: seconds; None waits for ever, and it means nothing with `block=False`, as in `queue.Queue`.
    """

    @property
    @abstractmethod
    def maxsize(self) -> int:
        """How many items may wait; 0 or less: any number."""

    @abstractmethod
    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """Put all of `items`, neighbours in the queue: all or none.

        Raises: queue.Full if there was no room for all of them in time; QueueClosed; ValueError if they are more than
        `maxsize` or `timeout` is negative.
        """

    @abstractmethod
    def get_many(self, max_items: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        """Take what is there, at least one item and at most `max_items`; waits only for the first.

        Raises: queue.Empty; QueueClosed; ValueError.
        """

    @abstractmethod
    def qsize(self) -> int:
        """How many items wait, at this moment."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put `item`, waiting for room if there is none.

        Raises: queue.Full if there was no room in time; QueueClosed; ValueError if `timeout` is negative.
        """
        self.put_many((item,), block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the first item, waiting for one if there is none. Raises: queue.Empty; QueueClosed; ValueError."""
        return self.get_many(1, block, timeout)[0]

    def put_nowait(self, item: Any) -> None:
        """`put(item, block=False)`."""
        self.put_many((item,), False)

    def get_nowait(self) -> Any:
        """`get(block=False)`."""
        return self.get_many(1, False)[0]

    def empty(self) -> bool:
        """Whether no item waits, at this moment."""
        return not self.qsize()

    def full(self) -> bool:
        """Whether there is no room for another item, at this moment."""
        return 0 < self.maxsize <= self.qsize()


class LiveQueue(QueueMethods):
    """The queue of a channel, as one process uses it: one object per channel and process."""

    owns_contents = False
    """The items are in this process, in this object."""
    abandoned = False
    """It belongs to the process that forked this one."""

    @property
    def lost(self) -> bool:
        """It is closed because its host is gone, or out of reach."""
        return False

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Nothing goes in or out any more."""

    @abstractmethod
    def close(self) -> None:
        """End the queue for everybody. Calls that wait raise QueueClosed; its items are dropped, counted and logged."""

    @abstractmethod
    def statistics(self) -> dict[str, Any]:
        """What is in it, who waits, what has happened."""

    @abstractmethod
    def send(self, item: Any, on_sent: OnSent, on_lost: OnLost | None = None) -> Sending:
        """Put `item` as soon as there is room, without blocking. Raises: QueueClosed; CodecError."""

    @abstractmethod
    def consume(self, on_items: OnItems, on_closed: Callable[[Exception], object], *, holds: bool) -> Consumer:
        """Take items as they come; without `holds` they are out of the queue then. Raises: QueueClosed."""

    def shortcut(self) -> Any:
        """Return the `shortcut` of a consumer in this process that waits for an item; it counts as an item.

        None: there is no such consumer, so send an item. The user of the shortcut calls `Consumer.return_shortcut`.
        """

    def read_while(
        self, is_waiting: Callable[[], bool], timeout_s: float | None, others_wait: Callable[[], object]
    ) -> None:
        """Read messages in the caller's thread, which waits for a callback, if possible; see `Link.read_while`."""

    def interrupt(self) -> None:
        """Let the thread that is in `read_while` call `is_waiting()` again."""


def waiting_time(block: bool, timeout: float | None) -> float | None:
    """Return the seconds to wait; None: for ever. Raises: ValueError if `timeout` is negative, or no number."""
    if not block:
        return 0.0
    if timeout is not None and (not isinstance(timeout, (int, float)) or not timeout >= 0):
        raise ValueError(f"timeout is {timeout!r}: give seconds, 0 or more, or None to wait for ever")
    return timeout


def check_count(count: int, maxsize: int) -> None:
    """Raises: ValueError if so many items can never be put at once."""
    if 0 < maxsize < count:
        raise ValueError(f"cannot put {count} items at once, because maxsize is {maxsize}: put them in parts")


def check_most(max_items: int) -> None:
    """Raises: ValueError if it is not a number of items to get."""
    if not isinstance(max_items, int) or max_items < 1:
        raise ValueError(f"max_items is {max_items!r}: give 1 or more")
