"""A complete output file that waits for its name: what a sink prepares, and how any process publishes it.

The job decides that it has finished only when all of its outputs are prepared. From then on each of them can be
published again and again, by the process that wrote it or another one, also by two attempts at the same time:

* Every step of `publish` is a rename, a removal or a change of mode that does no harm a second time. A process that
  dies between two of them is followed by another `publish`.
* The file keeps its inode when it gets its name. So a second `publish` that no longer finds the prepared file can tell
  a success from a loss: at the target is this very file, or one of an earlier run.
* An earlier part is put aside, looked at and removed. A process that dies before the look may have put aside what
  another subtask had just published. Both look for that: who removes the part, and who misses the file.

A scratch name begins with the name of the prepared file and ends with a random number, since two attempts may publish
one file at the same time.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from sage_flow.connectors.older_files import Identity, identity_of, inherit, put_away, replaced_file
from sage_flow.errors import InputError

__all__ = ["PreparedFile", "publish", "sync_folder"]

_ASIDE = r"\.(?P<number>\d+)\.[0-9a-f]{8}\.old"


class PreparedFile(NamedTuple):
    """What a process needs to publish the file.

    Attributes:
        path: the name that users see.
        target: what gets replaced; of a link it is what it points to.
        staging: where the file is, in the directory of `target`.
        identity: of the file, before and after it gets its name.
        earlier: the parts of an earlier run that go before the first new part appears, by name; they are beside `path`.
        joined: the kept files of which it was made; they go when it is published.
        is_new: it is a part of an output that rolls, and replaces nothing.
    """

    path: str
    target: str
    staging: str
    identity: Identity
    earlier: tuple[tuple[str, Identity], ...] = ()
    joined: tuple[str, ...] = ()
    is_new: bool = False

    @property
    def length(self) -> int:
        """The size of the file, in bytes."""
        return self.identity[2]


def publish(prepared: PreparedFile) -> None:
    """Put the file in the place of an older one, whose mode, owner and attributes stay; again does no harm.

    Raises InputError if the prepared file is gone and was not published, is not what was prepared, or if something that
    is not a file is at the target; OSError.
    """
    _end_removals(prepared)
    try:
        _check_length(prepared)
        _check_free(prepared)
        _inherit(prepared)
        _remove_earlier(prepared)
        os.replace(prepared.staging, prepared.target)
    except FileNotFoundError:
        if not _is_published(prepared):
            raise InputError(_loss(prepared)) from None
        _remove_earlier(prepared)  # if the machine crashed, the disk may have only the last of the steps
    for folder in {os.path.dirname(prepared.target), os.path.dirname(prepared.path)}:
        sync_folder(folder)
    for kept in prepared.joined:
        with suppress(FileNotFoundError):
            os.remove(kept)


def sync_folder(folder: str) -> None:
    """Wait until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as fault:
        if fault.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot do this for directories
            raise
    finally:
        os.close(descriptor)


def _check_length(prepared: PreparedFile) -> None:
    length = os.lstat(prepared.staging).st_size
    if length != prepared.length:
        raise InputError(
            f"{prepared.path}: its output was prepared as {prepared.staging} with {prepared.length} bytes, and has"
            f" {length} now; it is not published: remove it and run the job again"
        )


def _check_free(prepared: PreparedFile) -> None:
    if not prepared.is_new or not os.path.lexists(prepared.target):
        return
    if identity_of(prepared.target) != prepared.identity:  # otherwise another commit of it was faster
        raise InputError(
            f"{prepared.path}: is to be a new part, and another file is there, which stays. Move it away, and give"
            " each job a path of its own: two cannot write parts of one output"
        )


def _inherit(prepared: PreparedFile) -> None:
    if (older := replaced_file(prepared.target)) is None:
        return
    try:
        descriptor = os.open(prepared.staging, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:  # it inherited that not even its owner reads it
        return
    try:
        inherit(descriptor, prepared.target, older)
    finally:
        os.close(descriptor)


def _remove_earlier(prepared: PreparedFile) -> None:
    """Remove the parts of an earlier run, unless other subtasks have published their own there since we looked."""
    folder = os.path.dirname(prepared.path)
    for number, (name, identity) in enumerate(prepared.earlier):
        path = os.path.join(folder, name)
        if identity_of(path) != identity:
            continue
        aside = os.path.join(folder, f"{os.path.basename(prepared.staging)}.{number}.{secrets.token_hex(4)}.old")
        with suppress(FileNotFoundError):  # another subtask was faster
            os.rename(path, aside)
            put_away(aside, path, identity)


def _end_removals(prepared: PreparedFile) -> None:
    """End what a commit of this file began and did not end: it has put something aside, and its process died."""
    if not prepared.earlier:
        return
    folder = os.path.dirname(prepared.path)
    for match in _put_aside(folder, re.escape(os.path.basename(prepared.staging))):
        name, identity = prepared.earlier[int(match["number"])]
        put_away(os.path.join(folder, match[0]), os.path.join(folder, name), identity)


def _is_published(prepared: PreparedFile) -> bool:
    if identity_of(prepared.target) == prepared.identity:
        return True
    folder = os.path.dirname(prepared.path)
    for match in _put_aside(folder, r"\..+"):  # by a commit of another subtask
        aside = os.path.join(folder, match[0])
        if identity_of(aside) == prepared.identity:
            with suppress(FileNotFoundError):  # it is being put back
                os.rename(aside, prepared.target)
    return identity_of(prepared.target) == prepared.identity


def _put_aside(folder: str, staging: str) -> Iterator[re.Match[str]]:
    named = re.compile(staging + _ASIDE)
    return (match for name in os.listdir(folder) if (match := named.fullmatch(name)))


def _loss(prepared: PreparedFile) -> str:
    there = f"; {prepared.target} is another file" if os.path.lexists(prepared.target) else ""
    return (
        f"{prepared.path}: its output was prepared as {prepared.staging}, and has been moved or removed since{there}."
        " Put the prepared file back, or run the job again"
    )
