"""Records from files: how files are found and opened; lines of text, one JSON value per line.

Files are found when a source is made, so a wrong path stops the pipeline from being built, and read
as streams; what is compressed is read through.
"""

from __future__ import annotations

import codecs
import glob
import io
import json
import os
import re
import zipfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import IO, Any, TypeVar, cast

from sage_flow.connectors.compression import fault_at_start, read_faults, unpacked, why_undecodable
from sage_flow.errors import InputError, PipelineError
from sage_flow.functions import END, RuntimeContext, Source, SourceSignal

__all__ = ["FileSource", "JsonlSource", "Lines", "Path", "Paths", "TextSource", "find_files", "is_url"]

T = TypeVar("T")
Path = str | os.PathLike[str]
Paths = Path | Iterable[Path]

_BATCH = 1024  # records
_BLOCK_CHARS = 1 << 16  # where lines are long, fewer than _BATCH make a batch
_UNDECODABLE = "\udc80"  # stands for bytes not in the encoding; no decoder makes a lone surrogate
_OFFICE = "[Content_Types].xml"
_HEAD = 512  # bytes that tell what a file is

# A strict decoder fails 8 KiB at a time and takes the good lines with it; a mark stays in its line.
codecs.register_error("sage_flow.mark", lambda fault: (_UNDECODABLE, fault.end))  # type: ignore[attr-defined]


def find_files(paths: Paths) -> list[str]:
    """Return the absolute paths of the files that `paths` names, in order; those of a glob sorted.

    Each file comes once, by the first of its names: links and overlapping globs do not repeat it.
    """
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not several:
        raise InputError("the list of paths is empty; name at least one file")
    by_identity: dict[object, str] = {}
    for file in (file for path in several for file in _find(os.fspath(path))):
        by_identity.setdefault(_identity(file), file)
    return list(by_identity.values())


