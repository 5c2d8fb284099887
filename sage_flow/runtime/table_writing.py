"""How tables are stored: a layer of a table, some entries at a time, between two slices of records; and read again.

Pickling holds the interpreter's lock, so it gains nothing in a thread of its own; and only the thread of the subtask
knows when no record is changing a value. An entry that a record needs before its turn comes is pickled first, together
with some of its neighbours, as a pickle of its own would cost more than the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from itertools import islice
from typing import Any

from sage_flow.runtime.key_table import Layer

__all__ = ["KeyedChunk", "TableWriting", "merged_chunks"]

KeyedChunk = tuple[str, Hashable, list[Any] | None, list[Any] | None]
"""Some entries of an operator, as they are stored: operator, table, keys, values. Of several ones the later counts.

Without values, these keys of the table have no entry any more. Without keys, all that was there is replaced: by
`values`, pairs of which several may have one key; or by an empty table.
"""


def merged_chunks(chunks: Iterable[KeyedChunk]) -> dict[tuple[str, Hashable], dict[Any, Any] | list[tuple[Any, Any]]]:
    """Return what was stored in these chunks, which are in their order, by operator and table: tables, or pairs."""
    merged: dict[tuple[str, Hashable], Any] = {}
    for operator, table, keys, values in chunks:
        if keys is None:
            merged[operator, table] = {} if values is None else values
            continue
        known = merged.setdefault((operator, table), {})
        if values is None:
            for key in keys:
                known.pop(key, None)
        else:
            known.update(zip(keys, values, strict=True))
    return merged


_NEIGHBOURS = 64
_ALL = 1_000


class TableWriting:
    """Gives all of `layer` to `write`, which pickles it. `is_over`: nothing is left, or nobody wants it any more."""

    def __init__(self, operator: str, table: Hashable, layer: Layer, write: Callable[[KeyedChunk], None]) -> None:
        self._operator = operator
        self._table = table
        self._write = write
        self._dropped = iter(layer.dropped)
        self._keys = iter(layer.entries)
        self._values = iter(layer.entries.values())  # two lists are made faster than one of pairs
        self._saved: set[Any] = set()  # keys that were written before their turn; a later chunk would be newer
        self.is_over = False

    def write_some(self, count: int) -> int:
        """Write up to `count` entries; return how many were looked at, at least 1."""
        if self.is_over:
            return 1
        if dropped := self._write_dropped(count):
            return dropped
        keys, values = list(islice(self._keys, count)), list(islice(self._values, count))
        looked_at = len(keys)
        if looked_at < count:
            self.is_over = True
        if self._saved:
            places = [place for place, key in enumerate(keys) if key not in self._saved]
            keys, values = [keys[place] for place in places], [values[place] for place in places]
        if keys:
            self._write((self._operator, self._table, keys, values))
        return max(1, looked_at)

    def write_all(self) -> None:
        """Write what is left, as the values may leave the table."""
        while not self.is_over:
            self.write_some(_ALL)

    def save(self, key: Hashable, entry: Any) -> None:
        """Write an entry that a record may change now."""
        if self.is_over or key in self._saved:
            return
        while self._write_dropped(_ALL):
            pass  # what a later chunk drops, an earlier one must not have
        some = {key: entry}
        for other, value in zip(islice(self._keys, _NEIGHBOURS), islice(self._values, _NEIGHBOURS), strict=True):
            if other not in self._saved:
                some[other] = value
        self._saved.add(key)
        self._write((self._operator, self._table, list(some), list(some.values())))

    def _write_dropped(self, count: int) -> int:
        """Write up to `count` keys without entries; return how many. They come before all entries."""
        dropped = list(islice(self._dropped, count))
        if dropped:
            self._write((self._operator, self._table, dropped, None))
        return len(dropped)
