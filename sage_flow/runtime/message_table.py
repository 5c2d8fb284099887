"""What the engine knows about a class of messages, as a row, and the table of the rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from sage_flow.errors import InternalError

__all__ = ["Family", "Lane", "MessageRow", "MessageTable", "Receiver"]


class Family(Enum):
    """How a message relates to the records. The module's docstring says what each is."""

    FRAME = "frame"
    COMMAND = "command"
    REPORT = "report"


class Receiver(Enum):
    """Who obeys a message."""

    SUBTASK = "subtask"
    """A subtask, in its turn: the message waits in the inbox of its port."""
    PORT = "port"
    """The port of a subtask, on delivery, whatever the subtask is doing."""
    DRIVER = "driver"
    OUTSIDE = "outside"
    """The port of the callers outside the job."""
    SUPERVISOR = "supervisor"
    """Whoever watches the processes of the attempt, beside the driver."""


Lane = Callable[[int, Any], Hashable]
"""Of a target and a message: messages of equal lanes between two processes do not overtake each other."""


class MessageRow(NamedTuple):
    """What the engine knows about one class of messages.

    `copied`: the fields with objects of the user, which a wire would copy. Inside a process they are copied, too,
    those of frames only where that is asked for.
    """

    type: type[Any]
    family: Family
    receivers: frozenset[Receiver]
    lane: Lane
    copied: tuple[str, ...] = ()


class MessageTable:
    """The rows by class, and by their number: a message crosses as its number and its fields, without names.

    `routes`, `types` and `copied` are what a message costs a lookup in. They change in place.
    """

    def __init__(self, rows: Iterable[MessageRow]) -> None:
        self.routes: dict[type[Any], tuple[int, Lane]] = {}
        """Number and lane."""
        self.types: list[type[Any]] = []
        """By number."""
        self.copied: dict[type[Any], tuple[str, ...]] = {}
        """Of those that have such fields."""
        self._rows: dict[type[Any], MessageRow] = {}
        for row in rows:
            self.add(row)

    def __iter__(self) -> Iterator[MessageRow]:
        return iter(self._rows.values())

    def obeyed_by(self, receiver: Receiver) -> frozenset[type[Any]]:
        """The classes of messages that `receiver` obeys."""
        return frozenset(row.type for row in self if receiver in row.receivers)

    def add(self, row: MessageRow) -> None:
        """Give a class of messages the next number. Raises InternalError if it has one."""
        if row.type in self._rows:
            raise InternalError(f"{row.type.__name__} is in the table of messages twice")
        self._rows[row.type] = row
        self.routes[row.type] = (len(self.types), row.lane)
        self.types.append(row.type)
        if row.copied:
            self.copied[row.type] = row.copied

    def remove(self, added: type[Any]) -> None:
        """Take back the latest addition. Raises InternalError for any other: the numbers of the rest stay."""
        if not self.types or self.types[-1] is not added:
            raise InternalError(f"{added.__name__} is not the latest in the table of messages")
        self.types.pop()
        del self._rows[added], self.routes[added]
        self.copied.pop(added, None)
