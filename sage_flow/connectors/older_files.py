"""What was at an output before: the file that it replaces, and the parts of an earlier run that go with it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from sage_flow.connectors.output_path import parts_of
from sage_flow.errors import InputError

__all__ = ["Identity", "earlier_parts", "identity_of", "inherit", "put_away", "replaced_file"]

Identity = tuple[int, int, int]
"""Inode, time of the last change in ns, length. A rename keeps them; the device is left out, since it is called
otherwise on another machine and after a restart."""


def identity_of(path: str) -> Identity | None:
    """None: there is no file; links are none."""
    try:
        entry = os.lstat(path)
    except FileNotFoundError:
        return None
    return (entry.st_ino, entry.st_mtime_ns, entry.st_size) if stat.S_ISREG(entry.st_mode) else None


def earlier_parts(path: str, own: str) -> dict[str, Identity]:
    """The names of the parts that are there now, but for `own`, which is replaced.

    Links stay: who made them points elsewhere.
    """
    found = {os.path.basename(part.path): identity_of(part.path) for part in parts_of(path) if part.path != own}
    return {name: identity for name, identity in found.items() if identity is not None}


def put_away(aside: str, path: str, identity: Identity) -> None:
    """Remove the earlier part that was put aside from `path`, or put back what is not it.

    Between the look at a part and its renaming, another subtask may have published its new one there.
    """
    with suppress(FileNotFoundError):  # another commit has done it
        if identity_of(aside) == identity:
            os.remove(aside)
        else:
            os.rename(aside, path)


def replaced_file(target: str) -> os.stat_result | None:
    """The file at `target`; None if there is none. Raises InputError if it is no regular file."""
    try:
        older = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(older.st_mode):
        raise InputError(f"{target}: was replaced by something that is not a file while the job wrote it; remove it")
    return older


def inherit(descriptor: int, target: str, older: os.stat_result) -> None:
    """Give the open file the owner, if that is allowed, the mode and the attributes of the older one at `target`."""
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
