"""A queue as its host keeps it: items, who waits for what, and what is under way to whom.

A *session* is one client of the queue (a process). It survives its connection for `RESUME_S`: a client
that comes back in time names the last delivery it received, and says its open requests again. So

* items in transit (sent for a get) belong to the queue until the client has acknowledged them, and go
  back to the front if the session ends first (first in, first out is best effort then);
* a put that is said twice counts once, because accepted puts are remembered until the client has heard of it.

A get that *holds* keeps its items after they have arrived, each until the client finishes it or gives it
back. If the session ends first, the item returns to the front, marked as begun, and the session that put it is
notified.

Pure: an event in, decisions out. Time is passed in, `payload` is whatever the items are for the shell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sage_flow.errors import ProtocolError
from sage_flow.queues.record import QueueRecord

RESUME_S: Final = 2.0
"""For so long a session without a connection keeps what is in transit to it, in seconds."""

_DELIVERY_BYTES: Final = 8 << 20  # after so many a delivery takes no further run; one run always goes


class Run(NamedTuple):
    """Neighbouring items that were encoded together: those from `start` to `stop` of `payload`."""

    payload: Any
    start: int
    stop: int
    size: int
    """Bytes, its share of `payload`."""
    since: float
    """When it was put, in seconds of the host's clock."""
    begun: int = 0
    """How often a client held it and died, or gave it back as begun."""
    putter: tuple[str, int] | None = None
    """Session and number of the put to notify of that; None: nobody."""

    @property
    def items(self) -> int:
        """How many."""
        return self.stop - self.start

    def split(self, count: int) -> tuple[Run, Run]:
        """The first `count` items and the rest."""
        middle, size = self.start + count, self.size * count // self.items
        return self._replace(stop=middle, size=size), self._replace(start=middle, size=self.size - size)


class Accepted(NamedTuple):
    """The items of this put are in the queue."""

    session: str
    number: int


class Room(NamedTuple):
    """There is room for the items of this put, and it is kept: send them."""

    session: str
    number: int


class Delivery(NamedTuple):
    """The items for this get, in transit until `delivery` is acknowledged."""

    session: str
    number: int
    delivery: int
    runs: list[Run]


class NoRoom(NamedTuple):
    """A put that does not wait, and there is no room."""

    session: str
    number: int


class NoItem(NamedTuple):
    """A get that does not wait, and there is nothing."""

    session: str
    number: int


class Withdrawn(NamedTuple):
    """This request will not be answered any more."""

    session: str
    number: int


class Closed(NamedTuple):
    """The queue is closed; nothing came of this request."""

    session: str
    number: int


class Abandoned(NamedTuple):
    """An item of this put was held by a client that is gone; it is in the queue again."""

    session: str
    number: int


class Dropped(NamedTuple):
    """An item of this put was in the queue when that was closed."""

    session: str
    number: int


Decision = Accepted | Room | Delivery | NoRoom | NoItem | Withdrawn | Closed | Abandoned | Dropped

_Request = tuple[str, int]  # session, number


class _Wanted(NamedTuple):
    most: int
    holds: bool


class _InTransit(NamedTuple):
    get: int
    runs: list[Run]
    holds: bool


class _Offer(NamedTuple):
    items: int
    runs: list[Run] | None  # None: it asks for room first


@dataclass(slots=True)
class _Session:
    accepted: set[int] = field(default_factory=set)  # puts that the client may not have heard of
    in_transit: dict[int, _InTransit] = field(default_factory=dict)  # by delivery, in order; not acknowledged yet
    held: dict[int, dict[int, Run]] = field(default_factory=dict)  # by delivery and place in it, an item each
    room: dict[int, int] = field(default_factory=dict)  # put -> places kept for it
    deliveries: int = 0
    puts: int = 0
    gone_at: float | None = None  # when its connection was lost


