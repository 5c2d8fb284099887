"""What a sink has prepared: written down where any process of the job can publish it, and not to be seen yet."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Prepared"]


class Prepared(NamedTuple):
    """`handle`, which the sink of `operator` in subtask `subtask` (from 0) returned from `prepare`.

    `checkpoint`: the one it was prepared for; 0: the end of the job. `kept`: at the end of a job with checkpoints, the
    snapshot of the sink, which has what the handle has: another number of subtasks goes on with it in its place.
    """

    operator: str
    subtask: int
    handle: Any
    checkpoint: int = 0
    kept: Any = None
