"""Reply queues: each calling process has one, in the same place as the request queue.

It ends with the process. A responder attaches to it as a visitor and never creates it.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from sage_flow.queues.descriptor import BaseQueueDescriptor
from sage_flow.queues.opcodes import OWNER, VISITOR

__all__ = ["ReplyQueue", "make_reply_queue", "visit_reply_queue"]


class ReplyQueue(NamedTuple):
    """The queue of a process, and how its requests name it."""

    descriptor: BaseQueueDescriptor
    described: str


def make_reply_queue(requests: BaseQueueDescriptor) -> ReplyQueue:
    """Make a queue for the replies to requests that this process puts into `requests`."""
    made = requests._beside(f"replies_{os.urandom(8).hex()}", OWNER)
    names = {"queue_type": made.queue_type, "channel_id": made.channel_id, "home": made._home}
    return ReplyQueue(made, json.dumps(names))


def visit_reply_queue(described: str, requests: BaseQueueDescriptor) -> BaseQueueDescriptor:
    """Return the queue that a caller's request names, with the credentials of `requests`. Raises: ValueError."""
    names = json.loads(described)
    if names["queue_type"] != requests.queue_type:
        raise ValueError(
            f"replies to requests of {requests} must go to a queue of the same type, not of type"
            f" {names['queue_type']!r}"
        )
    return requests._beside(names["channel_id"], VISITOR, names["home"])
