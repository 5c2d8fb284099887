"""Records that the program has or makes: a collection, or anything that can be looped over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar, cast

from sage_flow.errors import PipelineError
from sage_flow.functions import END, RuntimeContext, Source, SourceSignal

__all__ = ["CollectionSource", "IterableSource"]

T = TypeVar("T")

_BATCH = 4096  # records


class CollectionSource(Source[T]):
    """The items of a list, tuple, range or other sequence, in order. The position is an index.

    >>> source = CollectionSource(range(3))
    >>> source.restore(1)
    >>> source.next_batch(), source.next_batch()
    ([1, 2], END)

    Raises:
        PipelineError: `items` is no sequence, or is a str or bytes, which is one value and not many.
    """

    def __init__(self, items: Sequence[T]) -> None:
        kind = type(items).__name__
        if isinstance(items, (str, bytes, bytearray)):
            raise PipelineError(f"a {kind} is one value, not a collection; put it in a list: [...]")
        if not isinstance(items, Sequence):
            raise PipelineError(
                f"a collection of records is a list, tuple, range or other sequence, not a {kind}; "
                "use from_iterable for what can only be looped over"
            )
        self._items = items
        self._position = 0

    def open(self, ctx: RuntimeContext) -> None:
        self.restore(0)

    def next_batch(self) -> list[T] | SourceSignal:
        if type(self._items) is list:
            batch = self._items[self._position : self._position + _BATCH]
        else:  # islice, as a slice of some sequences is missing (a deque), of others no list
            batch = list(islice(self._rest, _BATCH))
        self._position += len(batch)
        return batch or END

    def snapshot(self) -> int:
        return self._position

    def restore(self, position: int) -> None:
        if position > len(self._items):
            raise PipelineError(f"cannot continue at item {position} of a collection of {len(self._items)}")
        self._rest = islice(self._items, position, None)
        self._position = position


class IterableSource(Source[T]):
    """What an iterable gives, one record at a time, so that a slow one never holds a record back.

    A callable that is not itself iterable is a factory: every subtask that opens the source calls it
    for an iterable of its own. Only what gives the same records each time can be restored: the
    position is the number of records handed out, and a restore skips that many.

    Raises:
        PipelineError: the argument is neither iterable nor callable, or its call gave no iterable; or it is an
            iterator, and an earlier run has read it.
    """

    blocking = True

    def __init__(self, iterable_or_factory: Iterable[T] | Callable[[], Iterable[T]]) -> None:
        if not _is_iterable(iterable_or_factory) and not callable(iterable_or_factory):
            kind = type(iterable_or_factory).__name__
            raise PipelineError(f"a {kind} cannot be looped over; pass an iterable or a function that makes one")
        self._given = iterable_or_factory
        self._runs: list[bool] = []  # shared by the copies of all runs: of an iterator there can be one
        self._position = 0
        self._iterator: Iterator[T] | None = None

    def open(self, ctx: RuntimeContext) -> None:
        given: Any = self._given
        iterable = given if _is_iterable(given) else given()
        try:
            self._iterator = iter(iterable)
        except TypeError as fault:
            name = getattr(given, "__qualname__", repr(given))
            raise PipelineError(
                f"{name} returned a {type(iterable).__name__}, which cannot be looped over; "
                "return a list or a generator"
            ) from fault
        if self._iterator is given:
            if self._runs:
                raise PipelineError(
                    f"a {type(given).__name__} gives its items once, and an earlier run has read this one; "
                    "pass a function that makes it anew"
                )
            self._runs.append(True)
        self._position = 0

    def next_batch(self) -> list[T] | SourceSignal:
        try:
            record = next(cast("Iterator[T]", self._iterator))
        except StopIteration:
            return END
        self._position += 1
        return [record]

    def snapshot(self) -> int:
        return self._position

    def restore(self, position: int) -> None:
        skipped = sum(1 for _ in islice(cast("Iterator[T]", self._iterator), position))
        if skipped < position:
            raise PipelineError(
                f"cannot continue after record {position}: the iterable gave only {skipped} this time; "
                "one that is restored must give the same records again"
            )
        self._position = position

    def close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is None:
            return
        try:
            close()
        except ValueError as fault:
            # A cancelled job closes its source while the source's own thread is inside the generator.
            if "already executing" not in str(fault):
                raise


def _is_iterable(value: object) -> bool:
    return isinstance(value, Iterable) or hasattr(type(value), "__getitem__")
