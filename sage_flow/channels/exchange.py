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
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sage_flow.channels.connection import Closed, Inlet, Lost, Outlet, send_at_once
from sage_flow.channels.frame import Message
from sage_flow.channels.handshake import NONCE_BYTES, Acceptor, Dialer, Identity
from sage_flow.channels.loop import READ, WRITE, EventLoop
from sage_flow.channels.transport import NotThereYet, UnixTransport
from sage_flow.errors import CodecError, InternalError, ProtocolError

_FIRST_PAUSE_S: Final = 0.002  # before a peer that is not there yet is dialed again; it doubles
_LONGEST_PAUSE_S: Final = 0.1
_LAST_READS: Final = 256  # of a peer that is gone; more than a socket's buffer can hold
_STORY: Final = 64


class Exchange:
    """The end of process `me` (a number) in the data plane of one attempt of one job.

    `directory` (0700, ours, with a short path) holds a socket per process; `key` is the job's secret.
    `on_message(target, message)` runs on the exchange thread, in order per peer; if it raises, or a message
    cannot be decoded, its sender is lost (its FIFO would have a gap). `on_peer_lost(peer, reason)` runs
    there, too: once per peer, after all that the peer had sent, and not for peers after `close()`.
    `connect_timeout_s`: for a peer to bind its socket and to finish the handshake. `flush_s`: see `close`.
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
        self._lock = threading.RLock()  # guards the four below
        self._outlets: dict[int, Outlet] = {}
        self._lost: dict[int, str] = {}  # and why
        self._flush_until: float | None = None  # set by `close`
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"exchange-{me}", daemon=True)
        # What follows belongs to the exchange thread.
        self._loop = EventLoop()
        self._inlets: dict[int, Inlet] = {}  # whose handshake is over
        self._received: Counter[str] = Counter()  # from peers that are lost
        self._refused = 0
        self._story: deque[str] = deque(maxlen=_STORY)

    def start(self) -> None:
        """Bind our socket and start the thread.

        Raises: ProtocolError if others can get at the directory; SageFlowError if its path is too long.
        """
        listener = self._transport.listen(self._identity.process)
        self._loop.watch(listener, READ, partial(self._accept, listener))
        self._thread.start()

    def send(self, peer: int, target: int, message: Message) -> int:
        """Queue `message` for the address `target` in process `peer`. Returns its encoded bytes.

        From any thread; waits for nothing but another thread's pickling for the same peer. Large buffers (arrays)
        in the records of a `Data` are not copied and must not change any more; all else is copied before this
        returns. What goes to a lost peer is dropped and counted (0 bytes).

        Raises: CodecError if something in the message cannot be pickled.
        """
        outlet = self._outlets.get(peer) or self._new_outlet(peer)
        size, unfinished = outlet.send_message(target, message)
        if unfinished:
            self._loop.order(partial(self._write, outlet))
        return size

    def close(self) -> None:
        """Write what is queued for at most `flush_s` seconds, then close all sockets and end the thread.

        Messages that arrive meanwhile are delivered. What could not be written is in `statistics()`.
        """
        if threading.current_thread() is self._thread:
            raise InternalError("Exchange.close() was called from on_message or on_peer_lost")
        with self._lock:
            first = self._flush_until is None
            if first:
                self._flush_until = time.monotonic() + self._flush_s
        if self._thread.ident is not None:
            self._loop.order(lambda: self._loop.after(self._flush_s, lambda: None))
            self._thread.join()
        elif first:
            self._loop.close()

    def statistics(self) -> dict[str, Any]:
        """Messages and bytes sent (`queued_bytes` are not written yet), received and dropped; refused
        connections; the lost peers and why; the story: the last 64 events."""
        with self._lock:
            outlets, lost = list(self._outlets.values()), dict(self._lost)
        totals = Counter(sent_messages=0, sent_bytes=0, queued_bytes=0, dropped_messages=0, dropped_bytes=0)
        for outlet in outlets:
            totals.update(outlet.statistics())
        totals.update(received_messages=self._received["messages"], received_bytes=self._received["bytes"])
        for inlet in list(self._inlets.values()):
            totals.update(received_messages=inlet.messages, received_bytes=inlet.bytes)
        return {**totals, "refused_connections": self._refused, "lost": lost, "story": list(self._story)}

    def _new_outlet(self, peer: int) -> Outlet:
        with self._lock:
            if (outlet := self._outlets.get(peer)) is None:
                outlet = self._outlets[peer] = Outlet(peer)
                if self._ended or peer in self._lost:
                    outlet.abandon()
                else:
                    deadline = time.monotonic() + self._connect_timeout_s
                    self._loop.order(partial(self._dial, outlet, deadline, _FIRST_PAUSE_S))
            return outlet

    # All below runs on the exchange thread.

    def _run(self) -> None:
        try:
            self._loop.run(until=self._is_over)
        except BaseException as error:
            with self._lock:
                peers = {*self._outlets, *self._inlets}
            for peer in peers:
                self._lose(peer, f"the exchange of process {self._identity.process} failed: {error!r}")
            raise
        finally:
            self._transport.remove(self._identity.process)
            with self._lock:
                self._ended = True
                outlets = list(self._outlets.values())
            for outlet in outlets:
                outlet.abandon()
            self._loop.close()

    def _is_over(self) -> bool:
        if self._flush_until is None:
            return False
        with self._lock:
            idle = all(outlet.idle for outlet in self._outlets.values())
        return idle or time.monotonic() >= self._flush_until

    def _lose(self, peer: int, reason: str) -> None:
        with self._lock:
            if peer in self._lost:
                return
            self._lost[peer] = reason
            outlet = self._outlets.get(peer)
        if outlet is not None:
            outlet.abandon()
            if outlet.stream is not None:
                self._loop.drop(outlet.stream.sock)
        if (inlet := self._inlets.pop(peer, None)) is not None:
            self._received.update(messages=inlet.messages, bytes=inlet.bytes)
            self._loop.drop(inlet.stream.sock)
        self._story.append(f"lost process {peer}: {reason}")
        if self._flush_until is None:
            self._on_peer_lost(peer, reason)

    # Outlets.

    def _dial(self, outlet: Outlet, deadline: float, pause: float) -> None:
        if outlet.peer in self._lost:
            return
        try:
            stream = self._transport.dial(outlet.peer)
        except NotThereYet as error:
            if time.monotonic() >= deadline:
                self._outlet_broke(outlet, f"it did not listen for {self._connect_timeout_s} s: {error}")
            else:
                again = partial(self._dial, outlet, deadline, min(2 * pause, _LONGEST_PAUSE_S))
                self._loop.after(pause, again)
        except Exception as error:
            self._outlet_broke(outlet, f"it could not be dialed: {_text(error)}")
        else:
            outlet.stream = stream
            outlet.handshake = Dialer(self._identity, os.urandom(NONCE_BYTES), outlet.peer)
            send_at_once(stream, outlet.handshake.start().data)
            self._loop.watch(stream.sock, READ, partial(self._on_outlet, outlet))
            self._loop.after(deadline - time.monotonic(), partial(self._end_wait, outlet))

    def _end_wait(self, outlet: Outlet) -> None:
        if outlet.handshake is not None:
            self._outlet_broke(outlet, f"no handshake within {self._connect_timeout_s} s")

    def _on_outlet(self, outlet: Outlet, events: int) -> None:
        try:
            if events & READ and outlet.negotiate():
                self._story.append(f"connected to process {outlet.peer}")
                events |= WRITE
        except BlockingIOError:
            pass
        except Exception as error:
            self._outlet_broke(outlet, _text(error))
            return
        if events & WRITE:
            self._write(outlet)

    def _write(self, outlet: Outlet) -> None:
        if outlet.peer in self._lost or outlet.stream is None:
            return
        try:
            done = outlet.write()
        except OSError as error:
            self._outlet_broke(outlet, _text(error))
        else:
            self._loop.watch(outlet.stream.sock, READ if done else READ | WRITE, partial(self._on_outlet, outlet))

    def _outlet_broke(self, outlet: Outlet, reason: str) -> None:
        """What the peer had written before it went still counts, also if its end shows here first."""
        try:
            for _ in range(_LAST_READS if outlet.peer in self._inlets else 0):
                self._inlets[outlet.peer].read(self._on_message)
        except (BlockingIOError, Closed):
            pass
        except Exception as error:
            reason = f"{reason}; {_text(error)}"
        self._lose(outlet.peer, reason)

    # Inlets.

    def _accept(self, listener: socket.socket, _: int) -> None:
        try:
            stream = self._transport.accept(listener)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except ProtocolError as error:
            self._refuse(None, str(error))
            return
        inlet = Inlet(stream, Acceptor(self._identity, os.urandom(NONCE_BYTES)))
        self._loop.watch(stream.sock, READ, partial(self._on_inlet, inlet))
        self._loop.after(self._connect_timeout_s, partial(self._end_admission, inlet))

    def _end_admission(self, inlet: Inlet) -> None:
        if inlet.peer is None and inlet.stream.sock.fileno() >= 0:
            self._refuse(inlet.stream.sock, f"no handshake within {self._connect_timeout_s} s")

    def _refuse(self, sock: socket.socket | None, reason: str) -> None:
        self._refused += 1
        self._story.append(f"refused a connection: {reason}")
        if sock is not None:
            self._loop.drop(sock)

    def _on_inlet(self, inlet: Inlet, _: int) -> None:
        try:
            if inlet.peer is not None:
                inlet.read(self._on_message)
            elif (peer := inlet.negotiate()) is not None:
                self._admit(inlet, peer)
        except BlockingIOError:
            pass
        except Exception as error:
            if inlet.peer is None:
                self._refuse(inlet.stream.sock, _text(error))
            else:
                self._lose(inlet.peer, _text(error))

    def _admit(self, inlet: Inlet, peer: int) -> None:
        if peer in self._inlets or peer in self._lost:
            raise Lost(f"process {peer} has been connected before")
        inlet.peer = peer
        self._inlets[peer] = inlet
        self._story.append(f"process {peer} connected")


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, (Lost, CodecError, ProtocolError)) else repr(error)
