"""One output file of one subtask: written under a temporary name, then prepared for whoever publishes it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO

from sage_flow.connectors.compression import packed
from sage_flow.connectors.older_files import Identity, earlier_parts, inherit, replaced_file
from sage_flow.connectors.output_path import check_alone, check_output, is_device, part_path
from sage_flow.connectors.prepared_file import PreparedFile, sync_folder
from sage_flow.connectors.temporary_file import TemporaryFile, remove_prepared
from sage_flow.functions import RuntimeContext

__all__ = ["OutputFile", "remove_all_prepared"]


@dataclass(eq=False)
class OutputFile:
    """A subtask's file. `_earlier`: parts of an earlier run of the same parallelism, to go before the first new one."""

    path: str
    target: str
    data: IO[bytes]
    _raw: IO[bytes]
    writes_through: bool = False  # to a device: there is nothing to publish
    _temporary: TemporaryFile | None = None
    _earlier: dict[str, Identity] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str, ctx: RuntimeContext) -> OutputFile:
        """Begin the file of this subtask for the output `path`. Raises InputError, OSError."""
        check_output(path)
        if is_device(path):
            raw = open(path, "wb")  # noqa: SIM115 - close() closes it
            return cls(path, path, _packed(raw, path), raw, writes_through=True)
        check_alone(path, ctx.parallelism)
        own = check_output(part_path(path, ctx.subtask_index, ctx.parallelism))
        target = os.path.realpath(own)  # of a link it is what it points to
        mode = 0o600 if os.path.exists(target) else 0o666
        temporary = TemporaryFile.create(path, os.path.dirname(target), mode, ctx)
        try:
            if (older := replaced_file(target)) is not None:
                inherit(temporary.descriptor, target, older)
            earlier = {} if ctx.parallelism == 1 else earlier_parts(path, own)
            raw = open(os.dup(temporary.descriptor), "wb")  # noqa: SIM115 - close() closes it
            return cls(own, target, _packed(raw, own), raw, _temporary=temporary, _earlier=earlier)
        except BaseException:
            temporary.remove()
            raise

    def close(self) -> None:
        """End the writing; all of it is on the disk then."""
        with self._raw as raw:
            if self.data is not raw:
                self.data.close()  # ends the compressed stream
            if self._temporary is not None:
                if not raw.closed:
                    raw.flush()
                os.fsync(self._temporary.descriptor)

    def prepare(self, checkpoint: int) -> PreparedFile | None:
        """Let the file, which was closed, outlive this process; return what publishes it. Raises OSError."""
        temporary = self._temporary
        if temporary is None:
            return None
        staging = temporary.prepare(checkpoint)
        self._temporary = None  # from here on an attempt may publish it: this one does not abort it any more
        sync_folder(os.path.dirname(staging))
        return self._handle(staging)

    def _handle(self, staging: str) -> PreparedFile:
        entry = os.lstat(staging)
        identity = (entry.st_ino, entry.st_mtime_ns, entry.st_size)
        return PreparedFile(self.path, self.target, staging, identity, tuple(self._earlier.items()))

    def remove(self) -> None:
        """Remove what was written; an older file stays."""
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            temporary.remove()


def _packed(raw: IO[bytes], path: str) -> IO[bytes]:
    try:
        return packed(raw, path)
    except BaseException:
        raw.close()
        raise


def remove_all_prepared(path: str, ctx: RuntimeContext, keep: Iterable[PreparedFile]) -> None:
    """Remove what this subtask prepared for the output `path`, in this attempt or earlier ones, but for `keep`."""
    own = part_path(path, ctx.subtask_index, ctx.parallelism)
    folder = os.path.dirname(os.path.realpath(own))
    remove_prepared(path, folder, ctx, {os.path.basename(prepared.staging) for prepared in keep})
