"""Leases between the processes of a job: find the peers that have sent nothing for the length of a lease.

Each process sends a sign of life several times per lease, and compares message counters, at no cost per message. Before
it declares a peer silent it reads what is left in that peer's socket, because this process may have been suspended.
"""

from __future__ import annotations

from sage_flow.links.link import Link
from sage_flow.links.silence import Silence

__all__ = ["Leases"]


class Leases:
    """When each peer was last heard. All but `silence_s` is for the thread of the exchange only."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self._heard: dict[int, tuple[float, int]] = {}  # time and number of the last message that was noticed
        self._silences: dict[int, Silence] = {}

    def silence_s(self, peer: int, now: float) -> float:
        """Seconds since the last message of a peer, lost or not; exact to a quarter of the lease."""
        when, _ = self._heard.get(peer, (now, 0))
        return now - when

    def is_over(self, peer: int, inlet: Link, now: float) -> bool:
        """Look: whether the peer has sent nothing for the length of a lease."""
        when, messages = self._heard.get(peer, (now, -1))
        silence = self._silences.setdefault(peer, Silence(self.lease_s, now))
        if inlet.received_messages == messages and now - when > self.lease_s / 2:
            inlet.drain()  # this process may have been suspended
        if heard := inlet.received_messages != messages:
            when = now
        self._heard[peer] = (when, inlet.received_messages)
        return silence.is_over(now, heard=heard)
