"""What a hosted queue remembers of its clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sage_flow.queues.hosted_backlog import one_by_one
from sage_flow.queues.hosted_decisions import Run

__all__ = ["RESUME_S", "HostedSession", "HostedSessions", "InTransit"]

RESUME_S: Final = 2.0
"""A session without a connection keeps the deliveries in transit to it for so many seconds."""


class InTransit(NamedTuple):
    """A delivery that is not acknowledged yet."""

    get: int
    runs: list[Run]
    holds: bool


@dataclass(slots=True)
class HostedSession:
    """One client of the queue."""

    attempt: int = 0
    """The highest number of an ATTACH. One with a lower number is late: its client has given up that connection."""
    epoch: int = 0
    """The attempt that created this session."""
    accepted: set[int] = field(default_factory=set)
    """Puts whose acceptance the client may not have heard of."""
    in_transit: dict[int, InTransit] = field(default_factory=dict)
    """By delivery, in order."""
    held: dict[int, dict[int, Run]] = field(default_factory=dict)
    """The items that it holds, by delivery and place in the delivery."""
    room: dict[int, int] = field(default_factory=dict)
    """By put: places that are kept for it."""
    deliveries: int = 0
    puts: int = 0
    gone_at: float | None = None
    """When its connection was lost."""

    def acknowledge(self, delivery: int) -> None:
        """All deliveries up to this one have arrived; the client owns their items now, or holds them."""
        for earlier in [number for number in self.in_transit if number <= delivery]:
            sent = self.in_transit.pop(earlier)
            if sent.holds:
                self.held[earlier] = dict(enumerate(one_by_one(sent.runs)))

    def pop_held(self, delivery: int, place: int) -> Run | None:
        """Take an item out of those that are held."""
        items = self.held.get(delivery)
        if items is None:
            return None
        run = items.pop(place, None)
        if not items:
            del self.held[delivery]
        return run

    def begun(self) -> dict[int, list[Run]]:
        """By delivery: the items that the client may have begun. It may not have said yet that they arrived."""
        begun = {delivery: list(items.values()) for delivery, items in self.held.items()}
        begun |= {delivery: list(one_by_one(sent.runs)) for delivery, sent in self.in_transit.items() if sent.holds}
        return begun


class HostedSessions(dict[str, HostedSession]):
    """By name."""

    def is_stale(self, name: str, attempt: int) -> bool:
        """The client has attached with a later attempt, and waits for nothing from this one."""
        session = self.get(name)
        return session is not None and attempt < session.attempt

    def excuse(self, name: str, seconds: float) -> None:
        """The host was suspended for `seconds` and could not see the client come back: they do not count."""
        session = self.get(name)
        if session is not None and session.gone_at is not None:
            session.gone_at += seconds

    def expired(self, now: float) -> list[str]:
        """The sessions that have been gone for `RESUME_S`, the first gone first."""
        gone = [(session.gone_at, name) for name, session in self.items() if session.gone_at is not None]
        return [name for gone_at, name in sorted(gone) if now - gone_at >= RESUME_S]

    @property
    def next_expiry(self) -> float | None:
        """When a session expires, if nothing else happens."""
        gone = (session.gone_at for session in self.values() if session.gone_at is not None)
        return min((gone_at + RESUME_S for gone_at in gone), default=None)

    def watching(self, runs: Iterable[Run]) -> Iterator[tuple[str, int]]:
        """Yield the puts of these items that are to be notified and whose sessions are connected."""
        for putter in dict.fromkeys(run.putter for run in runs):
            if putter is not None and (session := self.get(putter[0])) and session.gone_at is None:
                yield putter