def is_url(path: str) -> bool:
    """Whether this is no path but the address of something elsewhere, such as `s3://bucket/a.csv`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def _identity(file: str) -> object:
    try:
        entry = os.stat(file)
    except OSError:  # who reads it says what is wrong
        return file
    return entry.st_dev, entry.st_ino


def _find(path: str) -> list[str]:
    full = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(full):
        raise InputError(f"{path}: is a directory; use {os.path.join(path, '*')!r} to read the files in it")
    if os.path.exists(full):
        return [full]
    found = sorted(file for file in glob.glob(full, recursive=True) if not os.path.isdir(file))
    if not found and is_url(path):
        raise InputError(
            f"{path}: is a URL, and sources read only files; copy it here, or write a Source that reads it"
        )
    if not found:
        raise InputError(f"{path}: no such file; a relative path starts at {os.getcwd()}")
    return found


def _reason(fault: Exception) -> str:
    if isinstance(fault, EOFError):
        return "the compressed data ends early, the file is truncated; copy or download it again"
    return getattr(fault, "strerror", None) or f"cannot be read: {fault}"


class Lines:
    """The lines of one file with their ends, in blocks. `InputError` comes after the lines before it."""

    def __init__(self, path: str, file: io.TextIOWrapper, encoding: str) -> None:
        self.path, self._file, self._encoding = path, file, encoding
        self.before = 0  # lines in front of the block at hand
        self.per_block = 16  # lines; adapts to their length

    def __iter__(self) -> Iterator[list[str]]:
        fault: Exception | None = None
        what, head = "", b""
        try:
            head = cast("Any", self._file.buffer).peek(_HEAD)[:_HEAD]
            what = fault_at_start(head, self._encoding)
        except read_faults() as error:
            fault, what = error, _reason(error)
        while not what:
            block: list[str] = []
            try:
                block.extend(islice(self._file, self.per_block))  # keeps what came before a fault
            except read_faults() as error:
                fault, what = error, _reason(error)
            text = "".join(block)
            if _UNDECODABLE in text:
                del block[next(i for i, line in enumerate(block) if _UNDECODABLE in line) :]
                what = why_undecodable(head, self._encoding)
            if block:
                yield block
                self.before += len(block)
                self.per_block = max(1, min(_BATCH, self.per_block * _BLOCK_CHARS // (len(text) + 1)))
            elif not what:
                return
        raise InputError(f"{self.path}:{self.before + 1}: {what}") from fault


class FileSource(Source[T]):
    """Base of the sources that read files; a subclass says how lines become records.

    Subtask i of p reads every p-th file from the i-th on. The position is the index of the file at
    hand among these, and the number of its records handed out.

    Args:
        paths: a path or a list of them. `~` and globs (`**` too) are expanded; a file is preferred to
            a glob of the same spelling. Each file is read once, however many links and globs lead to it.
            What is compressed (gz, bz2, xz, zst, zip) is known by its first bytes or its name.
        encoding: of the text. In utf-8 a byte order mark is dropped.
        member: the file to read in a zip that holds several.

    Raises:
        InputError: a file is missing or malformed; the message starts with `file:line`.
    """

    bounded = True
    parallel = True
    newline = "\n"

    def __init__(self, paths: Paths, *, encoding: str = "utf-8", member: str | None = None) -> None:
        try:
            io.TextIOWrapper(io.BytesIO(), encoding)
        except LookupError as fault:
            raise PipelineError(f"{fault}; encoding= takes a text encoding such as 'utf-8'") from fault
        self._files = find_files(paths)
        self._encoding, self._member = encoding, member
        self._index = self._record = 0
        self._batches: Generator[list[T], None, None] | None = None
        for path in filter(os.path.isfile, self._files):  # not a pipe, which can be opened only once
            with self._open_text(path):
                pass

    def records(self, lines: Lines) -> Iterator[T]:
        """Return the records of one file; what is malformed raises `InputError`."""
        raise NotImplementedError(f"{type(self).__name__} must implement records(lines)")

    def files_read(self) -> list[str]:
        return self._files

    def open(self, ctx: RuntimeContext) -> None:
        self._files = self._files[ctx.subtask_index :: ctx.parallelism]

    def next_batch(self) -> list[T] | SourceSignal:
        while self._index < len(self._files):
            if self._batches is None:
                self._batches = self._read(self._files[self._index], self._record)
            try:
                batch = next(self._batches, None)
            except InputError:
                self.close()  # the next call meets the fault again and does not go past it
                raise
            if batch is not None:
                self._record += len(batch)
                return batch
            self.close()
            self._index, self._record = self._index + 1, 0
        return END

    def _read(self, path: str, start: int) -> Generator[list[T], None, None]:
        with self._open_text(path) as file:
            lines = Lines(path, file, self._encoding)
            records = self.records(lines)
            if (skipped := sum(1 for _ in islice(records, start))) < start:
                raise InputError(f"{path}: cannot continue after record {start}: it has only {skipped} now")
            while True:
                batch: list[T] = []
                try:
                    batch.extend(islice(records, lines.per_block))  # keeps what came before a fault
                except InputError:
                    if batch:
                        yield batch
                    raise
                if not batch:
                    return
                yield batch

    @contextmanager
    def _open_text(self, path: str) -> Iterator[io.TextIOWrapper]:
        with ExitStack() as stack:
            try:
                data = self._unpacked(path, stack.enter_context(open(path, "rb")), stack)
            except read_faults() as fault:
                raise InputError(f"{path}: {_reason(fault)}") from fault
            codec = "utf-8-sig" if codecs.lookup(self._encoding).name == "utf-8" else self._encoding
            yield stack.enter_context(io.TextIOWrapper(data, codec, "sage_flow.mark", self.newline))

    def _unpacked(self, path: str, file: io.BufferedReader, stack: ExitStack) -> IO[bytes]:
        head = file.peek(16)[:16]
        if head.startswith(b"PK\x03\x04") or path.lower().endswith(".zip"):
            return self._member_of(path, stack.enter_context(zipfile.ZipFile(file)), stack)
        if self._member is not None:
            raise InputError(f"{path}: is not a zip file, so it has no member {self._member!r}; leave out member=")
        return unpacked(file, head, path)

    def _member_of(self, path: str, archive: zipfile.ZipFile, stack: ExitStack) -> IO[bytes]:
        members = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        if _OFFICE in members and self._member is None:
            raise InputError(f"{path}: is an Office document, not a zip of text files; save it as CSV")
        name = members[0] if self._member is None and len(members) == 1 else self._member
        if name not in members:
            raise InputError(f"{path}: use member= to name one of its files: {', '.join(members)}")
        return stack.enter_context(archive.open(name))

    def snapshot(self) -> tuple[int, int]:
        return self._index, self._record

    def restore(self, position: tuple[int, int]) -> None:
        self._index, self._record = position

    def close(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None


class TextSource(FileSource[str]):
    """The lines of text files, without the newline (LF or CR LF) at their ends."""

    default_name = "text"

    def records(self, lines: Lines) -> Iterator[str]:
        return chain.from_iterable(
            [line[:-2] if line.endswith("\r\n") else line.removesuffix("\n") for line in block] for block in lines
        )


class JsonlSource(FileSource[Any]):
    """The JSON values of files that hold one on each line. Blank lines are passed over."""

    default_name = "jsonl"

    def records(self, lines: Lines) -> Iterator[Any]:
        decode = json.JSONDecoder().decode
        for block in lines:
            for number, line in enumerate(block, lines.before + 1):
                if text := line.rstrip(" \t\r\n"):
                    try:
                        yield decode(text)
                    except (ValueError, RecursionError) as fault:
                        where = f"{lines.path}:{number}:{getattr(fault, 'pos', 0) + 1}"
                        what = getattr(fault, "msg", fault)
                        raise InputError(f"{where}: {what}; every line must be one JSON value") from fault
