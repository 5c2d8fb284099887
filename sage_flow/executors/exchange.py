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

import contextlib
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sage_flow.errors import InternalError, LinkClosed, ProtocolError
from sage_flow.links.address import Address, TcpAddress, UnixAddress
from sage_flow.links.connection import ConnectionLost
from sage_flow.links.link import Link
from sage_flow.links.listener import Listener
from sage_flow.links.loop import EventLoop
from sage_flow.links.pipe import Pipe
from sage_flow.links.silence import Silence
from sage_flow.links.story import Story
from sage_flow.runtime.messages import MESSAGES, Data, Message
from sage_flow.wire.handshake import NONCE_BYTES, Dialer, Identity
from sage_flow.wire.packed import Packing

_BIND_S: Final = 15.0
_FIRST_PAUSE_S: Final = 0.002  # before a peer that is not there yet is dialed again; it doubles
_LONGEST_PAUSE_S: Final = 0.1

_ROUTES: Final = MESSAGES.routes
_TYPES: Final = MESSAGES.types
_DATA: Final = _ROUTES[Data][0]
_COST: Final = Data._fields.index("cost")

_SIGN_OF_LIFE: Final = ()
_SIGNS: Final = 4  # in the time of a lease


class Exchange:
    """The end of process `me` (a number) in the data plane of one attempt of one job.

    `addresses(process)` is where a process listens, ours included; `key` is the job's secret.
    `on_message(target, message)` runs on the exchange thread, or on one that reads for `loop`, in order per peer and
    lane; if it raises, or a message cannot be decoded, its sender is lost (its lanes would have gaps).
    `on_peer_lost(peer, reason)` runs on the exchange thread: once per peer, after all that the peer had sent, and not
    for peers after `close()`.
    `connect_timeout_s`: for a peer to finish the handshake. `bind_timeout_s`: before that, for one on this machine to
    bind its socket; None where whoever started the peer says when it is gone, as a slow start is no death. Process 0
    has a limit in any case: it listens before it starts the others, so one that does not listen is gone. `flush_s`: see
    `close`.
    `lease_s`: after so many seconds without a word process 0 and the others take each other for lost; they say one
    several times in that time. None: they trust the connection alone.
    """

    def __init__(
        self,
        me: int,
        addresses: Callable[[int], Address],
        key: bytes,
        *,
        job: str,
        attempt: int,
        on_message: Callable[[int, Message], None],
        on_peer_lost: Callable[[int, str], None],
        connect_timeout_s: float = 15.0,
        bind_timeout_s: float | None = _BIND_S,
        flush_s: float = 1.0,
        lease_s: float | None = None,
    ) -> None:
        self.loop = EventLoop(shares_reading=True)
        """Messages are read by its thread, or by others that wait for them; `run_deferred` writes what is on hold."""
        self._identity = Identity(me, job, attempt, key)
        self._addresses = addresses
        self._on_message = on_message
        self._on_peer_lost = on_peer_lost
        self._connect_timeout_s = connect_timeout_s
        self._bind_timeout_s = bind_timeout_s
        self._flush_s = flush_s
        self._lease_s = lease_s
        self._lock = threading.RLock()  # guards the five below
        self._outlets: dict[int, Link] = {}
        self._lost: dict[int, str] = {}  # and why
        self._dropped = 0
        self._flush_until: float | None = None  # set by `close`
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"exchange-{me}", daemon=True)
        self._listeners: list[Listener] = []
        # What follows belongs to the exchange thread.
        self._inlets: dict[int, Link] = {}
        self._received: Counter[str] = Counter()  # from peers that are lost
        self._heard: dict[int, tuple[float, int]] = {}  # when a lease was last renewed, and messages until then
        self._silences: dict[int, Silence] = {}
        self._story = Story()

    def start(self) -> None:
        """Listen at our address and start the thread.

        Raises: ChannelNotReachable if others can get at a socket's directory; SageFlowError if its path is too long;
        OSError if our number is taken.
        """
        own = self._addresses(self._identity.process)
        if isinstance(own, UnixAddress):
            own.check_private()
        self.listen(own)
        if self._lease_s is not None:
            self.loop.call_soon_threadsafe(partial(self._renew_leases, self._lease_s))
        self._thread.start()

    def listen(self, address: Address) -> Address:
        """Listen there, too; return the address with its real port. Raises: see `Listener`."""
        me = self._identity
        listener = Listener(
            address,
            me.key,
            me.name,
            on_link=self._admit,
            on_message=self._deliver,
            on_closed=self._inlet_closed,
            describe=_describe,
            handshake_s=self._connect_timeout_s,
            process=me.process,
            attempt=me.attempt,
            loop=self.loop,
        )
        self._listeners.append(listener)
        return listener.address

    def send(self, peer: int, target: int, message: Message, on_hold: bool = False) -> int:
        """Queue `message` for the address `target` in process `peer`. Returns its encoded bytes.

        From any thread; waits for nothing but another thread's pickling for the same peer. Large buffers (arrays)
        in the records of a `Data` are not copied and must not change any more; all else is copied before this
        returns. What goes to a lost peer is dropped and counted (0 bytes). `on_hold`: see `Link.send`.

        Raises: CodecError if something in the message cannot be pickled.
        """
        try:
            number, lane_of = _ROUTES[type(message)]
        except KeyError:
            raise ProtocolError(f"a {type(message).__qualname__} is not a message") from None
        outlet = self._outlets.get(peer) or self._new_outlet(peer)
        fields: tuple[Any, ...] = message
        if type(message) is Data:
            fields = (message.channel, message.seq, Packing(message.unpacked()), message.tickets, message.cost)
        try:
            # Records do not change once they are emitted; arguments of calls may.
            return outlet.send(
                (target, number, *fields),
                lane=lane_of(target, message),
                copy_buffers=number != _DATA,
                subject=message,
                on_hold=on_hold,
            )
        except LinkClosed:
            with self._lock:
                self._dropped += 1
            return 0

    @property
    def process(self) -> int:
        """Our number."""
        return self._identity.process

    def silence_s(self, peer: int) -> float:
        """For how long a peer with a lease, perhaps lost by now, has said nothing, to a part of the lease."""
        when, _ = self._heard.get(peer, (time.monotonic(), 0))
        return time.monotonic() - when

    def refusals(self) -> list[str]:
        """The last connections that were refused, and why."""
        return [text for listener in self._listeners for _, text in listener.statistics()["story"]]

    def loss(self, peer: int) -> str | None:
        """Why a peer is lost; None: it is not."""
        with self._lock:
            return self._lost.get(peer)

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
            self.loop.call_soon_threadsafe(lambda: self.loop.call_later(self._flush_s, lambda: None))
            self._thread.join()
        elif first:
            self.loop.close()

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
        for listener in self._listeners:
            door = listener.statistics()
            refused, story = refused + door["refused"], tuple(sorted((*story, *door["story"])))
        return {
            **totals,
            "dropped_messages": dropped,
            "refused_connections": refused,
            "lost": lost,
            "story": story,
        }

    def _new_outlet(self, peer: int) -> Link:
        with self._lock:
            if (outlet := self._outlets.get(peer)) is None:
                outlet = self._outlets[peer] = Link(
                    self.loop,
                    f"process {peer}",
                    on_open=lambda link: self._note(f"connected to process {peer}"),
                    on_message=_refuse_message,
                    on_closed=partial(self._outlet_closed, peer),
                )
                if self._ended or peer in self._lost:
                    outlet.end(self._lost.get(peer, "this process has closed its exchange"))
                else:
                    deadline = time.monotonic() + self._bind_limit_s(peer)
                    self.loop.call_soon_threadsafe(partial(self._dial, peer, outlet, deadline, _FIRST_PAUSE_S))
            return outlet

    def _bind_limit_s(self, peer: int) -> float:
        if self._bind_timeout_s is not None:
            return self._bind_timeout_s
        return math.inf if peer else _BIND_S

    # All below runs on the exchange thread.

    def _run(self) -> None:
        try:
            self.loop.run(until=self._is_over)
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
            for listener in self._listeners:
                listener.end()
            self.loop.close()

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
        address = self._addresses(peer)
        if isinstance(address, TcpAddress):  # to connect takes time, which this thread does not have
            threading.Thread(target=self._dial_tcp, args=(address, peer, outlet), daemon=True).start()
            return
        try:
            pipe = address.dial(0.0)
        except (
            FileNotFoundError,
            ConnectionRefusedError,
            BlockingIOError,
        ) as error:  # not there yet, or too many at once
            if time.monotonic() >= deadline:
                outlet.end(f"it did not listen for {self._bind_limit_s(peer)} s: {error}")
            else:
                again = partial(self._dial, peer, outlet, deadline, min(2 * pause, _LONGEST_PAUSE_S))
                self.loop.call_later(pause, again)
        except Exception as error:
            outlet.end(f"it could not be dialed: {error}")
        else:
            self._begin(peer, outlet, pipe)

    def _dial_tcp(self, address: TcpAddress, peer: int, outlet: Link) -> None:
        """In a thread of its own. Who has an address of TCP was told it by a peer that listens."""
        try:
            pipe = address.dial(self._connect_timeout_s)
        except Exception as error:
            reason = f"it could not be dialed at {address}: {error}"
            self.loop.call_soon_threadsafe(lambda: outlet.end(reason))
        else:
            self.loop.call_soon_threadsafe(lambda: self._begin(peer, outlet, pipe))

    def _begin(self, peer: int, outlet: Link, pipe: Pipe) -> None:
        outlet.begin(pipe, Dialer(self._identity, os.urandom(NONCE_BYTES), peer), self._connect_timeout_s)

    def _renew_leases(self, lease_s: float) -> None:
        """Say a word to whom we have a lease with, and see who has not said one for too long."""
        if self._flush_until is not None:
            return
        now = time.monotonic()
        for peer in [0] if self._identity.process else list(self._inlets):
            if peer not in self._lost:
                outlet = self._outlets.get(peer) or self._new_outlet(peer)
                with contextlib.suppress(LinkClosed):
                    outlet.send(_SIGN_OF_LIFE, lane=_SIGN_OF_LIFE)
            if (inlet := self._inlets.get(peer)) is not None and self._is_silent(peer, inlet, now, lease_s):
                self._lose(peer, f"it was silent for {lease_s:g} s, the length of its lease")
        self.loop.call_later(lease_s / _SIGNS, partial(self._renew_leases, lease_s))

    def _is_silent(self, peer: int, inlet: Link, now: float, lease_s: float) -> bool:
        """Whether the peer has said nothing for a lease, as far as these looks tell."""
        when, messages = self._heard.get(peer, (now, -1))
        silence = self._silences.setdefault(peer, Silence(lease_s, now))
        if inlet.received_messages == messages and now - when > lease_s / 2:
            inlet.drain()  # it was perhaps this process that stood still
        if heard := inlet.received_messages != messages:
            when = now
        self._heard[peer] = (when, inlet.received_messages)
        return silence.is_over(now, heard=heard)

    def _outlet_closed(self, peer: int, outlet: Link, reason: str) -> None:
        """What the peer had written before it went still counts, also if its end shows here first."""
        if (inlet := self._inlets.get(peer)) is not None and (trouble := inlet.drain()) is not None:
            reason = f"{reason}; {trouble}"
        self._lose(peer, reason)

    def _admit(self, inlet: Link) -> None:
        peer = inlet.process
        if peer in self._inlets or peer in self._lost:
            raise ConnectionLost(f"process {peer} has been connected before")
        self._inlets[peer] = inlet
        self._note(f"process {peer} connected")

    def _inlet_closed(self, inlet: Link, reason: str) -> None:
        self._lose(inlet.process, reason)

    def _deliver(self, _: Link, value: tuple[Any, ...], size: int) -> None:
        if not value:
            return  # a sign of life
        target, number, *fields = value
        if number == _DATA:
            fields[_COST] = size
        self._on_message(target, _TYPES[number]._make(fields))

    def _note(self, what: str) -> None:
        self._story.note(time.monotonic(), what)


def _describe(value: Any) -> str:
    """Which message it is that a peer sent, for the error if it cannot be delivered."""
    match value:
        case (int(target), int(number), *_) if 0 <= number < len(_TYPES):
            return f"its {_TYPES[number].__name__} for {target}"
    return "a message"


def _refuse_message(outlet: Link, value: Any, size: int) -> None:
    raise ProtocolError("it wrote on a connection that it may only read")
