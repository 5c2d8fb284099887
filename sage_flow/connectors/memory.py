"""Records that the program has or makes: a collection, or anything that can be looped over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sage_flow.errors import PipelineError
from sage_flow.functions import END, Source, SourceSignal

if TYPE_CHECKING:
    from sage_flow.context import RuntimeContext

__all__ = ["CollectionSource", "IterableSource"]

T = TypeVar("T")

_BATCH = 1024  # records


class CollectionSource(Source[T]):
    """The items of a list, tuple, range or other sequence, in order. The position is an index.

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
        # An iterator and not slices: not every sequence has slices (a deque has none).
        batch = list(islice(self._rest, _BATCH))
        self._position += len(batch)
        return batch or END

    def snapshot(self) -> int:
        return self._position

    def restore(self, position: int) -> None:
        self._rest = iter(self._items)
        _skip(self._rest, position)
        self._position = position


class IterableSource(Source[T]):
    """What an iterable gives, one record at a time, so that a slow one never holds a record back.

    A callable that is not itself iterable is a factory: every subtask that opens the source calls it
    for an iterable of its own. Only what gives the same records each time can be restored: the
    position is the number of records handed out, and a restore skips that many.

    Raises:
        PipelineError: the argument is neither iterable nor callable, or its call gave no iterable.
    """

    blocking = True

    def __init__(self, iterable_or_factory: Iterable[T] | Callable[[], Iterable[T]]) -> None:
        if not _is_iterable(iterable_or_factory) and not callable(iterable_or_factory):
            kind = type(iterable_or_factory).__name__
            raise PipelineError(
                f"a {kind} cannot be looped over; pass an iterable or a function that makes one"
            )
        self._given = iterable_or_factory
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
        _skip(cast("Iterator[T]", self._iterator), position)
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


def _skip(records: Iterator[Any], count: int) -> None:
    skipped = sum(1 for _ in islice(records, count))
    if skipped < count:
        raise PipelineError(
            f"cannot continue after record {count}: the source now gives only {skipped} records; "
            "it must give the same records after a restart"
        )
