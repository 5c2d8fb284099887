"""Reads a file that grows, such as a log: its complete lines as they come, without an end.

A line is complete when its newline is there. A file that another one has replaced (log rotation) is read to its end,
and then the new one from its start; a file that has become shorter is read again from its start.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sage_flow.connectors.compression import read_faults
from sage_flow.connectors.lines import Lines, reason
from sage_flow.errors import InputError
from sage_flow.functions import IDLE, Malformed, SourceSignal
from sage_flow.split_source import SplitReader

__all__ = ["FollowPosition", "FollowReader"]

_log = logging.getLogger("sage_flow")

T = TypeVar("T")
Identity = tuple[int, int]
FollowPosition = tuple[int, int, Identity]
"""The byte offset of the next line, the number of lines in front of it, and which file it was (device and inode)."""

Batches = Callable[[Lines], Iterator[tuple[list[T] | Malformed, int]]]

_CHUNK = 1 << 18  # bytes


class FollowReader(SplitReader[T], Generic[T]):
    """Reads one file; `batches` makes records of lines, as `FileSource.batches` does."""

    def __init__(
        self, path: str, position: FollowPosition | None, encoding: str, newline: str, batches: Batches[T]
    ) -> None:
        self._path, self._encoding, self._newline, self._batches = path, encoding, newline, batches
        self._position = position
        self._file: io.BufferedReader | None = None
        self._identity: Identity = (0, 0)
        self._offset, self._line = (0, 0) if position is None else position[:2]  # of what was not read yet
        self._pending = b""  # the beginning of a line, whose end is not there yet
        self._found: Iterator[tuple[list[T] | Malformed, FollowPosition]] = iter(())

    def next_batch(self) -> list[T] | SourceSignal | Malformed:
        while (found := next(self._found, None)) is None:
            try:
                if not self._read_on():
                    return IDLE
            except read_faults() as fault:
                raise InputError(f"{self._path}: {reason(fault)}") from fault
        batch, self._position = found
        return batch

    def position(self) -> FollowPosition:
        return (self._offset, self._line, self._identity) if self._position is None else self._position

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_on(self) -> bool:
        """Read more of the file; return whether anything was there."""
        if self._file is None:
            return self._open()
        if data := self._file.read(_CHUNK):
            before = len(self._pending)
            self._pending += data
            if end := data.rfind(b"\n") + 1:
                self._take(before + end)
            return True
        return self._at_end(self._file)

    def _open(self) -> bool:
        try:
            self._file = open(self._path, "rb")  # noqa: SIM115 - close() closes it
        except FileNotFoundError:  # moved away, and not there again yet
            return False
        self._identity = _identity_of(os.fstat(self._file.fileno()))
        if self._position is not None and self._position[2] != self._identity:
            _log.warning("%s was replaced while it was not read: the new file is read from its start", self._path)
            self._offset = self._line = 0
        self._position = None
        self._file.seek(self._offset)
        return True

    def _at_end(self, file: io.BufferedReader) -> bool:
        """Everything was read: look whether the file was replaced or made shorter."""
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False
        if _identity_of(now) != self._identity:
            # What was written after the last read, and before the new file came, is in the old one.
            if data := file.read(_CHUNK):
                self._pending += data
                self._take(self._pending.rfind(b"\n") + 1)
            elif self._pending:
                self._take(len(self._pending))  # no end of this line will come
            else:
                self.close()
                self._position = None
                self._offset = self._line = 0
            return True
        if now.st_size < self._offset + len(self._pending):
            _log.warning("%s has become shorter: it is read again from its start", self._path)
            self._pending = b""
            self._offset = self._line = 0
            file.seek(0)
            return True
        return False

    def _take(self, size: int) -> None:
        """The first bytes that are pending are complete lines."""
        data, self._pending = self._pending[:size], self._pending[size:]
        offset, line = self._offset, self._line
        self._offset += size
        self._line += data.count(b"\n")
        self._found = self._read(data, offset, line)

    def _read(self, data: bytes, offset: int, line: int) -> Iterator[tuple[list[T] | Malformed, FollowPosition]]:
        codec = self._encoding
        if offset == 0 and codecs.lookup(codec).name == "utf-8":
            codec = "utf-8-sig"
        buffer = io.BufferedReader(io.BytesIO(data))  # type: ignore[type-var,unused-ignore]
        with io.TextIOWrapper(buffer, codec, "sage_flow.mark", self._newline) as text:
            lines = Lines(self._path, text, self._encoding, offset, line)
            for batch, end in self._batches(lines):
                at, _ = lines.position(end)
                yield batch, (at or 0, end, self._identity)


def _identity_of(entry: os.stat_result) -> Identity:
    return entry.st_dev, entry.st_ino
