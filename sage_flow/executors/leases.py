"""Leases between the processes of a job: who has said nothing for the length of one.

Each end sends a sign of life several times in the length of a lease, at no cost per message. Before it declares a peer
silent it drains that peer's socket, because this process may be the one that stood still.
"""

from __future__ import annotations

from sage_flow.links.link import Link
from sage_flow.links.silence import Silence

__all__ = ["Leases"]


class Leases:
    """What was last heard of each peer. All but `silence_s` belongs to the thread of the exchange."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self._heard: dict[int, tuple[float, int]] = {}  # when a lease was last renewed, and messages until then
        self._silences: dict[int, Silence] = {}

    def silence_s(self, peer: int, now: float) -> float:
        """For how long a peer, perhaps lost by now, has said nothing, to a part of the lease."""
        when, _ = self._heard.get(peer, (now, 0))
        return now - when

    def is_over(self, peer: int, inlet: Link, now: float) -> bool:
        """Whether the peer has said nothing for a lease, as far as these looks tell."""
        when, messages = self._heard.get(peer, (now, -1))
        silence = self._silences.setdefault(peer, Silence(self.lease_s, now))
        if inlet.received_messages == messages and now - when > self.lease_s / 2:
            inlet.drain()  # it was perhaps this process that stood still
        if heard := inlet.received_messages != messages:
            when = now
        self._heard[peer] = (when, inlet.received_messages)
        return silence.is_over(now, heard=heard)
