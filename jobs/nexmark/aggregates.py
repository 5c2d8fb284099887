"""Two aggregates that the engine does not bring, written as users write theirs; and the days and ranks of rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from nexmark.model import Bid
from sage_flow.aggregates import Aggregate

__all__ = ["RANKS", "Highest", "Where", "day_of"]

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


class Highest(Aggregate[T, "list[T]", "list[T]"]):
    """All records with the greatest `by(record)`. The state is a list of those so far.

    >>> longest = Highest(len)
    >>> state = longest.create()
    >>> for word in ("to", "not", "be", "and"):
    ...     state = longest.add(state, word)
    >>> longest.result(state)
    ['not', 'and']
    """

    def __init__(self, by: Callable[[T], Any]) -> None:
        self._by = by

    def create(self) -> list[T]:
        """No records."""
        return []

    def add(self, state: list[T], value: T) -> list[T]:
        """With one more record, if none is greater."""
        return self.merge(state, [value])

    def merge(self, left: list[T], right: list[T]) -> list[T]:
        """The greater records; both if they are equal."""
        if not left or not right:
            return left or list(right)
        one, other = self._by(left[0]), self._by(right[0])
        if one == other:
            left += right
        return left if one >= other else list(right)

    def result(self, state: list[T]) -> list[T]:
        """A copy of the list."""
        return list(state)


class Where(Aggregate[T, A, R]):
    """An aggregate of the records for which `condition(record)` is true.

    >>> from sage_flow.aggregates import Count
    >>> long_words = Where(lambda word: len(word) > 2, Count())
    >>> long_words.result(long_words.add(long_words.add(long_words.create(), "to"), "not"))
    1
    """

    def __init__(self, condition: Callable[[T], Any], aggregate: Aggregate[T, A, R]) -> None:
        self._condition = condition
        self._aggregate = aggregate

    def create(self) -> A:
        """The state of the aggregate."""
        return self._aggregate.create()

    def add(self, state: A, value: T) -> A:
        """With one more record, if the condition is true."""
        return self._aggregate.add(state, value) if self._condition(value) else state

    def merge(self, left: A, right: A) -> A:
        """Merged by the aggregate."""
        return self._aggregate.merge(left, right)

    def result(self, state: A) -> R:
        """The value of the aggregate."""
        return self._aggregate.result(state)


RANKS: dict[int, Callable[[Bid], bool]] = {
    1: lambda bid: bid["price"] < 10_000,
    2: lambda bid: 10_000 <= bid["price"] < 1_000_000,
    3: lambda bid: bid["price"] >= 1_000_000,
}
"""Whether a bid has a rank, by its price in cents."""


def day_of(timestamp: int) -> str:
    """Return the day of a timestamp in UTC.

    >>> day_of(-1)
    '1969-12-31'
    """
    return (datetime(1970, 1, 1) + timedelta(milliseconds=timestamp)).date().isoformat()
