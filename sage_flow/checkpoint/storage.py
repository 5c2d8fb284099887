"""Where checkpoints and logs are stored: a folder of this machine, or the memory of this process.

A storage keeps files by name. `write` replaces a file. `create` makes one only if there is none of that name: of
several processes that create one name exactly one succeeds, and nobody ever sees a part of the content. The log of a
job relies on that.

`create` may return False although it has succeeded, where a client repeats a request whose answer was lost; botocore
does. So False never proves that another process was first. Whoever needs to know puts a unique number into the content
and reads it back, as `checkpoint.log` does.
"""

from __future__ import annotations

import errno
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sage_flow.connectors.remote_files import is_url, local_path
from sage_flow.errors import CheckpointError, CheckpointMissing, InternalError, StorageError

__all__ = ["LocalStorage", "MemoryStorage", "Storage", "open_storage"]


class Storage(ABC):
    """Files by name. A name may have folders (`log/000000000012`); no part of it begins with a dot.

    All methods raise StorageError if the storage cannot be reached, is full, or may not be used. Any thread may use a
    storage, and it can be pickled.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        """The path or URL, from which `open_storage` makes this storage again."""

    def at(self, folder: str) -> Storage:
        """The storage of a folder below, which need not exist."""
        return type(self)(f"{self.location.rstrip('/')}/{_checked(folder)}")

    def place_of(self, name: str) -> str:
        """The path or URL of a file, for messages."""
        return f"{self.location.rstrip('/')}/{name}"

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Store a file in place of the one before. When this returns, a crash of the machine does not undo it."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Store a file, durable as by `write`; False: there is one of this name, which may be what was created here."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises CheckpointMissing if there is none."""

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """The names of the files and folders in a folder, without what is below those; sorted. Empty: nothing there."""

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are not there are passed over."""

    @abstractmethod
    def make_durable(self, folder: str) -> None:
        """Wait until a crash of the machine does not undo what `names` lists in this folder.

        For a file that another process has just created, or whose `create` has failed after it had stored the file.
        """


def open_storage(location: str | os.PathLike[str]) -> Storage:
    """Open a storage by its path or URL; nothing is read or written yet.

    `memory://name` is in the memory of this process, and ends with it. Raises StorageError if the URL is of a kind that
    cannot create a file exclusively.
    """
    place = os.fspath(location)
    if not isinstance(place, str) or not place:
        raise StorageError(f"{location!r} is no place for checkpoints: give a path, or a URL", may_pass=False)
    if place.startswith("memory://"):
        return MemoryStorage(place)
    if not is_url(place):
        return LocalStorage(place)
    path = local_path(place)
    if path is not None:
        return LocalStorage(path)
    raise StorageError(f"{place}: checkpoints cannot be stored there: give a path", may_pass=False)


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
            _sync_folder(os.path.dirname(path))

    def create(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        with _reported("created", path), _scratch_file(path, data) as scratch:
            is_new = _is_linked(scratch, path)
            _sync_folder(os.path.dirname(path))
            return is_new

    def read(self, name: str) -> bytes:
        path = self._path(name)
        with _reported("read", path):
            try:
                with open(path, "rb") as file:
                    return file.read()
            except FileNotFoundError:
                raise CheckpointMissing(_missing(path)) from None
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
                _sync_folder(path)
            except FileNotFoundError:
                pass

    def _path(self, name: str) -> str:
        return os.path.join(self.location, _checked(name))


_memories: dict[str, dict[str, bytearray]] = {}


class MemoryStorage(Storage):
    """`memory://name`: kept by this process, for tests and for trying things out. All of one name is one storage."""

    def __init__(self, location: str) -> None:
        memory, _, folder = location.removeprefix("memory://").strip("/").partition("/")
        super().__init__(f"memory://{memory}" + (f"/{_checked(folder)}" if folder else ""))
        self._memory = memory
        self._folder = f"{folder}/" if folder else ""

    @property
    def _files(self) -> dict[str, bytearray]:
        return _memories.setdefault(self._memory, {})

    def write(self, name: str, data: bytes) -> None:
        self._files[self._folder + _checked(name)] = bytearray(data)

    def create(self, name: str, data: bytes) -> bool:
        mine = bytearray(data)  # an object of this call alone, which equal bytes are not always
        return self._files.setdefault(self._folder + _checked(name), mine) is mine

    def read(self, name: str) -> bytes:
        try:
            return bytes(self._files[self._folder + _checked(name)])
        except KeyError:
            raise CheckpointMissing(_missing(self.place_of(name))) from None

    def names(self, folder: str = "") -> list[str]:
        front = self._folder + (f"{_checked(folder)}/" if folder else "")
        below = (path.removeprefix(front) for path in list(self._files) if path.startswith(front))
        return sorted({path.partition("/")[0] for path in below})

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._files.pop(self._folder + _checked(name), None)

    def make_durable(self, folder: str) -> None:
        pass


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
        _make_folder(path)
        return
    except FileExistsError:
        pass  # another process has made it, and not flushed it yet, perhaps
    _sync_folder(os.path.dirname(path))


def _sync_folder(path: str) -> None:
    """Wait until the names in a folder are on the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError as fault:
        if fault.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot do this for folders
            raise
    finally:
        os.close(folder)


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


# -- names and errors ----------------------------------------------------------------------------------------

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


def _checked(name: str) -> str:
    if any(not part or part.startswith(".") for part in name.split("/")) or "\0" in name:
        raise InternalError(f"{name!r} is no name of a stored file")
    return name


def _missing(place: str) -> str:
    return f"{place}: is not there; bring it back from a copy, or restore another checkpoint by its path (`restore=`)"
