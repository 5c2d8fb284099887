"""Opens one file that is read: unpacked, at a position.

A position is a byte offset in the unpacked data and the number of lines in front of it. In a file that is not
compressed the reader jumps there; a compressed one is unpacked up to it, which costs as much as reading it again.
"""

from __future__ import annotations

import codecs
import io
import logging
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import IO

from sage_flow.connectors.compression import read_faults, unpacked
from sage_flow.connectors.lines import Lines, reason
from sage_flow.connectors.remote_files import is_url, open_remote
from sage_flow.errors import InputError

__all__ = ["FilePosition", "InputFile"]

_log = logging.getLogger("sage_flow")

FilePosition = tuple[int | None, int]
"""The byte offset of the next line, None where it is not known, and the number of lines in front of it."""

_OFFICE = "[Content_Types].xml"
_CHUNK = 1 << 20  # bytes


class InputFile:
    """A file to read. `newline` as in `open`; `member`: the file to read in a zip that holds several."""

    def __init__(self, path: str, encoding: str, newline: str, member: str | None) -> None:
        self.path, self._encoding, self._newline, self._member = path, encoding, newline, member

    @contextmanager
    def lines(self, position: FilePosition | None) -> Iterator[Lines]:
        """Open the file at a position, None for its start. Raises InputError."""
        offset, before = position or (0, 0)
        with ExitStack() as stack:
            try:
                data, is_packed = self._data(stack)
                if offset:
                    self._skip(data, offset, is_packed)
            except read_faults() as fault:
                raise InputError(f"{self.path}: {reason(fault)}") from fault
            is_at_start = not offset
            codec = self._encoding
            if is_at_start and codecs.lookup(codec).name == "utf-8":
                codec = "utf-8-sig"
            text = stack.enter_context(io.TextIOWrapper(data, codec, "sage_flow.mark", self._newline))
            if offset is None and (skipped := sum(1 for _ in islice(text, before))) < before:
                raise InputError(f"{self.path}: cannot continue after line {before}: it has only {skipped} now")
            yield Lines(self.path, text, self._encoding, offset or 0, before)

    def is_packed(self) -> bool:
        """Whether it is compressed. Raises InputError."""
        with ExitStack() as stack:
            return self._data(stack)[1]

    def _data(self, stack: ExitStack) -> tuple[IO[bytes], bool]:
        """The unpacked data, and whether it is compressed."""
        path = self.path
        file = stack.enter_context(self._open())
        head = file.peek(16)[:16]
        if head.startswith(b"PK\x03\x04") or path.lower().endswith(".zip"):
            return self._member_of(stack.enter_context(zipfile.ZipFile(file)), stack), True
        if self._member is not None:
            raise InputError(f"{path}: is not a zip file, so it has no member {self._member!r}; leave out member=")
        data = unpacked(file, head, path)
        return data, data is not file

    def _open(self) -> io.BufferedReader:
        return open_remote(self.path) if is_url(self.path) else open(self.path, "rb")

    def _member_of(self, archive: zipfile.ZipFile, stack: ExitStack) -> IO[bytes]:
        path = self.path
        members = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        if _OFFICE in members and self._member is None:
            raise InputError(f"{path}: is an Office document, not a zip of text files; save it as CSV")
        name = members[0] if self._member is None and len(members) == 1 else self._member
        if name not in members:
            raise InputError(f"{path}: use member= to name one of its files: {', '.join(members)}")
        return stack.enter_context(archive.open(name))

    def _skip(self, data: IO[bytes], offset: int, is_packed: bool) -> None:
        if not is_packed and data.seekable():
            if (size := data.seek(0, io.SEEK_END)) < offset:
                raise InputError(f"{self.path}: cannot continue at byte {offset:,}: it has only {size:,} bytes now")
            data.seek(offset)
            return
        if is_packed:
            _log.info("%s is compressed: to continue, %s bytes of it are unpacked again", self.path, f"{offset:,}")
        left = offset
        while left:
            if not (chunk := data.read(min(left, _CHUNK))):
                raise InputError(
                    f"{self.path}: cannot continue at byte {offset:,}: it has only {offset - left:,} bytes now"
                )
            left -= len(chunk)
