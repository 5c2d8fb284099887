"""One output file of one subtask: written under a temporary name, published in the place of an older file."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from sage_flow.connectors.compression import packed
from sage_flow.connectors.output_path import check_alone, check_output, is_device, part_path, parts_of
from sage_flow.connectors.temporary_file import TemporaryFile
from sage_flow.errors import InputError
from sage_flow.functions import RuntimeContext

__all__ = ["OutputFile"]

_Identity = tuple[int, int, int]


@dataclass(eq=False)
class OutputFile:
    """A subtask's file. `earlier`: parts of an earlier run of the same parallelism, to go before the first new one."""

    path: str
    target: str
    data: IO[bytes]
    _raw: IO[bytes]
    _temporary: TemporaryFile | None = None
    _earlier: dict[str, _Identity] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str, ctx: RuntimeContext) -> OutputFile:
        """Begin the file of this subtask for the output `path`. Raises InputError, OSError."""
        check_output(path)
        if is_device(path):
            raw = open(path, "wb")  # noqa: SIM115 - close() closes it
            return cls(path, path, _packed(raw, path), raw)
        check_alone(path, ctx.parallelism)
        own = check_output(part_path(path, ctx.subtask_index, ctx.parallelism))
        target = os.path.realpath(own)  # of a link it is what it points to
        mode = 0o600 if os.path.exists(target) else 0o666
        temporary = TemporaryFile.create(path, os.path.dirname(target), mode, ctx)
        try:
            _inherit(temporary.descriptor, target)
            earlier = {} if ctx.parallelism == 1 else _identities(path, own)
            raw = open(os.dup(temporary.descriptor), "wb")  # noqa: SIM115 - close() closes it
            return cls(own, target, _packed(raw, own), raw, temporary, earlier)
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

    def publish(self) -> None:
        """Take the place of an older file, whose mode stays. Raises InputError, OSError."""
        temporary = self._temporary
        if temporary is None:
            return
        _inherit(temporary.descriptor, self.target)
        for path, identity in self._earlier.items():
            _remove_earlier(path, identity, aside=f"{temporary.path}.old")
        temporary.rename(self.target)
        self._temporary = None

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


def _inherit(descriptor: int, target: str) -> None:
    """Give the file the owner, if that is allowed, the mode and the attributes of the one at `target`, if one is there.

    Raises InputError if that is no regular file: it must not be replaced.
    """
    try:
        older = os.stat(target)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(older.st_mode):
        raise InputError(f"{target}: was replaced by something that is not a file while the job wrote it; remove it")
    with suppress(PermissionError):  # only root gives files away
        os.fchown(descriptor, older.st_uid, older.st_gid)
    own, mode = os.fstat(descriptor), stat.S_IMODE(older.st_mode)
    if own.st_uid != older.st_uid:
        mode &= 0o777
    if own.st_gid != older.st_gid:  # another group may do what all may
        mode = mode & ~0o2070 | (mode & 0o007) << 3
    for name in _attributes(target):
        with suppress(OSError):  # some are the kernel's, or need a privilege
            os.setxattr(descriptor, name, os.getxattr(target, name))
    os.fchmod(descriptor, mode)


def _attributes(target: str) -> list[str]:
    """Extended attributes; none where the system has none, or once another subtask has put the file aside."""
    if not hasattr(os, "listxattr"):
        return []
    try:
        return os.listxattr(target)
    except FileNotFoundError:
        return []


def _identities(path: str, own: str) -> dict[str, _Identity]:
    """The parts that are there now, but for `own`, which is replaced. Links stay: who made them points elsewhere."""
    found = {part.path: _identity(part.path) for part in parts_of(path) if part.path != own}
    return {path: identity for path, identity in found.items() if identity is not None}


def _identity(path: str) -> _Identity | None:
    try:
        entry = os.lstat(path)
    except FileNotFoundError:
        return None
    return (entry.st_dev, entry.st_ino, entry.st_mtime_ns) if stat.S_ISREG(entry.st_mode) else None


def _remove_earlier(path: str, identity: _Identity, aside: str) -> None:
    """Remove a part of an earlier run, unless another subtask has published its own there since we looked.

    It is put aside first: between a look and a removal by name the new one could come.
    """
    if _identity(path) != identity:
        return
    try:
        os.rename(path, aside)
    except FileNotFoundError:  # another subtask was faster
        return
    if _identity(aside) == identity:
        os.remove(aside)
    else:
        os.rename(aside, path)
