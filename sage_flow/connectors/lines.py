"""The lines of one open file, in blocks, with the byte offset of each line.

An offset is found without a look at every line: a block is read and decoded as a whole, and its bytes are counted from
its characters. That is exact for UTF-8 and for encodings of one byte per character; for others a position is a number
of lines.
"""

from __future__ import annotations

import codecs
import io
import re
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, NamedTuple, cast

from sage_flow.connectors.compression import fault_at_start, is_binary, read_faults, why_undecodable
from sage_flow.errors import InputError
from sage_flow.functions import Malformed

__all__ = ["Lines", "MalformedLine", "UNDECODABLE", "has_offsets", "reason"]

_BATCH = 1024  # lines
_BLOCK_CHARS = 1 << 16  # where lines are long, fewer than _BATCH make a block
_HEAD = 512  # bytes that tell what a file is
_ONE_BYTE = re.compile(r"ascii|iso8859-\d+|cp(0\d\d|[4-8]\d\d|1[01]\d\d|12\d\d)|koi8-\w|mac-\w+|hp-roman8|tis-620")

UNDECODABLE = "\udc80"
"""Stands for a byte that is not in the encoding; no decoder makes a lone surrogate."""

# A strict decoder fails 8 KiB at a time and takes the good lines with it; a mark stays in its line.
codecs.register_error(
    "sage_flow.mark",
    lambda fault: (UNDECODABLE * (fault.end - fault.start), fault.end),  # type: ignore[attr-defined]
)


class MalformedLine(NamedTuple):
    """What dead letters of a file source show: a line that is no record, or the lines of a CSV row that is none.

    `line` is the number of the first one, from 1; `text` is without the line end.
    """

    file: str
    line: int
    text: str


def reason(fault: Exception) -> str:
    """Why a file could not be read, as messages say it."""
    if isinstance(fault, EOFError):
        return "the compressed data ends early, the file is truncated; copy or download it again"
    return getattr(fault, "strerror", None) or f"cannot be read: {fault}"


def has_offsets(encoding: str) -> bool:
    """Whether the bytes of a text can be counted from its characters."""
    name = codecs.lookup(encoding).name
    return name in ("utf-8", "utf-8-sig") or _ONE_BYTE.fullmatch(name) is not None


class _Block(NamedTuple):
    lines: list[str]
    before: int  # lines of the file in front of it
    offset: int
    end: int  # the offset behind it


class Lines:
    """The lines of one file with their ends, from a position on.

    Blocks are kept until `position` is asked for a line behind them.
    """

    def __init__(self, path: str, file: io.TextIOWrapper, encoding: str, offset: int = 0, before: int = 0) -> None:
        """`file` is at the byte `offset`, with `before` lines in front of it."""
        self.path, self._file, self._encoding = path, file, encoding
        self._has_offsets = has_offsets(encoding)
        self._is_utf_8 = codecs.lookup(encoding).name.startswith("utf-8")
        self._head = b""
        self._kept = deque([_Block([], before, offset, offset)])
        self._rest = self._read()
        self.is_undecodable = False
        """The block at hand is one line with bytes that are not in the encoding."""
        self.has_undecodable = False
        """So was one of the blocks so far."""
        self.per_block = 16  # lines; adapts to their length

    @property
    def before(self) -> int:
        """How many lines of the file are in front of the block at hand."""
        return self._kept[-1].before

    @property
    def end(self) -> int:
        """How many lines of the file are in front of the next block."""
        return self._kept[-1].before + len(self._kept[-1].lines)

    def blocks(self) -> Iterator[list[str]]:
        """The blocks that were not read yet. Raises InputError behind the lines before a fault of the file."""
        return self._rest

    def since(self, line: int) -> Iterator[str]:
        """The lines of the file behind the first `line` ones, which must be kept or not read yet."""
        kept = [text for block in self._kept for text in block.lines[max(0, line - block.before) :]]
        return chain(kept, chain.from_iterable(self._rest))

    def position(self, line: int) -> tuple[int | None, int]:
        """The byte offset behind the first `line` lines (None where it is not known), and `line`."""
        kept = self._kept
        while len(kept) > 1 and kept[1].before <= line:
            kept.popleft()
        block = kept[0]
        count = line - block.before
        if not self._has_offsets:
            return None, line
        return block.end if count == len(block.lines) else block.offset + self._size("".join(block.lines[:count])), line

    def malformed(self, first: int, last: int, fault: InputError) -> Malformed:
        """What to say of the lines behind the first `first` ones up to line `last`, which are no record."""
        text = "".join(islice(self.since(first), last - first)).removesuffix("\n").removesuffix("\r")
        return Malformed(MalformedLine(self.path, first + 1, text.replace(UNDECODABLE, "\ufffd")), fault)

    def undecodable(self, line: int) -> InputError:
        """The error about a line, counted from 1, that has bytes which are not in the encoding."""
        return InputError(f"{self.path}:{line}: {why_undecodable(self._head, self._encoding)}")

    def _read(self) -> Iterator[list[str]]:
        fault: Exception | None = None
        what = ""
        try:
            what = self._look_at_start()
        except read_faults() as error:
            fault, what = error, reason(error)
        while not what:
            block: list[str] = []
            try:
                block.extend(islice(self._file, self.per_block))  # keeps what came before a fault
            except read_faults() as error:
                fault, what = error, reason(error)
            text = "".join(block)
            if UNDECODABLE in text:
                yield from self._one_by_one(block)
            elif block:
                self._keep(block, text)
                yield block
            elif not what:
                return
            self.per_block = max(1, min(_BATCH, self.per_block * _BLOCK_CHARS // (len(text) + 1)))
        raise InputError(f"{self.path}:{self.end + 1}: {what}") from fault

    def _look_at_start(self) -> str:
        """Return what is wrong with the first bytes; empty if nothing is to be seen."""
        if self.end > 0:
            return ""
        self._head = cast("Any", self._file.buffer).peek(_HEAD)[:_HEAD]
        block = self._kept.pop()
        start = block.end + (len(codecs.BOM_UTF8) if self._is_utf_8 and self._head.startswith(codecs.BOM_UTF8) else 0)
        self._kept.append(block._replace(offset=start, end=start))
        return fault_at_start(self._head, self._encoding)

    def _one_by_one(self, block: list[str]) -> Iterator[list[str]]:
        """Give the lines of a block one by one: one of them at least is undecodable."""
        for line in block:
            undecodable = UNDECODABLE in line
            if undecodable and is_binary(self._head):
                raise self.undecodable(self.end + 1)
            self._keep([line], line)
            self.is_undecodable, self.has_undecodable = undecodable, self.has_undecodable or undecodable
            yield [line]
            self.is_undecodable = False

    def _keep(self, block: list[str], text: str) -> None:
        offset = self._kept[-1].end
        size = self._size(text) if self._has_offsets else 0
        self._kept.append(_Block(block, self.end, offset, offset + size))

    def _size(self, text: str) -> int:
        if not self._is_utf_8 or text.isascii():
            return len(text)
        try:
            return len(text.encode())
        except UnicodeEncodeError:  # a mark, which would take three bytes, stands for one
            return len(text.encode("utf-8", "surrogatepass")) - 2 * text.count(UNDECODABLE)
