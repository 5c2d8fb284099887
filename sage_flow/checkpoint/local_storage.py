"""Checkpoints in a folder of this machine, or one that is mounted."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from sage_flow.checkpoint.storage_contract import Storage, checked_name, missing_text
from sage_flow.connectors.prepared_file import sync_folder
from sage_flow.errors import CheckpointError, CheckpointMissing, StorageError

__all__ = ["LocalStorage"]


class LocalStorage(Storage):
    """A folder of this machine, or one that is mounted. It is made when the first file is written.

    A file is written under another name, flushed to the disk, and then renamed (`write`) or linked (`create`); then the
    folder is flushed. A process that is killed meanwhile leaves a file whose name begins with a dot, which `names` does
    not list.
    """

    def __init__(self, location: str) -> None:
        super().__init__(os.path.abspath(os.path.expanduser(location)))

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with _reported("written", path), _scratch_file(path, data) as scratch:
            os.replace(scratch, path)
            sync_folder(os.path.dirname(path))

    def create(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        with _reported("created", path), _scratch_file(path, data) as scratch:
            is_new = _is_linked(scratch, path)
            sync_folder(os.path.dirname(path))
            return is_new

    def read(self, name: str) -> bytes:
        path = self._path(name)
        with _reported("read", path):
            try:
                with open(path, "rb") as file:
                    return file.read()
            except FileNotFoundError:
                raise CheckpointMissing(missing_text(path)) from None
            except IsADirectoryError:
                raise CheckpointError(f"{path}: is a folder, where a file is expected; remove it") from None

    def names(self, folder: str = "") -> list[str]:
        path = self._path(folder) if folder else self.location
        with _reported("listed", path):
            try:
                return sorted(name for name in os.listdir(path) if not name.startswith("."))
            except FileNotFoundError:
                return []

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._path(name)
            with _reported("deleted", path):
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass

    def make_durable(self, folder: str) -> None:
        path = self._path(folder)
        with _reported("flushed to the disk", path):
            try:
                sync_folder(path)
            except FileNotFoundError:
                pass

    def _path(self, name: str) -> str:
        return os.path.join(self.location, checked_name(name))


# -- files of this machine -----------------------------------------------------------------------------------


@contextmanager
def _scratch_file(path: str, data: bytes) -> Iterator[str]:
    """A file with this content beside `path`, on the disk; removed at the end, if it has that name still."""
    scratch = os.path.join(os.path.dirname(path), f".{secrets.token_hex(8)}.tmp")
    try:
        file = _new_file(scratch)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            os.fsync(file)
        finally:
            os.close(file)
        yield scratch
    finally:
        try:
            os.unlink(scratch)
        except OSError:  # renamed; or an error is on its way that says more
            pass


def _new_file(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        _make_folder(os.path.dirname(path))
        return os.open(path, flags, 0o666)


def _make_folder(path: str) -> None:
    """Make a folder and those above it, on the disk when this returns."""
    try:
        os.mkdir(path)
    except FileNotFoundError:
        _make_folder(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path)  # /proc says again that something is not there
    except FileExistsError:
        pass  # another process has made it, and not flushed it yet, perhaps
    sync_folder(os.path.dirname(path))


def _is_linked(scratch: str, path: str) -> bool:
    """Give the file the name `path`, too; False: another file has it.

    NFS may repeat a request whose answer was lost, and say that the name exists. The number of links tells.
    """
    try:
        os.link(scratch, path)
    except OSError as fault:
        if os.stat(scratch).st_nlink > 1:
            return True
        if isinstance(fault, FileExistsError):
            return False
        if fault.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise StorageError(
                f"{path}: cannot be created, because this file system has no hard links ({fault.strerror}); store "
                f"checkpoints in a folder of another file system",
                may_pass=False,
            ) from fault
        raise
    return True


# -- errors --------------------------------------------------------------------------------------------------

_CURES = {
    errno.ENOSPC: "free some space, or delete the folders of runs that are not needed any more",
    errno.EDQUOT: "your quota is used up: free some space, or delete the folders of runs that are not needed any more",
    errno.EACCES: "give the user of this process access to it",
    errno.EPERM: "give the user of this process access to it",
    errno.EROFS: "the file system is read-only: store checkpoints elsewhere",
    errno.ENOTDIR: "a part of this path is a file: give the path of a folder",
    errno.EISDIR: "a folder has this name: remove it",
    errno.ELOOP: "its symbolic links go round in a circle: give another path",
    errno.ENAMETOOLONG: "give a shorter path, or the job a shorter name",
}
_LASTING = set(_CURES) - {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def _reported(done: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        cure = _CURES.get(fault.errno or 0, "look whether the storage is mounted and works")
        reason = fault.strerror or repr(fault)
        raise StorageError(
            f"{path}: cannot be {done}: {reason}; {cure}", may_pass=fault.errno not in _LASTING
        ) from fault
