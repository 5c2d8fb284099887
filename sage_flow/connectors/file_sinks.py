"""Records into files: lines of text, rows of CSV, one JSON value per line.

A file is written under a hidden temporary name beside its own, is prepared at the end (`output_file.py`), and gets its
own name when the whole job has finished (`prepared_file.py`): who reads it sees all or nothing. With `roll=` it is
prepared at checkpoints, in parts. What waits for a later `prepare` is kept at each checkpoint (`segments.py`).
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from sage_flow.connectors.csv_source import column_fault
from sage_flow.connectors.files import Path
from sage_flow.connectors.output_file import OutputFile, remove_all_staging, remove_unfinished
from sage_flow.connectors.output_path import (
    check_output,
    is_device,
    part_path,
    parts_of,
    rolled_numbers,
    rolled_path,
    rolled_pattern,
)
from sage_flow.connectors.prepared_file import PreparedFile, publish
from sage_flow.connectors.segments import KeptOutput, Segment, TakenOver, Writer
from sage_flow.errors import InputError, PipelineError
from sage_flow.functions import WRITES_AT_ONCE, RuntimeContext, Sink
from sage_flow.plan.location import short_path
from sage_flow.timestamps import checked_duration

__all__ = ["CsvSink", "FileSink", "JsonlSink", "TextSink"]

T = TypeVar("T")

_END = 0  # the number that `prepare` gets at the end of a job


class FileSink(Sink[T]):
    """Base of the sinks that write a file; a subclass writes records to `self._file`.

    Args:
        path: the file, in a directory that exists; compressed if it ends in `.gz`, `.bz2`, `.xz` or `.zst`. Where there
            are several subtasks, each writes a file of its own, such as `flights-00000-of-00004.csv`. A character
            device such as /dev/null is written as the records come.
        roll: publish parts while the job runs, such as `flights-00000-of-00004-1764331200000.csv`. A part is ended at
            the first checkpoint at which it has been open for this time; timedelta(0): at every checkpoint.

    Raises:
        InputError: `path` is a directory, a FIFO or a socket, or the directory it is to be in does not exist.
        PipelineError: `roll` is no timedelta, or negative.
    """

    default_parallelism = 1
    newline = "\n"
    errors = "strict"

    def __init__(self, path: Path, *, roll: timedelta | None = None) -> None:
        self._path = check_output(path)
        self._roll_s = None if roll is None else checked_duration(roll, "roll", positive=False) / 1000
        self.needs_checkpoints = roll is not None
        self._output: OutputFile | None = None
        self._context: RuntimeContext | None = None
        self._is_open = False
        self._checkpoint = _END
        self._opened_at = 0.0  # the part, by the monotonic clock
        self._number = 0  # of the latest part
        self._taken_over = TakenOver()
        self._final: Segment | None = None  # what the handle of the end publishes

    @property
    def publishes_at_end(self) -> bool:
        """Whether nothing is to be seen before it is published."""
        return not is_device(self._path)

    def publishes(self) -> list[str] | None:
        if not self.publishes_at_end:
            return None
        return [short_path(self._path if self._roll_s is None else rolled_pattern(self._path))]

    def at_a_stop(self) -> str:
        if not self.publishes_at_end:
            return WRITES_AT_ONCE
        if self._roll_s is None:
            return f"publishes {short_path(self._path)} at the end; a cancel removes what it wrote"
        pattern = short_path(rolled_pattern(self._path))
        return f"publishes {pattern} at checkpoints and at the end; after a cancel no more parts appear"

    def files_written(self, parallelism: int) -> list[str]:
        if not self.publishes_at_end:
            return []
        own = [part_path(self._path, index, parallelism) for index in range(parallelism)]
        return [self._path, *own, *(part.path for part in parts_of(self._path)), *rolled_numbers(self._path)]

    @property
    def path(self) -> str:
        """The file; several subtasks add to its name."""
        return self._path

    def open(self, ctx: RuntimeContext) -> None:
        self._context = ctx  # also of a sink that cannot open its file: it recovers what earlier attempts prepared
        self._begin_file(OutputFile.open(self._path, ctx, rolls=self._roll_s is not None))
        if self._roll_s is not None:
            self._number = max(rolled_numbers(self._path).values(), default=0)

    def open_to_publish(self, ctx: RuntimeContext) -> None:
        """Open no file: beside what is to be published may be parts of the same run, of another parallelism."""
        self._context = ctx
        if self.publishes_at_end:
            remove_unfinished(self._path, ctx, rolls=self._roll_s is not None)

    def prepare(self, checkpoint: int) -> PreparedFile | None:
        """Complete the file, so that whoever has the returned value can publish it.

        A file that does not roll is completed at the end, and then nothing can be written to it. A device has nothing
        to publish.
        """
        output, context, self._checkpoint = self._output, self._context, checkpoint
        if output is None or context is None or output.writes_through:
            if self._is_open:
                self._file.flush()
            return None
        if checkpoint != _END and not self._is_due(output):
            return None
        handle = self._prepare(output, checkpoint, context)
        if checkpoint != _END:
            self._begin_file(output.another(context))
        return handle

    def snapshot(self) -> KeptOutput | None:
        """Return where the records are that wait for a later `prepare`, and the names of their columns.

        After `prepare(0)` it has all that the handle has: restore either of them.
        """
        output, context = self._output, self._context
        if output is None or context is None or output.writes_through:
            return None
        own = self._final
        if self._is_open:
            self._file.flush()
            own = output.keep(self._checkpoint, context.job_id)
            output.is_named = own is not None
        return KeptOutput(
            Writer(context.job_id, context.attempt, context.subtask_index),
            self.default_name,
            (*self._taken_over.segments, *([own] if own is not None else ())),
            self._columns(),
            self._number,
            time.monotonic() - self._opened_at,
        )

    def restore(self, kept: Sequence[KeptOutput | None]) -> None:
        """Go on with what former subtasks have kept. Raises InputError if it is gone or does not fit."""
        self._taken_over = taken = TakenOver.of(kept, self._path, self.default_name)
        self._number = max(self._number, taken.number)
        self._opened_at -= taken.age_s

    def close(self) -> None:
        self._end_writing()

    def commit(self, handle: PreparedFile) -> None:
        """Publish what was prepared, by whichever sink of this job."""
        publish(handle)

    def abort(self) -> None:
        """Remove what was written, but for what is prepared, and what a snapshot names."""
        if self._output is not None:
            self._output.remove()

    def recover(self, handles: Sequence[PreparedFile]) -> None:
        """Remove what this subtask prepared or kept in this attempt or earlier ones, but for `handles`.

        What `restore` took over stays, until it is published with what this attempt writes.
        """
        if self._context is None or not self.publishes_at_end:
            return
        keep = [name for handle in handles for name in (handle.staging, *handle.joined)]
        keep += [segment.path for segment in self._taken_over.segments]
        rolls = self._roll_s is not None
        remove_all_staging(self._path, self._context, keep, self._taken_over.writers, rolls=rolls)

    def _begin_file(self, output: OutputFile) -> None:
        self._output = output
        self._file = io.TextIOWrapper(output.data.stream, "utf-8", self.errors, self.newline)
        self._opened_at = time.monotonic()
        self._is_open = True

    def _is_due(self, output: OutputFile) -> bool:
        """Whether the part has been open for long enough; it needs a record, too."""
        if self._roll_s is None or not self._is_open or time.monotonic() - self._opened_at < self._roll_s:
            return False
        self._file.flush()
        return bool(output.data.size or self._taken_over.segments)

    def _prepare(self, output: OutputFile, checkpoint: int, context: RuntimeContext) -> PreparedFile | None:
        """Complete the output, with what was taken over. None: it is prepared already, or a part without records."""
        self._end_writing()
        if not output.is_pending:
            return None
        segments, is_empty = self._taken_over.segments, not output.data.size
        if self._roll_s is not None and is_empty and not segments:
            output.remove()
            return None
        if segments:
            is_empty = False
            if (own := output.keep(checkpoint, context.job_id)) is not None:
                segments = (*segments, own)
            self._output = output = output.joined(segments, context)
            self._taken_over = replace(self._taken_over, segments=())
        if self._roll_s is not None:
            self._number = max(_wall_ms(), self._number + 1)
            output.rename(rolled_path(self._path, context.subtask_index, context.parallelism, self._number))
        handle = output.prepare(checkpoint, [segment.path for segment in segments if segment.job == context.job_id])
        if handle is not None and checkpoint == _END and not is_empty:
            self._final = Segment(handle.staging, handle.length, output.header, self._path, context.job_id)
        return handle

    def _columns(self) -> tuple[str, ...]:
        return ()

    def _complete(self, output: OutputFile) -> None:
        """Write what a file has that has no records."""

    def _end_writing(self) -> None:
        was_open, self._is_open = self._is_open, False
        if self._output is None or not was_open:
            return
        try:
            if self._roll_s is None and not self._taken_over.segments:
                self._complete(self._output)
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

    def __init__(
        self, path: Path, *, default: Callable[[Any], Any] | None = None, roll: timedelta | None = None
    ) -> None:
        if default is not None and not callable(default):
            raise PipelineError(f"JsonlSink: default= must be a function, such as str, not {default!r}")
        super().__init__(path, roll=roll)
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

    def __init__(self, path: Path, *, fieldnames: Sequence[str] | None = None, roll: timedelta | None = None) -> None:
        if fieldnames is not None and (fault := column_fault(fieldnames)):
            raise PipelineError(f"CsvSink: fieldnames={fieldnames!r}: {fault}")
        super().__init__(path, roll=roll)
        self._names = dict.fromkeys(fieldnames or ())
        self._are_given = fieldnames is not None  # they are for the values of a tuple, by place

    def restore(self, kept: Sequence[KeptOutput | None]) -> None:
        super().restore(kept)
        columns = self._taken_over.columns
        if self._are_given and columns and columns != tuple(self._names):
            raise InputError(
                f"{self._path}: fieldnames={list(self._names)}, and the checkpoint has rows with the columns"
                f" {list(columns)}: pass these, or write to another path"
            )
        self._names = self._names or dict.fromkeys(columns)

    def write(self, value: Any) -> None:
        if isinstance(value, (tuple, list)) and (self._are_given or not is_named_tuple(value)):
            self._write_row(self._checked(value))
            return
        record = value if isinstance(value, dict) else _fields_of(value)
        if record is None:
            kind = type(value).__name__
            raise TypeError(f"CsvSink writes dicts, dataclasses, tuples and lists, not {kind}; map it to one")
        if not self._names:
            self._name_columns(list(record))
        if record.keys() != self._names.keys():
            missing = [name for name in self._names if name not in record]
            extra = [name for name in record if name not in self._names]
            raise ValueError(f"CsvSink: the keys do not fit the columns: missing {missing}, extra {extra}")
        self._write_row([record[name] for name in self._names])

    def _name_columns(self, names: list[str]) -> None:
        if fault := column_fault(names):
            raise ValueError(f"CsvSink: {fault} in the first record")
        self._names = dict.fromkeys(names)

    def _begin_file(self, output: OutputFile) -> None:
        super()._begin_file(output)
        self._write_row = self._write_first_row

    def _write_first_row(self, row: Iterable[Any]) -> None:
        """Rows that were taken over have a header, and come first in the file."""
        if self._output is not None and not self._taken_over.segments:
            self._write_header(self._output)
        self._write_row = csv.writer(self._file).writerow
        self._write_row(row)

    def _write_header(self, output: OutputFile) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerow(self._names)
        self._file.write(text.getvalue())
        output.header = len(text.getvalue().encode())

    def _complete(self, output: OutputFile) -> None:
        if self._names and not output.header:
            self._write_header(output)

    def _columns(self) -> tuple[str, ...]:
        return tuple(self._names)

    def _checked(self, row: Sequence[Any]) -> Sequence[Any]:
        if not self._names:
            raise TypeError(f"CsvSink cannot name the columns of a {type(row).__name__}; pass fieldnames=[...]")
        if len(row) != len(self._names):
            raise ValueError(f"CsvSink: a record of {len(row)} values for the columns {list(self._names)}")
        return row


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


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
