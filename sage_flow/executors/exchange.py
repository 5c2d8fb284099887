"""The data plane between processes: every message that leaves one or reaches it.

A process writes to a peer only on the link that it dialed itself, and only reads links that others dialed, so each
directed pair of processes has one link. `Exchange.send` writes at once, in the caller's thread, as much as the socket
takes. One thread per exchange does the rest: it dials, accepts, reads, and continues writing where a socket was full.
Reading never stops (credits limit what is under way), so two peers that write to each other cannot block each other.

The thread belongs to the exchange and does not serve other links of the process. So a slow callback of one does not
delay the other, and the thread that closes an exchange can wait for the exchange's thread, which never waits for it.

The links that the thread dials are in `outlets.py`, those that it reads in `inlets.py`; `leases.py` finds peers that
are silent for too long. Both links of a peer are lost together; only `Exchange._lose` decides that.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sage_flow.errors import InternalError, LinkClosed, ProtocolError
from sage_flow.executors.inlets import Inlets
from sage_flow.executors.leases import Leases
from sage_flow.executors.outlets import BIND_S, Outlets
from sage_flow.links.address import Address, UnixAddress
from sage_flow.links.link import Link
from sage_flow.links.loop import EventLoop
from sage_flow.links.story import Story
from sage_flow.runtime.messages import MESSAGES, Data, Message
from sage_flow.wire.handshake import Identity
from sage_flow.wire.packed import Packing

_ROUTES: Final = MESSAGES.routes
_DATA: Final = _ROUTES[Data][0]

_SIGN_OF_LIFE: Final = ()
_SIGNS: Final = 4  # in the time of a lease


class Exchange:
    """The end of process `me` (a number) in the data plane of one attempt of one job.

    `addresses(process)` is where a process listens, ours included; `key` is the job's secret.
    `on_message(target, message)` runs on the exchange thread, or on one that reads for `loop`, in order per peer and
    lane; if it raises, or a message cannot be decoded, its sender is lost (its lanes would have gaps).
    `on_peer_lost(peer, reason)` runs on the exchange thread: once per peer, after all that the peer had sent, and not
    for peers after `close()`. `on_connected(peer)` also runs on the exchange thread, before the first message of a
    peer.
    `connect_timeout_s`: seconds for a peer to finish the handshake. `bind_timeout_s`: before that, seconds for a peer
    on this machine to bind its socket; None if whoever started the peer reports its death, so that a slow start counts
    as none. For process 0 there is always a limit: it listens before it starts the others, so it is gone if it does not
    listen. `flush_s`: see `close`.
    `lease_s`: process 0 and the others declare each other lost after so many seconds without a message; they send one
    several times in that time. None: only a broken connection counts.
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
        on_connected: Callable[[int], None] = lambda peer: None,
        connect_timeout_s: float = 15.0,
        bind_timeout_s: float | None = BIND_S,
        flush_s: float = 1.0,
        lease_s: float | None = None,
    ) -> None:
        self.loop = EventLoop(shares_reading=True)
        """Its thread reads messages, and so do threads that wait for them; `run_deferred` writes what is on hold."""
        self._identity = Identity(me, job, attempt, key)
        self._addresses = addresses
        self._on_peer_lost = on_peer_lost
        self._flush_s = flush_s
        self._lock = threading.RLock()  # guards the links of the outlets, and the four attributes below
        self._lost: dict[int, str] = {}  # and why
        self._dropped = 0
        self._flush_until: float | None = None  # set by `close`
        self._ended = False
        self._outlets = Outlets(
            self.loop,
            self._identity,
            self._address_of,
            connect_timeout_s,
            bind_timeout_s,
            self._lock,
            why_refused=self._why_refused,
            on_open=lambda peer: self._note(f"connected to process {peer}"),
            on_closed=self._outlet_closed,
        )
        self._thread = threading.Thread(target=self._run, name=f"exchange-{me}", daemon=True)
        # What follows belongs to the exchange thread.
        self._inlets = Inlets(
            self.loop,
            self._identity,
            connect_timeout_s,
            on_message=on_message,
            is_lost=lambda peer: peer in self._lost,
            on_admitted=partial(self._admitted, on_connected),
            on_closed=self._lose,
        )
        self._leases = None if lease_s is None else Leases(lease_s)
        self._story = Story()

    def start(self) -> None:
        """Listen at our address and start the thread.

        Raises: ChannelNotReachable if others can get at a socket's directory; SageFlowError if its path is too long;
        OSError if our number is taken.
        """
        own = self._address_of(self._identity.process)
        if isinstance(own, UnixAddress):
            own.check_private()
        self.listen(own)
        if self._leases is not None:
            self.loop.call_soon_threadsafe(partial(self._renew_leases, self._leases))
        self._thread.start()

    def _address_of(self, process: int) -> Address:
        return self._addresses(process)

    def listen(self, address: Address) -> Address:
        """Listen there, too; return the address with its real port. Raises: see `Listener`."""
        return self._inlets.listen(address)

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
        outlet = self._outlets.links.get(peer) or self._outlets.open(peer)
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
        """Seconds since the last message of a peer with a lease, lost or not; exact to a quarter of the lease."""
        return 0.0 if self._leases is None else self._leases.silence_s(peer, time.monotonic())

    def refusals(self) -> list[str]:
        """Why the last refused connections were refused."""
        return [text for _, text in self._inlets.story()]

    def loss(self, peer: int) -> str | None:
        """Return why a peer is lost; None: it is not."""
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
            outlets, lost, dropped = list(self._outlets.links.values()), dict(self._lost), self._dropped
        totals = Counter(sent_messages=0, sent_bytes=0, queued_bytes=0, dropped_bytes=0)
        totals.update(received_messages=0, received_bytes=0)
        totals.update(self._inlets.received)
        for link in [*outlets, *list(self._inlets.links.values())]:
            totals.update({k: n for k, n in link.statistics().items() if isinstance(n, int)})
        return {
            **totals,
            "dropped_messages": dropped,
            "refused_connections": self._inlets.refused,
            "lost": lost,
            "story": tuple(sorted((*self._story.events(), *self._inlets.story()))),
        }

    def _why_refused(self, peer: int) -> str | None:
        """Return why no link to a peer may begin, None if it may; called with the lock held."""
        if self._ended or peer in self._lost:
            return self._lost.get(peer, "this process has closed its exchange")
        return None

    # All below runs on the exchange thread.

    def _run(self) -> None:
        try:
            self.loop.run(until=self._is_over)
        except BaseException as error:
            with self._lock:
                peers = {*self._outlets.links, *self._inlets.links}
            for peer in peers:
                self._lose(peer, f"the exchange of process {self._identity.process} failed: {error!r}")
            raise
        finally:
            with self._lock:
                self._ended = True
                outlets = list(self._outlets.links.values())
                self._flush_until = self._flush_until or 0.0  # the end of these links is no news
            for outlet in outlets:
                outlet.end("this process has closed its exchange")
            self._inlets.end()
            self.loop.close()

    def _is_over(self) -> bool:
        if self._flush_until is None:
            return False
        with self._lock:
            idle = all(outlet.idle for outlet in self._outlets.links.values())
        return idle or time.monotonic() >= self._flush_until

    def _lose(self, peer: int, reason: str) -> None:
        with self._lock:
            if peer in self._lost or self._ended:
                return
            self._lost[peer] = reason
            outlet = self._outlets.links.get(peer)
        if outlet is not None:
            outlet.end(reason)
        self._inlets.lose(peer, reason)
        self._note(f"lost process {peer}: {reason}")
        if self._flush_until is None:
            self._on_peer_lost(peer, reason)

    def _renew_leases(self, leases: Leases) -> None:
        """Send a sign of life to each peer with a lease, and lose those that were silent for too long."""
        if self._flush_until is not None:
            return
        now = time.monotonic()
        for peer in [0] if self._identity.process else list(self._inlets.links):
            if peer not in self._lost:
                outlet = self._outlets.links.get(peer) or self._outlets.open(peer)
                with contextlib.suppress(LinkClosed):
                    outlet.send(_SIGN_OF_LIFE, lane=_SIGN_OF_LIFE)
            if (inlet := self._inlets.links.get(peer)) is not None and leases.is_over(peer, inlet, now):
                self._lose(peer, f"it was silent for {leases.lease_s:g} s, the length of its lease")
        self.loop.call_later(leases.lease_s / _SIGNS, partial(self._renew_leases, leases))

    def _outlet_closed(self, peer: int, outlet: Link, reason: str) -> None:
        """Messages that the peer had written before its end still count, also if the end shows on this link first."""
        if (trouble := self._inlets.drain(peer)) is not None:
            reason = f"{reason}; {trouble}"
        self._lose(peer, reason)

    def _admitted(self, on_connected: Callable[[int], None], peer: int) -> None:
        self._note(f"process {peer} connected")
        on_connected(peer)

    def _note(self, what: str) -> None:
        self._story.note(time.monotonic(), what)
