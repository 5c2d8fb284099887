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
from sage_flow.links.address import Address
from sage_flow.links.dialing import dial
from sage_flow.links.local_keys import found_key
from sage_flow.links.local_link import AnyLink
from sage_flow.links.loop import exchange_loop
from sage_flow.queues import opcodes
from sage_flow.queues.host import host_here
from sage_flow.queues.opcodes import Opcode


class QueueClient(Protocol):
    """The client of a subscription. Both methods are called on the thread that reads the link."""

    def on_message(self, link: AnyLink, opcode: int, rest: tuple[Any, ...]) -> None:
        """A message of the host."""

    def on_lost(self, link: AnyLink, reason: str) -> None:
        """The link is gone."""


class QueueConnection:
    """At most one link to a host, and the clients of this process that use it, by subscription."""

    def __init__(self, address: Address, key: bytes) -> None:
        self._address = address
        self._key = key
        self._link: AnyLink | None = None
        self._dialing = threading.Lock()
        self._numbers = itertools.count(1)
        self._clients: dict[int, weakref.ref[QueueClient]] = {}

    def __repr__(self) -> str:
        return f"QueueConnection({self._address})"

    def subscribe(self, client: QueueClient) -> int:
        """Return the number of a new subscription, which ends with `client`."""
        number = next(self._numbers)
        self._clients[number] = weakref.ref(client)
        # A finalizer may run anywhere, so it must not take a lock: the exchange thread does the work.
        weakref.finalize(client, _call_leave, weakref.ref(self), number).atexit = False
        return number

    def link(self, timeout_s: float) -> AnyLink:
        """Return the link; dial it if there is none, which blocks. Raises: ChannelNotReachable."""
        with self._dialing:
            link = self._link
            key = (self._key or found_key(self._address)) if link is None else b""
            if link is None and (host := host_here(self._address, key)) is not None:
                link = self._link = host.connect(self._on_message, self._on_closed)
            elif link is None:
                link = self._link = dial(
                    self._address,
                    key,
                    opcodes.PROTOCOL,
                    on_message=self._on_message,
                    on_closed=self._on_closed,
                    connect_timeout_s=timeout_s,
                )
                if link.is_closed:  # it ended before it was noted
                    self._link = None
            return link

    def _on_message(self, link: AnyLink, message: tuple[Any, ...], size: int) -> None:
        number, opcode, *rest = message
        reference = self._clients.get(number)
        client = None if reference is None else reference()
        if client is not None:
            client.on_message(link, opcode, tuple(rest))

    def _on_closed(self, link: AnyLink, reason: str) -> None:
        if self._link is link:
            self._link = None
        for reference in list(self._clients.values()):
            if (client := reference()) is not None:
                client.on_lost(link, reason)

    def leave(self, number: int) -> None:
        """End a subscription; the end of the last one closes the link. On the exchange thread."""
        self._clients.pop(number, None)
        link = self._link
        if link is not None:
            try:
                link.send((number, int(Opcode.LEAVE)), lane=number)
            except LinkClosed:
                pass  # then the host knows that the client is gone
            if not self._clients:
                self._link = None  # the next client dials again
                link.close()


def _call_leave(connection: weakref.ref[QueueConnection], number: int) -> None:
    exchange_loop().call_soon_threadsafe(lambda: _leave(connection, number))


def _leave(connection: weakref.ref[QueueConnection], number: int) -> None:
    if (left := connection()) is not None:
        left.leave(number)


_lock = threading.Lock()
# Its clients keep a connection alive, and so does its open link, which is closed when no client is left.
_pool: weakref.WeakValueDictionary[Hashable, QueueConnection] = weakref.WeakValueDictionary()


def pooled_connection(address: Address, key: bytes, ssl_context: ssl.SSLContext | None = None) -> QueueConnection:
    """Return the connection of this process to `address`; each key and each context has its own."""
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
