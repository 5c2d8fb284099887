"""One authenticated connection between two processes, with messages both ways.

`dial` makes one, a `Listener` accepts many. The callbacks of all links of a process run on one thread, which
reads, writes what senders could not, and must never wait: a callback hands over and returns.

Before both ends have proved that they know the key, a peer gets a few kilobytes and a few seconds, and
nothing of what it sends is unpickled.
"""

from __future__ import annotations

import errno
import os
import ssl
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final

from sage_flow.channels.connection import Closed, Inbound, Lost, Outbound
from sage_flow.channels.handshake import NONCE_BYTES, Accepted, Acceptor, Dialer, Identity, Refused, Send
from sage_flow.channels.loop import READ, WRITE, EventLoop, shared_loop
from sage_flow.channels.pipe import Pipe
from sage_flow.channels.transport import Transport
from sage_flow.channels.wire import MESSAGE_LIMIT
from sage_flow.errors import (
    CodecError,
    InternalError,
    LinkClosed,
    LinkError,
    LinkRefused,
    LinkUnreachable,
    ProtocolError,
)
from sage_flow.story import Story

__all__ = ["Link", "Listener", "dial"]

_LAST_READS: Final = 256  # of a peer that is gone; more than a socket's buffer can hold
_BUSY_S: Final = 1.0  # the exchange thread may need so long to tell that the time is over
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE_S: Final = 0.1  # before the next try to accept after one of these
_OURS: Final = "this process closed it"

OnMessage = Callable[["Link", Any, int], object]
"""Called with the link, the value and its encoded bytes."""
OnClosed = Callable[["Link", str], object]
"""Called with the link and the reason: once, after the last message."""


