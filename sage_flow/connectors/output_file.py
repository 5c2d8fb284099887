"""One output file of one subtask: written under a temporary name, then kept or prepared for whoever publishes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sage_flow.connectors.members import Members, Plain, writing_to
from sage_flow.connectors.older_files import Identity, earlier_parts, inherit, replaced_file
from sage_flow.connectors.output_path import check_alone, check_output, is_device, part_path, rolled_path
from sage_flow.connectors.prepared_file import PreparedFile, sync_folder
from sage_flow.connectors.segments import Segment, Writer, join_segments
from sage_flow.connectors.temporary_file import TemporaryFile, remove_staging, sweep
from sage_flow.functions import RuntimeContext

__all__ = ["OutputFile", "remove_all_staging", "remove_unfinished"]


@dataclass(eq=False)
class OutputFile:
    """A subtask's file.

    Attributes:
        path: the name that users see.
        target: what gets replaced; of a link it is what it points to.
        data: what writes to it.
        output: what users have named; several subtasks and parts add to it.
        writes_through: it is a device, so there is nothing to publish.
        is_named: a checkpoint may name it, so it stays when the attempt ends.
        header: how many bytes at its start, unpacked, are the names of the columns.
        is_new: it is a part of an output that rolls: it gets its name when it is prepared, and replaces nothing.
        _earlier: parts of an earlier run of the same parallelism, to go before the first new one.
        _kept: how much of `data` was made durable.
    """

    path: str
    target: str
    data: Plain | Members
    output: str
    writes_through: bool = False
    is_named: bool = False
    header: int = 0
    is_new: bool = False
    _device: int | None = None
    _temporary: TemporaryFile | None = None
    _earlier: dict[str, Identity] = field(default_factory=dict)
    _kept: int = 0

    @classmethod
    def open(cls, path: str, ctx: RuntimeContext, *, rolls: bool = False) -> OutputFile:
        """Begin the file of this subtask for the output `path`. Raises InputError, OSError."""
        check_output(path)
        if is_device(path):
            device = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            return cls(path, path, writing_to(device, path), path, writes_through=True, _device=device)
        check_alone(path, ctx.parallelism, rolls=rolls)
        if rolls:
            check_output(rolled_path(path, ctx.subtask_index, ctx.parallelism, 0))  # also for its length
            folder, earlier = os.path.realpath(os.path.dirname(path)), {}
            own, target = path, os.path.join(folder, os.path.basename(path))
        else:
            own = check_output(part_path(path, ctx.subtask_index, ctx.parallelism))
            target = os.path.realpath(own)
            folder, earlier = os.path.dirname(target), {} if ctx.parallelism == 1 else earlier_parts(path, own)
        sweep(path, folder, ctx)
        return cls._begin(path, ctx, own, target, earlier, rolls)

    @classmethod
    def _begin(
        cls, path: str, ctx: RuntimeContext, own: str, target: str, earlier: dict[str, Identity], is_new: bool
    ) -> OutputFile:
        mode = 0o600 if os.path.exists(target) else 0o666
        temporary = TemporaryFile.create(path, os.path.dirname(target), mode, ctx)
        try:
            if (older := replaced_file(target)) is not None:
                inherit(temporary.descriptor, target, older)
            data = writing_to(temporary.descriptor, path)
            return cls(own, target, data, path, is_new=is_new, _temporary=temporary, _earlier=earlier)
        except BaseException:
            temporary.remove()
            raise

    @property
    def is_pending(self) -> bool:
        """Whether it is neither prepared nor removed."""
        return self._temporary is not None

    def another(self, ctx: RuntimeContext) -> OutputFile:
        """Begin another file for the same output, once this one is prepared, kept or removed."""
        path, target = self.path, self.target
        if self.is_new:
            path, target = self.output, os.path.join(os.path.dirname(target), os.path.basename(self.output))
        return self._begin(self.output, ctx, path, target, self._earlier, self.is_new)

    def joined(self, segments: Sequence[Segment], ctx: RuntimeContext) -> OutputFile:
        """Return a file, which is closed, with all of these; the last ones are of this file, which was kept."""
        if not self._kept:
            self.remove()
        made = self.another(ctx)
        try:
            join_segments(segments, self.output, made.data)
            made.close()
        except BaseException:
            with suppress(OSError):  # of a full disk, once more
                made.close()
            made.remove()
            raise
        self.remove()
        made.header = segments[0].header
        return made

    def rename(self, path: str) -> None:
        """Decide where a part will be published."""
        self.path, self.target = path, os.path.join(os.path.dirname(self.target), os.path.basename(path))

    def close(self) -> None:
        """End the writing; all of it is on the disk then."""
        try:
            self.data.finish()
            if self._temporary is not None:
                os.fsync(self._temporary.descriptor)
        finally:
            device, self._device = self._device, None
            if device is not None:
                os.close(device)

    def keep(self, checkpoint: int, job: str) -> Segment | None:
        """Make durable what was written so far, and return where it is; None if nothing was."""
        temporary, size = self._temporary, self.data.size
        if temporary is None or not size:
            return None
        if size > self._kept:
            self.data.end_member()
            os.fsync(temporary.descriptor)
            self._temporary = temporary = temporary.keep(checkpoint)
            sync_folder(os.path.dirname(temporary.path))
            self._kept = size
        return Segment(temporary.path, os.fstat(temporary.descriptor).st_size, self.header, self.output, job)

    def prepare(self, checkpoint: int, joined: Iterable[str] = ()) -> PreparedFile | None:
        """Let the file, which was closed, outlive this process; return what publishes it. Raises OSError.

        joined: the kept files of which it was made.
        """
        temporary = self._temporary
        if temporary is None:
            return None
        staging = temporary.prepare(checkpoint)
        self._temporary = None  # from here on an attempt may publish it: this one does not abort it any more
        sync_folder(os.path.dirname(staging))
        entry = os.lstat(staging)
        identity = (entry.st_ino, entry.st_mtime_ns, entry.st_size)
        earlier = tuple(self._earlier.items())
        return PreparedFile(self.path, self.target, staging, identity, earlier, tuple(joined), self.is_new)

    def remove(self) -> None:
        """Remove what was written, unless a checkpoint may name it; an older file stays."""
        temporary, self._temporary = self._temporary, None
        if temporary is not None and self.is_named:
            temporary.release()
        elif temporary is not None:
            temporary.remove()


def remove_all_staging(
    path: str, ctx: RuntimeContext, keep: Iterable[str], former: Iterable[Writer] | None, *, rolls: bool
) -> None:
    """Remove what this subtask prepared or kept for the output `path`, in this attempt or earlier ones, but for `keep`.

    former: see `remove_staging`.
    """
    remove_staging(path, _folder(path, ctx, rolls=rolls), ctx, {os.path.basename(name) for name in keep}, former)


def remove_unfinished(path: str, ctx: RuntimeContext, *, rolls: bool) -> None:
    """Remove what earlier attempts of this job have begun for the output `path`, and neither kept nor prepared."""
    sweep(path, _folder(path, ctx, rolls=rolls), ctx)


def _folder(path: str, ctx: RuntimeContext, *, rolls: bool) -> str:
    """Where the files of this subtask are while they are hidden."""
    own = path if rolls else part_path(path, ctx.subtask_index, ctx.parallelism)
    return os.path.realpath(os.path.dirname(own)) if rolls else os.path.dirname(os.path.realpath(own))
