"""The queues of a job: how all who take part in it, in whatever process, get the same one by its name."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

__all__ = ["JobQueues", "new_scope"]


def new_scope(job: str) -> str:
    """A scope that no other job has, also none of this name."""
    return f"{job}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class JobQueues:
    """Where a job has its queues. `scope` is the job's alone; the rest is what a serial form of a descriptor says.

    Data only: `queues.job_queues` opens a queue of it.
    """

    scope: str
    queue_type: str = "python"
    home: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