class Link:
    """One end of a connection. What is sent in one lane arrives in order; lanes may overtake each other.

    Made by `dial` and `Listener`. `name` is what its key opens; `process` is the peer's number in a job, else 0.
    """

    def __init__(
        self,
        loop: EventLoop,
        name: str,
        *,
        on_message: OnMessage,
        on_closed: OnClosed,
        on_open: Callable[[Link], object],
        limit: int = MESSAGE_LIMIT,
    ) -> None:
        self.name = name
        self.process = 0
        self.opened = False
        """The handshake was completed."""
        self.refused = False
        """It failed because the two do not agree."""
        self._loop = loop
        self._on_message = on_message
        self._on_closed = on_closed
        self._on_open = on_open
        self._limit = limit
        self._out = Outbound(limit)
        self._in: Inbound  # once it is open: a stranger gets no memory for messages
        self._pipe: Pipe | None = None
        self._handshake: Dialer | Acceptor | None = None  # while it is under way
        self._greeted = False  # TLS, if any, is done
        self._closing = False
        self._reason: str | None = None
        self._gone = threading.Event()
        self._story = Story()

    def __repr__(self) -> str:
        state = "open" if self.opened and self._reason is None else self._reason or "connecting"
        return f"Link({self.name!r}, {state})"

    def send(self, value: Any, *, lane: Hashable = None, copy_buffers: bool = True, subject: Any = None) -> int:
        """Queue `value` and return its encoded bytes. From any thread; waits for no peer.

        Without `copy_buffers` large buffers (arrays) in `value` are not copied and must not change any more; all
        else is copied before this returns. `subject`: what an error describes instead of `value`.

        Raises: CodecError if something in `value` cannot be pickled; LinkClosed.
        """
        if self._loop.given_up:
            raise LinkClosed(f"the link {self.name!r} belongs to the process that forked this one")
        size, unfinished = self._out.send(value, lane, copy_buffers=copy_buffers, subject=subject)
        if unfinished:
            self._loop.order(self._flush)
        return size

    def close(self, flush_s: float = 1.0) -> None:
        """Write what is queued for at most `flush_s` seconds and end. Waits for that, but not in a callback."""
        self._out.refuse(_OURS)
        if not self._loop.given_up:
            self._loop.order(lambda: self.finish(flush_s))
            if threading.get_ident() != self._loop.thread:
                self._gone.wait(flush_s)

    @property
    def failed(self) -> bool:
        """It ended before it was open."""
        return self._reason is not None and not self.opened

    @property
    def idle(self) -> bool:
        """Nothing waits to be written."""
        return self._out.idle

    def statistics(self) -> dict[str, Any]:
        """Messages and bytes sent (`queued_bytes` are not written yet), dropped and received; why it is `closed`,
        if it is; the story: its last events."""
        return {
            **self._out.statistics(),
            "received_messages": self._in.messages if self.opened else 0,
            "received_bytes": self._in.bytes if self.opened else 0,
            "closed": self._reason,
            "story": self._story.events(),
        }

    # All below is for the exchange thread.

    def begin(self, pipe: Pipe, handshake: Dialer | Acceptor, timeout_s: float) -> None:
        """Start the handshake, which must be over in `timeout_s`."""
        if self._reason is not None:
            pipe.sock.close()
            return
        self._pipe, self._handshake = pipe, handshake
        late, this = f"no handshake within {timeout_s:.3g} s", weakref.ref(self)

        def expire() -> None:  # may come long after the end of the link, which it does not keep alive
            if (link := this()) is not None and link._handshake is not None:
                link.end(late)

        self._loop.after(timeout_s, expire)
        self._on_ready(READ)

    def end(self, reason: str) -> None:
        """Close the socket at once, drop what is queued, tell the owner."""
        if self._reason is not None:
            return
        self._reason, self._handshake = reason, None
        self._note(reason)
        self._out.abandon(reason)
        if self._pipe is not None:
            self._loop.drop(self._pipe.sock)
        self._gone.set()
        self._on_closed(self, reason)

    def finish(self, flush_s: float) -> None:
        """Write what is queued for at most so long, then end."""
        if self._reason is not None:
            return
        if not self.opened or flush_s <= 0:
            self.end(_OURS)
            return
        self._closing = True
        self._loop.after(flush_s, lambda: self.end(_OURS if self.idle else f"{_OURS} before all was written"))
        self._flush()

    def drain(self) -> str | None:
        """Deliver what a peer wrote before it went. Returns what was wrong with it, if anything."""
        try:
            for _ in range(_LAST_READS if self._pipe is not None and self.opened and self._reason is None else 0):
                self._in.read(self._pipe, self._deliver)  # type: ignore[arg-type]
        except (BlockingIOError, Closed):
            pass
        except Exception as error:
            return _text(error)
        return None

    def _on_ready(self, events: int) -> None:
        pipe = self._pipe
        if pipe is None or self._reason is not None:
            return
        try:
            if self._handshake is not None:
                self._greet(pipe, self._handshake)
            elif events & READ:
                self._read(pipe)
        except BlockingIOError:
            pass
        except Exception as error:
            self.refused = not self.opened and isinstance(error, (ssl.SSLError, Refusal))
            # However the other end goes when it has got all: it is because of us.
            self.end(_OURS if self._closing and self.idle else _text(error))
            return
        self._flush()

    def _flush(self) -> None:
        pipe = self._pipe
        if pipe is None or self._reason is not None:
            return
        try:
            done = self._out.write()
        except OSError as error:
            self.end(_text(error))
            return
        if done and self._closing:
            pipe.end_writing()  # and wait for the other end: to close with unread bytes could destroy what we wrote
        wanted = READ | WRITE if not done or pipe.wants_write else READ
        self._loop.watch(pipe.sock, wanted, self._on_ready)

    def _read(self, pipe: Pipe) -> None:
        self._in.read(pipe, self._deliver)
        while pipe.unread and self._reason is None:
            self._in.read(pipe, self._deliver)

    def _deliver(self, value: Any, size: int) -> None:
        if self._reason is not None:  # a callback before this one ended the link
            return
        try:
            self._on_message(self, value, size)
        except Lost:
            raise
        except Exception as error:
            raise Lost(f"a message could not be delivered: {''.join(traceback.format_exception(error))}") from error

    def _greet(self, pipe: Pipe, handshake: Dialer | Acceptor) -> None:
        if not self._greeted:
            pipe.greet()
            self._greeted = True
            if isinstance(handshake, Dialer):
                _send_at_once(pipe, handshake.start().data)
        while self._handshake is not None:
            space = bytearray(handshake.most)
            if not (count := pipe.read(memoryview(space))):
                raise Closed
            for decision in handshake.receive(space[:count]):
                match decision:
                    case Send(data):
                        _send_at_once(pipe, data)
                    case Refused(reason):
                        raise Refusal(reason)
                    case Accepted(process):
                        self._open(pipe, process)

    def _open(self, pipe: Pipe, process: int) -> None:
        self.process, self._handshake, self._in = process, None, Inbound(self._limit)
        self._on_open(self)
        self.opened = True
        self._note("opened")
        self._out.open(pipe)
        if pipe.unread:  # the socket does not say so again
            self._loop.order(lambda: self._on_ready(READ))

    def _note(self, what: str) -> None:
        self._story.note(time.monotonic(), what)


class Refusal(Lost):
    """The handshake came to the conclusion that the two do not belong together."""


def _send_at_once(pipe: Pipe, data: bytes) -> None:
    """Write a message of a handshake; it always fits, as nothing else is in the socket's buffer."""
    try:
        pipe.write(deque([data]))
    except OSError:
        pass  # the other end is closed; the next read tells, perhaps with the reason


