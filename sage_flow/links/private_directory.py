"""Private directories (mode 0700) for sockets and keys, which are removed after the processes that use them have ended.

A process that uses such a directory holds a shared lock (flock) on the file `owner` in it; the kernel releases the
lock when the process dies. A process that creates its first directory removes those that no process holds. A process
id would not do: it may belong to another process later, and means nothing in another pid namespace with the same /tmp.
A directory is created under a temporary name and renamed once it is locked, so the removal never finds an unlocked new
one.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from typing import Final

__all__ = ["hold", "let_go", "make_private", "private_name", "remove_private", "temporary_private"]

_PREFIX: Final = "sage-flow-"
_OWNER: Final = "owner"

_lock = threading.Lock()
_held: dict[str, int] = {}  # directory -> the descriptor of the lock
_made: set[str] = set()  # of those, by this process
_has_swept = False


def private_name() -> str:
    """Return an unused path for a directory; nothing is created."""
    return os.path.join(tempfile.gettempdir(), f"{_PREFIX}{secrets.token_hex(6)}")


def make_private(directory: str | None = None) -> str:
    """Create and hold a directory, which is removed when this process ends at the latest; return its path.

    Raises: FileExistsError if another process has made `directory`.
    """
    _sweep_once()
    directory = directory or private_name()
    draft = tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=os.path.dirname(directory))
    descriptor = os.open(os.path.join(draft, _OWNER), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    _flock(descriptor, fcntl.LOCK_SH)
    try:
        os.rename(draft, directory)
    except OSError as error:
        os.close(descriptor)
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(errno.EEXIST, "another process has created it", directory) from error
        raise
    with _lock:
        _held[directory] = descriptor
        _made.add(directory)
    return directory


def hold(directory: str) -> None:
    """Hold a directory that another process has created, as long as this process lives.

    Raises: FileNotFoundError if it is gone.
    """
    with _lock:
        if directory in _held:
            return
        descriptor = os.open(os.path.join(directory, _OWNER), os.O_RDWR | os.O_CLOEXEC)
        _flock(descriptor, fcntl.LOCK_SH)
        if not os.fstat(descriptor).st_nlink:  # swept meanwhile
            os.close(descriptor)
            raise FileNotFoundError(f"{directory} was removed, because no process held it")
        _held[directory] = descriptor


def let_go(directory: str) -> None:
    """This process does not use the directory any more."""
    with _lock:
        descriptor = _held.pop(directory, None)
        _made.discard(directory)
    if descriptor is not None:
        os.close(descriptor)


def remove_private(directory: str) -> None:
    """Remove the directory, for everybody."""
    shutil.rmtree(directory, ignore_errors=True)
    let_go(directory)


@contextlib.contextmanager
def temporary_private() -> Iterator[str]:
    """A directory for the time of the block."""
    directory = make_private()
    try:
        yield directory
    finally:
        remove_private(directory)


def _flock(descriptor: int, operation: int) -> None:
    with contextlib.suppress(OSError):  # a file system without locks: no process will find a free lock there, either
        fcntl.flock(descriptor, operation)


def _sweep_once() -> None:
    global _has_swept
    with _lock:
        if _has_swept:
            return
        _has_swept = True
    with os.scandir(tempfile.gettempdir()) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    for directory in found:
        _remove_if_nobody_holds(directory)


def _remove_if_nobody_holds(directory: str) -> None:
    with contextlib.suppress(OSError):  # it is held, it is another user's, or it is being removed
        if os.lstat(directory).st_uid != os.geteuid():
            return
        descriptor = os.open(os.path.join(directory, _OWNER), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        finally:
            os.close(descriptor)


@atexit.register
def _remove_at_exit() -> None:
    for directory in list(_made):
        remove_private(directory)


def _after_fork() -> None:
    """Only the parent holds its directories: they are free when the parent ends, even if the child lives on."""
    global _lock, _has_swept
    _lock, _has_swept = threading.Lock(), False
    for descriptor in _held.values():
        os.close(descriptor)  # releases no lock, because the parent's descriptor still holds it
    _held.clear()
    _made.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
