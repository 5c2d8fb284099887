"""The folders and files of a storage: jobs, their runs, and what a run consists of.

    JOB/RUN/log/000000000012                  entries of the log
    JOB/RUN/chunks/a2-n7-s3-0                 chunk 0 of subtask 3, for checkpoint 7, by attempt 2
    JOB/RUN/checkpoints/a2-n7                 the metadata of checkpoint 7

The names carry the attempt: two attempts, of which one does not know yet that it belongs to the past, never write the
same file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from enum import Enum
from urllib.parse import quote

import xxhash

from sage_flow.checkpoint.log import LogHistory
from sage_flow.checkpoint.storage import Storage
from sage_flow.errors import InternalError

__all__ = [
    "RunState",
    "attempt_of",
    "chunk_name",
    "chunks_of",
    "job_folder",
    "latest_run",
    "metadata_name",
    "new_run",
    "number_of",
    "runs_of",
    "state_of",
]

_FORM = "%Y%m%dT%H%M%S"
_RUN = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
_LONGEST = 150  # of a folder's name; file systems allow 255 bytes, and a run's files need none of them


class RunState(Enum):
    """How far a run has come, by its log."""

    OPEN = "open"
    """No end is recorded: it runs, or its leader has died."""
    NOT_PUBLISHED = "not published"
    """It has finished, and not all of its output is published, as far as the log knows."""
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    """It was stopped with a last checkpoint, from which it can go on."""


def state_of(history: LogHistory) -> RunState:
    """What the log of a run says of it."""
    if history.over is not None:
        return RunState(history.over.end.value)
    return RunState.OPEN if history.final is None else RunState.NOT_PUBLISHED


# -- jobs and runs -------------------------------------------------------------------------------------------


def job_folder(job: str) -> str:
    """The folder of a job. What file systems treat specially is written as `%2F`; a long name ends with its hash."""
    name = quote(job, safe=" ", errors="surrogatepass")
    if name.startswith("."):
        name = "%2E" + name[1:]
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{xxhash.xxh3_64_hexdigest(name.encode())}"


def new_run(created_ms: int, unique: str, earlier: Iterable[str]) -> str:
    """The name of a new run, behind all `earlier` ones even if the clock went back. `unique`: 8 hexadecimal digits.

    created_ms: ms since the epoch.
    """
    seconds = datetime.fromtimestamp(created_ms // 1000, timezone.utc)
    latest = max((run for run in earlier if _RUN.fullmatch(run)), default="")
    if latest and seconds.strftime(_FORM) <= latest.partition("-")[0]:
        seconds = datetime.strptime(latest.partition("-")[0], _FORM) + timedelta(seconds=1)
    name = f"{seconds.strftime(_FORM)}-{unique}"
    if _RUN.fullmatch(name) is None:
        raise InternalError(f"{name!r} is no name of a run")
    return name


def runs_of(job: Storage) -> list[str]:
    """The runs of a job that have begun, the latest last. `job` is the folder of the job."""
    return [run for run in job.names() if _RUN.fullmatch(run) and job.at(run).names("log")]


def latest_run(job: Storage) -> str | None:
    """The latest run of a job that has begun; None: there is none. `job` is the folder of the job."""
    names = (run for run in reversed(job.names()) if _RUN.fullmatch(run))
    return next((run for run in names if job.at(run).names("log")), None)


# -- the files of a run --------------------------------------------------------------------------------------


def chunk_name(attempt: int, checkpoint: int, address: int, number: int) -> str:
    """A blob of a subtask."""
    return f"{chunks_of(attempt, checkpoint)}s{address}-{number}"


def chunks_of(attempt: int, checkpoint: int) -> str:
    """How the names of all blobs of a checkpoint begin.

    >>> chunks_of(2, 7), chunk_name(2, 7, 3, 0)
    ('chunks/a2-n7-', 'chunks/a2-n7-s3-0')
    """
    return f"chunks/a{attempt}-n{checkpoint}-"


def metadata_name(attempt: int, checkpoint: int) -> str:
    """The metadata of a checkpoint."""
    return f"checkpoints/a{attempt}-n{checkpoint}"


def number_of(name: str) -> tuple[int, int] | None:
    """The attempt and the number of a checkpoint, by the name of its metadata; None: it is no such name.

    >>> number_of("a2-n7"), number_of("notes.txt")
    ((2, 7), None)
    """
    found = re.fullmatch(r"a([0-9]+)-n([0-9]+)", name)
    return None if found is None else (int(found[1]), int(found[2]))


def attempt_of(name: str) -> int | None:
    """The attempt that wrote a chunk or metadata; None: it is neither, so it is not to be deleted.

    >>> attempt_of(chunk_name(2, 7, 3, 0)), attempt_of("a2-n7"), attempt_of("notes.txt")
    (2, 2, None)
    """
    found = re.fullmatch(r"(?:chunks/|checkpoints/)?a([0-9]+)-n[0-9]+(?:-s[0-9]+-[0-9]+)?", name)
    return int(found[1]) if found else None
