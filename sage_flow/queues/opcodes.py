"""The messages between clients and hosts of queues: plain tuples, because they are many and small.

A message is (subscription, opcode, *arguments). The client numbers its *subscriptions*: one per queue and link.
Requests have a number that is unique in their session. `done` says that the client has received the answers to all
requests below it. Items travel as `runs` (see `items`), which the host forwards without unpickling them.

All messages of a subscription share one lane of the link, so they stay in order. A large put has a lane of its own:
its items have room already, and other requests on the same queue need not wait for its bytes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal

PROTOCOL: Final = "queues/3"
"""The name of the links of a host, for which its key is."""


class Opcode(IntEnum):
    """What a message means; its arguments are below each. On the wire it is the plain number."""

    # From the client.

    ATTACH = 0
    """scope, channel_id, maxsize, part, host (that the session was attached to before, or None), session, received,
    open_gets, refused, attempt, epoch: see `HostedQueue.attach`"""
    PUT = 1
    """number, done, block, runs: (payload, count, bytes) each, watched: report ABANDONED and DROPPED, seconds since the
    request was made"""
    RESERVE_ROOM = 2
    """number, done, block, count"""
    GET = 3
    """number, done, block, most, holds: until FINISH or GIVE_BACK of each item"""
    ACKNOWLEDGE = 4
    """delivery"""
    REFUSE = 5
    """delivery: its get is not waiting any more"""
    WITHDRAW = 6
    """number"""
    LEAVE = 7
    CLOSE = 8
    """number"""
    STATISTICS = 9
    """number"""
    SIZE = 10
    """number"""
    RETURN_ROOM = 11
    """number: the put is not waiting any more"""
    FINISH = 12
    """delivery, place: of an item in it"""
    GIVE_BACK = 13
    """delivery, place, begun"""

    # From the host.

    ATTACHED = 20
    """host, known: a name that no other host ever has, and whether the session was known"""
    CONFLICT = 21
    """maxsize: that with which the queue was made"""
    ACCEPTED = 22
    """number"""
    ROOM = 23
    """number"""
    DELIVERY = 24
    """number, delivery, runs: (payload, start, stop, seconds in the queue, how often begun) each"""
    NO_ROOM = 25
    """number"""
    NO_ITEM = 26
    """number"""
    WITHDRAWN = 27
    """number"""
    CLOSED = 28
    """number, reason"""
    REPORT = 29
    """number, value"""
    ABANDONED = 30
    """number: of a put whose item was held by a client that is gone"""
    DROPPED = 31
    """number: of a put whose item was in the queue when that was closed"""


for _opcode in Opcode:
    # Before 3.12 each look-up of a member runs Python code of `enum`, and every message takes several.
    type.__setattr__(Opcode, _opcode.name, _opcode)

Part = Literal[0, 1, 2]
"""The part that a client takes at a queue: one of these three."""
ANYBODY: Final = 0
OWNER: Final = 1
"""The queue is made for this session, and ends with it."""
VISITOR: Final = 2
"""It makes no queue: a queue that does not exist counts as closed."""

SMALL: Final = 256 << 10
"""Bytes; a larger put reserves room first."""
