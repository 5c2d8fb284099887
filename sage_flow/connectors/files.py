"""Records from files: lines of text, one JSON value per line, and the base of all sources that read files.

Files are found when a source is made, so a wrong path stops the pipeline from being built, and read
as streams; what is compressed is read through.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

from sage_flow.connectors.following import FollowReader
from sage_flow.connectors.input_file import FilePosition, InputFile
from sage_flow.connectors.input_paths import Path, Paths, find_files
from sage_flow.connectors.lines import Lines, has_offsets
from sage_flow.connectors.remote_files import is_url
from sage_flow.errors import InputError, PipelineError
from sage_flow.functions import END, Malformed, SourceSignal
from sage_flow.split_source import SplitReader, SplitSource

__all__ = ["FileSource", "JsonlSource", "Path", "Paths", "TextSource"]

T = TypeVar("T")


class FileSource(SplitSource[T]):
    """Base of the sources that read files; a subclass says how lines become records.

    Each file is a split, named by its path. The files of a subtask are read in the order in which they were named.

    Args:
        paths: a path or URL, or a list of them. `~` and globs (`**` too) are expanded; a file is preferred to
            a glob of the same spelling. Each file is read once, however many links and globs lead to it.
            What is compressed (gz, bz2, xz, zst, zip) is known by its first bytes or its name.
        encoding: of the text. In utf-8 a byte order mark is dropped.
        member: the file to read in a zip that holds several.
        follow: the files grow, and are read without an end: see `following.py`.

    Raises:
        InputError: a file is missing or cannot be read; the message starts with `file:line`.
    """

    bounded = True
    newline = "\n"

    def __init__(
        self, paths: Paths, *, encoding: str = "utf-8", member: str | None = None, follow: bool = False
    ) -> None:
        try:
            io.TextIOWrapper(io.BytesIO(), encoding)
        except LookupError as fault:
            raise PipelineError(f"{fault}; encoding= takes a text encoding such as 'utf-8'") from fault
        self._files = find_files(paths)
        self._encoding, self._member = encoding, member
        self.blocking = any(map(is_url, self._files))  # the wait for a network must not hold up the subtask
        for path in filter(os.path.isfile, self._files):  # not a pipe, which can be opened only once
            with self.file(path).lines(None):
                pass
        self._follow = follow
        if follow:
            self.bounded = False
            self._check_can_follow()

    def _check_can_follow(self) -> None:
        if not has_offsets(self._encoding) or "\n".encode(self._encoding) != b"\n":
            raise PipelineError(
                f"follow=True reads UTF-8 and one-byte encodings with the newline of ASCII, not {self._encoding}"
            )
        for path in self._files:
            if is_url(path) or not os.path.isfile(path):
                raise PipelineError(f"{path}: follow=True reads local files, not URLs, FIFOs and devices")
            if self.file(path).is_packed():
                raise PipelineError(f"{path}: is compressed; follow=True reads plain files")

    def batches(self, lines: Lines, start: Any) -> Iterator[tuple[list[T] | Malformed, int]]:
        """The records of the lines of a file in batches, and what is malformed.

        `start` is what `start_of` has returned; None for a reader that begins at the start of the file. With each batch
        comes the number of lines of the file up to its end.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement batches(lines, start)")

    def start_of(self, file: InputFile) -> Any:
        """What a reader that continues in the middle of a file must know of its start."""
        return None

    def file(self, path: str) -> InputFile:
        """One of the files, to be opened."""
        return InputFile(path, self._encoding, self.newline, self._member)

    def files_read(self) -> list[str]:
        return [file for file in self._files if not is_url(file)]

    def splits(self) -> list[str]:
        return self._files

    def reader(self, split: str, position: Any) -> SplitReader[T]:
        if self._follow:
            return FollowReader(split, position, self._encoding, self.newline, lambda lines: self.batches(lines, None))
        return _FileReader(self, split, position)


class _FileReader(SplitReader[T]):
    def __init__(self, source: FileSource[T], path: str, position: FilePosition | None) -> None:
        self._position = (0, 0) if position is None else position
        self._found = self._read(source, source.file(path), position)

    def next_batch(self) -> list[T] | SourceSignal | Malformed:
        return next(self._found, END)

    def _read(
        self, source: FileSource[T], file: InputFile, position: FilePosition | None
    ) -> Generator[list[T] | Malformed, None, None]:
        start = None if position is None else source.start_of(file)
        with file.lines(position) as lines:
            for batch, line in source.batches(lines, start):
                self._position = lines.position(line)
                yield batch

    def position(self) -> FilePosition:
        return self._position

    def close(self) -> None:
        self._found.close()


class TextSource(FileSource[str]):
    """The lines of text files, without the newline (LF or CR LF) at their ends."""

    default_name = "text"

    def batches(self, lines: Lines, start: Any) -> Iterator[tuple[list[str] | Malformed, int]]:
        for block in lines.blocks():
            end = lines.end
            if lines.is_undecodable:
                yield lines.malformed(end - 1, end, lines.undecodable(end)), end
            else:
                yield [line[:-2] if line.endswith("\r\n") else line.removesuffix("\n") for line in block], end


class JsonlSource(FileSource[Any]):
    """The JSON values of files that hold one on each line. Blank lines are passed over."""

    default_name = "jsonl"

    def batches(self, lines: Lines, start: Any) -> Iterator[tuple[list[Any] | Malformed, int]]:
        decode = json.JSONDecoder().decode
        for block in lines.blocks():
            try:
                if lines.is_undecodable:
                    raise lines.undecodable(lines.end)
                found = [decode(text) for line in block if (text := line.rstrip(" \t\r\n"))]
            except (ValueError, RecursionError, InputError):
                yield from self._up_to_malformed(lines, block)
            else:
                if found:
                    yield found, lines.end

    def _up_to_malformed(self, lines: Lines, block: list[str]) -> Iterator[tuple[list[Any] | Malformed, int]]:
        decode = json.JSONDecoder().decode
        found: list[Any] = []
        for number, line in enumerate(block, lines.before + 1):
            try:
                if lines.is_undecodable:
                    raise lines.undecodable(number)
                if text := line.rstrip(" \t\r\n"):
                    found.append(decode(text))
            except (ValueError, RecursionError, InputError) as fault:
                if found:
                    yield found, number - 1
                    found = []
                yield lines.malformed(number - 1, number, _json_fault(lines.path, number, fault)), number
        if found:
            yield found, lines.end


def _json_fault(path: str, number: int, fault: Exception) -> InputError:
    if isinstance(fault, InputError):
        return fault
    where = f"{path}:{number}:{getattr(fault, 'pos', 0) + 1}"
    error = InputError(f"{where}: {getattr(fault, 'msg', fault)}; every line must be one JSON value")
    error.__cause__ = fault
    return error
