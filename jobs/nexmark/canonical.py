"""The canonical form of a query's result, in which two runs are compared.

A row is one JSON object with exactly the columns of its query, keys sorted, without spaces, in UTF-8. A result is a
multiset of rows: its lines are sorted bytewise, and a row that occurs twice is two lines. The digest of a result is the
SHA-256 of its lines, each followed by a newline.

>>> canonical_line("q2", {"price": 100, "auction": 1107})
'{"auction":1107,"price":100}'
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from nexmark.model import COLUMNS

__all__ = ["canonical_line", "canonical_lines", "digest"]

_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_KEYS = {query: frozenset(columns) for query, columns in COLUMNS.items()}
_VALUES = (int, str, type(None))  # all that rows consist of: True would become `true`, and 1.0 would not be `1`


def canonical_line(query: str, row: Mapping[str, Any]) -> str:
    """Return a row of `query` as a line, without the newline.

    Raises: ValueError if the row has other columns than the rows of this query have; TypeError if a value is not an
    int, a text or None.
    """
    if row.keys() != _KEYS[query]:
        raise ValueError(f"a row of {query} has the columns {', '.join(COLUMNS[query])}, not {', '.join(row)}")
    for column, value in row.items():
        if type(value) not in _VALUES:
            raise TypeError(f"{column} of a row of {query} is {value!r}: a value is an int, a text or None")
    return _ENCODE(row)


def canonical_lines(query: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the rows of `query` as sorted lines, without newlines."""
    return sorted(canonical_line(query, row) for row in rows)


def digest(lines: Iterable[str]) -> str:
    """Return the SHA-256 of a result, in hexadecimal; `lines` may be in any order, and may end in a newline.

    >>> digest(['{"auction":1107,"price":100}\\n']) == digest(['{"auction":1107,"price":100}'])
    True
    """
    hashed = hashlib.sha256()
    for line in sorted(line.removesuffix("\n") for line in lines):  # by code points: the order of the UTF-8 bytes
        hashed.update(line.encode() + b"\n")
    return hashed.hexdigest()
