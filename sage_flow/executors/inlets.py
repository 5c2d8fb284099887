"""The links that other processes dial: one from each peer. Their messages are decoded here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from sage_flow.links.address import Address
from sage_flow.links.connection import ConnectionLost
from sage_flow.links.link import Link
from sage_flow.links.listener import Listener
from sage_flow.links.loop import EventLoop
from sage_flow.runtime.messages import MESSAGES, Data, Message
from sage_flow.wire.handshake import Identity

__all__ = ["Inlets"]

_TYPES: Final = MESSAGES.types
_DATA: Final = MESSAGES.routes[Data][0]
_COST: Final = Data._fields.index("cost")


class Inlets:
    """The incoming links of one exchange, by the number of the peer, and the listeners that admit them.

    Only the thread of the exchange uses it. `on_message(target, message)` is called for each message. `is_lost` says
    whether a peer was declared lost: it may not connect again. `on_admitted(peer)` is called when a link is open,
    `on_closed(peer, reason)` when it ends by itself.
    """

    def __init__(
        self,
        loop: EventLoop,
        identity: Identity,
        handshake_s: float,
        *,
        on_message: Callable[[int, Message], None],
        is_lost: Callable[[int], bool],
        on_admitted: Callable[[int], None],
        on_closed: Callable[[int, str], None],
    ) -> None:
        self._loop = loop
        self._identity = identity
        self._handshake_s = handshake_s
        self._on_message = on_message
        self._is_lost = is_lost
        self._on_admitted = on_admitted
        self._on_closed = on_closed
        self._listeners: list[Listener] = []
        self.links: dict[int, Link] = {}
        self.received: Counter[str] = Counter()
        """Messages and bytes that came from peers that are lost now."""

    def listen(self, address: Address) -> Address:
        """Listen there, too; return the address with its real port. Raises: see `Listener`."""
        me = self._identity
        listener = Listener(
            address,
            me.key,
            me.name,
            on_link=self._admit,
            on_message=self._deliver,
            on_closed=lambda inlet, reason: self._on_closed(inlet.process, reason),
            describe=_describe,
            handshake_s=self._handshake_s,
            process=me.process,
            attempt=me.attempt,
            loop=self._loop,
        )
        self._listeners.append(listener)
        return listener.address

    def end(self) -> None:
        """Stop listening, and close all links."""
        for listener in self._listeners:
            listener.end()

    def lose(self, peer: int, reason: str) -> None:
        """End the link of a peer, if there is one."""
        inlet = self.links.pop(peer, None)
        if inlet is not None:
            inlet.end(reason)
            told = inlet.statistics()
            self.received.update(received_messages=told["received_messages"], received_bytes=told["received_bytes"])

    def drain(self, peer: int) -> str | None:
        """Read what a peer had written before it went; return what went wrong, None if nothing did."""
        inlet = self.links.get(peer)
        return None if inlet is None else inlet.drain()

    @property
    def refused(self) -> int:
        """How many connections were refused."""
        refused: int = sum(listener.statistics()["refused"] for listener in self._listeners)
        return refused

    def story(self) -> list[tuple[float, str]]:
        """The last connections that were refused: when, and why."""
        return [event for listener in self._listeners for event in listener.statistics()["story"]]

    def _admit(self, inlet: Link) -> None:
        peer = inlet.process
        if peer in self.links or self._is_lost(peer):
            raise ConnectionLost(f"process {peer} has been connected before")
        self.links[peer] = inlet
        self._on_admitted(peer)

    def _deliver(self, _: Link, value: tuple[Any, ...], size: int) -> None:
        if not value:
            return  # a sign of life
        target, number, *fields = value
        if number == _DATA:
            fields[_COST] = size
        self._on_message(target, _TYPES[number]._make(fields))


def _describe(value: Any) -> str:
    """Describe a message of a peer, for the error if it cannot be delivered."""
    match value:
        case (int(target), int(number), *_) if 0 <= number < len(_TYPES):
            return f"its {_TYPES[number].__name__} for {target}"
    return "a message"
