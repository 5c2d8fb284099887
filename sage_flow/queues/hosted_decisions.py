"""What a hosted queue holds and what it decides: runs of items, and the messages to its clients."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "Abandoned",
    "Accepted",
    "Closed",
    "Decision",
    "Delivery",
    "Dropped",
    "NoItem",
    "NoRoom",
    "Report",
    "Room",
    "Run",
    "Withdrawn",
]


class Run(NamedTuple):
    """Neighbouring items that were encoded together: those from `start` to `stop` of `payload`."""

    payload: Any
    start: int
    stop: int
    size: int
    """Bytes, its share of `payload`."""
    since: float
    """When it was put, in seconds of the host's clock."""
    begun: int = 0
    """How often a client held it and died, or gave it back as begun."""
    putter: tuple[str, int] | None = None
    """Session and number of the put that is notified of that; None: no put."""

    @property
    def items(self) -> int:
        """How many."""
        return self.stop - self.start

    def split(self, count: int) -> tuple[Run, Run]:
        """The first `count` items and the rest."""
        middle, size = self.start + count, self.size * count // self.items
        return self._replace(stop=middle, size=size), self._replace(start=middle, size=self.size - size)


class Accepted(NamedTuple):
    """The items of this put are in the queue."""

    session: str
    number: int


class Room(NamedTuple):
    """There is room for the items of this put, and it is kept: send them."""

    session: str
    number: int


class Delivery(NamedTuple):
    """The items for this get, in transit until `delivery` is acknowledged."""

    session: str
    number: int
    delivery: int
    runs: list[Run]


class NoRoom(NamedTuple):
    """There is no room for a put that does not wait."""

    session: str
    number: int


class NoItem(NamedTuple):
    """There is no item for a get that does not wait."""

    session: str
    number: int


class Withdrawn(NamedTuple):
    """This request will not be answered any more."""

    session: str
    number: int


class Closed(NamedTuple):
    """The queue is closed; nothing came of this request."""

    session: str
    number: int


class Report(NamedTuple):
    """The answer to a question about the queue."""

    session: str
    number: int
    value: Any


class Abandoned(NamedTuple):
    """An item of this put was held by a client that is gone; it is in the queue again."""

    session: str
    number: int


class Dropped(NamedTuple):
    """An item of this put was in the queue when the queue was closed."""

    session: str
    number: int


Decision = Accepted | Room | Delivery | NoRoom | NoItem | Withdrawn | Closed | Report | Abandoned | Dropped
