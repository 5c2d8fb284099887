"""Keyed state: what a function remembers between the records of one key.

Each handle reads and writes the entry of the key of the record that is being processed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, MutableMapping
from typing import Any, Generic, Protocol, TypeVar, cast

from sage_flow.errors import PipelineError
from sage_flow.keys import stable_hash

__all__ = ["KeyTable", "KeyedState", "ListState", "MapState", "ReducingState", "ValueState"]

K = TypeVar("K")
V = TypeVar("V")


MISSING: Any = object()


_ALWAYS_KEYS = frozenset({int, str, bytes, bool})
"""Types whose every value has a stable hash: to compute it only to see that it exists would cost most of a new key."""


def check_key(key: Any) -> None:
    """Raises InvalidKeyError if `key` cannot place a record."""
    if type(key) not in _ALWAYS_KEYS:
        stable_hash(key)


class HasKey(Protocol):
    """Whoever knows the key of the record that is being processed, and refuses to tell it where there is none."""

    key: Any


class KeyTable(dict[Any, Any]):
    """The entries of one state, by key. A key that cannot be placed is refused when it is first seen,
    also at parallelism 1, where routing never hashes it."""

    __slots__ = ("_default",)

    def __init__(self, default: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self._default = default

    def __missing__(self, key: Hashable) -> Any:
        """Return the default without keeping it."""
        check_key(key)
        return MISSING if self._default is None else self._default()


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

    @property
    def _key(self) -> Any:
        return self._context.key

    def clear(self) -> None:
        """Forget the entry of this key."""
        self._table.pop(self._key, None)

    def _put(self, value: Any) -> None:
        key = self._key
        if key not in self._table:
            check_key(key)
        self._table[key] = value

    def _find(self) -> Any:
        """The entry of this key, None if there is none."""
        key = self._key
        entry = self._table.get(key)
        if entry is None:
            check_key(key)
        return entry


class ValueState(_Handle, Generic[V]):
    """One value per key. A value that was read and changed must be `set` to be kept."""

    __slots__ = ()

    def get(self) -> V:
        """Return the value of this key, or the default."""
        return cast("V", self._table[self._key])

    def set(self, value: V) -> None:
        """Keep `value` for this key."""
        self._put(value)


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
        before = self._table[self._key]
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
        self.tables: dict[str, KeyTable] = {}

    def seen_by(self, context: HasKey) -> KeyedState:
        """The same states, for the key of another context."""
        other = KeyedState(context)
        other.tables = self.tables
        return other

    def value(self, name: str, default: Any = None) -> ValueState[Any]:
        """One value per key; `default` is a value (copied where it is mutable) or a factory such as `list`."""
        return self._handle(name, ValueState, lambda table: ValueState(self._context, table), default_factory(default))

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
            table = self.tables.setdefault(name, KeyTable(default))
            handle = self._handles[name] = make(table)
        if not isinstance(handle, kind):
            raise PipelineError(f"state {name!r} is a {type(handle).__name__} already and cannot be a {kind.__name__}")
        return handle


H = TypeVar("H", bound=_Handle)
