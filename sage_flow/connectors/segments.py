"""What a file sink keeps at a checkpoint: pieces of files, which a later attempt reads and never writes.

The attempt that wrote such a file may still be running, and may append to it whenever it wants. So each file is written
by one attempt only. A later one reads it up to the length that the checkpoint names, writes a file of its own, and
joins the pieces when it prepares its output. It does so before the output is prepared and not when it is published,
since a full disk can still fail the job then, and since only one attempt joins: who publishes renames one file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sage_flow.connectors.compression import unpacked, without_ending
from sage_flow.connectors.members import Members, Plain
from sage_flow.errors import InputError

__all__ = ["KeptOutput", "Segment", "TakenOver", "Writer", "join_segments"]

_BLOCK = 1 << 20


class Writer(NamedTuple):
    """A subtask in an attempt of a job."""

    job: str
    attempt: int
    subtask: int


class Segment(NamedTuple):
    """The first `length` bytes of a file.

    Attributes:
        path: of the file.
        length: in bytes; what is behind them does not count.
        header: how many bytes at its start, unpacked, are the names of the columns.
        output: the path of the output, whose ending says how the file is compressed.
        job: the id of the job whose file it is; other jobs do not remove it.
    """

    path: str
    length: int
    header: int
    output: str
    job: str


class KeptOutput(NamedTuple):
    """What a file sink hands over at a checkpoint.

    Attributes:
        writer: whose staging files a later attempt removes, unless they are named.
        format: of the records; a sink of another format cannot go on with them.
        segments: the records that are not published yet, in order.
        columns: the names that the records of a CSV output have.
        number: that of the latest part of an output that rolls.
        age_s: how long the part of the segments has been open.
    """

    writer: Writer
    format: str
    segments: tuple[Segment, ...] = ()
    columns: tuple[str, ...] = ()
    number: int = 0
    age_s: float = 0.0


@dataclass(frozen=True)
class TakenOver:
    """What a subtask goes on with after a restore.

    Attributes:
        writers: the former subtasks whose part it has. None: no checkpoint was restored.
        segments, columns, number, age_s: as in `KeptOutput`, of all of them.
    """

    writers: tuple[Writer, ...] | None = None
    segments: tuple[Segment, ...] = ()
    columns: tuple[str, ...] = ()
    number: int = 0
    age_s: float = 0.0

    @classmethod
    def of(cls, snapshots: Sequence[KeptOutput | None], path: str, format: str) -> TakenOver:
        """Take over what a sink for `path` has kept. Raises InputError if it is gone or does not fit together."""
        kept = [one for one in snapshots if one is not None]
        for one in kept:
            if one.format != format:
                raise InputError(
                    f"{path}: the checkpoint has records of {one.format}, and {format} cannot go on with them"
                )
        columns = sorted({one.columns for one in kept if one.columns})
        if len(columns) > 1 and any(one.segments for one in kept):
            raise InputError(
                f"{path}: this subtask takes over rows with the columns {list(columns[0])} and rows with"
                f" {list(columns[1])}, which cannot be in one file: restore with the parallelism of the checkpoint"
            )
        segments = tuple(segment for one in kept for segment in one.segments)
        _check(segments)
        return cls(
            tuple(one.writer for one in kept),
            segments,
            columns[0] if len(columns) == 1 else (),
            max((one.number for one in kept), default=0),
            max((one.age_s for one in kept), default=0.0),
        )


def join_segments(segments: Sequence[Segment], path: str, output: Plain | Members) -> None:
    """Append all of them to the file of the output `path`, with the header of the first only. Raises InputError."""
    for number, segment in enumerate(segments):
        with open(segment.path, "rb", buffering=0) as file:
            beginning = _Beginning(segment, file)
            skipped = segment.header if number else 0
            if not skipped and _compression(segment.output) == _compression(path):
                output.append(_blocks(beginning))
                continue
            source = io.BufferedReader(beginning)
            plain = unpacked(source, source.peek(16), segment.output)
            plain.read(skipped)
            for block in _blocks(plain):
                output.stream.write(block)


class _Beginning(io.RawIOBase):
    """The bytes of a segment. Raises InputError if the file ends before it."""

    def __init__(self, segment: Segment, file: Any) -> None:
        self._segment, self._file = segment, file
        self._left = segment.length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._left)
        count: int = self._file.readinto(memoryview(buffer)[:wanted])
        if wanted and not count:
            raise InputError(_loss(self._segment, f"which lacks its last {self._left} bytes"))
        self._left -= count
        return count


def _check(segments: Iterable[Segment]) -> None:
    for segment in segments:
        try:
            length = os.stat(segment.path).st_size
        except FileNotFoundError:
            raise InputError(_loss(segment, "which is gone")) from None
        if length < segment.length:
            raise InputError(_loss(segment, f"which has {length} bytes now"))


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _compression(path: str) -> str:
    return path[len(without_ending(path)) :].lower()


def _loss(segment: Segment, fault: str) -> str:
    return (
        f"{segment.output}: a checkpoint keeps {segment.length} bytes of it in {segment.path}, {fault}: restore a later"
        " checkpoint if the records were published since, or put the file back"
    )
