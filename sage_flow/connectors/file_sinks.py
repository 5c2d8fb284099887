"""Records into files - lines of text, rows of CSV, one JSON value per line - and onto the screen.

A file is written under a hidden temporary name beside its own, and gets its own when the whole job
has finished: who reads it sees all or nothing.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from sage_flow.connectors.csv_source import column_fault
from sage_flow.connectors.files import Path
from sage_flow.errors import InputError, PipelineError
from sage_flow.functions import RuntimeContext, Sink

__all__ = ["CsvSink", "FileSink", "JsonlSink", "PrintSink", "TextSink"]

T = TypeVar("T")


class FileSink(Sink[T]):
    """Base of the sinks that write a file; a subclass writes records to `self._file`.

    Args:
        path: the file, in a directory that exists; gzipped if it ends in `.gz`. Where there are
            several subtasks, each writes a file of its own, such as `flights-00000-of-00004.csv`.

    Raises:
        InputError: `path` is a directory, or the directory it is to be in does not exist.
    """

    newline = "\n"
    errors = "strict"

    def __init__(self, path: Path) -> None:
        given = os.fspath(path)
        self._path = os.path.abspath(os.path.expanduser(given))
        if os.path.isdir(self._path) or given.endswith(os.sep):
            raise InputError(f"{given}: is a directory; name a file in it")
        if not os.path.isdir(folder := os.path.dirname(self._path)):
            raise InputError(f"{given}: there is no directory {folder}; make it first")
        self._temporary = ""
        self._raw: io.BufferedWriter | None = None

    def open(self, ctx: RuntimeContext) -> None:
        if ctx.parallelism > 1:
            self._path = _part(self._path, ctx.subtask_index, ctx.parallelism)
        folder, name = os.path.split(self._path)
        temporary = os.path.join(folder, f".{name}.{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp")
        self._raw = open(temporary, "xb")  # noqa: SIM115 - close() closes it
        self._temporary = temporary
        gzipped = name.endswith(".gz")
        data = gzip.GzipFile("", "wb", 6, self._raw, mtime=0) if gzipped else self._raw
        self._file = io.TextIOWrapper(data, "utf-8", self.errors, self.newline)

    def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is None:
            return
        with raw:
            data = self._file.detach()
            if data is not raw:
                data.close()  # ends the gzip stream, which leaves the file below it open
            raw.flush()
            os.fsync(raw.fileno())

    def commit(self) -> None:
        if self._temporary:
            os.replace(self._temporary, self._path)
            self._temporary = ""

    def abort(self) -> None:
        if self._temporary:
            with suppress(FileNotFoundError):
                os.remove(self._temporary)
            self._temporary = ""


class TextSink(FileSink[str]):
    """Lines of text. What would not read back as the same line is refused."""

    def write(self, value: str) -> None:
        if not isinstance(value, str):
            kind = type(value).__name__
            raise TypeError(f"TextSink writes str, not {kind}; map the records to str first, as in .map(str)")
        if "\n" in value or value.endswith("\r"):
            raise ValueError("TextSink: a newline would split the record in two; replace it or use JsonlSink")
        if value.startswith("\ufeff"):
            raise ValueError("TextSink: U+FEFF at the start would be lost; strip it or use JsonlSink")
        self._file.write(value + "\n")


class JsonlSink(FileSink[Any]):
    """One JSON value on each line. Dataclasses become objects; tuples and keys what `json` makes of them.

    Args:
        default: called with a value that JSON cannot express, such as a datetime or a Decimal; returns what is
            written for it. `str` does for both.
    """

    errors = "backslashreplace"  # of a lone surrogate makes the escape by which JSON writes it

    def __init__(self, path: Path, *, default: Callable[[Any], Any] | None = None) -> None:
        if default is not None and not callable(default):
            raise PipelineError(f"JsonlSink: default= must be a function, such as str, not {default!r}")
        super().__init__(path)
        self._default = default
        self._fault: ValueError | None = None  # of `default`, and not of json

    def open(self, ctx: RuntimeContext) -> None:
        super().open(ctx)
        self._encode = json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=self._substitute
        ).encode

    def write(self, value: Any) -> None:
        try:
            text = self._encode(value)
        except ValueError as fault:  # NaN, infinity, a list that holds itself
            if fault is self._fault:
                raise
            cure = "; map NaN and infinity to None" if "Out of range" in str(fault) else ""
            raise TypeError(f"JSON cannot express this {type(value).__name__}: {fault}{cure}") from fault
        self._file.write(text + "\n")

    def _substitute(self, value: Any) -> Any:
        if (record := _fields_of(value)) is not None:
            return record
        if self._default is None:
            raise TypeError(
                f"JSON cannot express a {type(value).__name__}; pass default=str (or a function of your own) to"
                " write_jsonl, or map it to a str, number, list or dict"
            )
        try:
            return self._default(value)
        except ValueError as fault:
            self._fault = fault
            raise


class CsvSink(FileSink[Any]):
    """A row for each dict, dataclass, tuple or list, under a row with the names of the columns.

    Args:
        fieldnames: the columns, in order; tuples and lists need them. Without them the first record
            names the columns.
    """

    newline = ""

    def __init__(self, path: Path, *, fieldnames: Sequence[str] | None = None) -> None:
        if fieldnames is not None and (fault := column_fault(fieldnames)):
            raise PipelineError(f"CsvSink: fieldnames={fieldnames!r}: {fault}")
        super().__init__(path)
        self._names = dict.fromkeys(fieldnames or ())

    def open(self, ctx: RuntimeContext) -> None:
        super().open(ctx)
        self._write_row = csv.writer(self._file).writerow
        if self._names:
            self._write_row(self._names)

    def write(self, value: Any) -> None:
        if isinstance(value, (tuple, list)):
            self._write_row(self._checked(value))
            return
        record = value if isinstance(value, dict) else _fields_of(value)
        if record is None:
            kind = type(value).__name__
            raise TypeError(f"CsvSink writes dicts, dataclasses, tuples and lists, not {kind}; map it to one")
        if not self._names:
            self._begin(list(record))
        if record.keys() != self._names.keys():
            missing = [name for name in self._names if name not in record]
            extra = [name for name in record if name not in self._names]
            raise ValueError(f"CsvSink: the keys do not fit the columns: missing {missing}, extra {extra}")
        self._write_row([record[name] for name in self._names])

    def _begin(self, names: list[str]) -> None:
        if fault := column_fault(names):
            raise ValueError(f"CsvSink: {fault} in the first record")
        self._names = dict.fromkeys(names)
        self._write_row(names)

    def _checked(self, row: Sequence[Any]) -> Sequence[Any]:
        if not self._names:
            raise TypeError(f"CsvSink cannot name the columns of a {type(row).__name__}; pass fieldnames=[...]")
        if len(row) != len(self._names):
            raise ValueError(f"CsvSink: a record of {len(row)} values for the columns {list(self._names)}")
        return row


class PrintSink(Sink[Any]):
    """Prints each record as one line after `prefix`."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix

    def write(self, value: Any) -> None:
        sys.stdout.write(f"{self._prefix}{value}\n")  # one call: lines of several subtasks do not mix


def _part(path: str, index: int, count: int) -> str:
    gz = ".gz" if path.endswith(".gz") else ""
    stem, suffix = os.path.splitext(path.removesuffix(gz))
    return f"{stem}-{index:05d}-of-{count:05d}{suffix}{gz}"


def _fields_of(value: Any) -> dict[str, Any] | None:
    if not is_dataclass(value) or isinstance(value, type):
        return None
    return {field.name: getattr(value, field.name) for field in fields(value)}