def _text(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
    return str(error) if isinstance(error, (Lost, CodecError, ProtocolError)) else repr(error)


def dial(
    transport: Transport,
    key: bytes,
    name: str,
    *,
    on_message: OnMessage,
    on_closed: OnClosed = lambda link, reason: None,
    connect_timeout_s: float = 15.0,
    limit: int = MESSAGE_LIMIT,
) -> Link:
    """Connect to who listens at `transport`, and wait until both have proved that they know the key of `name`.

    An empty key is none. `on_message` may be called before this returns. `limit`: bytes of a message at the most.

    Raises: LinkUnreachable if nobody listens there, or no handshake within `connect_timeout_s` seconds;
    LinkRefused if the two ends do not agree.
    """
    loop = shared_loop()
    if threading.get_ident() == loop.thread:
        raise InternalError("dial() waits, and was called in a callback of a link")
    deadline = time.monotonic() + connect_timeout_s
    pipe = _connect(transport, connect_timeout_s)
    settled = threading.Event()
    over = False  # and failed

    def closed(link: Link, reason: str) -> None:
        settled.set()
        if link.opened and not over:
            on_closed(link, reason)

    link = Link(loop, name, on_message=on_message, on_closed=closed, on_open=lambda link: settled.set(), limit=limit)
    dialer = Dialer(Identity(0, name, 0, key), os.urandom(NONCE_BYTES), 0)
    remaining = max(0.0, deadline - time.monotonic())
    loop.order(lambda: link.begin(pipe, dialer, remaining))
    settled.wait(remaining + _BUSY_S)
    if not settled.is_set() or link.failed:
        over = True
        link.close(0)
        reason = link.statistics()["closed"] or "this process is busy in a callback of another link"
        raise (LinkRefused if link.refused else LinkUnreachable)(f"no link to {name!r} at {transport}: {reason}")
    return link


def _connect(transport: Transport, timeout_s: float) -> Pipe:
    try:
        return transport.dial(timeout_s)
    except LinkError:
        raise
    except (OSError, ProtocolError) as error:
        raise LinkRefused(f"no link to {transport}: {_text(error)}") from error


class Listener:
    """Accepts links at an address, from whoever knows the key of `name`; an empty key is none.

    `on_link(link)` is called before the link's first message; if it raises, the link is refused.
    `handshake_timeout_s` and `half_open` bound what strangers can hold: seconds for a handshake, and how many of
    them may be under way; one more ends the oldest. `limit`: bytes of a message at the most.
    `process`, `attempt`: ours in a job. `loop`: another thread's than that of all links.

    Raises: LinkError if the address cannot be listened at, or is not loopback and there is no key.
    """

    def __init__(
        self,
        transport: Transport,
        key: bytes,
        name: str,
        *,
        on_message: OnMessage,
        on_link: Callable[[Link], object] = lambda link: None,
        on_closed: OnClosed = lambda link, reason: None,
        handshake_timeout_s: float = 10.0,
        half_open: int = 64,
        limit: int = MESSAGE_LIMIT,
        process: int = 0,
        attempt: int = 0,
        loop: EventLoop | None = None,
    ) -> None:
        self.name = name
        self._identity = Identity(process, name, attempt, key)
        self._transport = transport
        self._on_message = on_message
        self._on_link = on_link
        self._on_closed = on_closed
        self._handshake_timeout_s = handshake_timeout_s
        self._half_open_limit = half_open
        self._limit = limit
        self._half_open: dict[Link, None] = {}  # oldest first
        self._links: dict[Link, None] = {}
        self._refused = 0
        self._story = Story()
        self._closing = False
        self._closed = threading.Event()
        self._sock = transport.listen(has_key=bool(key))
        self.address = transport.address(self._sock)
        """Where it can be dialed: (host, port), or the path."""
        self._loop = loop or shared_loop()
        self._loop.order(self._listen)

    def __repr__(self) -> str:
        return f"Listener({self.name!r} at {self._transport})"

    def close(self, flush_s: float = 1.0) -> None:
        """Accept nothing any more, and close all links as `Link.close`. From any thread."""
        if self._loop.given_up:
            return
        self._loop.order(lambda: self.end(flush_s))
        if threading.get_ident() != self._loop.thread:
            self._closed.wait(flush_s)

    def statistics(self) -> dict[str, Any]:
        """How many links there are, `half_open` ones and how many were refused; the story: its last events."""
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
            pipe = self._transport.accept(self._sock)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except Exception as error:
            self._note_refusal(_text(error))
            if isinstance(error, OSError) and error.errno in _EXHAUSTED:  # it would be ready again at once
                self._loop.ignore(self._sock)
                self._loop.after(_PAUSE_S, self._listen)
            return
        link = Link(
            self._loop,
            self.name,
            on_message=self._on_message,
            on_closed=self._ended,
            on_open=self._admit,
            limit=self._limit,
        )
        self._half_open[link] = None
        if len(self._half_open) > self._half_open_limit:
            next(iter(self._half_open)).end(f"more than {self._half_open_limit} handshakes at once")
        link.begin(pipe, Acceptor(self._identity, os.urandom(NONCE_BYTES)), self._handshake_timeout_s)

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
            self._transport.remove()
        for link in list(self._half_open):
            link.end(_OURS)
        for link in list(self._links):
            link.finish(flush_s)
        self._settle()

    def _settle(self) -> None:
        if self._closing and not self._links:
            self._closed.set()
