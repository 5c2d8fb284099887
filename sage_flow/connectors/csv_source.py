"""Rows of CSV files as records."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from sage_flow.connectors.files import FileSource, Lines, Paths
from sage_flow.errors import InputError, PipelineError

__all__ = ["CsvSource", "column_fault"]

_MAX_CELL = 131_072  # characters, as the csv module has it
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


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

    def records(self, lines: Lines) -> Iterator[dict[str, Any]]:
        if csv.field_size_limit() < self._max_cell:
            csv.field_size_limit(self._max_cell)  # of the process: there is no other one
        # strict: else a quote that is never closed swallows the rest of the file.
        reader = csv.reader(chain.from_iterable(lines), delimiter=self._delimiter, strict=True)
        types = list(self._types.items())
        try:
            rows = filter(None, reader)
            if (names := self._fieldnames or next(rows, None)) is None:
                return
            self._check(names, f"{lines.path}:{reader.line_num}")
            for row in rows:
                if len(row) != len(names):
                    what = f"{len(row)} cells in a row of {len(names)} columns ({', '.join(names)})"
                    raise InputError(f"{lines.path}:{reader.line_num}: {what}")
                record: dict[str, Any] = dict(zip(names, row))
                for name, convert in types:
                    try:
                        record[name] = convert(record[name])
                    except Exception as fault:
                        what = f"column {name!r} has {record[name]!r:.99}, which cannot be converted: {fault!r}"
                        raise InputError(f"{lines.path}:{reader.line_num}: {what}") from fault
                yield record
        except csv.Error as fault:
            what = str(fault)
            if "field larger" in what:
                what = (
                    f"a cell has more than {csv.field_size_limit():,} characters: close the open quote, or pass"
                    " max_cell_chars= to read longer cells"
                )
            raise InputError(f"{lines.path}:{reader.line_num}: {what}") from fault

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
