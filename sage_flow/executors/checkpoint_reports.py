"""What a job tells of its latest checkpoints: those that are complete, and those that have failed and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sage_flow.checkpoint.coordinator import REMEMBERED, CheckpointRecord
from sage_flow.checkpoint.runs import metadata_name
from sage_flow.plan.physical import Plan
from sage_flow.runtime.messages import DRIVER

__all__ = ["CheckpointInfo", "latest_infos", "reported"]


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A checkpoint of a job.

    Attributes:
        checkpoint: its number.
        attempt: of the job that made it.
        began: ms since the epoch, by the clock of now: it may differ by a ms or so each time it is told.
        took_s: from its begin until it was recorded, or was given up.
        size: bytes that were stored for it.
        alignment_s: the longest time for which a subtask waited for barriers.
        pause_s: the longest time for which a subtask processed no records.
        stored_s: the longest time that a subtask took to store its part.
        slowest: the subtask whose part came last, or is missing; "driver" for collected rows, "" if it is not known.
        failed: why it failed; None: it is complete.
        path: what `restore=` takes; None if it has failed, or is not kept any more.
    """

    checkpoint: int
    attempt: int
    began: int
    took_s: float
    size: int
    alignment_s: float
    pause_s: float
    stored_s: float
    slowest: str = ""
    failed: str | None = None
    path: str | None = None


def reported(plan: Plan, records: Iterable[CheckpointRecord], now: float, wall_ms: int) -> list[CheckpointInfo]:
    """What the records of an attempt say. `now`: seconds on the clock of the records; `wall_ms`: the same moment."""
    names: dict[int | None, str] = {subtask.address: subtask.name for subtask in plan.subtasks}
    names[DRIVER] = "driver"
    return [
        CheckpointInfo(
            checkpoint=record.checkpoint,
            attempt=plan.attempt,
            began=wall_ms - round(1000 * (now - record.began)),
            took_s=record.took_s,
            size=record.size,
            alignment_s=record.timing.alignment_s,
            pause_s=record.timing.pause_s,
            stored_s=record.timing.stored_s,
            slowest=names.get(record.slowest, ""),
            failed=record.why,
            path=None if record.why is not None else _path(plan, record.checkpoint),
        )
        for record in records
    ]


def latest_infos(infos: Iterable[CheckpointInfo], keep: int) -> list[CheckpointInfo]:
    """The latest of several attempts. Only the last `keep` complete ones have a path: the others are deleted.

    An attempt that ends while somebody looks may come twice; each checkpoint is given once.
    """
    latest = list({(info.attempt, info.checkpoint): info for info in infos}.values())[-REMEMBERED:]
    left = keep
    for index in range(len(latest) - 1, -1, -1):
        if latest[index].path is not None:
            if left == 0:
                latest[index] = replace(latest[index], path=None)
            left = max(0, left - 1)
    return latest


def _path(plan: Plan, checkpoint: int) -> str:
    return f"{(plan.checkpoints or '').rstrip('/')}/{metadata_name(plan.attempt, checkpoint)}"
