"""How a job makes checkpoints, as a user says it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from sage_flow.errors import PipelineError
from sage_flow.timestamps import checked_duration

__all__ = ["LATEST", "CheckpointOptions", "checkpoint_options"]

LATEST = "latest"
"""In the place of the path of a checkpoint: the newest one of the job's latest run."""


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """See `Environment.enable_checkpointing`, where the user says it.

    `storage`: a path or URL, absolute. `restore`: None, LATEST, or the path or URL of a checkpoint.
    """

    storage: str
    interval_s: float = 10.0
    timeout_s: float = 600.0
    min_pause_s: float = 0.0
    tolerable_failures: int | None = None
    keep: int = 3
    restore: str | None = None
    allow_dropped: bool = False


def checkpoint_options(
    storage: str | os.PathLike[str],
    interval: timedelta,
    timeout: timedelta,
    min_pause: timedelta,
    tolerable_failures: int | None,
    keep: int,
    restore: str | None,
    allow_dropped: bool,
) -> CheckpointOptions:
    """Return what the user says, checked. Raises PipelineError."""
    where = os.fspath(storage) if isinstance(storage, (str, os.PathLike)) else storage
    if not isinstance(where, str) or not where.strip():
        raise PipelineError(f"enable_checkpointing: storage must be a path or a URL, not {storage!r}")
    if "://" not in where:
        where = os.path.abspath(os.path.expanduser(where))
    if tolerable_failures is not None and (type(tolerable_failures) is not int or tolerable_failures < 0):
        raise PipelineError(
            f"enable_checkpointing: tolerable_failures must be a number from 0 on or None, not {tolerable_failures!r}"
        )
    if type(keep) is not int or keep < 1:
        raise PipelineError(f"enable_checkpointing: keep must be a number from 1 on, not {keep!r}")
    if restore is not None and (not isinstance(restore, (str, os.PathLike)) or not os.fspath(restore)):
        raise PipelineError(
            f'enable_checkpointing: restore must be "latest" or the path of a checkpoint, not {restore!r}'
        )
    return CheckpointOptions(
        where,
        checked_duration(interval, "interval of enable_checkpointing") / 1000,
        checked_duration(timeout, "timeout of enable_checkpointing") / 1000,
        checked_duration(min_pause, "min_pause of enable_checkpointing", positive=False) / 1000,
        tolerable_failures,
        keep,
        None if restore is None else os.fspath(restore),
        bool(allow_dropped),
    )
