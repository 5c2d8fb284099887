"""A queue as its host keeps it: the items, the requests that wait, and the deliveries in transit.

A *session* is one client of the queue (a process). It survives its connection for `RESUME_S`: a client that comes back
in time names the last delivery that it received, and makes its open requests again. So

* items in transit (sent for a get) belong to the queue until the client has acknowledged them, and go back to the front
  if the session ends first (first in, first out is best effort then);
* a put that is made twice counts once, because accepted puts are remembered until the client has heard of it;
* a delivery that the client refused goes back, also if the refusal was lost: the client names it when it comes back;
* an ATTACH that arrives after a later one of the same client is ignored, and a session that such an ATTACH has created
  is not taken for the one that the client knows.

A get that *holds* keeps its items after they have arrived, each until the client finishes it or gives it back. If the
session ends first, the item returns to the front, marked as begun, and the session that put it is notified.

Pure: an event in, decisions out. Time is passed in, and `payload` is never looked into.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sage_flow.errors import ProtocolError
from sage_flow.queues.hosted_backlog import Backlog
from sage_flow.queues.hosted_decisions import (
    Abandoned,
    Accepted,
    Closed,
    Decision,
    Delivery,
    Dropped,
    NoItem,
    NoRoom,
    Room,
    Run,
    Withdrawn,
)
from sage_flow.queues.hosted_sessions import RESUME_S, HostedSession, HostedSessions, InTransit
from sage_flow.queues.record import QueueRecord

__all__ = ["RESUME_S", "HostedQueue"]

_Request = tuple[str, int]  # session, number


class _Wanted(NamedTuple):
    most: int
    holds: bool


class _Offer(NamedTuple):
    items: int
    runs: list[Run] | None  # None: it asks for room first


class HostedQueue:
    """`maxsize` <= 0: unbounded. It counts items that wait, not those in transit.

    `owner`: the queue ends when this session does.
    """

    def __init__(self, maxsize: int, now: float, owner: str | None = None) -> None:
        self.maxsize = maxsize
        self.owner = owner
        self.closed = False
        self.record = QueueRecord(now)
        self.sessions = HostedSessions()
        self._backlog = Backlog(maxsize)
        self._putters: dict[_Request, _Offer] = {}  # in the order in which they came
        self._getters: dict[_Request, _Wanted] = {}

    # Sessions.

    def attach(
        self,
        session: str,
        received: int,
        open_gets: Collection[int],
        now: float,
        refused: Collection[int] = (),
        attempt: int = 0,
        epoch: int = 0,
    ) -> tuple[bool, list[Decision]]:
        """A client attaches, for the first time or again. True if it comes back to the session that it knows.

        `received`: the last delivery that reached the client. A later delivery is sent again if its get is one of
        `open_gets`; otherwise it goes back into the queue, as do those that the client has `refused`. `attempt`: counts
        the ATTACH messages of the client. `epoch`: the attempt that created the session which the client knows; 0:
        none.
        """
        known = self.sessions.get(session)
        decisions = [] if known is None else self.disconnect(session, now)
        if known is None or known.epoch != epoch:
            if known is not None:  # created by an attempt whose answer the client never received
                decisions += self._end_session(session, now)
            if not self.closed:
                self.sessions[session] = HostedSession(attempt, attempt)
                self.record.note(now, f"session {session} attached")
            return False, decisions
        known.gone_at = None
        known.attempt = attempt
        back = [known.in_transit.pop(delivery).runs for delivery in sorted(refused) if delivery in known.in_transit]
        known.acknowledge(received)
        again: list[Decision] = []
        for delivery, sent in list(known.in_transit.items()):
            if sent.get in open_gets:
                again.append(Delivery(session, sent.get, delivery, sent.runs))
            else:
                del known.in_transit[delivery]
                back.append(sent.runs)
        self.record.note(now, f"session {session} came back; {len(again)} deliveries are sent again")
        self._give_back(session, back, now)
        return True, [*decisions, *again, *self._match(now)]

    def disconnect(self, session: str, now: float) -> list[Decision]:
        """A session has lost its connection. Its waiting requests are forgotten: it will make them again."""
        gone = self.sessions.get(session)
        if gone is None or gone.gone_at is not None:
            return []
        gone.gone_at = now
        self.record.note(now, f"session {session} lost its connection; {len(gone.in_transit)} deliveries in transit")
        for line in (self._getters, self._putters):
            for request in [request for request in line if request[0] == session]:
                del line[request]
        self._backlog.reserved -= sum(gone.room.values())
        gone.room.clear()
        return self._match(now)

    def leave(self, session: str, now: float) -> list[Decision]:
        """A client has left."""
        decisions = self.disconnect(session, now)
        return decisions + self._end_session(session, now) if session in self.sessions else decisions

    def expire(self, now: float) -> list[Decision]:
        """End the sessions that have been gone for `RESUME_S`, the first gone first."""
        return [decision for name in self.sessions.expired(now) for decision in self._end_session(name, now)]

    @property
    def is_orphaned(self) -> bool:
        """The session that it was created for has ended."""
        return self.owner is not None and self.owner not in self.sessions

    # Requests.

    def put(self, session: str, number: int, runs: list[Run], block: bool, done: int, now: float) -> list[Decision]:
        """`number`: unique in the session. The client has the answers to all requests below `done`."""
        client = self._client(session, done)
        if number not in client.accepted and not self.closed and (kept := client.room.pop(number, None)) is not None:
            self._backlog.reserved -= kept
            return [self._accept(session, number, runs, now), *self._match(now)]
        return self._offer(client, (session, number), _Offer(sum(run.items for run in runs), runs), block, now)

    def reserve_room(self, session: str, number: int, count: int, block: bool, done: int, now: float) -> list[Decision]:
        """The put `number` has `count` items that are large: keep room for them before they are sent."""
        return self._offer(self._client(session, done), (session, number), _Offer(count, None), block, now)

    def get(
        self, session: str, number: int, most: int, block: bool, done: int, now: float, holds: bool = False
    ) -> list[Decision]:
        """Wait for at least one item, and take at most `most`. `holds`: the client finishes each, or gives it back."""
        client = self._client(session, done)
        if any(number == sent.get for sent in client.in_transit.values()):
            return []  # made again after a reconnect; `attach` has sent the items
        if self.closed:
            return [Closed(session, number)]
        if not block and not self.depth:
            return [NoItem(session, number)]
        self._getters[session, number] = _Wanted(most, holds)
        return self._match(now)

    def acknowledge(self, session: str, delivery: int) -> None:
        """All deliveries up to this one have reached the client; it owns the items now, or holds them."""
        if (client := self.sessions.get(session)) is not None:
            client.acknowledge(delivery)

    def finish(self, session: str, delivery: int, place: int) -> None:
        """The client is done with this item of a delivery that it holds."""
        if (client := self.sessions.get(session)) is not None:
            client.pop_held(delivery, place)

    def give_back(self, session: str, delivery: int, place: int, begun: bool, now: float) -> list[Decision]:
        """The client gives back an item that it holds: the item goes to the front, for another client."""
        client = self.sessions.get(session)
        if client is None or (run := client.pop_held(delivery, place)) is None:
            return []
        self._give_back(session, [[run._replace(begun=run.begun + begun)]], now)
        return self._match(now)

    def refuse(self, session: str, delivery: int, now: float) -> list[Decision]:
        """A delivery has reached the client, but its get is not waiting any more: it goes back to the front."""
        client = self.sessions.get(session)
        if client is None or (sent := client.in_transit.pop(delivery, None)) is None:
            return []
        self._give_back(session, [sent.runs], now)
        return self._match(now)

    def withdraw(self, session: str, number: int, now: float) -> list[Decision]:
        """The client does not wait any longer. If the request was answered before, that answer counts."""
        self._client(session, 0)
        waited = self._getters.pop((session, number), None) or self._putters.pop((session, number), None)
        if waited is None:
            return []
        return [Withdrawn(session, number), *self._match(now)]

    def return_room(self, session: str, number: int, now: float) -> list[Decision]:
        """Room has reached the client, but its put is not waiting any more."""
        self._backlog.reserved -= self._client(session, 0).room.pop(number, 0)
        return self._match(now)

    def close(self, now: float) -> list[Decision]:
        """End it for everybody; what is in it is dropped, and counted."""
        if self.closed:
            return []
        self.closed = True
        self.record.dropped += self.depth
        self.record.note(now, f"closed with {self.depth} items in it")
        decisions: list[Decision] = [Closed(*request) for request in [*self._getters, *self._putters]]
        decisions += [Dropped(*putter) for putter in self.sessions.watching(self._backlog.clear())]
        for session in self.sessions.values():
            session.room.clear()
        self._getters.clear()
        self._putters.clear()
        return decisions

    # What others may know.

    @property
    def depth(self) -> int:
        """Items that wait."""
        return self._backlog.depth

    def statistics(self, now: float) -> dict[str, Any]:
        """Numbers, and the story; `bytes`: of the items as they were encoded; `leases`: deliveries in transit."""
        sessions = self.sessions.values()
        since = self._backlog.oldest_since
        return {
            "depth": self.depth,
            "bytes": self._backlog.bytes,
            "maxsize": self.maxsize,
            "closed": self.closed,
            "producers": sum(session.puts > 0 for session in sessions),
            "waiting_getters": len(self._getters),
            "waiting_putters": len(self._putters),
            "leases": sum(len(session.in_transit) for session in sessions),
            "held": sum(len(items) for session in sessions for items in session.held.values()),
            "sessions": len(sessions),
            "oldest_s": None if since is None else now - since,
            **self.record.statistics(now),
        }

    # Inside.

    def _client(self, session: str, done: int) -> HostedSession:
        """The session that makes a request, which has the answers to all requests below `done`."""
        client = self.sessions.get(session)
        if client is None or client.gone_at is not None:
            if self.closed:
                return HostedSession()  # it came after the end
            raise ProtocolError(f"a request of session {session}, which is not attached")
        if client.accepted and done:
            client.accepted = {number for number in client.accepted if number >= done}
        return client

    def _offer(
        self, client: HostedSession, request: _Request, offer: _Offer, block: bool, now: float
    ) -> list[Decision]:
        if request[1] in client.accepted:
            return [Accepted(*request)]
        if self.closed:
            return [Closed(*request)]
        if not block and (self._putters or not self._backlog.has_room(offer.items)):
            return [NoRoom(*request)]
        self._putters[request] = offer
        return self._match(now)

    def _match(self, now: float) -> list[Decision]:
        """Accept puts that have room and serve gets that wait, until neither is possible."""
        decisions: list[Decision] = []
        while True:
            if self._putters:
                (session, number), offer = next(iter(self._putters.items()))
                if self._backlog.has_room(offer.items):
                    del self._putters[session, number]
                    if offer.runs is not None:
                        decisions.append(self._accept(session, number, offer.runs, now))
                    else:
                        self.sessions[session].room[number] = offer.items
                        self._backlog.reserved += offer.items
                        decisions.append(Room(session, number))
                    continue
            if not self._getters or not self.depth:
                return decisions
            (session, number), wanted = next(iter(self._getters.items()))
            del self._getters[session, number]
            decisions.append(self._deliver(session, number, wanted, now))

    def _accept(self, session: str, number: int, runs: list[Run], now: float) -> Decision:
        client = self.sessions[session]
        client.accepted.add(number)
        client.puts += 1
        self.record.put(now, self._backlog.append(runs))
        return Accepted(session, number)

    def _deliver(self, session: str, number: int, wanted: _Wanted, now: float) -> Decision:
        client = self.sessions[session]
        client.deliveries += 1
        runs = self._backlog.take(wanted.most)
        client.in_transit[client.deliveries] = InTransit(number, runs, wanted.holds)
        self.record.got(now, sum(run.items for run in runs))
        return Delivery(session, number, client.deliveries, runs)

    def _end_session(self, name: str, now: float) -> list[Decision]:
        session = self.sessions.pop(name)
        self.record.note(now, f"session {name} ended")
        back = {delivery: sent.runs for delivery, sent in session.in_transit.items()}
        notified: list[Decision] = []
        for delivery, runs in session.begun().items():
            notified += [Abandoned(*putter) for putter in self.sessions.watching(runs)]
            back[delivery] = [run._replace(begun=run.begun + 1) for run in runs]
        self._give_back(name, [back[delivery] for delivery in sorted(back)], now)
        return [*notified, *self._match(now)]

    def _give_back(self, name: str, deliveries: list[list[Run]], now: float) -> None:
        """Return items to the front, in the order in which they were taken."""
        runs = [run for delivery in deliveries for run in delivery]
        count = sum(run.items for run in runs)
        if not count:
            return
        if self.closed:
            self.record.dropped += count
            return
        self.record.returned += self._backlog.return_to_front(runs)
        self.record.note(now, f"{count} items came back from session {name}")
