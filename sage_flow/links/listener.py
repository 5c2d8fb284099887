"""Accepts links at an address, and limits what strangers (peers without a proof of the key) may hold there."""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sage_flow.errors import ChannelNotReachable
from sage_flow.links.address import Address, TcpAddress
from sage_flow.links.link import BUSY_S, CLOSED_HERE, FLUSH_S, Link, OnClosed, OnMessage, exchange_loop, text_of
from sage_flow.links.loop import READ, EventLoop
from sage_flow.links.pipe import Pipe
from sage_flow.links.story import Story
from sage_flow.wire.frames import MESSAGE_LIMIT
from sage_flow.wire.handshake import NONCE_BYTES, Acceptor, Identity

__all__ = ["Listener"]

_HANDSHAKE_S: Final = 10.0  # for a peer that has connected
_HALF_OPEN: Final = 128  # handshakes that may be under way
_OF_FILES: Final = 4  # they take at most a quarter of the files that the process may have open
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE_S: Final = 0.1  # before the next try to accept after one of these


_listeners: weakref.WeakSet[Listener] = weakref.WeakSet()  # of this process


class Listener:
    """Accepts links at an address from peers that know the key of `name`.

    `on_link` is called with each link before its first message; if it raises, the link is refused. `address` is the
    address to dial, with the real port.
    """

    def __init__(
        self,
        address: Address,
        key: bytes | None,
        name: str,
        *,
        on_message: OnMessage,
        on_closed: OnClosed = lambda link, reason: None,
        on_link: Callable[[Link], object] = lambda link: None,
        handshake_s: float = _HANDSHAKE_S,
        half_open: int | None = None,
        limit: int = MESSAGE_LIMIT,
        process: int = 0,
        attempt: int = 0,
        loop: EventLoop | None = None,
        describe: Callable[[Any], str] = lambda value: "a message",
    ) -> None:
        """Bind, and begin to accept.

        `handshake_s` and `half_open` limit what strangers can hold: the seconds for a handshake, and the number of
        handshakes under way (default: 128, fewer if the process may open few files); one more ends the oldest.
        `limit`: the bytes of the largest message. `process`, `attempt`: the numbers of this process and its attempt in
        a job. `loop`: by default `exchange_loop()`. `describe`: see `Link`.

        Raises: ChannelNotReachable if the port is in use, or if there is no key and other machines could connect;
        SageFlowError if a path is too long.
        """
        if not key and isinstance(address, TcpAddress) and not address.is_loopback:
            raise ChannelNotReachable(
                f"{address} can be reached from other machines and there is no key: give one, such as"
                " secrets.token_bytes(32), or listen on 127.0.0.1"
            )
        self._identity = Identity(process, name, attempt, key or b"")
        self._on_message = on_message
        self._describe = describe
        self._on_link = on_link
        self._on_closed = on_closed
        self._handshake_s = handshake_s
        self._half_open_limit = most_half_open() if half_open is None else half_open
        self._limit = limit
        self._half_open: dict[Link, None] = {}  # oldest first
        self._links: dict[Link, None] = {}
        self._refused = 0
        self._story = Story()
        self._closing = False
        self._closed = threading.Event()
        self._sock = address.listen()
        self.address = address.bound(self._sock)
        self._loop = loop or exchange_loop()
        _listeners.add(self)
        self._loop.call_soon_threadsafe(self._listen)

    def __repr__(self) -> str:
        return f"Listener({self._identity.name!r} at {self.address})"

    def close(self, flush_s: float = FLUSH_S, *, wait: bool = True) -> None:
        """Stop accepting, and close each link when what was sent on it is written; `wait` for the end of all."""
        if self._loop.given_up:
            return
        self._loop.call_soon_threadsafe(lambda: self.end(flush_s))
        if wait and threading.get_ident() != self._loop.thread:
            self._closed.wait(flush_s + BUSY_S)

    def links(self) -> list[Link]:
        """The links that are open."""
        return list(self._links)

    def statistics(self) -> dict[str, Any]:
        """How many links are open, how many are `half_open`, how many were refused; the story: the last events."""
        return {
            "links": len(self._links),
            "half_open": len(self._half_open),
            "refused": self._refused,
            "story": self._story.events(),
        }

    # All below runs on the exchange thread.

    def _listen(self) -> None:
        if not self._closing:
            self._loop.watch(self._sock, READ, self._accept)

    def _accept(self, _: int) -> None:
        try:
            pipe = self.address.accept(self._sock)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except Exception as error:
            self._note_refusal(text_of(error))
            if isinstance(error, OSError) and error.errno in _EXHAUSTED:  # the socket would be ready again at once
                self._make_room(error)
            return
        link = Link(
            self._loop,
            _peer_of(pipe),
            on_message=self._on_message,
            on_closed=self._ended,
            on_open=self._admit,
            limit=self._limit,
            describe=self._describe,
        )
        self._half_open[link] = None
        if len(self._half_open) > self._half_open_limit:
            next(iter(self._half_open)).end(f"more than {self._half_open_limit} handshakes at once")
        link.begin(pipe, Acceptor(self._identity, os.urandom(NONCE_BYTES)), self._handshake_s)

    def _make_room(self, error: OSError) -> None:
        """No file is left for a new connection: end the oldest handshake here, or else at the other listeners."""
        reason = f"{error.strerror}, and this is the oldest handshake"
        if self._end_oldest(reason):
            return  # the new connection is accepted next
        for other in list(_listeners):
            if other is not self and other._half_open:
                other._loop.call_soon_threadsafe(partial(other._end_oldest, reason))
        self._loop.forget(self._sock)
        self._loop.call_later(_PAUSE_S, self._listen)

    def _end_oldest(self, reason: str) -> bool:
        oldest = next(iter(self._half_open), None)
        if oldest is not None:
            oldest.end(reason)
        return oldest is not None

    def _admit(self, link: Link) -> None:
        self._on_link(link)
        del self._half_open[link]
        self._links[link] = None

    def _ended(self, link: Link, reason: str) -> None:
        if link.opened:
            del self._links[link]
            self._settle()
            self._on_closed(link, reason)
        else:
            del self._half_open[link]
            self._note_refusal(reason)

    def _note_refusal(self, reason: str) -> None:
        self._refused += 1
        self._story.note(time.monotonic(), f"refused a connection: {reason}")

    def end(self, flush_s: float = 0.0) -> None:
        """Stop listening, and let the links end within `flush_s` seconds."""
        if not self._closing:
            self._closing = True
            self._loop.drop(self._sock)
            self.address.remove()
        for link in list(self._half_open):
            link.end(CLOSED_HERE)
        for link in list(self._links):
            link.finish(flush_s)
        self._settle()

    def _settle(self) -> None:
        if self._closing and not self._links:
            self._closed.set()


def most_half_open() -> int:
    """Return how many handshakes may be under way at one listener; files must be left for everything else."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _HALF_OPEN if files == resource.RLIM_INFINITY else max(1, min(_HALF_OPEN, files // _OF_FILES))


def _peer_of(pipe: Pipe) -> str:
    name = pipe.sock.getpeername()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "a process of this machine"
