"""The entries of one state by key, in layers, so that a checkpoint can store them while records change them.

    the table itself    what was read or written since the last cut
    a layer             what was touched between two cuts
    the lowest layer    everything else

At the cut of a checkpoint the upper part becomes a layer, which does not change any more: it is what the checkpoint has
to store. Whoever needs an entry of a layer gets it into the upper part first; a value that can change in place is
stored before that, if it is not stored yet (`table_writing.py`).

A layer stays one until its checkpoint is complete. If that fails, the next cut takes the layer along: what is above it
counts, and a key that was dropped stays dropped. Without checkpoints there are no layers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from heapq import heappop, heappush
from itertools import islice
from types import NoneType
from typing import TYPE_CHECKING, Any

from sage_flow.keys import stable_hash

if TYPE_CHECKING:
    from sage_flow.runtime.table_writing import TableWriting

__all__ = ["MISSING", "ExpiringTable", "KeyTable", "Layer", "TableEntries", "check_key"]

MISSING: Any = object()

_ALWAYS_KEYS = frozenset({int, str, bytes, bool})
"""Types whose every value has a stable hash: to compute it only to see that it exists would cost most of a new key."""

_UNCHANGING = frozenset({int, float, complex, bool, str, bytes, NoneType, Fraction, Decimal, date, datetime, timedelta})
"""Exact types of values that nobody can change."""


def check_key(key: Any) -> None:
    """Raises InvalidKeyError if `key` cannot place a record."""
    if type(key) not in _ALWAYS_KEYS:
        stable_hash(key)


class Layer:
    """What was touched between two cuts. `checkpoint`: of the cut at its end.

    `dropped`: keys that have no entry below any more. A key may be in both: it was dropped, and came back.
    """

    __slots__ = ("checkpoint", "dropped", "entries")

    def __init__(self, checkpoint: int, entries: dict[Any, Any], dropped: set[Any]) -> None:
        self.checkpoint = checkpoint
        self.entries = entries
        self.dropped = dropped

    def take(self, above: Layer) -> None:
        """Put what is above this layer into it."""
        for key in above.dropped:
            self.entries.pop(key, None)
        self.entries.update(above.entries)
        self.dropped |= above.dropped
        self.checkpoint = above.checkpoint


class KeyTable(dict[Any, Any]):
    """The entries of one state, by key. A key that cannot be placed is refused when it is first seen,
    also at parallelism 1, where routing never hashes it.

    A compiled chain reads and writes by `table[key]`. All others use `find`, `put`, `drop`, `keys_now` and `entries`:
    of what is in layers, `get`, `in`, `pop`, `len` and `items` of a dict know nothing.
    """

    __slots__ = ("_default", "_dropped", "_layers", "_merging", "_writing")

    ttl_ms: int | None = None
    """How long entries are kept; None: for ever."""

    def __init__(self, default: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self._default = default
        self._layers: list[Layer] = []  # the newest first
        self._dropped: set[Any] = set()  # since the last cut, of keys that layers have
        self._writing: TableWriting | None = None  # of the newest layer, or of all
        self._merging: Iterator[tuple[Any, Any]] | None = None  # of the last but one layer into the last one

    def __missing__(self, key: Hashable) -> Any:
        """Return the entry of a layer, or the default without keeping it."""
        for layer in self._layers:  # as `_touch` does it, without a call: each key comes here once for each cut
            entry = layer.entries.get(key, MISSING)
            if entry is not MISSING and type(entry) in _UNCHANGING and not self._dropped:
                return entry
            if entry is not MISSING or key in layer.dropped:
                entry = self._touch(key)
                return self.default_of(key) if entry is MISSING else entry
        return self.default_of(key)

    def default_of(self, key: Hashable) -> Any:
        """Return what a key without an entry has: the default, or MISSING if there is none."""
        if type(key) not in _ALWAYS_KEYS:
            check_key(key)
        return MISSING if self._default is None else self._default()

    def find(self, key: Hashable) -> Any:
        """Return the entry of a key; MISSING if there is none."""
        entry = dict.get(self, key, MISSING)
        return self._touch(key) if entry is MISSING and self._layers else entry

    def put(self, key: Hashable, entry: Any) -> None:
        """Keep an entry."""
        if type(key) not in _ALWAYS_KEYS and key not in self:
            check_key(key)
        self[key] = entry

    def drop(self, key: Hashable) -> None:
        """Forget the entry of a key, if there is one."""
        dict.pop(self, key, None)
        if any(key in layer.entries for layer in self._layers):
            self._dropped.add(key)

    def entries(self) -> Iterable[tuple[Any, Any]]:
        """All keys and their entries. The table must not change meanwhile."""
        return self.plain().items()

    def keys_now(self) -> list[Any]:
        """All keys; the table may change meanwhile."""
        return list(self.plain())

    def plain(self) -> dict[Any, Any]:
        """All keys and their entries, as a dict that must not be changed.

        Values may leave the table by it, to be changed by others: those of a layer that is being stored are stored now.
        """
        if not self._layers:
            return self
        if self._writing is not None:
            self._writing.write_all()
        *above, lowest = self._layers
        everything = dict(lowest.entries)
        for layer in reversed(above):
            _put_over(everything, layer.entries, layer.dropped)
        _put_over(everything, self, self._dropped)
        return everything

    def fill(self, entries: Iterable[tuple[Any, Any]]) -> None:
        """Keep the entries of a snapshot in an empty table; their keys were checked when they were first seen."""
        known = entries.plain if isinstance(entries, TableEntries) else dict(entries)
        if known:
            self._layers = [Layer(0, known, set())]

    def take_over(self, other: KeyTable) -> None:
        """Be the table that `other` was; nobody uses that any more."""
        dict.update(self, other)
        self._layers, self._dropped, self._writing = other._layers, other._dropped, other._writing
        self._merging = other._merging

    @property
    def is_empty(self) -> bool:
        """Whether there is surely no entry."""
        return not self and not any(layer.entries for layer in self._layers)

    @property
    def has_layers(self) -> bool:
        """Whether there has been a cut, or a restore."""
        return bool(self._layers)

    # -- layers ---------------------------------------------------------------------------------------------

    def freeze(self, checkpoint: int, complete: int) -> list[Layer]:
        """Make a layer of all that was touched since the checkpoint `complete`; return all layers, the newest first.

        The layers of later checkpoints go into the new one: these have failed.
        """
        self._writing = self._merging = None
        frozen = Layer(checkpoint, dict.copy(self), self._dropped)
        dict.clear(self)
        self._dropped = set()
        while self._layers and self._layers[0].checkpoint > complete:
            below = self._layers.pop(0)
            below.take(frozen)
            frozen = below
        self._layers.insert(0, frozen)
        return self._layers

    def write(self, writing: TableWriting) -> None:
        """Layers are being stored: a value of theirs that can change in place is stored before it is given."""
        self._writing = writing

    def merge(self, complete: int, count: int) -> bool:
        """Bring the layers of complete checkpoints together, `count` entries at a time; return whether it is done."""
        while len(self._layers) > 1 and self._layers[-2].checkpoint <= complete:
            upper, lowest = self._layers[-2:]
            if self._merging is None:
                for key in upper.dropped:
                    lowest.entries.pop(key, None)
                self._merging = iter(upper.entries.items())
            some = dict(islice(self._merging, count))  # twice as fast as a list of pairs
            lowest.entries.update(some)
            if len(some) == count:
                return False
            lowest.checkpoint = upper.checkpoint
            del self._layers[-2]
            self._merging = None
        return True

    def _touch(self, key: Hashable) -> Any:
        """Return the entry that a layer has, for somebody who may change it."""
        if key in self._dropped:
            return MISSING
        for layer in self._layers:
            entry = layer.entries.get(key, MISSING)
            if entry is not MISSING:
                break
            if key in layer.dropped:
                return MISSING
        else:
            return MISSING
        if type(entry) not in _UNCHANGING:
            if self._writing is not None and layer in self._writing.layers:
                self._writing.save(key, entry)
            dict.__setitem__(self, key, entry)  # not that of a subclass: nobody has changed it so far
        return entry


def _put_over(everything: dict[Any, Any], entries: dict[Any, Any], dropped: Iterable[Any]) -> None:
    for key in dropped:
        everything.pop(key, None)
    everything.update(entries)


class ExpiringTable(KeyTable):
    """Entries are pairs of a value and the time up to which it is kept.

    Those whose time has passed are dropped by buckets: a bucket has the keys whose entries end about the same time.
    A key whose entry has been set anew meanwhile is put into a later bucket when its bucket comes.
    """

    __slots__ = ("_buckets", "_nexts", "_width_ms", "ttl_ms")

    ttl_ms: int

    def __init__(self, default: Callable[[], Any], ttl_ms: int) -> None:
        super().__init__(default)
        self.ttl_ms = ttl_ms
        self._width_ms = max(1, ttl_ms // 32)
        self._buckets: dict[int, set[Any]] = {}
        self._nexts: list[int] = []  # a heap of the buckets' numbers

    def put(self, key: Hashable, entry: tuple[Any, int]) -> None:
        """Keep a value up to a time."""
        if self.find(key) is MISSING:
            check_key(key)
            self._add(key, entry[1])
        self[key] = entry

    def take_over(self, other: KeyTable) -> None:
        """Be the table that `other` was."""
        super().take_over(other)
        for key, (_, end) in self.entries():
            self._add(key, end)

    def drop_until(self, now: int) -> None:
        """Drop the entries whose time has passed, about."""
        while self._nexts and self._nexts[0] * self._width_ms <= now:
            for key in self._buckets.pop(heappop(self._nexts)):
                entry = self.find(key)
                if entry is not MISSING and entry[1] <= now:
                    self.drop(key)
                elif entry is not MISSING:
                    self._add(key, entry[1])

    def _add(self, key: Hashable, end: int) -> None:
        number = -(-end // self._width_ms)
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
            heappush(self._nexts, number)
        bucket.add(key)


class TableEntries:
    """The entries of a table, as an operator gives them for a snapshot, and as it gets them back.

    At a cut they are those of a living `KeyTable`, which the cut freezes; in a restore those of a dict.
    """

    __slots__ = ("_table",)

    def __init__(self, table: dict[Any, Any]) -> None:
        self._table = table

    @property
    def live(self) -> KeyTable | None:
        """The table, if it is a living one."""
        return self._table if isinstance(self._table, KeyTable) else None

    @property
    def plain(self) -> dict[Any, Any]:
        """The entries by key."""
        return self._table.plain() if isinstance(self._table, KeyTable) else self._table

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self.plain.items())

    def __bool__(self) -> bool:
        return not self._table.is_empty if isinstance(self._table, KeyTable) else bool(self._table)

    def __reduce__(self) -> tuple[type[TableEntries], tuple[dict[Any, Any]]]:
        return TableEntries, (dict(self.plain),)

    def __repr__(self) -> str:
        return f"TableEntries({self.plain!r})"
