"""Records into files: lines of text, rows of CSV, one JSON value per line.

A file is written under a hidden temporary name beside its own, is prepared at the end (`output_file.py`), and gets its
own name when the whole job has finished (`prepared_file.py`): who reads it sees all or nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from sage_flow.connectors.csv_source import column_fault
from sage_flow.connectors.files import Path
from sage_flow.connectors.output_file import OutputFile, remove_all_prepared
from sage_flow.connectors.output_path import check_output, is_device, part_path, parts_of
from sage_flow.connectors.prepared_file import PreparedFile, publish
from sage_flow.errors import PipelineError
from sage_flow.functions import WRITES_AT_ONCE, RuntimeContext, Sink
from sage_flow.plan.location import short_path

__all__ = ["CsvSink", "FileSink", "JsonlSink", "TextSink"]

T = TypeVar("T")


class FileSink(Sink[T]):
    """Base of the sinks that write a file; a subclass writes records to `self._file`.

    Args:
        path: the file, in a directory that exists; compressed if it ends in `.gz`, `.bz2`, `.xz` or `.zst`. Where there
            are several subtasks, each writes a file of its own, such as `flights-00000-of-00004.csv`. A character
            device such as /dev/null is written as the records come.

    Raises:
        InputError: `path` is a directory, a FIFO or a socket, or the directory it is to be in does not exist.
    """

    default_parallelism = 1
    newline = "\n"
    errors = "strict"

    def __init__(self, path: Path) -> None:
        self._path = check_output(path)
        self._output: OutputFile | None = None
        self._context: RuntimeContext | None = None
        self._is_open = False

    @property
    def publishes_at_end(self) -> bool:
        """Whether nothing is to be seen before the job has finished."""
        return not is_device(self._path)

    def publishes(self) -> list[str] | None:
        return [short_path(self._path)] if self.publishes_at_end else None

    def at_a_stop(self) -> str:
        if not self.publishes_at_end:
            return WRITES_AT_ONCE
        return f"publishes {short_path(self._path)} at the end; a cancel removes what it wrote"

    def files_written(self, parallelism: int) -> list[str]:
        if not self.publishes_at_end:
            return []
        own = [part_path(self._path, index, parallelism) for index in range(parallelism)]
        return [self._path, *own, *(part.path for part in parts_of(self._path))]

    @property
    def path(self) -> str:
        """The file; several subtasks add to its name."""
        return self._path

    def open(self, ctx: RuntimeContext) -> None:
        self._context = ctx  # also of a sink that cannot open its file: it recovers what earlier attempts prepared
        self._output = OutputFile.open(self._path, ctx)
        self._file = io.TextIOWrapper(self._output.data, "utf-8", self.errors, self.newline)
        self._is_open = True

    def prepare(self, checkpoint: int) -> PreparedFile | None:
        """Complete the file, so that whoever has the returned value can publish it. A device has nothing to publish.

        Nothing can be written after it.
        """
        if self._output is None or self._output.writes_through:
            if self._is_open:
                self._file.flush()
            return None
        self._end_writing()
        return self._output.prepare(checkpoint)

    def close(self) -> None:
        self._end_writing()

    def commit(self, handle: PreparedFile) -> None:
        """Publish what was prepared, by whichever sink of this job."""
        publish(handle)

    def abort(self) -> None:
        """Remove what was written, but for what is prepared."""
        if self._output is not None:
            self._output.remove()

    def recover(self, handles: Sequence[PreparedFile]) -> None:
        """Remove what this subtask prepared in this attempt or earlier ones, but for `handles`."""
        if self._context is not None and self.publishes_at_end:
            remove_all_prepared(self._path, self._context, handles)

    def _end_writing(self) -> None:
        was_open, self._is_open = self._is_open, False
        if self._output is None or not was_open:
            return
        try:
            self._file.detach()
        finally:
            self._output.close()


class TextSink(FileSink[str]):
    """Lines of text. What would not read back as the same line is refused."""

    default_name = "write_text"

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
    """One JSON value on each line. Dataclasses and named tuples become objects by field, other tuples lists.

    What a named tuple contains is written alike. Keys become what `json` makes of them.

    Args:
        default: called with a value that JSON cannot express, such as a datetime or a Decimal; returns what is
            written for it. `str` does for both.
    """

    default_name = "write_jsonl"
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
            text = self._encode(_objects(value) if is_named_tuple(value) else value)
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

    default_name = "write_csv"
    newline = ""

    def __init__(self, path: Path, *, fieldnames: Sequence[str] | None = None) -> None:
        if fieldnames is not None and (fault := column_fault(fieldnames)):
            raise PipelineError(f"CsvSink: fieldnames={fieldnames!r}: {fault}")
        super().__init__(path)
        self._names = dict.fromkeys(fieldnames or ())
        self._are_given = fieldnames is not None  # they are for the values of a tuple, by place

    def open(self, ctx: RuntimeContext) -> None:
        super().open(ctx)
        self._write_row = csv.writer(self._file).writerow
        if self._names:
            self._write_row(self._names)

    def write(self, value: Any) -> None:
        if isinstance(value, (tuple, list)) and (self._are_given or not is_named_tuple(value)):
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


def is_named_tuple(value: Any) -> bool:
    """Whether a value is of a class that `NamedTuple` or `namedtuple` has made."""
    return isinstance(value, tuple) and hasattr(type(value), "_fields")


def _objects(value: Any) -> Any:
    """A named tuple as a dict by field, also inside lists, tuples and dicts; JSON has no named tuples."""
    if isinstance(value, dict):
        return {key: _objects(one) for key, one in value.items()}
    if is_named_tuple(value):
        return {name: _objects(one) for name, one in zip(value._fields, value, strict=True)}
    return [_objects(one) for one in value] if isinstance(value, (list, tuple)) else value


def _fields_of(value: Any) -> dict[str, Any] | None:
    if is_named_tuple(value):
        return value._asdict()  # type: ignore[no-any-return]
    if not is_dataclass(value) or isinstance(value, type):
        return None
    return {field.name: getattr(value, field.name) for field in fields(value)}
