"""The data plane between processes: every message that leaves one or reaches it.

A process writes to a peer only on the connection that it dialed itself, and only reads what others
dialed, so that each directed pair of processes has one FIFO. `Exchange.send` writes at once, in the
caller's thread, what the socket takes; one thread per process does the rest: it dials, accepts, goes
on writing where a socket was full, and reads. Reading never stops (credits bound what is under way),
so two peers that write to each other cannot block each other. Nobody polls.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, get_args

from sage_flow.channels.codec import Decoder
from sage_flow.channels.frame import Data, Message
from sage_flow.channels.handshake import NONCE_BYTES, Accepted, Acceptor, Dialer, Identity, Refused, Send
from sage_flow.channels.link import Link
from sage_flow.channels.loop import READ, WRITE, EventLoop
from sage_flow.channels.transport import NotThereYet, UnixTransport
from sage_flow.channels.wire import FrameReader
from sage_flow.errors import CodecError, InternalError, ProtocolError

_KINDS: Final = get_args(
    Message
)  # a message crosses as (target, index in here, its fields): no class by name
_KIND_OF: Final = {kind: index for index, kind in enumerate(_KINDS)}
_DATA: Final = _KIND_OF[Data]

_CLOSED: Final = "it closed its connection"
_FIRST_PAUSE_S: Final = 0.002  # before a peer that is not there yet is dialed again; it doubles
_LONGEST_PAUSE_S: Final = 0.1
_LAST_READS: Final = 256  # of a peer that is gone; more than a socket's buffer can hold


class _Lost(Exception):
    """A connection is of no use any more; says why."""


class _Closed(_Lost):
    """Its other end was closed, at the end of a message."""


@dataclass(slots=True)
class _Outlet:
    """The connection we dialed: read in its handshake, then only written to, by its link."""

    link: Link
    sock: socket.socket
    handshake: Dialer | None  # None once it is over


@dataclass(slots=True)
class _Inlet:
    """A connection that a peer dialed: only read after its handshake."""

    sock: socket.socket
    handshake: Acceptor
    peer: int | None = None  # known after the handshake
    reader: FrameReader = field(default_factory=FrameReader)
    decoder: Decoder = field(default_factory=Decoder)


class Exchange:
    """The end of process `me` (a number) in the data plane of one attempt of one job.

    `directory` (0700, ours, with a short path) holds a socket per process; `key` is the job's secret.
    `on_message(target, message)` runs on the exchange thread, in order per peer; if it raises, or a message
    cannot be decoded, its sender is lost (its FIFO would have a gap). `on_peer_lost(peer, reason)` runs
    there, too: once per peer, after all that the peer had sent, and not for peers after `close()`.
    `connect_timeout_s`: for a peer to bind its socket and to answer the handshake. `flush_s`: see `close`.
    """

    def __init__(
        self,
        me: int,
        directory: str,
        key: bytes,
        *,
        job: str,
        attempt: int,
        on_message: Callable[[int, Message], None],
        on_peer_lost: Callable[[int, str], None],
        connect_timeout_s: float = 15.0,
        flush_s: float = 1.0,
    ) -> None:
        self._identity = Identity(me, job, attempt, key)
        self._transport = UnixTransport(directory)
        self._on_message = on_message
        self._on_peer_lost = on_peer_lost
        self._connect_timeout_s = connect_timeout_s
        self._flush_s = flush_s
        self._lock = threading.RLock()  # guards the three below
        self._links: dict[int, Link] = {}
        self._lost: dict[int, str] = {}  # why
        self._ended = False
        self._flush_until: float | None = None  # set by `close`
        self._thread = threading.Thread(target=self._run, name=f"exchange-{me}", daemon=True)
        # What follows belongs to the exchange thread.
        self._loop = EventLoop()
        self._outlets: dict[int, _Outlet] = {}
        self._inlets: dict[int, _Inlet] = {}  # whose handshake is over
        self._received: Counter[str] = Counter(messages=0, bytes=0, refused=0)
        self._story: deque[str] = deque(maxlen=64)

    def start(self) -> None:
        """Bind our socket and start the thread.

        Raises: ProtocolError if others could get at the directory; SageFlowError if its path is too long.
        """
        listener = self._transport.listen(self._identity.process)
        self._loop.watch(listener, READ, partial(self._accept, listener))
        self._thread.start()

    def send(self, peer: int, target: int, message: Message) -> int:
        """Queue `message` for the address `target` in process `peer`; never waits. Returns its encoded bytes.

        Large buffers (arrays) in the records of a `Data` are not copied and must not change any more; all
        else is copied before this returns. What goes to a lost peer is dropped and counted (0 bytes).

        Raises: CodecError if something in the message cannot be pickled.
        """
        kind = _KIND_OF.get(type(message))
        if kind is None:
            raise ProtocolError(f"a {type(message).__qualname__} is not a message")
        link = self._links.get(peer) or self._new_link(peer)
        value = (target, kind, *message)
        size, unfinished = link.send(value, copy_buffers=kind != _DATA, subject=message)
        if unfinished:
            self._loop.order(partial(self._write, peer))
        return size

    def close(self) -> None:
        """Write what is queued for at most `flush_s` seconds, then close all sockets and end the thread.

        Messages that arrive meanwhile are delivered. What could not be written is in `statistics()`.
        """
        if threading.current_thread() is self._thread:
            raise InternalError("Exchange.close() was called from on_message or on_peer_lost")
        with self._lock:
            first, self._flush_until = self._flush_until is None, time.monotonic() + self._flush_s
        if self._thread.ident is None:
            self._loop.close()
            return
        if first:
            self._loop.order(lambda: self._loop.after(self._flush_s, lambda: None))
        self._thread.join()

    def statistics(self) -> dict[str, Any]:
        """Messages and bytes sent (with those `queued_bytes`), received and dropped; refused connections;
        lost peers and why; the story of the last 64 events."""
        with self._lock:
            links, lost = list(self._links.values()), dict(self._lost)
        totals = Counter(sent_messages=0, sent_bytes=0, queued_bytes=0, dropped_messages=0, dropped_bytes=0)
        for link in links:
            totals.update(link.statistics())
        received = {
            "received_messages": self._received["messages"],
            "received_bytes": self._received["bytes"],
            "refused_connections": self._received["refused"],
        }
        return {**totals, **received, "lost": lost, "story": list(self._story)}

    # The exchange thread.

    def _run(self) -> None:
        try:
            self._loop.run(until=self._is_over)
        except BaseException as error:
            with self._lock:
                peers = {*self._links, *self._inlets}
            for peer in peers:
                self._lose(peer, f"the exchange of process {self._identity.process} failed: {error!r}")
            raise
        finally:
            self._transport.remove(self._identity.process)
            with self._lock:
                self._ended = True
                links = list(self._links.values())
            for link in links:
                link.abandon()
            self._loop.close()

    def _is_over(self) -> bool:
        if self._flush_until is None:
            return False
        with self._lock:
            idle = all(link.idle for link in self._links.values())
        return idle or time.monotonic() >= self._flush_until

    # What both kinds of connection share.

    def _lose(self, peer: int, reason: str) -> None:
        with self._lock:
            if peer in self._lost:
                return
            self._lost[peer] = reason
            link = self._links.get(peer)
        if link is not None:
            link.abandon()
        for end in (self._outlets.pop(peer, None), self._inlets.pop(peer, None)):
            if end is not None:
                self._loop.drop(end.sock)
        self._story.append(f"lost process {peer}: {reason}")
        if self._flush_until is None:
            self._on_peer_lost(peer, reason)

    def _negotiate(self, sock: socket.socket, handshake: Dialer | Acceptor) -> int | None:
        """Read, and answer, the next bytes of a handshake. Returns the peer once it is accepted."""
        peer = None
        for decision in handshake.receive(_receive(sock)):
            match decision:
                case Send(data):
                    _send_at_once(sock, data)
                case Accepted(peer):
                    self._story.append(f"{type(handshake).__name__.lower()}: process {peer} accepted")
                case Refused(reason):
                    raise _Lost(reason)
        return peer

    # Writing: the connections we dialed.

    def _new_link(self, peer: int) -> Link:
        with self._lock:
            if (link := self._links.get(peer)) is None:
                link = self._links[peer] = Link(peer)
                if self._ended or peer in self._lost:
                    link.abandon()
                else:
                    deadline = time.monotonic() + self._connect_timeout_s
                    self._loop.order(partial(self._dial, link, deadline, _FIRST_PAUSE_S))
            return link

    def _dial(self, link: Link, deadline: float, pause: float) -> None:
        if link.peer in self._lost:
            return
        try:
            sock = self._transport.dial(link.peer)
        except NotThereYet as error:
            if time.monotonic() >= deadline:
                self._outlet_broke(link.peer, f"it did not listen for {self._connect_timeout_s} s: {error}")
            else:
                again = partial(self._dial, link, deadline, min(2 * pause, _LONGEST_PAUSE_S))
                self._loop.after(pause, again)
        except Exception as error:
            self._outlet_broke(link.peer, f"it could not be dialed: {error}")
        else:
            handshake = Dialer(self._identity, os.urandom(NONCE_BYTES), link.peer)
            outlet = self._outlets[link.peer] = _Outlet(link, sock, handshake)
            _send_at_once(sock, handshake.start().data)
            self._loop.watch(sock, READ, partial(self._on_outlet, outlet))
            self._loop.after(deadline - time.monotonic(), partial(self._end_wait, outlet))

    def _end_wait(self, outlet: _Outlet) -> None:
        if outlet.handshake is not None:
            self._outlet_broke(outlet.link.peer, f"no handshake within {self._connect_timeout_s} s")

    def _on_outlet(self, outlet: _Outlet, events: int) -> None:
        peer = outlet.link.peer
        try:
            if outlet.handshake is None:
                if events & READ and _receive(outlet.sock):
                    raise _Lost("it wrote on a connection that it may only read")
                self._write(peer)
            elif self._negotiate(outlet.sock, outlet.handshake) is not None:
                outlet.handshake = None
                outlet.link.open(outlet.sock)
                self._write(peer)
        except BlockingIOError:
            pass
        except Exception as error:
            self._outlet_broke(peer, _text(error))

    def _write(self, peer: int) -> None:
        if (outlet := self._outlets.get(peer)) is None:
            return
        try:
            done = outlet.link.write()
        except OSError as error:
            self._outlet_broke(peer, _text(error))
        else:
            self._loop.watch(outlet.sock, READ if done else READ | WRITE, partial(self._on_outlet, outlet))

    def _outlet_broke(self, peer: int, reason: str) -> None:
        """What the peer had written before it went still counts, also if its end shows here first."""
        try:
            for _ in range(_LAST_READS if peer in self._inlets else 0):
                self._read(self._inlets[peer])
        except (BlockingIOError, _Closed):
            pass
        except Exception as error:
            reason = f"{reason}; {_text(error)}"
        self._lose(peer, reason)

    # Reading: the connections that peers dialed.

    def _accept(self, listener: socket.socket, _: int) -> None:
        try:
            sock = self._transport.accept(listener)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except ProtocolError as error:
            self._refuse(None, str(error))
            return
        inlet = _Inlet(sock, Acceptor(self._identity, os.urandom(NONCE_BYTES)))
        self._loop.watch(sock, READ, partial(self._on_inlet, inlet))
        self._loop.after(self._connect_timeout_s, partial(self._end_admission, inlet))

    def _end_admission(self, inlet: _Inlet) -> None:
        if inlet.peer is None and inlet.sock.fileno() >= 0:
            self._refuse(inlet.sock, f"no handshake within {self._connect_timeout_s} s")

    def _refuse(self, sock: socket.socket | None, reason: str) -> None:
        self._received["refused"] += 1
        self._story.append(f"refused a connection: {reason}")
        if sock is not None:
            self._loop.drop(sock)

    def _on_inlet(self, inlet: _Inlet, _: int) -> None:
        try:
            if inlet.peer is not None:
                self._read(inlet)
            elif (peer := self._negotiate(inlet.sock, inlet.handshake)) is not None:
                if peer in self._inlets or peer in self._lost:
                    raise _Lost(f"process {peer} has been connected before")
                self._inlets[peer] = inlet
                inlet.peer = peer
        except BlockingIOError:
            pass
        except Exception as error:
            if inlet.peer is None:
                self._refuse(inlet.sock, _text(error))
            else:
                self._lose(inlet.peer, _text(error))

    def _read(self, inlet: _Inlet) -> None:
        """Deliver what one read completes. Raises: BlockingIOError; anything else is the peer's end."""
        count = inlet.sock.recv_into(inlet.reader.space())
        if not count:
            raise _Lost("it closed inside a message") if inlet.reader.inside_a_frame else _Closed(_CLOSED)
        for payload in inlet.reader.filled(count):
            target, kind, *fields = inlet.decoder.decode(payload)
            size = len(payload)
            if kind == _DATA:
                fields[-1] = size  # its cost
            self._received["messages"] += 1
            self._received["bytes"] += size
            try:
                self._on_message(target, _KINDS[kind](*fields))
            except Exception as error:
                what = f"its {_KINDS[kind].__name__} for {target} could not be delivered"
                raise _Lost(f"{what}: {''.join(traceback.format_exception(error))}") from error


def _receive(sock: socket.socket) -> bytes:
    if not (data := sock.recv(4096)):
        raise _Closed(_CLOSED)
    return data


def _send_at_once(sock: socket.socket, data: bytes) -> None:
    """A message of a handshake, which always fits the empty buffer of a socket."""
    try:
        sock.send(data, socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the other end is closed; the next read says so, or says why


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, (_Lost, CodecError, ProtocolError)) else repr(error)
