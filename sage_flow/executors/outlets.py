"""The links that a process dials: one to each peer, at the first message for it.

Any thread may call `open`. The thread of the exchange dials, except over TCP: there to connect takes longer than this
thread may wait, so another thread does it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sage_flow.errors import ProtocolError
from sage_flow.links.address import Address, TcpAddress
from sage_flow.links.link import Link
from sage_flow.links.loop import EventLoop
from sage_flow.links.pipe import Pipe
from sage_flow.wire.handshake import NONCE_BYTES, Dialer, Identity

__all__ = ["BIND_S", "Outlets"]

BIND_S: Final = 15.0
"""Seconds for a peer on this machine to bind its socket."""
_FIRST_PAUSE_S: Final = 0.002  # before a peer that is not there yet is dialed again; it doubles
_LONGEST_PAUSE_S: Final = 0.1


class Outlets:
    """The outgoing links of one exchange, by the number of the peer.

    `lock` guards `links`; it is held while `why_refused(peer)` is asked whether a new link to a peer may begin, so that
    no link begins after its peer was lost. `on_open` and `on_closed` are called on the thread of `loop`.
    """

    def __init__(
        self,
        loop: EventLoop,
        identity: Identity,
        address_of: Callable[[int], Address],
        connect_timeout_s: float,
        bind_timeout_s: float | None,
        lock: threading.RLock,
        *,
        why_refused: Callable[[int], str | None],
        on_open: Callable[[int], None],
        on_closed: Callable[[int, Link, str], None],
    ) -> None:
        self._loop = loop
        self._identity = identity
        self._address_of = address_of
        self._connect_timeout_s = connect_timeout_s
        self._bind_timeout_s = bind_timeout_s
        self._lock = lock
        self._why_refused = why_refused
        self._on_open = on_open
        self._on_closed = on_closed
        self.links: dict[int, Link] = {}

    def open(self, peer: int) -> Link:
        """Return the link to a peer; a new one is dialed soon. Messages sent on it wait until it is open."""
        with self._lock:
            if (outlet := self.links.get(peer)) is not None:
                return outlet
            outlet = self.links[peer] = Link(
                self._loop,
                f"process {peer}",
                on_open=lambda link: self._on_open(peer),
                on_message=_refuse_message,
                on_closed=partial(self._on_closed, peer),
            )
            if (reason := self._why_refused(peer)) is not None:
                outlet.end(reason)
            else:
                deadline = time.monotonic() + self._bind_limit_s(peer)
                self._loop.call_soon_threadsafe(partial(self._dial, peer, outlet, deadline, _FIRST_PAUSE_S))
            return outlet

    def _bind_limit_s(self, peer: int) -> float:
        if self._bind_timeout_s is not None:
            return self._bind_timeout_s
        return math.inf if peer else BIND_S

    def _dial(self, peer: int, outlet: Link, deadline: float, pause: float) -> None:
        if self._why_refused(peer) is not None:
            return
        address = self._address_of(peer)
        if isinstance(address, TcpAddress):  # to connect takes longer than this thread may wait
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
                self._loop.call_later(pause, again)
        except Exception as error:
            outlet.end(f"it could not be dialed: {error}")
        else:
            self._begin(peer, outlet, pipe)

    def _dial_tcp(self, address: TcpAddress, peer: int, outlet: Link) -> None:
        """Dial, in a separate thread. Only peers that listen have told an address of TCP, so one try will do."""
        try:
            pipe = address.dial(self._connect_timeout_s)
        except Exception as error:
            reason = f"it could not be dialed at {address}: {error}"
            self._loop.call_soon_threadsafe(lambda: outlet.end(reason))
        else:
            self._loop.call_soon_threadsafe(lambda: self._begin(peer, outlet, pipe))

    def _begin(self, peer: int, outlet: Link, pipe: Pipe) -> None:
        outlet.begin(pipe, Dialer(self._identity, os.urandom(NONCE_BYTES), peer), self._connect_timeout_s)


def _refuse_message(outlet: Link, value: Any, size: int) -> None:
    raise ProtocolError("it wrote on a connection that it may only read")
