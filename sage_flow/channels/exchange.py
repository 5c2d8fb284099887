"""The data plane between processes: every message that leaves one or reaches it.

A process writes to a peer only on the link that it dialed itself, and only reads what others dialed, so
that each directed pair of processes has one link. `Exchange.send` writes at once, in the caller's thread,
what the socket takes; one thread per exchange does the rest: it dials, accepts, goes on writing where a
socket was full, and reads. Reading never stops (credits bound what is under way), so two peers that write
to each other cannot block each other. Nobody polls.

The thread is the exchange's own, not that of the process's other links: a slow callback of one does not hold
up the other, and whoever closes an exchange waits for a thread that cannot wait for him.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final, get_args

from sage_flow.channels.connection import Lost
from sage_flow.channels.frame import (
    DRIVER,
    CancelRequest,
    Control,
    Data,
    EndOfRequests,
    Message,
    Reply,
    Request,
)
from sage_flow.channels.handshake import NONCE_BYTES, Dialer, Identity
from sage_flow.channels.link import Link, Listener
from sage_flow.channels.loop import EventLoop
from sage_flow.channels.transport import UnixAddress, check_private
from sage_flow.errors import InternalError, LinkClosed, ProtocolError
from sage_flow.story import Story

_FIRST_PAUSE_S: Final = 0.002  # before a peer that is not there yet is dialed again; it doubles
_LONGEST_PAUSE_S: Final = 0.1

_KINDS: Final = get_args(Message)  # a message crosses as (target, index in here, its fields): no class by name
_KIND_OF: Final = {kind: index for index, kind in enumerate(_KINDS)}
_DATA: Final = _KIND_OF[Data]
_COST: Final = Data._fields.index("cost")


def lane_of(target: int, message: Message) -> Hashable:
    """What a message must not overtake: the earlier ones of its lane.

    A channel is a lane. Everything to the driver is one, as `Finished` counts on the collected rows before it.
    A caller's requests to one subtask are one, with their end and their cancellation. The replies to one call
    are one. Other commands overtake whatever is large.
    """
    match message:
        case Reply():
            return Reply, target, message.call_id
        case _ if target == DRIVER:
            return DRIVER
        case Data() | Control():
            return Data, message.channel
        case Request() | CancelRequest():
            return Request, target, message.reply_to
        case EndOfRequests():
            return Request, target, message.caller
        case _:
            return type(message), target


class Exchange:
    """The end of process `me` (a number) in the data plane of one attempt of one job.

    `directory` (0700, ours, with a short path) holds a socket per process; `key` is the job's secret.
    `on_message(target, message)` runs on the exchange thread, in order per peer and lane; if it raises, or a
    message cannot be decoded, its sender is lost (its lanes would have gaps). `on_peer_lost(peer, reason)` runs
    there, too: once per peer, after all that the peer had sent, and not for peers after `close()`.
    `connect_timeout_s`: for a peer to bind its socket, and again to finish the handshake. `flush_s`: see `close`.
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
        self._directory = directory
        self._on_message = on_message
        self._on_peer_lost = on_peer_lost
        self._connect_timeout_s = connect_timeout_s
        self._flush_s = flush_s
        self._lock = threading.RLock()  # guards the five below
        self._outlets: dict[int, Link] = {}
        self._lost: dict[int, str] = {}  # and why
        self._dropped = 0
        self._flush_until: float | None = None  # set by `close`
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"exchange-{me}", daemon=True)
        self._listener: Listener | None = None
        # What follows belongs to the exchange thread.
        self._loop = EventLoop()
        self._inlets: dict[int, Link] = {}
        self._received: Counter[str] = Counter()  # from peers that are lost
        self._story = Story()

    def start(self) -> None:
        """Bind our socket and start the thread.

        Raises: ProtocolError if others can get at the directory; SageFlowError if its path is too long; OSError if
        our number is taken.
        """
        check_private(self._directory)
        me = self._identity
        self._listener = Listener(
            self._address(me.process),
            me.key,
            me.name,
            on_link=self._admit,
            on_message=self._deliver,
            on_closed=self._inlet_closed,
            handshake_s=self._connect_timeout_s,
            process=me.process,
            attempt=me.attempt,
            loop=self._loop,
        )
        self._thread.start()

    def send(self, peer: int, target: int, message: Message) -> int:
        """Queue `message` for the address `target` in process `peer`. Returns its encoded bytes.

        From any thread; waits for nothing but another thread's pickling for the same peer. Large buffers (arrays)
        in the records of a `Data` are not copied and must not change any more; all else is copied before this
        returns. What goes to a lost peer is dropped and counted (0 bytes).

        Raises: CodecError if something in the message cannot be pickled.
        """
        kind = _KIND_OF.get(type(message))
        if kind is None:
            raise ProtocolError(f"a {type(message).__qualname__} is not a message")
        outlet = self._outlets.get(peer) or self._new_outlet(peer)
        try:
            # Records do not change once they are emitted; arguments of calls may.
            return outlet.send(
                (target, kind, *message),
                lane=lane_of(target, message),
                copy_buffers=kind != _DATA,
                subject=message,
            )
        except LinkClosed:
            with self._lock:
                self._dropped += 1
            return 0

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
        connections; the lost peers and why; the story: the last events."""
        with self._lock:
            outlets, lost, dropped = list(self._outlets.values()), dict(self._lost), self._dropped
        totals = Counter(sent_messages=0, sent_bytes=0, queued_bytes=0, dropped_bytes=0)
        totals.update(received_messages=self._received["messages"], received_bytes=self._received["bytes"])
        for link in [*outlets, *list(self._inlets.values())]:
            totals.update({k: n for k, n in link.statistics().items() if isinstance(n, int)})
        refused, story = 0, self._story.events()
        if self._listener is not None:
            door = self._listener.statistics()
            refused, story = door["refused"], tuple(sorted((*story, *door["story"])))
        return {
            **totals,
            "dropped_messages": dropped,
            "refused_connections": refused,
            "lost": lost,
            "story": story,
        }

    def _address(self, process: int) -> UnixAddress:
        return UnixAddress(os.path.join(self._directory, f"{process}.sock"))

    def _new_outlet(self, peer: int) -> Link:
        with self._lock:
            if (outlet := self._outlets.get(peer)) is None:
                outlet = self._outlets[peer] = Link(
                    self._loop,
                    f"process {peer}",
                    on_open=lambda link: self._note(f"connected to process {peer}"),
                    on_message=_refuse_message,
                    on_closed=partial(self._outlet_closed, peer),
                )
                if self._ended or peer in self._lost:
                    outlet.end(self._lost.get(peer, "this process has closed its exchange"))
                else:
                    deadline = time.monotonic() + self._connect_timeout_s
                    self._loop.order(partial(self._dial, peer, outlet, deadline, _FIRST_PAUSE_S))
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
            with self._lock:
                self._ended = True
                outlets = list(self._outlets.values())
                self._flush_until = self._flush_until or 0.0  # the end of these links is no news
            for outlet in outlets:
                outlet.end("this process has closed its exchange")
            if self._listener is not None:
                self._listener.end()
            self._loop.close()

    def _is_over(self) -> bool:
        if self._flush_until is None:
            return False
        with self._lock:
            idle = all(outlet.idle for outlet in self._outlets.values())
        return idle or time.monotonic() >= self._flush_until

    def _lose(self, peer: int, reason: str) -> None:
        with self._lock:
            if peer in self._lost or self._ended:
                return
            self._lost[peer] = reason
            outlet = self._outlets.get(peer)
        inlet = self._inlets.pop(peer, None)
        for link in (outlet, inlet):
            if link is not None:
                link.end(reason)
        if inlet is not None:
            received = inlet.statistics()
            self._received.update(messages=received["received_messages"], bytes=received["received_bytes"])
        self._note(f"lost process {peer}: {reason}")
        if self._flush_until is None:
            self._on_peer_lost(peer, reason)

    def _dial(self, peer: int, outlet: Link, deadline: float, pause: float) -> None:
        if peer in self._lost:
            return
        try:
            pipe = self._address(peer).dial(0.0)
        except (
            FileNotFoundError,
            ConnectionRefusedError,
            BlockingIOError,
        ) as error:  # not there yet, or too many at once
            if time.monotonic() >= deadline:
                outlet.end(f"it did not listen for {self._connect_timeout_s} s: {error}")
            else:
                again = partial(self._dial, peer, outlet, deadline, min(2 * pause, _LONGEST_PAUSE_S))
                self._loop.after(pause, again)
        except Exception as error:
            outlet.end(f"it could not be dialed: {error}")
        else:
            outlet.begin(pipe, Dialer(self._identity, os.urandom(NONCE_BYTES), peer), self._connect_timeout_s)

    def _outlet_closed(self, peer: int, outlet: Link, reason: str) -> None:
        """What the peer had written before it went still counts, also if its end shows here first."""
        if (inlet := self._inlets.get(peer)) is not None and (trouble := inlet.drain()) is not None:
            reason = f"{reason}; {trouble}"
        self._lose(peer, reason)

    def _admit(self, inlet: Link) -> None:
        peer = inlet.process
        if peer in self._inlets or peer in self._lost:
            raise Lost(f"process {peer} has been connected before")
        self._inlets[peer] = inlet
        self._note(f"process {peer} connected")

    def _inlet_closed(self, inlet: Link, reason: str) -> None:
        self._lose(inlet.process, reason)

    def _deliver(self, _: Link, value: tuple[Any, ...], size: int) -> None:
        target, kind, *fields = value
        if kind == _DATA:
            fields[_COST] = size
        try:
            self._on_message(target, _KINDS[kind](*fields))
        except Exception as error:
            what = f"its {_KINDS[kind].__name__} for {target} could not be delivered"
            raise Lost(f"{what}: {''.join(traceback.format_exception(error))}") from error

    def _note(self, what: str) -> None:
        self._story.note(time.monotonic(), what)


def _refuse_message(outlet: Link, value: Any, size: int) -> None:
    raise ProtocolError("it wrote on a connection that it may only read")
