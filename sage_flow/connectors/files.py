"""Records from files: lines of text, rows of CSV, one JSON value per line.

Files are found when a source is made, so a wrong path stops the pipeline from being built, and read
as streams; gzip and zip are read through.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import IO, Any, TypeVar

from sage_flow.errors import InputError, PipelineError
from sage_flow.functions import END, RuntimeContext, Source, SourceSignal

__all__ = ["CsvSource", "FileSource", "JsonlSource", "Lines", "TextSource", "column_fault", "find_files"]

T = TypeVar("T")
Path = str | os.PathLike[str]
Paths = Path | Iterable[Path]

_BATCH = 1024  # records
_BLOCK_CHARS = 1 << 16  # where lines are long, fewer than _BATCH make a batch
_UNDECODABLE = "\udc80"  # stands for bytes not in the encoding; no decoder makes a lone surrogate
_READ_FAULTS = (OSError, EOFError, UnicodeError, zlib.error, zipfile.BadZipFile, RuntimeError)

# A strict decoder fails 8 KiB at a time and takes the good lines with it; a mark stays in its line.
codecs.register_error("sage_flow.mark", lambda fault: (_UNDECODABLE, fault.end))  # type: ignore[attr-defined]


def find_files(paths: Paths) -> list[str]:
    """Return the absolute paths of the files that `paths` names, in order; those of a glob sorted."""
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not several:
        raise InputError("the list of paths is empty; name at least one file")
    return [file for path in several for file in _find(os.fspath(path))]


def _find(path: str) -> list[str]:
    full = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(full):
        raise InputError(f"{path}: is a directory; use {os.path.join(path, '*')!r} to read the files in it")
    if os.path.exists(full):
        return [full]
    found = sorted(file for file in glob.glob(full, recursive=True) if not os.path.isdir(file))
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
        what = ""
        while not what:
            block: list[str] = []
            try:
                block.extend(islice(self._file, self.per_block))  # keeps what came before a fault
            except _READ_FAULTS as error:
                fault, what = error, _reason(error)
            text = "".join(block)
            if _UNDECODABLE in text:
                del block[next(i for i, line in enumerate(block) if _UNDECODABLE in line) :]
                what = f"is not {self._encoding}; pass the encoding of the file, such as encoding='cp1252'"
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
            a glob of the same spelling. Gzip and zip are known by their first bytes or their name.
        encoding: of the text. In utf-8 a byte order mark is dropped.
        member: the file to read in a zip that holds several.

    Raises:
        InputError: a file is missing or malformed; the message starts with `file:line`.
    """

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
            except _READ_FAULTS as fault:
                raise InputError(f"{path}: {_reason(fault)}") from fault
            codec = "utf-8-sig" if codecs.lookup(self._encoding).name == "utf-8" else self._encoding
            yield stack.enter_context(io.TextIOWrapper(data, codec, "sage_flow.mark", self.newline))

    def _unpacked(self, path: str, file: io.BufferedReader, stack: ExitStack) -> IO[bytes] | gzip.GzipFile:
        member = self._member
        magic, ending = file.peek(4)[:4], os.path.splitext(path)[1].lower()
        if magic == b"PK\x03\x04" or ending == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(file))
            members = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
            name = members[0] if member is None and len(members) == 1 else member
            if name not in members:
                raise InputError(f"{path}: use member= to name one of its files: {', '.join(members)}")
            return stack.enter_context(archive.open(name))
        if member is not None:
            raise InputError(f"{path}: is not a zip file, so it has no member {member!r}; leave out member=")
        return gzip.GzipFile(fileobj=file) if magic[:2] == b"\x1f\x8b" or ending == ".gz" else file

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

    def records(self, lines: Lines) -> Iterator[str]:
        return chain.from_iterable(
            [line[:-2] if line.endswith("\r\n") else line.removesuffix("\n") for line in block] for block in lines
        )


class JsonlSource(FileSource[Any]):
    """The JSON values of files that hold one on each line. Blank lines are passed over."""

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


class CsvSource(FileSource[dict[str, Any]]):
    """The rows of CSV files as dicts. Blank lines are passed over.

    Args, besides those of `FileSource`:
        delimiter: one character.
        fieldnames: the columns, if the files have no first row that names them.
        types: a function for each column to convert, such as `{"distance": int}`; other cells are str.
    """

    newline = ""

    def __init__(
        self,
        paths: Paths,
        *,
        delimiter: str = ",",
        fieldnames: Sequence[str] | None = None,
        types: Mapping[str, Callable[[str], Any]] | None = None,
        encoding: str = "utf-8",
        member: str | None = None,
    ) -> None:
        csv.reader([], delimiter=delimiter)  # raises TypeError for what cannot be one
        self._delimiter = delimiter
        self._types = dict(types or {})
        self._fieldnames = fieldnames
        if fieldnames is not None:
            self._check(fieldnames, "fieldnames=")
        super().__init__(paths, encoding=encoding, member=member)

    def records(self, lines: Lines) -> Iterator[dict[str, Any]]:
        # strict: else a quote that is never closed swallows the rest of the file.
        reader = csv.reader(chain.from_iterable(lines), delimiter=self._delimiter, strict=True)
        types = list(self._types.items())
        try:
            if (names := self._fieldnames or next(reader, None)) is None:
                return
            self._check(names, f"{lines.path}:{reader.line_num}")
            for row in filter(None, reader):
                if len(row) != len(names):
                    what = f"{len(row)} cells in a row of {len(names)} columns ({', '.join(names)})"
                    raise InputError(f"{lines.path}:{reader.line_num}: {what}")
                record: dict[str, Any] = dict(zip(names, row))
                for name, convert in types:
                    try:
                        record[name] = convert(record[name])
                    except Exception as fault:
                        what = f"column {name!r} has {record[name]!r:.99}, which does not convert: {fault!r}"
                        raise InputError(f"{lines.path}:{reader.line_num}: {what}") from fault
                yield record
        except csv.Error as fault:
            raise InputError(f"{lines.path}:{reader.line_num}: {fault}") from fault

    def _check(self, names: Sequence[str], where: str) -> None:
        if fault := column_fault(names):
            raise InputError(f"{where}: {fault}")
        if unknown := [name for name in self._types if name not in names]:
            raise InputError(f"{where}: types= has unknown {unknown}; the columns are {', '.join(names)}")


def column_fault(names: Sequence[str]) -> str:
    """Return what is wrong with these column names; an empty str if nothing is."""
    if isinstance(names, str) or not names:
        return "a list of column names is needed" if names else "there are no column names"
    twice = [name for position, name in enumerate(names) if name in names[:position]]
    return f"every column needs a name of its own, these come twice: {twice}" if twice else ""
