"""How tables are stored: a layer of a table, some entries at a time, between two slices of records; and read again.

Pickling holds the interpreter's lock, so it gains nothing in a thread of its own; and only the thread of the subtask
knows when no record is changing a value. An entry that a record needs before its turn comes is pickled first, together
with some of its neighbours, as a pickle of its own would cost more than the entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
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
    """Gives what is in `layers`, of which later ones count, to `write`, which pickles it.

    `is_over`: nothing is left, or nobody wants it any more.
    """

    def __init__(
        self, operator: str, table: Hashable, layers: Sequence[Layer], write: Callable[[KeyedChunk], None]
    ) -> None:
        self._operator = operator
        self._table = table
        self._write = write
        self.layers = layers
        self._coming = deque(layers)
        self._saved: set[Any] = set()  # keys that were written before their turn, as they are in the newest layer
        self._dropped: Iterator[Any] = iter(())
        self._keys: Iterator[Any] = iter(())
        self._values: Iterator[Any] = iter(())
        self._has_dropped = False
        self.is_over = False
        self._next_layer()

    def _next_layer(self) -> None:
        if not self._coming:
            self.is_over = True
            return
        layer = self._coming.popleft()
        self._dropped = iter(layer.dropped)
        self._keys = iter(layer.entries)
        self._values = iter(layer.entries.values())  # two lists are made faster than one of pairs
        self._has_dropped = bool(layer.dropped)

    def write_some(self, count: int) -> int:
        """Write up to `count` entries; return how many were looked at, at least 1."""
        if self.is_over:
            return 1
        if self._has_dropped:  # before the entries of the layer, of which some may have come back
            dropped = list(islice(self._dropped, count))
            self._has_dropped = len(dropped) == count
            self._give([key for key in dropped if key not in self._saved], None)
            return max(1, len(dropped))
        keys, values = list(islice(self._keys, count)), list(islice(self._values, count))
        looked_at = len(keys)
        if self._saved:
            places = [place for place, key in enumerate(keys) if key not in self._saved]
            keys, values = [keys[place] for place in places], [values[place] for place in places]
        self._give(keys, values)
        if looked_at < count:
            self._next_layer()
        return max(1, looked_at)

    def write_all(self) -> None:
        """Write what is left, as the values may leave the table."""
        while not self.is_over:
            self.write_some(_ALL)

    def save(self, key: Hashable, entry: Any) -> None:
        """Write an entry that a record may change now."""
        if self.is_over or key in self._saved:
            return
        self._saved.add(key)
        keys, values = [key], [entry]
        if not self._has_dropped:  # it is the turn of the entries of a layer
            for other, value in zip(islice(self._keys, _NEIGHBOURS), islice(self._values, _NEIGHBOURS), strict=True):
                if other not in self._saved:
                    keys.append(other)
                    values.append(value)
        self._give(keys, values)

    def _give(self, keys: list[Any], values: list[Any] | None) -> None:
        if keys:
            self._write((self._operator, self._table, keys, values))
