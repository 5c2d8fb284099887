"""One process's session at a hosted queue, as a pure state machine: events in, decisions out.

Every request is settled exactly once, over however many connections its messages travel:

* A request stays open until its answer arrives. After a lost connection the session attaches over a new one and sends
  all open requests again; the host knows which puts it has accepted and which deliveries are in transit.
* Answers count only over the connection that the last ATTACH was sent over. What an older one still brings is ignored,
  because the host answers it again.
* A delivery is refused if its get no longer waits, and room is returned if its put no longer waits. Both messages may
  be lost with the connection: the next ATTACH names the refused deliveries, and the host forgets the room by itself.
* FINISH and GIVE_BACK have no answer. They are sent again over a new connection, until a delivery shows that the host
  has handled a later request.
* If the host has forgotten the session, a put that was sent may have been accepted or not: it is settled as in doubt.
  Items that were held belong to the host again (`generation`).

A connection is any object that is equal to itself only. The shell (`remote_session`) dials, sends, waits and knows the
time; it calls one method at a time, and carries out `Send` decisions in the order in which they were made.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

from sage_flow.queues.opcodes import OWNER, Opcode, Part

__all__ = [
    "Attached",
    "ClientSession",
    "Decision",
    "LocalAnswer",
    "Notify",
    "Redial",
    "QueueRequest",
    "Send",
    "Settle",
]

Connection = Any
Answer = tuple[Any, ...]
"""An opcode of the host or a `LocalAnswer`, and what belongs to it; a DELIVERY has runs, delivery and generation."""

_WAITING: Final = frozenset((Opcode.PUT, Opcode.RESERVE_ROOM, Opcode.GET))
_NOTICES: Final = frozenset((Opcode.ABANDONED, Opcode.DROPPED))


class LocalAnswer(IntEnum):
    """Answers that a session gives in the place of the host."""

    IN_DOUBT = -1
    """A put may have been accepted or not."""
    LOST = -2
    """The queue is lost; the reason follows."""
    FAILED = -3
    """The request could not be sent; the error follows."""


class QueueRequest:
    """One request, from the first time that it is sent to its answer."""

    __slots__ = ("answer", "began", "is_abandoned", "is_sent", "message", "number", "waits")

    def __init__(self, number: int, message: tuple[Any, ...], began: float) -> None:
        self.number = number
        self.message = message
        """Opcode and arguments, without number and `done`."""
        self.began = began
        self.answer: Answer | None = None
        self.is_sent = False
        self.is_abandoned = False
        """Nobody waits any more, but it may still be answered."""
        self.waits: bool = message[0] in _WAITING and bool(message[1])
        """The host may let it wait; other requests are answered at once."""

    @property
    def is_awaited(self) -> bool:
        """A thread waits for the answer, and dials if the connection is lost."""
        return True


class Send(NamedTuple):
    """Send a message."""

    connection: Connection
    message: tuple[Any, ...]
    request: QueueRequest | None = None
    """The request that the message carries."""
    is_repeated: bool = False
    """The request was sent before, perhaps over another connection."""


class Settle(NamedTuple):
    """The request has its answer."""

    request: QueueRequest
    answer: Answer


class Notify(NamedTuple):
    """Tell the watcher of a put. `is_lost`: its item is lost with the queue; else the item is in the queue again."""

    watcher: Any
    is_lost: bool


class Redial(NamedTuple):
    """The connection is lost. The threads that wait for `requests` dial; a separate thread does if `needs_thread`."""

    requests: list[QueueRequest]
    needs_thread: bool
    was_attached: bool


class Attached(NamedTuple):
    """The host has answered ATTACH. `is_resumed`: it knew the session."""

    connection: Connection
    is_resumed: bool


Decision = Send | Settle | Notify | Attached


class _AtHost:
    """What the host remembers of the session; it begins anew when the host has forgotten it."""

    __slots__ = ("generation", "held", "received", "refused", "settled")

    def __init__(self, generation: int = 0) -> None:
        self.generation = generation
        self.received = 0
        """The last delivery that arrived."""
        self.held = 0
        """How many items the client holds."""
        self.settled: deque[tuple[int, tuple[Any, ...]]] = deque()
        """FINISH and GIVE_BACK messages, each with the highest number of a request that was sent before it."""
        self.refused: deque[tuple[int, int]] = deque()
        """Refused deliveries, each with the highest number of a request that was sent before the refusal."""


class ClientSession:
    """`queue`: scope, channel_id, maxsize and part, for ATTACH. `name`: unique, of this session."""

    def __init__(self, queue: tuple[str, str, int, Part], name: str) -> None:
        self.name = name
        self.host: str | None = None
        """The name of the host; None: never attached."""
        self.connection: Connection | None = None
        """The connection over which the session is attached."""
        self.closed: str | None = None
        """Why no further requests are possible."""
        self.lost = False
        """It is closed because the host is gone."""
        self.open: dict[int, QueueRequest] = {}
        """Requests without an answer, by number."""
        self.numbers = itertools.count(1)
        self._queue = queue
        self._heard: Connection | None = None  # whose messages count: the last ATTACH was sent over it
        self._attempt = self._epoch = 0  # numbers of ATTACH messages: the last, and the one that created the session
        self._sent = 0  # the highest number of a request that was sent
        self._at_host = _AtHost()
        self._watchers: dict[int, Any] = {}  # by put

    # Requests.

    def request(self, request: QueueRequest, now: float, watcher: Any = None) -> list[Send]:
        """Make a request; `watcher`: see `Notify`. The session must not be closed."""
        self.open[request.number] = request
        if watcher is not None:
            self._watchers[request.number] = watcher
        return [] if self.connection is None else [self._carry(self.connection, request, now)]

    def withdraw(self, request: QueueRequest) -> list[Send]:
        """The time of a request is over. The host still answers, with the result if there is one already."""
        request.waits = False
        request.message = (request.message[0], False, *request.message[2:])  # if it has to be sent again
        return [] if request.answer is not None else self._send(Opcode.WITHDRAW, request.number)

    def abandon(self, request: QueueRequest) -> list[Send]:
        """No thread waits for a request any more. What comes for it goes back to the host."""
        request.is_abandoned = True
        self._watchers.pop(request.number, None)
        if request.answer is not None:
            return self._send(Opcode.RETURN_ROOM, request.number) if request.answer[0] == Opcode.ROOM else []
        if not request.is_sent:
            self.open.pop(request.number, None)
            return []
        return self._send(Opcode.WITHDRAW, request.number) if request.waits else []

    def fail(self, request: QueueRequest, error: Exception) -> list[Decision]:
        """A request cannot be sent, or the host cannot be reached."""
        self._watchers.pop(request.number, None)
        return self._settle(request.number, LocalAnswer.FAILED, error)

    def settle_item(self, generation: int, opcode: Opcode, delivery: int, *arguments: Any) -> list[Send]:
        """FINISH or GIVE_BACK an item, unless the host has taken it back meanwhile."""
        at_host = self._at_host
        if generation != at_host.generation or self.closed is not None:
            return []
        at_host.held -= 1
        at_host.settled.append((self._sent, (opcode, delivery, *arguments)))
        return self._send(opcode, delivery, *arguments)

    # Connections.

    @property
    def needs_thread(self) -> bool:
        """There is no connection, and something needs one for which no thread waits."""
        if self.connection is not None or self.closed is not None:
            return False
        if self._at_host.held or self._at_host.settled or self._watchers:
            return True
        return any(not request.is_awaited for request in self.open.values())

    def attach(self, connection: Connection) -> Send:
        """Attach over a new connection; what older ones bring does not count any more."""
        self._heard = connection
        self._attempt += 1
        gets = [r.number for r in self.open.values() if r.message[0] == Opcode.GET and not r.is_abandoned]
        refused = [delivery for _, delivery in self._at_host.refused]
        known = (self.host, self.name, self._at_host.received, gets, refused, self._attempt, self._epoch)
        return Send(connection, (int(Opcode.ATTACH), *self._queue, *known))

    def attached(self, connection: Connection, host: str, known: bool, now: float) -> list[Decision]:
        """The answer to ATTACH: send what is open again."""
        if connection is not self._heard:
            return []
        if self.host not in (None, host):
            why = "its host was restarted, and the items in the queue are lost"
            return [Attached(connection, False), *self.end_lost(why)]
        is_first = self.host is None
        if not known:
            self._epoch = self._attempt
            if not is_first:
                self._at_host = _AtHost(self._at_host.generation + 1)
                if self._queue[-1] == OWNER:
                    why = "the connection was lost for longer than its host keeps a session"
                    self.end(why)
                    return [Attached(connection, False), *self._settle_all(LocalAnswer.LOST, why)]
        self.host = host
        self.connection = connection
        decisions: list[Decision] = [Attached(connection, known)]
        for _, message in self._at_host.settled:  # they may have been lost with the last connection
            decisions += self._send(*message)
        for request in list(self.open.values()):
            if request.message[0] == Opcode.PUT and request.is_sent and not known and not is_first:
                decisions += self._settle(request.number, LocalAnswer.IN_DOUBT)
            elif request.is_abandoned:
                del self.open[request.number]
            else:
                decisions.append(self._carry(connection, request, now))
        return decisions

    def on_lost(self, connection: Connection) -> Redial:
        """The connection is lost; messages that it has brought already may still be read."""
        was_attached = self.connection is connection
        if was_attached:
            self.connection = None
        return Redial(list(self.open.values()), self.needs_thread, was_attached)

    def not_sent(self, send: Send) -> None:
        """The connection was closed before it took the message."""
        if send.request is not None and not send.is_repeated:
            send.request.is_sent = False

    def end(self, why: str) -> None:
        """The queue is closed."""
        if self.closed is None:
            self.closed = why

    def end_lost(self, why: str) -> list[Decision]:
        """The host is gone, with everything in the queue."""
        self.end(why)
        self.lost = True
        return self._settle_all(LocalAnswer.LOST, why)

    # Messages of the host.

    def received(self, connection: Connection, opcode: int, number: int, *arguments: Any) -> Sequence[Decision]:
        """A message that concerns a request."""
        if connection is not self._heard:
            return []  # all that was open is sent again over the new one, and answered there
        if opcode == Opcode.DELIVERY:
            return self._on_delivery(number, *arguments)
        if opcode == Opcode.ROOM:
            request = self.open.get(number)
            if request is None or request.is_abandoned:
                self.open.pop(number, None)
                return self._send(Opcode.RETURN_ROOM, number)
        elif opcode in _NOTICES:
            watcher = self._watchers.get(number)
            return [] if watcher is None else [Notify(watcher, opcode == Opcode.DROPPED)]
        return self._settle(number, opcode, *arguments)

    def _on_delivery(self, number: int, delivery: int, runs: list[Any]) -> Sequence[Decision]:
        at_host = self._at_host
        while at_host.settled and at_host.settled[0][0] < number:
            at_host.settled.popleft()  # the host handled it before it handled this get
        while at_host.refused and at_host.refused[0][0] < number:
            at_host.refused.popleft()
        request = self.open.get(number)
        if request is None or request.is_abandoned:
            self.open.pop(number, None)
            at_host.refused.append((self._sent, delivery))
            return self._send(Opcode.REFUSE, delivery)
        at_host.received = delivery
        if request.message[3]:
            at_host.held += sum(run[2] - run[1] for run in runs)
        del self.open[number]
        request.answer = answer = (Opcode.DELIVERY, runs, delivery, at_host.generation)
        settle = Settle(request, answer)
        if self.connection is None:
            return (settle,)  # the next ATTACH says that it arrived
        return Send(self.connection, (int(Opcode.ACKNOWLEDGE), delivery)), settle

    # Inside.

    def _carry(self, connection: Connection, request: QueueRequest, now: float) -> Send:
        opcode, *arguments = request.message
        number = request.number
        if opcode in _WAITING:
            arguments.insert(0, min(self.open))  # `done`: the client has the answers to all requests below
            if opcode == Opcode.PUT:
                arguments.append(now - request.began)  # perhaps there was no connection until now
        is_repeated, request.is_sent = request.is_sent, True
        if number > self._sent:
            self._sent = number
        return Send(connection, (int(opcode), number, *arguments), request, is_repeated)

    def _send(self, opcode: Opcode, *arguments: Any) -> list[Send]:
        return [] if self.connection is None else [Send(self.connection, (int(opcode), *arguments))]

    def _settle(self, number: int, *answer: Any) -> list[Decision]:
        request = self.open.pop(number, None)
        if request is None:
            return []
        request.answer = answer
        return [Settle(request, answer)]

    def _settle_all(self, *answer: Any) -> list[Decision]:
        """Settle all requests, and notify the watchers of puts, because nothing else will come for them."""
        settled = [decision for number in list(self.open) for decision in self._settle(number, *answer)]
        watchers, self._watchers = self._watchers, {}
        return [*settled, *(Notify(watcher, True) for watcher in watchers.values())]
