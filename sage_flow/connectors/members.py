"""What writes a file that is cut at checkpoints: plain, or as members, each of which a reader unpacks without the rest.

A compressed stream can only be read up to a point if it was ended there. gzip, bz2, xz, zstd and lz4 files may consist
of several streams (RFC 1952 calls them members), and readers unpack one after the other. So a checkpoint ends the
member, and what is written later begins the next. A file that nobody cuts has one member.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import IO, Any

from sage_flow.connectors.compression import packed, without_ending

__all__ = ["Members", "Plain", "writing_to"]


def writing_to(descriptor: int, path: str) -> Plain | Members:
    """Return what writes to `descriptor`, compressed as the ending of `path` says."""
    return Plain(descriptor) if without_ending(path) == path else Members(descriptor, path)


class Plain:
    """Writes to a duplicate of `descriptor`.

    Attributes:
        stream: what takes the bytes; a writer in C, because a method in Python would cost text files 15 %.
    """

    def __init__(self, descriptor: int) -> None:
        self.stream: IO[bytes] = open(os.dup(descriptor), "wb")  # noqa: SIM115 - finish() closes it
        self._size = 0

    @property
    def size(self) -> int:
        """How many bytes were given to the stream."""
        if not self.stream.closed:
            self.stream.flush()
            self._size = os.fstat(self.stream.fileno()).st_size
        return self._size

    def append(self, blocks: Iterable[bytes]) -> None:
        """Write what is in the format of the file."""
        self.stream.writelines(blocks)

    def end_member(self) -> None:
        """Let the file be complete so far."""
        if not self.stream.closed:
            self.stream.flush()

    def finish(self) -> None:
        """End the file."""
        with self.stream:
            self._size = self.size


class Members(io.BufferedIOBase):
    """Writes to duplicates of `descriptor`, compressed as the ending of `path` says.

    Attributes:
        stream: what takes the bytes.
        size: how many bytes were given to the stream.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self.stream = self
        self.size = 0
        self._descriptor, self._path = descriptor, path
        self._raw: IO[bytes] | None = None
        self._member: IO[bytes] | None = None
        self._is_empty = True

    @property
    def name(self) -> str:
        return self._path

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        member = self._member or self._begin()
        member.write(data)
        count = memoryview(data).nbytes
        self.size += count
        return count

    def append(self, blocks: Iterable[bytes]) -> None:
        """Write what is in the format of the file, so it is compressed already."""
        self.end_member()
        self._is_empty = False
        with open(os.dup(self._descriptor), "wb") as raw:
            raw.writelines(blocks)

    def flush(self) -> None:
        """The compressor keeps what it has, since a flush would make it worse."""

    def end_member(self) -> None:
        """Let the file be complete so far."""
        raw, member = self._raw, self._member
        self._raw = self._member = None
        if raw is None or member is None:
            return
        with raw:
            member.close()  # some close the file below, too
            if not raw.closed:
                raw.flush()

    def finish(self) -> None:
        """End the file; one of nothing is an empty member."""
        if self._is_empty and not self.closed:
            self._begin()
        self.close()

    def close(self) -> None:
        """End what was begun; the garbage collector calls it, too, when the descriptor may belong to another file."""
        try:
            if not self.closed:
                self.end_member()
        finally:
            super().close()

    def _begin(self) -> IO[bytes]:
        raw = open(os.dup(self._descriptor), "wb")  # noqa: SIM115 - end_member() closes it
        try:
            member = packed(raw, self._path)
        except BaseException:
            raw.close()
            raise
        self._raw, self._member, self._is_empty = raw, member, False
        return member
