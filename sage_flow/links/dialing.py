"""Connects to a listener: `dial`."""

from __future__ import annotations

import os
import threading
import time

from sage_flow.errors import ChannelNotReachable, InternalError
from sage_flow.links.address import Address
from sage_flow.links.link import BUSY_S, Link, OnClosed, OnMessage, text_of
from sage_flow.links.loop import exchange_loop
from sage_flow.wire.frames import MESSAGE_LIMIT
from sage_flow.wire.handshake import NONCE_BYTES, Dialer, Identity

__all__ = ["dial"]


def dial(
    address: Address,
    key: bytes | None,
    name: str,
    *,
    on_message: OnMessage,
    on_closed: OnClosed = lambda link, reason: None,
    connect_timeout_s: float = 30.0,
    limit: int = MESSAGE_LIMIT,
) -> Link:
    """Connect to a listener of this name, and wait until both sides have proven that they know the key.

    `on_message` may be called before this returns. `limit`: the bytes of the largest message.

    Raises: ChannelNotReachable that says why: nobody listens, the key is wrong, no answer in time ...
    """
    loop = exchange_loop()
    if threading.get_ident() == loop.thread:
        raise InternalError("dial() blocks and was called in a callback of a link")
    until = time.monotonic() + connect_timeout_s
    try:
        pipe = address.dial(connect_timeout_s)
    except (OSError, ChannelNotReachable) as error:
        raise ChannelNotReachable(f"cannot connect to {address}: {text_of(error)}") from error
    settled = threading.Event()
    given_up = False

    def closed(link: Link, reason: str) -> None:
        settled.set()
        if link.opened and not given_up:
            on_closed(link, reason)

    link = Link(
        loop, str(address), on_message=on_message, on_closed=closed, on_open=lambda link: settled.set(), limit=limit
    )
    dialer = Dialer(Identity(0, name, 0, key or b""), os.urandom(NONCE_BYTES), 0)
    remaining = max(0.0, until - time.monotonic())
    loop.call_soon_threadsafe(lambda: link.begin(pipe, dialer, remaining))
    if not settled.wait(remaining + BUSY_S) or (link.is_closed and not link.opened):
        given_up = True
        reason = link.statistics()["closed"] or "a callback of another link blocks the exchange thread"
        link.close(0)
        raise ChannelNotReachable(f"handshake with {address} failed: {reason}")
    return link
