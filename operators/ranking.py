"""The first n of a stream, in an order."""

from __future__ import annotations

from bisect import insort_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from sage_flow import DataStream

__all__ = ["Leaders", "first"]

T = TypeVar("T")


@dataclass(frozen=True)
class Leaders(Generic[T]):
    """A function for `fold`: keeps the `n` values with the least `order(value)`, least first, as a tuple.

    Of equal ones those that came first stay.

    >>> leaders = Leaders(2, order=len)
    >>> leaders(leaders(("to", "be"), "a"), "or")
    ('a', 'to')
    """

    n: int
    order: Callable[[T], Any]

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be at least 1, not {self.n}")

    def __call__(self, leaders: tuple[T, ...], value: T) -> tuple[T, ...]:
        if len(leaders) == self.n and not self.order(value) < self.order(leaders[-1]):
            return leaders
        ranked = list(leaders)
        insort_right(ranked, value, key=self.order)
        return tuple(ranked[: self.n])


def first(stream: DataStream[T], n: int, *, order: Callable[[T], Any], name: str | None = None) -> DataStream[T]:
    """The `n` records of a stream with the least `order(record)`, least first, when the stream has ended.

    Where subtasks work in parallel, `order` decides which of two records is first only if it tells them apart.

    >>> collect(first(stream_of("bb", "a", "ccc"), 2, order=len))
    ['a', 'bb']
    """
    leaders = stream.key_by(lambda record: 0).fold((), Leaders(n, order), emit="final", name=name, parallelism=1)
    return leaders.flat_map(lambda pair: pair[1], name=name and f"{name} in order", parallelism=1)
