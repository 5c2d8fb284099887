"""The link to a host in the same process: messages are handed over, without a pickle and without a socket."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sage_flow.errors import LinkClosed
from sage_flow.links.link import Link
from sage_flow.links.loop import exchange_loop

OnMessage = Callable[["LocalLink", Any, int], object]
OnClosed = Callable[["LocalLink", str], object]

_CLOSED: Final = "it was closed"


class LocalLink:
    """One end, with the methods of `Link` that hosts and their clients use. Callbacks run on the exchange thread."""

    is_closed = False

    def __init__(self, on_message: OnMessage, on_closed: OnClosed) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._other = self
        self._sent = 0

    @classmethod
    def pair(cls, one: tuple[OnMessage, OnClosed], other: tuple[OnMessage, OnClosed]) -> tuple[LocalLink, LocalLink]:
        """Return two ends; what one sends, the other receives."""
        ends = cls(*one), cls(*other)
        ends[0]._other, ends[1]._other = ends[1], ends[0]
        return ends

    def send(self, value: Any, *, lane: object = None, copy_buffers: bool = True, on_hold: bool = False) -> int:
        """Hand `value` over, from any thread. Raises: LinkClosed."""
        if self.is_closed:
            raise LinkClosed(_CLOSED)
        self._sent += 1
        exchange_loop().call_soon_threadsafe(partial(self._other._receive, value))
        return 0

    def close(self, flush_s: float = 0.0) -> None:
        """Close both ends, after all that was sent has arrived."""
        exchange_loop().call_soon_threadsafe(self._end)

    def read_while(
        self, is_waiting: Callable[[], bool], timeout_s: float | None, others_wait: Callable[[], object] = lambda: False
    ) -> None:
        """There is nothing to read."""

    def interrupt(self) -> None:
        """Nobody reads."""

    def statistics(self) -> dict[str, Any]:
        """Messages each way, and whether it is closed."""
        return {
            "sent_messages": self._sent,
            "received_messages": self._other._sent,
            "closed": _CLOSED if self.is_closed else None,
        }

    def _receive(self, value: Any) -> None:
        if not self.is_closed:
            self._on_message(self, value, 0)

    def _end(self) -> None:
        for end in (self, self._other):
            if not end.is_closed:
                end.is_closed = True
                end._on_closed(end, _CLOSED)


AnyLink = Link | LocalLink
"""A link between a host of queues and a client."""
