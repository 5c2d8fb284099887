"""Queues whose scope is a job: made by name, in any process of the job, and closed when it is over."""

from __future__ import annotations

import os

from sage_flow.plan.queues import JobQueues
from sage_flow.queues.channel import end_scope
from sage_flow.queues.descriptor import BaseQueueDescriptor, check_text
from sage_flow.queues.kinds import resolve_descriptor

__all__ = ["end_job_queues", "job_queue"]


def job_queue(queues: JobQueues, queue_id: str | None = None, maxsize: int = 0) -> BaseQueueDescriptor:
    """Return the job's queue of this name; without a name, a queue with a generated one. Raises: ValueError."""
    if queues.metadata.get("use_multiprocessing"):
        from sage_flow.queues.process import make_job_sockets

        make_job_sockets(queues.home)
    name = f"{queues.queue_type}_{os.urandom(8).hex()}" if queue_id is None else check_text("queue_id", queue_id)
    return resolve_descriptor(
        {
            "queue_type": queues.queue_type,
            "queue_id": name,
            "scope": queues.scope,
            "home": queues.home,
            "bound": True,  # all descriptors with this name have one channel, and so have their clones
            "metadata": {**queues.metadata, "maxsize": maxsize},
        }
    )


def end_job_queues(queues: JobQueues | None, *, is_owner: bool = True) -> None:
    """Close the queues of a job that this process hosts. `is_owner`: this process also removes what all of them share.

    Calls that wait, and later ones, raise QueueClosed; what is in the queues is dropped, counted and logged.
    """
    if queues is None:
        return
    end_scope(queues.scope)
    if queues.metadata.get("use_multiprocessing"):
        from sage_flow.queues.process import end_process_queues

        end_process_queues(queues.home, removes=is_owner)
