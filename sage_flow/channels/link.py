"""Connections outside the mesh of a job: one between two processes, with messages both ways.

Who dials and who listens prove to each other that they know the key (`handshake`) before anything is
unpickled. A key opens what it was given for: the name - "queues", "service:answer" - is part of the proof.
All links and listeners of a process are served by one thread; it calls `on_message` and `on_closed`, which
must not wait for another link.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from sage_flow.channels.connection import Closed, Lost, Reader, Writer, negotiate, send_at_once
from sage_flow.channels.handshake import NONCE_BYTES, Acceptor, Dialer, Identity
from sage_flow.channels.loop import READ, WRITE, EventLoop
from sage_flow.channels.transport import Address, Stream, TcpAddress
from sage_flow.errors import ChannelNotReachable, CodecError, LinkClosed, ProtocolError
from sage_flow.story import Story

__all__ = ["Link", "Listener", "dial", "exchange_loop"]

_HANDSHAKE_S: Final = 10.0  # for a peer that has connected
_UNPROVEN: Final = 128  # connections that may be in their handshake at a time; further ones are closed
_FLUSH_S: Final = 5.0
_READS: Final = 64  # in a row from one link before another one's turn

OnMessage = Callable[["Link", Any, int], None]
OnClosed = Callable[["Link", str], None]


class _ExchangeThread:
    """The loop of this process, and the thread that runs it; both are made at first use, and anew after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: EventLoop | None = None
        self._pid = 0

    def loop(self) -> EventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = EventLoop(), os.getpid()
                run = partial(self._loop.run, until=lambda: False)
                threading.Thread(target=run, name="exchange of links", daemon=True).start()
            return self._loop


exchange_loop: Final = _ExchangeThread().loop
"""Returns the loop that serves the links of this process."""


class Link:
    """One end of a connection. `peer` is who is on the other end, as text.

    `state` is for whoever made it: nobody else looks at it.
    """

    def __init__(self, stream: Stream, peer: str, on_message: OnMessage, on_closed: OnClosed) -> None:
        self.peer = peer
        self.state: Any = None
        self._stream = stream
        self._writer = Writer()
        self._writer.stream = stream
        self._writer.open()
        self._reader = Reader()
        self._on_message = on_message
        self._on_closed = on_closed
        self._closed: str | None = None
        self._close_at: float | None = None
        self._received_messages = self._received_bytes = 0
        self._loop = exchange_loop()

    def send(self, value: Any, *, copy_buffers: bool = True) -> int:
        """Send any value that pickles, from any thread, without waiting; return the bytes it takes.

        Messages of one thread arrive in order. `copy_buffers=False`: large buffers (arrays) in it will not change.
        Raises: LinkClosed; CodecError, and then nothing was sent.
        """
        if self._closed is None:
            size, unfinished = self._writer.send(value, copy_buffers=copy_buffers)
            if unfinished:
                self._loop.order(self._write)
            if size:
                return size
        raise LinkClosed(f"the connection with {self.peer} is closed: {self._closed}")

    def close(self, flush_s: float = _FLUSH_S) -> None:
        """Write what was sent, for at most `flush_s` seconds, then close. Returns at once; `on_closed` is called."""
        self._loop.order(partial(self._begin_close, flush_s))

    @property
    def is_closed(self) -> bool:
        return self._closed is not None

    def statistics(self) -> dict[str, int]:
        """Messages and bytes sent, queued, dropped and received."""
        received = {"received_messages": self._received_messages, "received_bytes": self._received_bytes}
        return {**self._writer.statistics(), **received}

    # All below runs on the exchange thread.

    def serve(self) -> None:
        """Begin to read. Messages that have come already are told at once."""
        if self._closed is None:
            self._loop.watch(self._stream.sock, READ, self._on_ready)
            self._on_ready(READ)

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
        try:
            for _ in range(_READS):
                for value, size in self._reader.read(self._stream):
                    self._received_messages += 1
                    self._received_bytes += size
                    self._handle(value, size)
                    if self._closed is not None:
                        return
        except BlockingIOError:
            return
        except (Lost, ProtocolError, CodecError, OSError) as error:
            self.end(_text(error))
            return
        self._loop.order(partial(self._on_ready, READ))  # what TLS has decrypted shows in no selector

    def _handle(self, value: Any, size: int) -> None:
        try:
            self._on_message(self, value, size)
        except Exception as error:
            raise Lost(f"a message could not be handled: {''.join(traceback.format_exception(error))}") from error

    def _write(self) -> None:
        if self._closed is not None:
            return
        try:
            done = self._writer.write()
        except OSError as error:
            self.end(_text(error))
            return
        if done and self._close_at is not None:
            self.end("it was closed here")
        else:
            self._loop.watch(self._stream.sock, READ if done else READ | WRITE, self._on_ready)

    def _begin_close(self, flush_s: float) -> None:
        self._close_at = time.monotonic() + flush_s
        self._loop.after(flush_s, partial(self.end, "it was closed here"))
        self._write()

    def end(self, reason: str) -> None:
        """Close now."""
        if self._closed is None:
            self._closed = reason
            self._writer.abandon()
            self._loop.drop(self._stream.sock)
            self._on_closed(self, reason)


