"""Records that the program has or makes: a collection, or anything that can be looped over."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, ClassVar, TypeVar

from sage_flow.errors import PipelineError
from sage_flow.functions import END, Malformed, RuntimeContext, SourceSignal
from sage_flow.split_source import SplitReader, SplitSource
from sage_flow.splits import WHOLE, SplitEnd, SplitSignal

__all__ = ["CollectionSource", "IterableSource"]

T = TypeVar("T")

_BATCH = 4096  # records


class CollectionSource(SplitSource[T]):
    """The items of a list, tuple, range or other sequence, in order: one split, whose position is an index.

    >>> reader = CollectionSource(range(3)).reader("", 1)
    >>> reader.next_batch(), reader.next_batch(), reader.position()
    ([1, 2], END, 3)

    Raises:
        PipelineError: `items` is no sequence, or is a str or bytes, which is one value and not many.
    """

    default_name = "collection"
    bounded = True
    parallel = False
    _hands_over = True

    def __init__(self, items: Sequence[T]) -> None:
        if isinstance(items, (str, bytes, bytearray)):
            raise PipelineError(f"a {type(items).__name__} is one value, not a collection; put it in a list: [...]")
        if not isinstance(items, Sequence):
            kind = type(items).__name__
            cure = _rows_of(items) or "use from_iterable for other iterables"
            raise PipelineError(
                f"a collection of records is a list, tuple, range or other sequence, not a {kind}; {cure}"
            )
        self._items = items

    def _holds_records(self) -> bool:
        return True

    def splits(self) -> list[str]:
        return [WHOLE]

    def reader(self, split: str, position: int | None) -> SplitReader[T]:
        return _CollectionReader(self._items, position or 0)


class _CollectionReader(SplitReader[T]):
    def __init__(self, items: Sequence[T], position: int) -> None:
        if position > len(items):
            raise PipelineError(f"cannot continue at item {position} of a collection of {len(items)}")
        self._items = items
        self._rest = islice(items, position, None)
        self._position = position

    def next_batch(self) -> list[T] | SourceSignal:
        if type(self._items) is list:
            batch = self._items[self._position : self._position + _BATCH]
        else:  # islice, as a slice of some sequences is missing (a deque), of others no list
            batch = list(islice(self._rest, _BATCH))
        self._position += len(batch)
        return batch or END

    def position(self) -> int:
        return self._position


class IterableSource(SplitSource[T]):
    """What an iterable gives, one record at a time, so that a slow one never holds a record back: one split.

    A callable that is not itself iterable is a factory: every subtask that opens the source calls it
    for an iterable of its own. Only what gives the same records each time can be restored: the
    position is the number of records handed out, and a restore skips that many.

    Raises:
        PipelineError: the argument is neither iterable nor callable, or its call gave no iterable; or it is an
            iterator, and an earlier run or another source has read it; or it is a table or a text, of which a loop
            gives the columns or the characters.
    """

    default_name = "iterable"
    blocking = True
    parallel = False
    _hands_over = True  # a generator could not be copied anyway

    def __init__(self, iterable_or_factory: Iterable[T] | Callable[[], Iterable[T]]) -> None:
        given: Any = iterable_or_factory
        if not _is_iterable(given) and not callable(given):
            raise PipelineError(
                f"a {type(given).__name__} is not iterable; pass an iterable or a function that returns one"
                + _cure_for_async(given)
            )
        if _is_iterable(given):
            _check_gives_records(given)
        self._given = given
        self.bounded = isinstance(given, Sized)
        self._reading = _Reading()  # shared by the copies of all runs
        self._iterator: Iterator[T] | None = None
        self._reader: _IterableReader[T] | None = None

    def _holds_records(self) -> bool:
        return isinstance(self._given, Collection)

    def open(self, ctx: RuntimeContext) -> None:
        super().open(ctx)
        self._reader = None
        self._iterator = self._begin()  # an error belongs to the opening, before any record of the job

    def _begin(self) -> Iterator[T]:
        given: Any = self._given
        iterable = given if _is_iterable(given) else self._called(given)
        iterator: Iterator[T] = iter(iterable)
        if isinstance(iterable, Iterator):
            self._reading.begin(iterable)
        return iterator

    def _called(self, factory: Any) -> Any:
        """What the factory gives. Raises PipelineError if no records can be read from that."""
        iterable = factory()
        if not _is_iterable(iterable):
            name = getattr(factory, "__qualname__", repr(factory))
            raise PipelineError(
                f"{name} returned a {type(iterable).__name__}, which is not iterable; "
                "return a list or a generator" + _cure_for_async(iterable)
            )
        _check_gives_records(iterable)
        return iterable

    @property
    def iterator(self) -> Iterator[T] | None:
        """What was given, if it gives its items once: then no other source may read it."""
        return self._given if isinstance(self._given, Iterator) else None

    def splits(self) -> list[str]:
        return [WHOLE]

    def reader(self, split: str, position: int | None) -> _IterableReader[T]:
        iterator, self._iterator = self._iterator, None
        self._reader = _IterableReader(self._begin() if iterator is None else iterator, position or 0)
        return self._reader

    def next_batch(self) -> list[T] | SourceSignal | SplitSignal | Malformed:
        # Once for each record: the way through the base class would take as long as all the rest.
        if (reader := self._reader) is None:
            if not self._to_read:
                return END
            reader = self.reader(WHOLE, self._positions.get(WHOLE))
            self._readers[WHOLE] = reader
        for record in reader.iterator:
            reader.at += 1
            return [record]
        if self._readers.get(WHOLE) is not reader:
            return END  # close() has come meanwhile
        self._reader = None
        self._finish(WHOLE)
        return SplitEnd(WHOLE)

    def _position_after(self, batch: object) -> tuple[str, Any]:
        return super()._position_after(batch) if self._reader is None else (WHOLE, self._reader.at)

    def snapshot(self) -> dict[str, Any]:
        return super().snapshot() if self._reader is None else {WHOLE: self._reader.at}

    def close(self) -> None:
        """Close the generator, also while its thread waits for room: what it has open must not outlive the job."""
        if self._iterator is not None:
            _close(self._iterator)
        self._close_readers()


class _IterableReader(SplitReader[T]):
    def __init__(self, iterator: Iterator[T], position: int) -> None:
        self.iterator = iterator
        self.at = position
        skipped = sum(1 for _ in islice(iterator, position))
        if skipped < position:
            raise PipelineError(
                f"cannot continue after record {position}: the iterable gave only {skipped} this time; "
                "one that is restored must give the same records again"
            )

    def next_batch(self) -> list[T] | SourceSignal:
        for record in self.iterator:
            self.at += 1
            return [record]
        return END

    def position(self) -> int:
        return self.at

    def close(self) -> None:
        _close(self.iterator)


def _close(iterator: Iterator[Any]) -> None:
    close = getattr(iterator, "close", None)
    if close is None:
        return
    try:
        close()
    except ValueError as fault:
        # A cancelled job closes its source while the source's own thread is inside the generator.
        if "already executing" not in str(fault):
            raise


class _Reading:
    """Which iterator a source and the copies of all its runs read last. A process that gets a copy reads its own."""

    _lock: ClassVar = threading.Lock()
    _all: ClassVar[weakref.WeakSet[_Reading]] = weakref.WeakSet()

    def __init__(self) -> None:
        self._iterator: object = None
        with self._lock:
            self._all.add(self)

    def __reduce__(self) -> tuple[type[_Reading], tuple[()]]:
        return _Reading, ()

    def begin(self, iterator: Iterator[Any]) -> None:
        """Raises PipelineError if a source of this process has read the iterator: items would be missing."""
        with self._lock:
            if any(reading._iterator is iterator for reading in self._all):
                raise PipelineError(
                    f"a {type(iterator).__name__} can be read only once, and an earlier run or another source has read "
                    "this one; pass a function that creates a new one"
                )
            self._iterator = iterator


def _is_iterable(value: object) -> bool:
    return isinstance(value, Iterable) or hasattr(type(value), "__getitem__")


def _check_gives_records(iterable: Any) -> None:
    kind = type(iterable).__name__
    if isinstance(iterable, (str, bytes, bytearray)):
        raise PipelineError(f"a {kind} is one value, and iterating over it gives its parts; put it in a list: [...]")
    if not isinstance(iterable, Mapping) and (cure := _rows_of(iterable)):
        raise PipelineError(f"iterating over a {kind} gives its columns, not its rows; {cure}")


def _rows_of(value: Any) -> str | None:
    """How to get the records of what a loop would not give record by record; None: a loop does."""
    if isinstance(value, Mapping):
        return "pass its pairs: list(mapping.items())"
    if hasattr(value, "to_dicts"):  # polars
        return "pass its rows: frame.to_dicts()"
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # pandas
        return 'pass its rows: frame.to_dict("records")'
    if hasattr(value, "to_pylist") and hasattr(value, "column_names"):  # pyarrow
        return "pass its rows: table.to_pylist()"
    return None


def _cure_for_async(value: object) -> str:
    if not hasattr(type(value), "__aiter__"):
        return ""
    return "; an async iterator needs an event loop: read it in a Source with `blocking = True`"
