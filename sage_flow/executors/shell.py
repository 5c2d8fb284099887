"""What a shell provides: how to wait, how to start an activation, what time it is, how to send."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from sage_flow.runtime.messages import DRIVER, Message

if TYPE_CHECKING:
    import asyncio

__all__ = ["Condition", "Transport", "Shell", "record_window"]

_RECORD_WINDOW = 8192
_DRIVER_WINDOW = 65_536


def record_window(consumer: int) -> int:
    """Records that may be on the way on one channel inside a process.

    The driver keeps what it gets, so a wider window costs it nothing and spares its producers most of the
    switches between threads.
    """
    return _DRIVER_WINDOW if consumer == DRIVER else _RECORD_WINDOW


class Condition(Protocol):
    """What activations wait on, under its lock."""

    @property
    def lock(self) -> AbstractContextManager[Any]: ...

    def wait(self, timeout: float | None = None) -> bool: ...

    def notify_all(self) -> None: ...


class Transport(Protocol):
    """What sends, and waits for what comes."""

    def condition(self, address: int | None = None) -> Condition:
        """Make a condition on which activations wait; with an `address`, for what is sent there."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    def send(self, sender: int, target: int, message: Message, on_hold: bool = False) -> int:
        """Send, never blocking; return what the message takes of its channel's credit.

        `on_hold`: more follow at once, and it may go with them; at the latest it goes when an activation waits.

        Raises CodecError if the message has to be pickled and cannot be.
        """

    def flush(self) -> None:
        """Send what is on hold."""

    def medium(self, producer: int, consumer: int) -> str:
        """What carries messages between these addresses, such as "memory" or "unix socket"."""


class Shell(Transport, Protocol):
    """One process's way to run subtasks."""

    feeds_sources: bool
    """Whether blocking sources get a thread of their own; otherwise they are called inline."""

    def spawn(self, name: str, run: Callable[[], None]) -> None:
        """Start an activation."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Make an event loop, to be run by an activation."""

    def shares_objects(self, producer: int, consumer: int) -> bool:
        """Whether records between these addresses arrive as the objects themselves, not as pickles."""

    def window(self, producer: int, consumer: int) -> int:
        """The credit window of a channel between these addresses, in the unit that `send` returns."""
