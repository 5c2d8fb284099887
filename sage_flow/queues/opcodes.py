"""What a client and a host of queues say to each other: plain tuples, as they are many and small.

Every message begins with a *seat*, which the client numbers: one queue on one link. Then a word of the lists below,
and what it needs. Requests have a number, unique in their session; `done` says that the client has heard the answers
to all requests below it. Items travel as `runs` (see `queue_items`), which a host passes on unread.

A seat is one lane of the link, so its messages stay in order. A large put has a lane of its own: its sender was
given room and waits for it, while others on the same queue go on.
"""

from __future__ import annotations

from typing import Final, Literal

PROTOCOL: Final = "queues/2"
"""What the key of a host opens: the name of its links."""

ATTACH: Final = 0
"""scope, channel_id, maxsize, part, host (that it was attached to before, or None), session, received, open_gets"""
PUT: Final = 1
"""number, done, block, runs: (payload, count, bytes) each, watched: it wants to hear of ABANDONED and DROPPED, seconds
since it was asked"""
ASK_ROOM: Final = 2
"""number, done, block, count"""
GET: Final = 3
"""number, done, block, most, holds: until FINISH or GIVE_BACK of each item"""
ACKNOWLEDGE: Final = 4
"""delivery"""
REFUSE: Final = 5
"""delivery: nobody waits for it any more"""
WITHDRAW: Final = 6
"""number"""
LEAVE: Final = 7
CLOSE: Final = 8
"""number"""
STATISTICS: Final = 9
"""number"""
SIZE: Final = 10
"""number"""
RETURN_ROOM: Final = 11
"""number: nobody waits for it any more"""
FINISH: Final = 12
"""delivery, place: of an item in it"""
GIVE_BACK: Final = 13
"""delivery, place, begun"""

ATTACHED: Final = 20
"""host, known: a name that no other host ever has, and whether the session was known"""
CONFLICT: Final = 21
"""maxsize: that with which the queue was made"""
ACCEPTED: Final = 22
"""number"""
ROOM: Final = 23
"""number"""
DELIVERY: Final = 24
"""number, delivery, runs: (payload, start, stop, seconds in the queue, how often begun) each"""
NO_ROOM: Final = 25
"""number"""
NO_ITEM: Final = 26
"""number"""
WITHDRAWN: Final = 27
"""number"""
CLOSED: Final = 28
"""number, why"""
TOLD: Final = 29
"""number, value"""

ABANDONED: Final = 30
"""number: of a put whose item was held by a client that is gone"""
DROPPED: Final = 31
"""number: of a put whose item was in the queue when that was closed"""

Part = Literal[0, 1, 2]
"""As what a client attaches: one of these three."""
ANYBODY: Final = 0
OWNER: Final = 1
"""The queue is made for this session, and ends with it."""
VISITOR: Final = 2
"""Nothing is made: a queue that is not there is closed."""

SMALL: Final = 256 << 10
"""Bytes; who puts more asks for room first."""