class HostedQueue:
    """`maxsize` <= 0: unbounded. It counts items that wait, not those under way.

    `owner`: the queue ends when this session does.
    """

    def __init__(self, maxsize: int, now: float, owner: str | None = None) -> None:
        self.maxsize = maxsize
        self.owner = owner
        self.closed = False
        self.record = QueueRecord(now)
        self._runs: deque[Run] = deque()
        self._depth = self._bytes = self._reserved = 0
        self._putters: dict[_Request, _Offer] = {}  # in the order in which they came
        self._getters: dict[_Request, _Wanted] = {}
        self._sessions: dict[str, _Session] = {}

    # Sessions.

    def attach(
        self, session: str, received: int, open_gets: Collection[int], now: float
    ) -> tuple[bool, list[Decision]]:
        """A client is there, for the first time or again. True if the session was known.

        `received`: the last delivery that reached the client. Later ones go again to those of its gets that
        are still open, and back into the queue from the others.
        """
        known = self._sessions.get(session)
        if known is None:
            if not self.closed:
                self._sessions[session] = _Session()
                self.record.note(now, f"session {session} came")
            return False, []
        decisions = self.disconnect(session, now)
        known.gone_at = None
        again: list[Decision] = []
        back: list[list[Run]] = []
        self.acknowledge(session, received)
        for delivery, sent in list(known.in_transit.items()):
            if sent.get in open_gets:
                again.append(Delivery(session, sent.get, delivery, sent.runs))
            else:
                del known.in_transit[delivery]
                back.append(sent.runs)
        self.record.note(now, f"session {session} came back, {len(again)} deliveries are sent again")
        self._give_back(session, back, now)
        return True, [*decisions, *again, *self._match(now)]

    def disconnect(self, session: str, now: float) -> list[Decision]:
        """Its connection is lost. What it waits for is forgotten, as it says it again when it comes back."""
        gone = self._sessions.get(session)
        if gone is None or gone.gone_at is not None:
            return []
        gone.gone_at = now
        self.record.note(
            now, f"session {session} lost its connection with {len(gone.in_transit)} deliveries in transit"
        )
        self._forget_requests(session, gone)
        return self._match(now)

    def leave(self, session: str, now: float) -> list[Decision]:
        """A client has gone on purpose."""
        decisions = self.disconnect(session, now)
        return decisions + self._end_session(session, now) if session in self._sessions else decisions

    def expire(self, now: float) -> list[Decision]:
        """End the sessions that have been gone for `RESUME_S`, the first gone first."""
        gone = [(session.gone_at, name) for name, session in self._sessions.items() if session.gone_at is not None]
        over = [name for gone_at, name in sorted(gone) if now - gone_at >= RESUME_S]
        return [decision for name in over for decision in self._end_session(name, now)]

    def excuse(self, session: str, seconds: float) -> None:
        """Its host stood still for so long, and could not see whether it comes back: that does not count."""
        gone = self._sessions.get(session)
        if gone is not None and gone.gone_at is not None:
            gone.gone_at += seconds

    def knows(self, session: str) -> bool:
        """It has come, and not ended."""
        return session in self._sessions

    @property
    def is_orphaned(self) -> bool:
        """The session that it was there for has ended."""
        return self.owner is not None and self.owner not in self._sessions

    # Requests.

    def put(self, session: str, number: int, runs: list[Run], block: bool, done: int, now: float) -> list[Decision]:
        """`number`: of the request, unique in its session. Those below `done` are settled for the client."""
        client = self._client(session, done)
        if number in client.accepted:
            return [Accepted(session, number)]
        if self.closed:
            return [Closed(session, number)]
        count = sum(run.items for run in runs)
        if (kept := client.room.pop(number, None)) is not None:
            self._reserved -= kept
            return [self._accept(session, number, runs, now), *self._match(now)]
        return self._offer(session, number, _Offer(count, runs), block, now)

    def reserve_room(self, session: str, number: int, count: int, block: bool, done: int, now: float) -> list[Decision]:
        """The put `number` has `count` large items and wants to know first that there is room for them."""
        client = self._client(session, done)
        if number in client.accepted:
            return [Accepted(session, number)]
        if self.closed:
            return [Closed(session, number)]
        return self._offer(session, number, _Offer(count, None), block, now)

    def get(
        self, session: str, number: int, most: int, block: bool, done: int, now: float, holds: bool = False
    ) -> list[Decision]:
        """At least one item, `most` at the most; see `finish` for those that it `holds`."""
        client = self._client(session, done)
        if any(number == sent.get for sent in client.in_transit.values()):
            return []  # said again after a reconnect; `attach` has sent it
        if self.closed:
            return [Closed(session, number)]
        if not block and not self._depth:
            return [NoItem(session, number)]
        self._getters[session, number] = _Wanted(most, holds)
        return self._match(now)

    def acknowledge(self, session: str, delivery: int) -> None:
        """All deliveries up to this one have reached the client; it owns the items now, or holds them."""
        client = self._sessions.get(session)
        if client is not None:
            for earlier in [number for number in client.in_transit if number <= delivery]:
                sent = client.in_transit.pop(earlier)
                if sent.holds:
                    client.held[earlier] = dict(enumerate(_one_by_one(sent.runs)))

    def finish(self, session: str, delivery: int, place: int) -> None:
        """The client is done with this item of a delivery that it holds."""
        self._pop_held(session, delivery, place)

    def give_back(self, session: str, delivery: int, place: int, begun: bool, now: float) -> list[Decision]:
        """The client is not done with this item that it holds, and will not be: to the front, for somebody else."""
        run = self._pop_held(session, delivery, place)
        if run is None:
            return []
        self._give_back(session, [[run._replace(begun=run.begun + begun)]], now)
        return self._match(now)

    def refuse(self, session: str, delivery: int, now: float) -> list[Decision]:
        """A delivery has reached the client, where nobody waits for it any more: back to the front."""
        client = self._sessions.get(session)
        if client is None or (sent := client.in_transit.pop(delivery, None)) is None:
            return []
        self._give_back(session, [sent.runs], now)
        return self._match(now)

    def withdraw(self, session: str, number: int, now: float) -> list[Decision]:
        """The client does not wait any longer. If the request was answered, that answer is on its way and holds."""
        self._client(session, 0)
        waited = self._getters.pop((session, number), None) or self._putters.pop((session, number), None)
        if waited is None:
            return []
        return [Withdrawn(session, number), *self._match(now)]

    def return_room(self, session: str, number: int, now: float) -> list[Decision]:
        """Room has reached the client, where nobody waits for it any more."""
        client = self._client(session, 0)
        self._reserved -= client.room.pop(number, 0)
        return self._match(now)

    def close(self, now: float) -> list[Decision]:
        """End it for everybody; what is in it is dropped, and counted."""
        if self.closed:
            return []
        self.closed = True
        self.record.dropped += self._depth
        self.record.note(now, f"closed with {self._depth} items in it")
        decisions: list[Decision] = [Closed(*request) for request in [*self._getters, *self._putters]]
        decisions += [Dropped(*putter) for putter in self._watching(self._runs)]
        for session in self._sessions.values():
            session.room.clear()
        self._runs.clear()
        self._getters.clear()
        self._putters.clear()
        self._depth = self._bytes = self._reserved = 0
        return decisions

    # What others may know.

    @property
    def depth(self) -> int:
        """Items that wait."""
        return self._depth

    @property
    def next_expiry(self) -> float | None:
        """When `expire` has something to do, if nothing else happens."""
        gone = (session.gone_at for session in self._sessions.values() if session.gone_at is not None)
        return min((gone_at + RESUME_S for gone_at in gone), default=None)

    def statistics(self, now: float) -> dict[str, Any]:
        """Numbers, and the story; `bytes` are those of the items as they were encoded."""
        sessions = self._sessions.values()
        return {
            "depth": self._depth,
            "bytes": self._bytes,
            "maxsize": self.maxsize,
            "closed": self.closed,
            "producers": sum(session.puts > 0 for session in sessions),
            "waiting_getters": len(self._getters),
            "waiting_putters": len(self._putters),
            "leases": sum(len(session.in_transit) for session in sessions),
            "held": sum(len(items) for session in sessions for items in session.held.values()),
            "sessions": len(sessions),
            "oldest_s": now - self._runs[0].since if self._runs else None,
            **self.record.statistics(now),
        }

    # Inside.

    def _client(self, session: str, done: int) -> _Session:
        client = self._sessions.get(session)
        if client is None or client.gone_at is not None:
            if self.closed:
                return _Session()
            raise ProtocolError(f"a request of session {session}, which is not attached")
        if client.accepted and done:
            client.accepted = {number for number in client.accepted if number >= done}
        return client

    def _offer(self, session: str, number: int, offer: _Offer, block: bool, now: float) -> list[Decision]:
        if not block and (self._putters or not self._has_room(offer.items)):
            return [NoRoom(session, number)]
        self._putters[session, number] = offer
        return self._match(now)

    def _has_room(self, count: int) -> bool:
        return self.maxsize <= 0 or self._depth + self._reserved + count <= self.maxsize

    def _match(self, now: float) -> list[Decision]:
        """Let in who has room, serve who waits, until neither moves."""
        decisions: list[Decision] = []
        while True:
            if self._putters:
                (session, number), offer = next(iter(self._putters.items()))
                if self._has_room(offer.items):
                    del self._putters[session, number]
                    decisions.append(self._let_in(session, number, offer, now))
                    continue
            if not self._getters or not self._depth:
                return decisions
            (session, number), wanted = next(iter(self._getters.items()))
            del self._getters[session, number]
            decisions.append(self._deliver(session, number, wanted, now))

    def _let_in(self, session: str, number: int, offer: _Offer, now: float) -> Decision:
        if offer.runs is not None:
            return self._accept(session, number, offer.runs, now)
        self._sessions[session].room[number] = offer.items
        self._reserved += offer.items
        return Room(session, number)

    def _accept(self, session: str, number: int, runs: list[Run], now: float) -> Decision:
        client = self._sessions[session]
        client.accepted.add(number)
        client.puts += 1
        self._runs += runs
        count = sum(run.items for run in runs)
        self._depth += count
        self._bytes += sum(run.size for run in runs)
        self.record.put(now, count)
        return Accepted(session, number)

    def _deliver(self, session: str, number: int, wanted: _Wanted, now: float) -> Decision:
        client = self._sessions[session]
        client.deliveries += 1
        runs = self._take(wanted.most)
        client.in_transit[client.deliveries] = _InTransit(number, runs, wanted.holds)
        self.record.got(now, sum(run.items for run in runs))
        return Delivery(session, number, client.deliveries, runs)

    def _take(self, most: int) -> list[Run]:
        taken: list[Run] = []
        size = 0
        while self._runs and most and (not taken or size + self._runs[0].size <= _DELIVERY_BYTES):
            run = self._runs.popleft()
            if run.items > most:
                run, rest = run.split(most)
                self._runs.appendleft(rest)
            taken.append(run)
            most -= run.items
            size += run.size
            self._depth -= run.items
        self._bytes -= size
        return taken

    def _forget_requests(self, name: str, session: _Session) -> None:
        for line in (self._getters, self._putters):
            for request in [request for request in line if request[0] == name]:
                del line[request]
        self._reserved -= sum(session.room.values())
        session.room.clear()

    def _end_session(self, name: str, now: float) -> list[Decision]:
        session = self._sessions.pop(name)
        self.record.note(now, f"session {name} ended")
        back = {delivery: list(items.values()) for delivery, items in session.held.items()}
        # What was sent to be held may have been begun, although we have not heard that it arrived.
        back |= {d: list(_one_by_one(sent.runs)) if sent.holds else sent.runs for d, sent in session.in_transit.items()}
        begun = {*session.held, *(delivery for delivery, sent in session.in_transit.items() if sent.holds)}
        told: list[Decision] = []
        for delivery in begun:
            told += [Abandoned(*putter) for putter in self._watching(back[delivery])]
            back[delivery] = [run._replace(begun=run.begun + 1) for run in back[delivery]]
        self._give_back(name, [back[delivery] for delivery in sorted(back)], now)
        return [*told, *self._match(now)]

    def _watching(self, runs: Iterable[Run]) -> Iterator[_Request]:
        """Return the puts of these items to notify, as far as their sessions are connected."""
        for putter in dict.fromkeys(run.putter for run in runs):
            if putter is not None and (session := self._sessions.get(putter[0])) and session.gone_at is None:
                yield putter

    def _pop_held(self, session: str, delivery: int, place: int) -> Run | None:
        client = self._sessions.get(session)
        items = None if client is None else client.held.get(delivery)
        if client is None or items is None:
            return None
        run = items.pop(place, None)
        if not items:
            del client.held[delivery]
        return run

    def _give_back(self, name: str, deliveries: list[list[Run]], now: float) -> None:
        """To the front, in the order in which they were taken."""
        runs = [run for delivery in deliveries for run in delivery]
        count = sum(run.items for run in runs)
        if not count:
            return
        if self.closed:
            self.record.dropped += count
            return
        self.record.returned += count
        self.record.note(now, f"{count} items came back from session {name}")
        self._runs.extendleft(reversed(runs))
        self._depth += count
        self._bytes += sum(run.size for run in runs)


def _one_by_one(runs: list[Run]) -> Iterator[Run]:
    for rest in runs:
        while rest.items > 1:
            one, rest = rest.split(1)
            yield one
        yield rest
