"""Keyed state: what a function remembers between the records of one key.

Each handle reads and writes the entry of the key of the record that is being processed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar, cast, overload

from sage_flow.errors import PipelineError
from sage_flow.runtime.key_table import MISSING, ExpiringTable, KeyTable, TableEntries, check_key
from sage_flow.runtime.parts import Entries
from sage_flow.timestamps import checked_duration, duration_text

__all__ = ["KeyedState", "ListState", "MapState", "ReducingState", "ValueState"]

K = TypeVar("K")
V = TypeVar("V")


class HasKey(Protocol):
    """Whoever knows the key of the record that is being processed, and refuses to tell it where there is none.

    `watermark_of` is None where records have no timestamps.
    """

    key: Any
    timestamp: int
    watermark_of: Callable[[], int] | None


def _ttl_text(ttl_ms: int | None) -> str:
    return "no ttl" if ttl_ms is None else f"a ttl of {duration_text(ttl_ms)}"


def default_factory(value: Any) -> Callable[[], Any]:
    """Return what makes a fresh default: `value` itself if it is a factory such as `list`, else a copy of it."""
    if callable(value):
        return cast("Callable[[], Any]", value)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return lambda: value
    return lambda: copy.deepcopy(value)


class _Handle:
    __slots__ = ("_context", "_table")

    def __init__(self, context: HasKey, table: KeyTable) -> None:
        self._context = context
        self._table = table

    def clear(self) -> None:
        """Forget the entry of this key."""
        self._table.drop(self._context.key)

    def _put(self, entry: Any) -> None:
        self._table.put(self._context.key, entry)

    def _find(self) -> Any:
        """The entry of this key, None if there is none."""
        key = self._context.key
        entry = self._table.find(key)
        if entry is MISSING:
            check_key(key)
            return None
        return entry


class ValueState(_Handle, Generic[V]):
    """One value per key. A value that was read and changed must be `set` to be kept."""

    __slots__ = ()

    def get(self) -> V:
        """Return the value of this key, or the default."""
        return self._table[self._context.key]  # type: ignore[no-any-return]

    def set(self, value: V) -> None:
        """Keep `value` for this key."""
        key = self._context.key
        if key not in self._table:
            check_key(key)
        self._table[key] = value


class ExpiringValue(ValueState[V]):
    """A value that is forgotten some time after it was set."""

    __slots__ = ("_ttl_ms", "_values", "_wall_ms")

    def __init__(self, context: HasKey, table: ExpiringTable, wall_ms: Callable[[], int]) -> None:
        super().__init__(context, table)
        self._values = table
        self._ttl_ms = table.ttl_ms
        self._wall_ms = wall_ms

    def get(self) -> V:
        """Return the value of this key, or the default."""
        key = self._context.key
        entry = self._values.find(key)
        if entry is MISSING or entry[1] <= self._now() or self._is_over(entry[1]):
            entry = (self._values.default_of(key),)
        value: V = entry[0]
        return value

    def set(self, value: V) -> None:
        """Keep `value` for this key, from now on."""
        now = self._now()
        self._values.put(self._context.key, (value, now + self._ttl_ms))
        # A record of an earlier time may still read what is over now, until the watermark has passed it.
        self._values.drop_until(now if self._context.watermark_of is None else self._context.watermark_of())

    def _is_over(self, end: int) -> bool:
        """What the watermark has passed is over also for a late record, whenever its bucket is looked at."""
        watermark_of = self._context.watermark_of
        return watermark_of is not None and end <= watermark_of()

    def _now(self) -> int:
        timestamp: int = self._wall_ms() if self._context.watermark_of is None else self._context.timestamp
        return timestamp


class ListState(_Handle, Generic[V]):
    """A list per key."""

    __slots__ = ()

    def append(self, value: V) -> None:
        """Add one value at the end."""
        self.extend((value,))

    def extend(self, values: Iterable[V]) -> None:
        """Add values at the end."""
        entries = self._find()
        if entries is None:
            self._put(list(values))
        else:
            entries.extend(values)

    def get(self) -> list[V]:
        """Return a copy of the list of this key, empty if there is none."""
        return list(self._find() or ())

    def set(self, values: Iterable[V]) -> None:
        """Replace the list of this key."""
        self._put(list(values))

    def __iter__(self) -> Iterator[V]:
        return iter(self.get())

    def __len__(self) -> int:
        return len(self._find() or ())


class MapState(_Handle, MutableMapping[K, V]):
    """A dict per key, used as a dict."""

    __slots__ = ()

    def _entries(self) -> dict[K, V]:
        return cast("dict[K, V]", self._find() or {})

    def __getitem__(self, name: K) -> V:
        return self._entries()[name]

    def __setitem__(self, name: K, value: V) -> None:
        entries = self._find()
        if entries is None:
            self._put({name: value})
        else:
            entries[name] = value

    def __delitem__(self, name: K) -> None:
        entries = self._entries()
        del entries[name]
        if not entries:
            _Handle.clear(self)

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._entries()))

    def __len__(self) -> int:
        return len(self._entries())

    def clear(self) -> None:
        """Forget the dict of this key."""
        _Handle.clear(self)


class ReducingState(_Handle, Generic[V]):
    """One value per key, into which others are folded by a function of two values."""

    __slots__ = ("_reduce",)

    def __init__(self, context: HasKey, table: KeyTable, reduce: Callable[[V, V], V]) -> None:
        super().__init__(context, table)
        self._reduce = reduce

    def add(self, value: V) -> V:
        """Fold `value` in and return the result."""
        before = self._table[self._context.key]
        after = value if before is MISSING else self._reduce(before, value)
        self._put(after)
        return after

    def get(self) -> V | None:
        """Return what was folded so far, None if nothing."""
        return cast("V | None", self._find())


class KeyedState:
    """`ctx.state`: the states of one operator, by name. Fetching a handle again is cheap."""

    def __init__(self, context: HasKey) -> None:
        self._context = context
        self._handles: dict[str, _Handle] = {}
        self._restored: dict[str, tuple[int | None, KeyTable]] = {}  # of names that nobody has asked for
        self.tables: dict[str, KeyTable] = {}
        self.wall_ms: Callable[[], int] = lambda: 0
        """The wall clock; the engine sets it."""

    def seen_by(self, context: HasKey) -> KeyedState:
        """The same states, for the key of another context."""
        other = KeyedState(context)
        other.tables, other.wall_ms, other._restored = self.tables, self.wall_ms, self._restored
        return other

    def parts(self) -> Iterator[tuple[str, int | None, Entries]]:
        """Yield the name, ttl and entries of each state, for a snapshot."""
        for name, (ttl_ms, table) in self._restored.items():
            yield name, ttl_ms, TableEntries(table)
        for name, table in self.tables.items():
            yield name, table.ttl_ms, TableEntries(table)

    def restore(self, name: str, ttl_ms: int | None, entries: Entries) -> None:
        """Fill a state, when somebody asks for it: only then its default is known."""
        restored = KeyTable()
        restored.fill(entries)
        self._restored[name] = ttl_ms, restored
        if name in self.tables:
            self._fill(name)

    def _fill(self, name: str) -> None:
        if name not in self._restored:
            return
        table = self.tables[name]
        ttl_ms, restored = self._restored.pop(name)
        if table.ttl_ms != ttl_ms:
            raise PipelineError(
                f"state {name!r} was kept with {_ttl_text(ttl_ms)} and cannot be restored with"
                f" {_ttl_text(table.ttl_ms)}: give it the ttl that it had, or another name"
            )
        table.take_over(restored)

    @overload
    def value(self, name: str, *, ttl: timedelta | None = ...) -> ValueState[Any]: ...
    @overload
    def value(self, name: str, default: V | Callable[[], V], *, ttl: timedelta | None = ...) -> ValueState[V]: ...
    def value(self, name: str, default: Any = None, *, ttl: timedelta | None = None) -> ValueState[Any]:
        """One value per key; `default` is a value (copied where it is mutable) or a factory such as `list`.

        `ttl`: so long after it was set a value is forgotten, and reads as the default. It counts in the time of the
        stream: that of the records (`ctx.timestamp`) where they have timestamps, else the wall clock.

        Raises PipelineError if the name has another kind of state, or another ttl.
        """
        known = self._handles.get(name)
        if ttl is None and type(known) is ValueState:
            return known
        ttl_ms = None if ttl is None else checked_duration(ttl, f"ttl= of state {name!r}")
        table = self.tables.get(name)
        if table is None:
            made = default_factory(default)
            table = self.tables[name] = KeyTable(made) if ttl_ms is None else ExpiringTable(made, ttl_ms)
            self._fill(name)
        elif table.ttl_ms != ttl_ms and isinstance(known, (ValueState, type(None))):
            raise PipelineError(
                f"state {name!r} has {_ttl_text(table.ttl_ms)} already and cannot have {_ttl_text(ttl_ms)}: say the"
                " same wherever it is used"
            )
        return self._handle(name, ValueState, self._new_value)

    def _new_value(self, table: KeyTable) -> ValueState[Any]:
        if isinstance(table, ExpiringTable):
            return ExpiringValue(self._context, table, self.wall_ms)
        return ValueState(self._context, table)

    def list(self, name: str) -> ListState[Any]:
        """A list per key."""
        return self._handle(name, ListState, lambda table: ListState(self._context, table))

    def map(self, name: str) -> MapState[Any, Any]:
        """A dict per key."""
        return self._handle(name, MapState, lambda table: MapState(self._context, table))

    def reducing(self, name: str, reduce: Callable[[Any, Any], Any]) -> ReducingState[Any]:
        """One value per key, folded by `reduce(before, value)`."""
        return self._handle(name, ReducingState, lambda table: ReducingState(self._context, table, reduce))

    def _handle(
        self,
        name: str,
        kind: type[H],
        make: Callable[[KeyTable], H],
        default: Callable[[], Any] | None = None,
    ) -> H:
        handle = self._handles.get(name)
        if handle is None:
            table = self.tables.get(name)
            if table is None:
                table = self.tables[name] = KeyTable(default)
                self._fill(name)
            handle = self._handles[name] = make(table)
        if not isinstance(handle, kind):
            raise PipelineError(f"state {name!r} is a {type(handle).__name__} already and cannot be a {kind.__name__}")
        return handle


H = TypeVar("H", bound=_Handle)
