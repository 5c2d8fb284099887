"""Messages of a client as events of a `HostedQueue`, and its decisions as messages to clients (see `opcodes`).

ATTACH, LEAVE and CLOSE concern the host, too, and are not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from sage_flow.errors import ProtocolError
from sage_flow.queues.hosted import HostedQueue
from sage_flow.queues.hosted_decisions import (
    Abandoned,
    Accepted,
    Closed,
    Decision,
    Delivery,
    Dropped,
    NoItem,
    NoRoom,
    Report,
    Room,
    Run,
    Withdrawn,
)
from sage_flow.queues.items import relayed
from sage_flow.queues.opcodes import Opcode

__all__ = ["handle", "message_of"]


def handle(queue: HostedQueue, session: str, opcode: int, arguments: Iterable[Any], now: float) -> list[Decision]:
    """Return what follows from a message. Raises: ProtocolError if it is unknown or not allowed now."""
    handler = _HANDLERS.get(opcode)
    if handler is None:
        raise ProtocolError(f"unknown opcode {opcode}")
    return handler(queue, session, now, *arguments)


def message_of(decision: Decision, now: float, reason: str) -> tuple[Any, ...]:
    """Return opcode and arguments; `reason`: why the queue is closed, if it is."""
    opcode = _OPCODES[type(decision)]
    if isinstance(decision, Delivery):
        runs = [(run.payload, run.start, run.stop, now - run.since, run.begun) for run in decision.runs]
        return opcode, decision.number, decision.delivery, runs
    if isinstance(decision, Closed):
        return opcode, decision.number, reason
    if isinstance(decision, Report):
        return opcode, decision.number, decision.value
    return opcode, decision.number


def _put(
    queue: HostedQueue,
    session: str,
    now: float,
    number: int,
    done: int,
    block: bool,
    runs: list[tuple[Any, int, int]],
    watched: bool,
    age_s: float,
) -> list[Decision]:
    putter = (session, number) if watched else None
    items = [Run(relayed(payload), 0, count, size, now - age_s, 0, putter) for payload, count, size in runs]
    return queue.put(session, number, items, block, done, now)


def _reserve_room(
    queue: HostedQueue, session: str, now: float, number: int, done: int, block: bool, count: int
) -> list[Decision]:
    return queue.reserve_room(session, number, count, block, done, now)


def _get(
    queue: HostedQueue, session: str, now: float, number: int, done: int, block: bool, most: int, holds: bool
) -> list[Decision]:
    return queue.get(session, number, most, block, done, now, holds)


def _acknowledge(queue: HostedQueue, session: str, now: float, delivery: int) -> list[Decision]:
    queue.acknowledge(session, delivery)
    return []


def _refuse(queue: HostedQueue, session: str, now: float, delivery: int) -> list[Decision]:
    return queue.refuse(session, delivery, now)


def _finish(queue: HostedQueue, session: str, now: float, delivery: int, place: int) -> list[Decision]:
    queue.finish(session, delivery, place)
    return []


def _give_back(queue: HostedQueue, session: str, now: float, delivery: int, place: int, begun: bool) -> list[Decision]:
    return queue.give_back(session, delivery, place, begun, now)


def _withdraw(queue: HostedQueue, session: str, now: float, number: int) -> list[Decision]:
    return queue.withdraw(session, number, now)


def _return_room(queue: HostedQueue, session: str, now: float, number: int) -> list[Decision]:
    return queue.return_room(session, number, now)


def _statistics(queue: HostedQueue, session: str, now: float, number: int) -> list[Decision]:
    return [Report(session, number, queue.statistics(now))]


def _size(queue: HostedQueue, session: str, now: float, number: int) -> list[Decision]:
    return [Report(session, number, None if queue.closed else queue.depth)]


_HANDLERS: Final[dict[int, Callable[..., list[Decision]]]] = {
    Opcode.PUT: _put,
    Opcode.RESERVE_ROOM: _reserve_room,
    Opcode.GET: _get,
    Opcode.ACKNOWLEDGE: _acknowledge,
    Opcode.REFUSE: _refuse,
    Opcode.WITHDRAW: _withdraw,
    Opcode.STATISTICS: _statistics,
    Opcode.SIZE: _size,
    Opcode.RETURN_ROOM: _return_room,
    Opcode.FINISH: _finish,
    Opcode.GIVE_BACK: _give_back,
}

# On the wire opcodes are plain numbers.
_OPCODES: Final[dict[type, int]] = {
    Delivery: int(Opcode.DELIVERY),
    Closed: int(Opcode.CLOSED),
    Report: int(Opcode.REPORT),
    Accepted: int(Opcode.ACCEPTED),
    Room: int(Opcode.ROOM),
    NoRoom: int(Opcode.NO_ROOM),
    NoItem: int(Opcode.NO_ITEM),
    Withdrawn: int(Opcode.WITHDRAWN),
    Abandoned: int(Opcode.ABANDONED),
    Dropped: int(Opcode.DROPPED),
}
