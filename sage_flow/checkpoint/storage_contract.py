"""What a storage of checkpoints does, whatever it is.

A storage keeps files by name. `write` replaces a file. `create` makes one only if there is none of that name: of
several processes that create one name exactly one succeeds, and nobody ever sees a part of the content. The log of a
job relies on that.

`create` may return False although it has succeeded, where a client repeats a request whose answer was lost; botocore
does. So False never proves that another process was first. Whoever needs to know puts a unique number into the content
and reads it back, as `checkpoint.log` does.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress

from sage_flow.errors import CheckpointMissing, InternalError, StorageError

__all__ = ["Storage", "checked_name", "missing_text"]


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
        return type(self)(f"{self.location.rstrip('/')}/{checked_name(folder)}")

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

    def check(self) -> None:
        """Try out that files can be written here, and created exclusively. Raises StorageError if not.

        For the start of a job, where the user is told at once.
        """
        self._check_creates(self.create, "store checkpoints in a folder of another file system")

    def _check_creates(self, create: Callable[[str, bytes], bool], cure: str) -> None:
        name = f"check-{secrets.token_hex(8)}"
        try:
            create(name, b"first")  # if it says False, that is the answer to a repeated request
            is_safe = not create(name, b"second") and self.read(name) == b"first"
        except (StorageError, CheckpointMissing):
            with suppress(StorageError):  # the first error says more
                self.delete([name])
            raise
        self.delete([name])
        if not is_safe:
            raise StorageError(
                f"{self.location}: is not safe for checkpoints: a file was created there a second time; {cure}",
                may_pass=False,
            )


def checked_name(name: str) -> str:
    """Return the name of a stored file or folder, if it is one."""
    if any(not part or part.startswith(".") for part in name.split("/")) or "\0" in name:
        raise InternalError(f"{name!r} is no name of a stored file")
    return name


def missing_text(place: str) -> str:
    """Return the text of CheckpointMissing."""
    return f"{place}: is not there; bring it back from a copy, or restore another checkpoint by its path (`restore=`)"
