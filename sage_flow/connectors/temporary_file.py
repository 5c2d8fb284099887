"""The hidden file in which an output grows, beside the name that it gets in the end.

Its name says whose it is: `.out.csv.JOB.aATTEMPT.sSUBTASK.MACHINE.tmp`. Its writer holds a lock on it (flock) until it
is published or removed, which the kernel takes away from a process that dies, however it dies. So there are two rules
for what is left behind, and neither asks whether a process id is alive:

* An attempt of a job removes the files of that job's earlier attempts.
* Another job on the same machine, or the same one started anew, removes a file whose lock is free. `MACHINE` stands for
  the running kernel: of a file system that several machines share nobody can say what a free lock means elsewhere.

A prepared file is complete and outlives its writer: `.out.csv.JOB.aATTEMPT.sSUBTASK.MACHINE.cCHECKPOINT.prepared`. No
lock is on it, and neither rule applies to it: between the death of its writer and the attempt that publishes it nobody
of the job may be alive. So it goes only when it is published, or when an attempt of its own job knows that it will not
be (`remove_staging`). No other job can know that its job is over.

A kept file is what a checkpoint names and does not publish: `.out.csv.JOB.aATTEMPT.sSUBTASK.MACHINE.cCHECKPOINT.kept`,
with the first checkpoint that names it. Its writer goes on writing. It keeps this name when it is prepared later, since
an earlier checkpoint may still be restored.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

from sage_flow.connectors.segments import Writer
from sage_flow.errors import InputError
from sage_flow.functions import RuntimeContext

__all__ = ["TemporaryFile", "remove_staging", "sweep"]

_LONGEST_JOB = 40
_AROUND = 72  # what else is in a name, also in those that are given while a part is removed


@dataclass(frozen=True)
class TemporaryFile:
    """A file that exists and is locked. `descriptor` holds the lock; whoever writes duplicates it."""

    path: str
    descriptor: int

    @classmethod
    def create(cls, path: str, folder: str, mode: int, ctx: RuntimeContext) -> TemporaryFile:
        """Make the file in `folder` for the output `path` of this subtask. Raises InputError if it is there."""
        ending = f".{_job(ctx)}.a{ctx.attempt}.s{ctx.subtask_index}.{_machine()}.tmp"
        temporary = os.path.join(folder, f".{_shown(path, folder)}{ending}")
        while True:
            try:
                descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            except FileExistsError as fault:
                raise InputError(f"{path}: another sink of this job writes this file ({temporary} exists)") from fault
            with suppress(OSError):  # a file system without locks: there nobody finds one free, either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return cls(temporary, descriptor)
            os.close(descriptor)  # it was removed before it was locked

    def remove(self) -> None:
        """Remove the file, if it is there, and end the lock."""
        with suppress(FileNotFoundError):
            os.remove(self.path)
        os.close(self.descriptor)

    @property
    def is_kept(self) -> bool:
        """Whether a checkpoint may name it."""
        return self.path.endswith(".kept")

    def keep(self, checkpoint: int) -> TemporaryFile:
        """Return the file under a name under which a later attempt finds it, and no other job removes it."""
        if self.is_kept:
            return self
        kept = f"{self.path.removesuffix('tmp')}c{checkpoint}.kept"
        os.rename(self.path, kept)
        return replace(self, path=kept)

    def prepare(self, checkpoint: int) -> str:
        """Give the file a name under which no other job removes it, then end the lock; return the name."""
        prepared = self.path
        if not self.is_kept:
            prepared = f"{self.path.removesuffix('tmp')}c{checkpoint}.prepared"
            os.rename(self.path, prepared)
        self.release()
        return prepared

    def release(self) -> None:
        """End the lock: the file has another name."""
        os.close(self.descriptor)


def remove_staging(
    path: str, folder: str, ctx: RuntimeContext, keep: Collection[str], former: Iterable[Writer] | None = None
) -> None:
    """Remove what this subtask prepared or kept in `folder` for the output `path`, but for the names in `keep`.

    former: whose files it took over from a checkpoint. None: no checkpoint was restored, so all files of this subtask
        go, whatever the parallelism was. Otherwise another subtask may have taken over a file that an earlier attempt
        wrote under this number, and may keep it. Then only the files of `former` go, and those of attempts between
        them and this one, which no checkpoint names.

    What later attempts prepared stays: this one may be one that was given up, and goes on without knowing it.
    """
    if not os.path.isdir(folder):
        return
    shown, job = re.escape(_shown(path, folder)), re.escape(_job(ctx))
    named = rf"\.{shown}\.{job}\.a(?P<attempt>\d+)\.s(?P<subtask>\d+)\.[0-9a-f]{{8}}\.c\d+\.(?:prepared|kept)"
    own = None if former is None else {(one.attempt, one.subtask) for one in former if one.job == ctx.job_id}
    since = max((attempt for attempt, _ in own or ()), default=ctx.attempt)
    for match in _entries(folder, named):
        attempt, subtask = int(match["attempt"]), int(match["subtask"])
        is_own = subtask % ctx.parallelism == ctx.subtask_index and attempt <= ctx.attempt
        if own is not None:
            is_own = (is_own and attempt == ctx.attempt) or (attempt, subtask) in own or since < attempt < ctx.attempt
        if is_own and match[0] not in keep:
            with suppress(FileNotFoundError):  # another attempt was faster
                os.remove(os.path.join(folder, match[0]))


def sweep(path: str, folder: str, ctx: RuntimeContext) -> None:
    """Remove temporary files that were left behind for the output `path` in `folder`."""
    shown = re.escape(_shown(path, folder))
    named = rf"\.{shown}\.(?P<job>[\w-]+)\.a(?P<attempt>\d+)\.s\d+\.(?P<machine>[0-9a-f]{{8}})\.tmp"
    for match in _entries(folder, named):
        file = os.path.join(folder, match[0])
        if match["job"] == _job(ctx):
            if int(match["attempt"]) < ctx.attempt:
                with suppress(FileNotFoundError):  # another subtask was faster
                    os.remove(file)
        elif match["machine"] == _machine():
            _remove_if_left_behind(file)


def _entries(folder: str, pattern: str) -> list[re.Match[str]]:
    named = re.compile(pattern, re.A)
    return [match for name in os.listdir(folder) if (match := named.fullmatch(name))]


def _remove_if_left_behind(file: str) -> None:
    with suppress(OSError):  # its writer lives, or it is somebody else's: it stays
        descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.remove(file)
        finally:
            os.close(descriptor)


def _job(ctx: RuntimeContext) -> str:
    return re.sub(r"[^\w-]", "_", ctx.job_id, flags=re.ASCII)[-_LONGEST_JOB:]  # what makes it unique is its end


def _shown(path: str, folder: str) -> str:
    """The name of the output, shortened if what is put around it would not fit."""
    name = os.path.basename(path)
    room = os.pathconf(folder, "PC_NAME_MAX") - _LONGEST_JOB - _AROUND
    if len(os.fsencode(name)) <= room:
        return name
    while len(os.fsencode(name)) > room - 9:
        name = name[:-1]
    return f"{name}~{_digest(os.path.basename(path))}"


@lru_cache(maxsize=1)
def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return _digest(file.read())
    except OSError:  # not Linux
        return _digest(f"{platform.node()} {uuid.getnode()}")


def _digest(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=4).hexdigest()
