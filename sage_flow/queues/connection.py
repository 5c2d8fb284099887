"""The connections of this process to hosts of queues: one per host and key, shared by all its queues there."""

from __future__ import annotations

import itertools
import os
import ssl
import threading
import weakref
from collections.abc import Hashable
from typing import Any, Protocol

from sage_flow.errors import LinkClosed
from sage_flow.links.link import dial
from sage_flow.links.local_keys import found_key
from sage_flow.links.local_link import AnyLink
from sage_flow.links.loop import exchange_loop
from sage_flow.links.transport import Address
from sage_flow.queues import opcodes as wire
from sage_flow.queues.host import host_here


class Occupant(Protocol):
    """Who sits at a seat. Both are called on the exchange thread."""

    def on_word(self, link: AnyLink, word: int, rest: tuple[Any, ...]) -> None:
        """A message of the host."""

    def on_lost(self, link: AnyLink, reason: str) -> None:
        """The link is gone."""


class QueueConnection:
    """At most one link to a host, and who of this process sits there at which seat."""

    def __init__(self, address: Address, key: bytes) -> None:
        self._address = address
        self._key = key
        self._link: AnyLink | None = None
        self._dialing = threading.Lock()
        self._numbers = itertools.count(1)
        self._occupants: dict[int, weakref.ref[Occupant]] = {}

    def __repr__(self) -> str:
        return f"QueueConnection({self._address})"

    def sit(self, occupant: Occupant) -> int:
        """Take a seat, until `occupant` is gone."""
        number = next(self._numbers)
        self._occupants[number] = weakref.ref(occupant)
        # Where garbage is collected no lock may be taken; an order is safe.
        weakref.finalize(occupant, _order_leave, weakref.ref(self), number).atexit = False
        return number

    def link(self, timeout_s: float) -> AnyLink:
        """The link, dialed if there is none. Waits. Raises: ChannelNotReachable."""
        with self._dialing:
            link = self._link
            key = (self._key or found_key(self._address)) if link is None else b""
            if link is None and (host := host_here(self._address, key)) is not None:
                link = self._link = host.connect(self._on_message, self._on_closed)
            elif link is None:
                link = self._link = dial(
                    self._address,
                    key,
                    wire.PROTOCOL,
                    on_message=self._on_message,
                    on_closed=self._on_closed,
                    connect_timeout_s=timeout_s,
                )
                if link.is_closed:  # before we could note it
                    self._link = None
            return link

    def _on_message(self, link: AnyLink, message: tuple[Any, ...], size: int) -> None:
        number, word, *rest = message
        seat = self._occupants.get(number)
        occupant = None if seat is None else seat()
        if occupant is not None:
            occupant.on_word(link, word, tuple(rest))

    def _on_closed(self, link: AnyLink, reason: str) -> None:
        if self._link is link:
            self._link = None
        for seat in list(self._occupants.values()):
            if (occupant := seat()) is not None:
                occupant.on_lost(link, reason)

    def leave(self, number: int) -> None:
        """Nobody sits there any more; the last one closes the link. On the exchange thread."""
        self._occupants.pop(number, None)
        link = self._link
        if link is not None:
            try:
                link.send((number, wire.LEAVE), lane=number)
            except LinkClosed:
                pass  # then the host knows that we are gone
            if not self._occupants:
                self._link = None  # who comes next dials anew
                link.close()


def _order_leave(connection: weakref.ref[QueueConnection], number: int) -> None:
    exchange_loop().order(lambda: _leave(connection, number))


def _leave(connection: weakref.ref[QueueConnection], number: int) -> None:
    if (left := connection()) is not None:
        left.leave(number)


_lock = threading.Lock()
# Who sits there keeps a connection, and so does its open link, which is closed when nobody sits there.
_pool: weakref.WeakValueDictionary[Hashable, QueueConnection] = weakref.WeakValueDictionary()


def pooled_connection(address: Address, key: bytes, ssl_context: ssl.SSLContext | None = None) -> QueueConnection:
    """The connection of this process to `address`; who has another key or context has another one."""
    with _lock:
        found = _pool.get((address, key, ssl_context))
        if found is None:
            found = _pool[address, key, ssl_context] = QueueConnection(address, key)
        return found


def _after_fork() -> None:
    global _lock, _pool
    _lock, _pool = threading.Lock(), weakref.WeakValueDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
