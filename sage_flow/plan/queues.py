"""The queues of a job: how all who take part in it, in whatever process, get the same one by its name."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_flow.queues.descriptor import BaseQueueDescriptor

__all__ = ["JobQueues", "new_scope"]


def new_scope(job: str) -> str:
    """A scope that no other job has, also none of this name."""
    return f"{job}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class JobQueues:
    """Where a job has its queues. `scope` is the job's alone; the rest is what a serial form of a descriptor says."""

    scope: str
    queue_type: str = "python"
    home: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def queue(self, queue_id: str | None = None, maxsize: int = 0) -> BaseQueueDescriptor:
        """The queue of this name; without one, a queue with a name of its own. Raises: ValueError."""
        from sage_flow.queues.job_queues import job_queue

        return job_queue(self, queue_id, maxsize)
