"""Rows of CSV files as records."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from sage_flow.connectors.files import FileSource
from sage_flow.connectors.input_file import InputFile
from sage_flow.connectors.input_paths import Paths
from sage_flow.connectors.lines import UNDECODABLE, Lines
from sage_flow.errors import InputError, PipelineError
from sage_flow.functions import Malformed

if TYPE_CHECKING:
    from _csv import Reader

__all__ = ["CsvSource", "column_fault"]

_MAX_CELL = 131_072  # characters, as the csv module has it
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True)
class _RowFault:
    """Why a row is no record; without a text it is undecodable."""

    what: str = ""
    cause: Exception | None = None

    def as_error(self, lines: Lines, line: int) -> InputError:
        if not self.what:
            return lines.undecodable(line)
        error = InputError(f"{lines.path}:{line}: {self.what}")
        error.__cause__ = self.cause
        return error


def _fault(path: str, line: int, fault: csv.Error) -> InputError:
    what = str(fault)
    if "field larger" in what:
        what = (
            f"a cell has more than {csv.field_size_limit():,} characters: close the open quote, or pass"
            " max_cell_chars= to read longer cells"
        )
    error = InputError(f"{path}:{line}: {what}")
    error.__cause__ = fault
    return error


class CsvSource(FileSource[dict[str, Any]]):
    """The rows of CSV files as dicts. Blank lines are passed over.

    Args, besides those of `FileSource`:
        delimiter: one character.
        fieldnames: the columns, if the files have no first row that names them.
        types: a function for each column to convert, such as `{"distance": int}`; other cells are str.
            `bool` takes true, yes and 1, or false, no and 0, in any case.
        max_cell_chars: the longest cell; it is limited because a quote that is never closed makes the rest of the
            file a cell.
    """

    default_name = "csv"
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
        max_cell_chars: int = _MAX_CELL,
    ) -> None:
        csv.reader([], delimiter=delimiter)  # raises TypeError for what cannot be one
        self._delimiter = delimiter
        self._types = {name: _converter(name, given) for name, given in (types or {}).items()}
        self._max_cell = _checked_limit(max_cell_chars)
        self._fieldnames = fieldnames
        if fieldnames is not None:
            self._check(fieldnames, "fieldnames=")
        super().__init__(paths, encoding=encoding, member=member)

    def start_of(self, file: InputFile) -> Sequence[str] | None:
        if self._fieldnames is not None:
            return self._fieldnames
        with file.lines(None) as lines:
            return self._header(lines)[0]

    def batches(self, lines: Lines, start: Any) -> Iterator[tuple[list[dict[str, Any]] | Malformed, int]]:
        if csv.field_size_limit() < self._max_cell:
            csv.field_size_limit(self._max_cell)  # of the process: there is no other one
        at = lines.end
        names: Sequence[str] | None = self._fieldnames or start
        if names is None:
            names, at = self._header(lines)
        if names is not None:
            self._check(names, f"{lines.path}:{at}")
            yield from self._rows(lines, at, names)

    def _header(self, lines: Lines) -> tuple[list[str] | None, int]:
        """The first row, None if there is none, and the number of lines up to its end. Raises InputError."""
        reader = self._reader(lines, 0)
        try:
            names = next(filter(None, reader), None)
        except csv.Error as fault:
            raise _fault(lines.path, reader.line_num, fault) from fault
        if lines.has_undecodable and names is not None and any(UNDECODABLE in name for name in names):
            raise lines.undecodable(reader.line_num)
        return names, reader.line_num

    def _reader(self, lines: Lines, line: int) -> Reader:
        # strict: else a quote that is never closed swallows the rest of the file.
        return csv.reader(lines.since(line), delimiter=self._delimiter, strict=True)

    def _rows(
        self, lines: Lines, at: int, names: Sequence[str]
    ) -> Iterator[tuple[list[dict[str, Any]] | Malformed, int]]:
        """The records behind the first `at` lines. A batch ends where a block of lines does, if no row spans two."""
        reader, start = self._reader(lines, at), at
        while True:
            rows: list[list[str]] = []
            fault: csv.Error | None = None
            try:
                rows.extend(islice(reader, max(0, lines.end - at) or lines.per_block))  # keeps what came before a fault
            except csv.Error as error:
                fault = error
            except InputError:
                yield from self._converted(lines, at, start + reader.line_num, rows, names)
                raise
            if not rows and fault is None:
                return
            begin, at = at, start + reader.line_num
            if fault is None:
                yield from self._converted(lines, begin, at, rows, names)
            else:
                begins = self._ends(lines, begin, len(rows))[-1]
                yield from self._converted(lines, begin, begins, rows, names)
                # The row may have an open quote, so only its first line is passed over.
                yield lines.malformed(begins, begins + 1, _fault(lines.path, at, fault)), begins + 1
                at = start = begins + 1
                reader = self._reader(lines, at)
            lines.position(at)  # what is behind it need not be kept

    def _ends(self, lines: Lines, begin: int, count: int) -> list[int]:
        """The numbers of lines in front of the first `count` rows behind line `begin`, and at the end of the last."""
        reader = self._reader(lines, begin)
        return [begin, *(begin + reader.line_num for _ in islice(reader, count))]

    def _converted(
        self, lines: Lines, begin: int, end: int, rows: list[list[str]], names: Sequence[str]
    ) -> Iterator[tuple[list[dict[str, Any]] | Malformed, int]]:
        """The records of the rows in the lines from `begin` to `end`."""
        ends: list[int] | None = None
        done = 0
        while done < len(rows):
            records, passed, fault = self._up_to_malformed(rows[done:] if done else rows, names, lines.has_undecodable)
            if fault is None:
                if records:
                    yield records, end
                return
            ends = ends or self._ends(lines, begin, len(rows))
            first, last = ends[done + passed], ends[done + passed + 1]
            malformed = lines.malformed(first, last, fault.as_error(lines, last))
            if records:
                yield records, first
            yield malformed, last
            done += passed + 1

    def _up_to_malformed(
        self, rows: list[list[str]], names: Sequence[str], may_be_undecodable: bool
    ) -> tuple[list[dict[str, Any]], int, _RowFault | None]:
        """The records of the rows up to a malformed one, the number of these rows, and what is wrong with the next."""
        width, types = len(names), list(self._types.items())
        if not types and not may_be_undecodable and {0, width}.issuperset(map(len, rows)):
            return [dict(zip(names, row)) for row in rows if row], len(rows), None
        records: list[dict[str, Any]] = []
        for passed, row in enumerate(rows):
            if not row:
                continue
            if may_be_undecodable and any(UNDECODABLE in cell for cell in row):
                return records, passed, _RowFault()
            if len(row) != width:
                what = f"{len(row)} cells in a row of {width} columns ({', '.join(names)})"
                return records, passed, _RowFault(what)
            record: dict[str, Any] = dict(zip(names, row))
            for name, convert in types:
                try:
                    record[name] = convert(record[name])
                except Exception as fault:
                    what = f"column {name!r} has {record[name]!r:.99}, which cannot be converted: {fault!r}"
                    return records, passed, _RowFault(what, fault)
            records.append(record)
        return records, len(rows), None

    def _check(self, names: Sequence[str], where: str) -> None:
        if fault := column_fault(names):
            raise InputError(f"{where}: {fault}")
        if unknown := [name for name in self._types if name not in names]:
            raise InputError(f"{where}: types= has the unknown columns {unknown}; the columns are {', '.join(names)}")


def column_fault(names: Sequence[str]) -> str:
    """Return what is wrong with these column names; an empty str if nothing is."""
    if isinstance(names, str) or not names:
        return "a list of column names is needed" if names else "there are no column names"
    twice = [name for position, name in enumerate(names) if name in names[:position]]
    return f"column names must be unique; these occur more than once: {twice}" if twice else ""


class _Truth:
    """Converts what is written for a truth value; `bool("False")` would be True."""

    def __init__(self, make: Callable[[bool], Any]) -> None:
        self._make = make

    def __call__(self, text: str) -> Any:
        word = text.strip().lower()
        if word not in _TRUE + _FALSE:
            raise ValueError(f"not one of {', '.join(_TRUE)}, {', '.join(_FALSE)}")
        return self._make(word in _TRUE)


def _converter(name: str, given: Any) -> Callable[[str], Any]:
    """Return what converts the cells of a column. Raises PipelineError for what cannot."""
    if isinstance(given, type):
        if given is bool or (given.__module__, given.__name__.rstrip("_")) == ("numpy", "bool"):
            return _Truth(given)
        if issubclass(given, (list, tuple, set, frozenset)):
            raise PipelineError(
                f"types= of column {name!r}: {given.__name__} splits a cell into its characters; pass a function that"
                " reads it, such as json.loads"
            )
    if not callable(given):
        raise PipelineError(f"types= of column {name!r} is {given!r}; pass a function, such as int")
    converter: Callable[[str], Any] = given
    return converter


def _checked_limit(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PipelineError(f"max_cell_chars must be a whole number of at least 1, not {value!r}")
    return value