class Listener:
    """Accepts links at an address. `on_link` is called with each before its first message."""

    def __init__(
        self,
        address: Address,
        key: bytes | None,
        name: str,
        *,
        on_message: OnMessage,
        on_closed: OnClosed = lambda link, reason: None,
        on_link: Callable[[Link], None] = lambda link: None,
    ) -> None:
        """Bind, and begin to accept.

        Raises: ChannelNotReachable if the port is in use, or if there is no key and others than this machine
        could connect; SageFlowError if a path is too long.
        """
        if not key and isinstance(address, TcpAddress) and not address.is_loopback:
            raise ChannelNotReachable(
                f"{address} can be reached from other machines and there is no key: give one, such as"
                " secrets.token_bytes(32), or listen on 127.0.0.1"
            )
        self._identity = Identity(0, name, 0, key or b"")
        self._hooks = (on_message, on_closed)
        self._on_link = on_link
        self._socket = address.listen()
        self.address = address.bound(self._socket)
        self._unproven: set[_Admission] = set()
        self._links: set[Link] = set()
        self._refused = 0
        self._story = Story()
        self._is_closed = False
        self._ended = threading.Event()  # closed, and every link, too
        self._loop = exchange_loop()
        self._loop.order(lambda: self._loop.watch(self._socket, READ, self._accept))

    def close(self, flush_s: float = _FLUSH_S, *, wait: bool = True) -> None:
        """Accept nobody any more, and close the links when what was sent on them is written; wait for that."""
        self._loop.order(partial(self._end, flush_s))
        if wait:
            self._ended.wait()

    def links(self) -> list[Link]:
        """The links that are open."""
        return list(self._links)

    def statistics(self) -> dict[str, Any]:
        """Open links, connections that were refused, and the story."""
        return {"links": len(self._links), "refused": self._refused, "story": self._story.events()}

    # All below runs on the exchange thread.

    def _end(self, flush_s: float) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._loop.drop(self._socket)
            self.address.remove()
            for admission in list(self._unproven):
                self._refuse(admission, "the listener was closed")
            for link in list(self._links):
                link.close(flush_s)
        if not self._links:
            self._ended.set()

    def _accept(self, _: int) -> None:
        try:
            stream = self.address.accept(self._socket)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except (ProtocolError, OSError) as error:
            self._note_refusal(_text(error))
            return
        if len(self._unproven) >= _UNPROVEN:
            self._loop.drop(stream.sock)
            self._note_refusal("too many connections that have not proven who they are")
            return
        admission = _Admission(stream, Acceptor(self._identity, os.urandom(NONCE_BYTES)))
        self._unproven.add(admission)
        self._loop.watch(stream.sock, READ, partial(self._admit, admission))
        self._loop.after(_HANDSHAKE_S, partial(self._refuse, admission, f"no handshake within {_HANDSHAKE_S:g} s"))

    def _admit(self, admission: _Admission, _: int) -> None:
        try:
            admission.stream.establish()
            while negotiate(admission.stream, admission.handshake) is None:
                pass
        except BlockingIOError:
            return
        except (Lost, ProtocolError, OSError) as error:
            self._refuse(admission, _text(error))
            return
        self._unproven.remove(admission)
        self._loop.forget(admission.stream.sock)
        link = Link(admission.stream, _peer_of(admission.stream), self._hooks[0], self._on_closed)
        self._links.add(link)
        self._on_link(link)
        link.serve()

    def _refuse(self, admission: _Admission, reason: str) -> None:
        if admission in self._unproven:
            self._unproven.remove(admission)
            self._loop.drop(admission.stream.sock)
            self._note_refusal(reason)

    def _note_refusal(self, reason: str) -> None:
        self._refused += 1
        self._story.note(time.monotonic(), f"refused a connection: {reason}")

    def _on_closed(self, link: Link, reason: str) -> None:
        self._links.discard(link)
        if self._is_closed and not self._links:
            self._ended.set()
        self._hooks[1](link, reason)


class _Admission:
    """A connection that has not proven who it is."""

    def __init__(self, stream: Stream, handshake: Acceptor) -> None:
        self.stream = stream
        self.handshake = handshake


def dial(
    address: Address,
    key: bytes | None,
    name: str,
    *,
    on_message: OnMessage,
    on_closed: OnClosed = lambda link, reason: None,
    connect_timeout_s: float = 30.0,
) -> Link:
    """Connect to a listener of this name, in the caller's thread; return the link once it is proven on both sides.

    Raises: ChannelNotReachable that says why: nobody listens, the key is wrong, no answer in time ...
    """
    until = time.monotonic() + connect_timeout_s
    try:
        stream = address.dial(connect_timeout_s)
    except (OSError, ProtocolError) as error:
        raise ChannelNotReachable(f"nobody to talk to at {address}: {_text(error)}") from error
    try:
        _prove(stream, Dialer(Identity(0, name, 0, key or b""), os.urandom(NONCE_BYTES), 0), until)
    except (Lost, ProtocolError, OSError) as error:
        with suppress(OSError):
            stream.sock.close()
        raise ChannelNotReachable(f"{address} and we have not come together: {_text(error)}") from error
    link = Link(stream, str(address), on_message, on_closed)
    exchange_loop().order(link.serve)
    return link


def _prove(stream: Stream, handshake: Dialer, until: float) -> None:
    """The dialer's part of the handshake, waiting for the other part."""
    _patiently(stream, stream.establish, until)
    send_at_once(stream, handshake.start().data)
    while _patiently(stream, partial(negotiate, stream, handshake), until) is None:
        pass


def _patiently(stream: Stream, action: Callable[[], Any], until: float) -> Any:
    import select

    while True:
        try:
            return action()
        except BlockingIOError:
            left = until - time.monotonic()
            if left <= 0 or not select.select([stream.sock], [], [], left)[0]:
                raise TimeoutError("no answer in time") from None


def _peer_of(stream: Stream) -> str:
    name = stream.sock.getpeername()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "a process of this machine"


def _text(error: Exception) -> str:
    if isinstance(error, Closed):
        return str(error)
    return str(error) if isinstance(error, (Lost, CodecError, ProtocolError, TimeoutError)) else repr(error)
