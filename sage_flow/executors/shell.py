"""What a shell provides: waiting, starting activations, the time, sending."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_flow.runtime.credits import FIRST_WINDOW, MOST_RECORDS
from sage_flow.runtime.messages import DRIVER, Message

if TYPE_CHECKING:
    import asyncio

    from sage_flow.executors.resources import Resources

__all__ = ["Condition", "Transport", "Shell", "first_window", "records_in_memory"]

_RECORDS: Final = 8192
_DRIVER_RECORDS: Final = 65_536


def records_in_memory(consumer: int) -> int:
    """Return the most records that may be under way on a channel inside a process.

    The driver keeps all rows that it gets, so a larger window costs no memory there, and saves most of the switches
    between threads.
    """
    return _DRIVER_RECORDS if consumer == DRIVER else _RECORDS


def first_window(consumer: int) -> int:
    """Return the record window that a channel begins with. The driver is never slow, so its channels keep theirs."""
    return MOST_RECORDS if consumer == DRIVER else FIRST_WINDOW


class Condition(Protocol):
    """A condition on which activations wait, holding its lock."""

    @property
    def lock(self) -> AbstractContextManager[Any]: ...

    def wait(self, timeout: float | None = None) -> bool: ...

    def notify_all(self) -> None: ...


class Transport(Protocol):
    """Sends messages, and lets activations wait for messages."""

    def condition(self, address: int | None = None) -> Condition:
        """Make a condition on which activations wait; with an `address`, for messages to that address."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    def send(self, sender: int, target: int, message: Message, on_hold: bool = False) -> int:
        """Send without blocking; return what the message costs of the credit of its channel.

        `on_hold`: more messages follow at once, so it may be sent with them, at the latest when an activation waits.

        Raises CodecError if the message has to be pickled and cannot be.
        """

    def flush(self) -> None:
        """Send what is on hold."""

    def medium(self, producer: int, consumer: int) -> str:
        """Return what carries messages between these addresses, such as "memory" or "unix socket"."""


class Shell(Transport, Protocol):
    """One process's way to run subtasks."""

    feeds_sources: bool
    """Whether a blocking source is read by a separate thread; otherwise the subtask's own thread reads it."""

    resources: Resources
    """What the subtasks of the job share in this process."""

    def wall_ms(self) -> int:
        """The wall clock in ms since 1970; it never goes back."""

    def spawn(self, name: str, run: Callable[[], None], *, stores: bool = False) -> None:
        """Start an activation. `stores`: all it does is to store checkpoints, so it runs no code of the user's."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Make an event loop, to be run by an activation."""

    def shares_objects(self, producer: int, consumer: int) -> bool:
        """Whether records between these addresses arrive as the objects themselves, not as pickles."""

    def most_cost(self, producer: int, consumer: int) -> int:
        """Return how much may be under way on a channel between these addresses, in the unit that `send` returns."""
