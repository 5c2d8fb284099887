"""Aggregates: many records become one value, for windows and per key.

`aggregate(Max(f))` gives a value, `aggregate(bids=Count(), best=Max(f))` a dict. What is between the records and the
value is the *state*: windows merge the states of their panes, and sessions those of the sessions that they join. So a
result depends on the records and their order only, and not on how the engine has cut them into parts.

A sliding window may instead keep one state, add each new pane and subtract the one that it leaves. This is done for
ints only. With floats, 1e16 + 1.0 - 1e16 is 0.0: what was added to a larger number cannot be subtracted again. A
Fraction is exact, but would leave its type behind: 1 + Fraction(1, 2) - Fraction(1, 2) is no int.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Any, Generic, TypeVar, overload

from sage_flow.errors import InternalError, PipelineError
from sage_flow.plan.location import caller_location

__all__ = [
    "Aggregate",
    "Count",
    "CountDistinct",
    "Max",
    "Mean",
    "Min",
    "Sum",
    "ToList",
    "Top",
    "checked_aggregate",
]

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
V = TypeVar("V")


class Aggregate(ABC, Generic[T, A, R]):
    """How records of type T become a value of type R, by a state of type A, which pickles.

    `create` makes the state of no records, `add` brings in a record, `merge` joins two states, and `result` makes the
    value. It is one object for all keys and windows, so what belongs to one of them is in the state.

    A subclass may also have `subtract(state, older)`, which takes out of `state` what was merged into it first, and may
    change `state`, but not `older`. Results must be the same as without it; so floats cannot be subtracted.

    >>> class Product(Aggregate[int, int, int]):
    ...     def create(self):
    ...         return 1
    ...     def add(self, state, value):
    ...         return state * value
    ...     def merge(self, left, right):
    ...         return left * right
    ...     def result(self, state):
    ...         return state
    >>> collect(stream_of(2, 3, 4).key_by(lambda n: "all").fold(Product().create, Product().add, emit="final"))
    [('all', 24)]
    """

    @abstractmethod
    def create(self) -> A:
        """Return the state of no records, a new one each time."""

    @abstractmethod
    def add(self, state: A, value: T) -> A:
        """Return the state with one more record. It may change `state` and return it.

        If it raises, it must leave `state` as it was: with `on_error="skip"` the job goes on without the record.
        """

    @abstractmethod
    def merge(self, left: A, right: A) -> A:
        """Return the state of the records of both, those of `left` first. It may change `left`, but not `right`."""

    @abstractmethod
    def result(self, state: A) -> R:
        """Return the value. It must not change when the state does later: of a list, return a copy."""

    @property
    def can_subtract(self) -> bool:
        """Whether there is a `subtract(state, older)`."""
        return callable(getattr(self, "subtract", None))

    def is_exact(self, state: A) -> bool:
        """Whether what `state` contains may be subtracted. The engine asks it of both states of a `subtract`."""
        return True


class Count(Aggregate[Any, int, int]):
    """How many records there are."""

    def create(self) -> int:
        """0."""
        return 0

    def add(self, state: int, value: Any) -> int:
        """One more."""
        return state + 1

    def merge(self, left: int, right: int) -> int:
        """The sum of both."""
        return left + right

    def subtract(self, state: int, older: int) -> int:
        """The difference."""
        return state - older

    def result(self, state: int) -> int:
        """The count."""
        return state


class _OfValues(Aggregate[T, A, R]):
    """An aggregate over `function(record)`, or over the records themselves if there is no function."""

    def __init__(self, function: Callable[[T], Any] | None = None) -> None:
        if function is not None and not callable(function):
            raise PipelineError(
                f"{type(self).__name__} needs a function of a record, not {function!r}: write"
                f" {type(self).__name__}(lambda record: ...) ({caller_location()})"
            )
        self.function = function

    def _value(self, record: T) -> Any:
        return record if self.function is None else self.function(record)


class Sum(_OfValues[T, Any, V]):
    """The sum of `function(record)`, by default of the records, from 0."""

    @overload
    def __init__(self: Sum[T, T], function: None = None) -> None: ...

    @overload
    def __init__(self, function: Callable[[T], V]) -> None: ...

    def __init__(self, function: Any = None) -> None:
        super().__init__(function)

    def create(self) -> Any:
        """0."""
        return 0

    def add(self, state: Any, value: T) -> Any:
        """The state is the sum so far."""
        return state + self._value(value)

    def merge(self, left: Any, right: Any) -> Any:
        """The sum of both."""
        return left + right

    def is_exact(self, state: Any) -> bool:
        """Whether all numbers in it are ints: a sum with any other has another type, and keeps it."""
        return type(state) is int

    def subtract(self, state: Any, older: Any) -> Any:
        """The difference. Raises InternalError if one of them is no int."""
        return _difference(state, older)

    def result(self, state: Any) -> V:
        """The sum."""
        return state  # type: ignore[no-any-return]


class Mean(_OfValues[T, "tuple[Any, int]", float]):
    """The arithmetic mean of `function(record)`, by default of the records.

    The sum of ints is exact, however large it becomes. Fractions and Decimals give their own kind.
    """

    def __init__(self, function: Callable[[T], float] | None = None) -> None:
        super().__init__(function)

    def create(self) -> tuple[Any, int]:
        """The sum and the count of no records."""
        return 0, 0

    def add(self, state: tuple[Any, int], value: T) -> tuple[Any, int]:
        """The sum and the count with one more."""
        total, count = state
        return total + self._value(value), count + 1

    def merge(self, left: tuple[Any, int], right: tuple[Any, int]) -> tuple[Any, int]:
        """The sums of both."""
        return left[0] + right[0], left[1] + right[1]

    def is_exact(self, state: tuple[Any, int]) -> bool:
        """Whether all numbers in it are ints."""
        return type(state[0]) is int

    def subtract(self, state: tuple[Any, int], older: tuple[Any, int]) -> tuple[Any, int]:
        """The differences. Raises InternalError if one of the sums is no int."""
        return _difference(state[0], older[0]), state[1] - older[1]

    def result(self, state: tuple[Any, int]) -> float:
        """The mean. Raises ValueError if there are no records."""
        total, count = state
        if not count:
            raise _of_nothing(self)
        return total / count  # type: ignore[no-any-return]


class _Extreme(_OfValues[T, Any, V]):
    """The state is a tuple of the value, empty if there is none.

    A NaN counts only if there is nothing else. Otherwise the result would depend on where the records were cut into
    parts: a NaN is neither less nor greater than what it is compared with.
    """

    @abstractmethod
    def _is_better(self, value: Any, best: Any) -> bool: ...

    def create(self) -> tuple[V, ...]:
        """Nothing."""
        return ()

    def add(self, state: tuple[V, ...], value: T) -> tuple[V, ...]:
        """The better one of the value so far and that of the record; the one so far if they are equal."""
        return self._better(state, self._value(value))

    def merge(self, left: tuple[V, ...], right: tuple[V, ...]) -> tuple[V, ...]:
        """The better one of both; the left one if they are equal."""
        return self._better(left, right[0]) if right else left

    def result(self, state: tuple[V, ...]) -> V:
        """The value. Raises ValueError if there are no records."""
        if not state:
            raise _of_nothing(self)
        return state[0]

    def _better(self, state: tuple[V, ...], value: V) -> tuple[V, ...]:
        if not state or self._is_better(value, state[0]) or state[0] != state[0]:
            return (value,)
        return state


class Min(_Extreme[T, V]):
    """The least `function(record)`, by default the least record; the first of equal ones. NaNs are passed over."""

    @overload
    def __init__(self: Min[T, T], function: None = None) -> None: ...

    @overload
    def __init__(self, function: Callable[[T], V]) -> None: ...

    def __init__(self, function: Any = None) -> None:
        super().__init__(function)

    def _is_better(self, value: Any, best: Any) -> bool:
        return bool(value < best)


class Max(_Extreme[T, V]):
    """The greatest `function(record)`, by default the greatest record; the first of equal ones. NaNs are passed over.

    >>> longest = Max(len)
    >>> longest.result(longest.add(longest.add(longest.create(), "to"), "be or"))
    5
    """

    @overload
    def __init__(self: Max[T, T], function: None = None) -> None: ...

    @overload
    def __init__(self, function: Callable[[T], V]) -> None: ...

    def __init__(self, function: Any = None) -> None:
        super().__init__(function)

    def _is_better(self, value: Any, best: Any) -> bool:
        return bool(value > best)


class _Marker(Enum):
    NAN = "NaN"


NAN = _Marker.NAN
"""Stands for all NaNs in the state of a CountDistinct."""


class CountDistinct(_OfValues[T, "set[Hashable]", int]):
    """How many different values of `function(record)` there are, by default different records.

    Values are different if they are not equal, so 1, 1.0 and True are one value, and all NaNs are one. It is exact: the
    state has all values.
    """

    def __init__(self, function: Callable[[T], Hashable] | None = None) -> None:
        super().__init__(function)

    def create(self) -> set[Hashable]:
        """No values."""
        return set()

    def add(self, state: set[Hashable], value: T) -> set[Hashable]:
        """With the value of the record. Raises TypeError if it is not hashable."""
        one = self._value(value)
        hash(one)  # says what is wrong with an array, of which the comparison below would say something else
        # A set knows a NaN by its identity, which a pickled state does not keep.
        state.add(one if one == one else NAN)
        return state

    def merge(self, left: set[Hashable], right: set[Hashable]) -> set[Hashable]:
        """The values of both."""
        left |= right
        return left

    def result(self, state: set[Hashable]) -> int:
        """The count."""
        return len(state)


class Top(Aggregate[T, Any, "list[T]"]):
    """The `n` records with the largest `by(record)`, the largest first; of equal ones those that came first.

    Records whose `by` is NaN come last.

    >>> longest = Top(2, by=len)
    >>> state = longest.create()
    >>> for word in ("to", "be", "or", "not"):
    ...     state = longest.add(state, word)
    >>> longest.result(state)
    ['not', 'to']
    """

    def __init__(self, n: int, by: Callable[[T], Any]) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise PipelineError(f"n of Top must be a whole number of at least 1, not {n!r} ({caller_location()})")
        if not callable(by):
            raise PipelineError(
                f"by of Top must be a function of a record, not {by!r}: write Top({n}, by=lambda record: ...)"
                f" ({caller_location()})"
            )
        self.n = n
        self.by = by

    def create(self) -> list[tuple[Any, T]]:
        """No records."""
        return []

    def add(self, state: list[tuple[Any, T]], value: T) -> list[tuple[Any, T]]:
        """The state has at most `n` pairs, what `by` returned and the record, as they are in the result."""
        self._insert(state, self.by(value), value)
        return state

    def merge(self, left: list[tuple[Any, T]], right: list[tuple[Any, T]]) -> list[tuple[Any, T]]:
        """The best of both; those of `left` came first."""
        for measure, value in right:
            if not self._insert(left, measure, value):
                break  # the others are no larger
        return left

    def result(self, state: list[tuple[Any, T]]) -> list[T]:
        """The records."""
        return [value for _, value in state]

    def _insert(self, state: list[tuple[Any, T]], measure: Any, value: T) -> bool:
        """Put it behind all that are not smaller. Returns False if it is not among the best."""
        if len(state) == self.n and not _is_less(state[-1][0], measure):
            return False
        low, high = 0, len(state)
        while low < high:
            middle = (low + high) // 2
            if _is_less(state[middle][0], measure):
                high = middle
            else:
                low = middle + 1
        state.insert(low, (measure, value))
        del state[self.n :]
        return True


class ToList(_OfValues[T, Any, "list[V]"]):
    """All `function(record)`, by default all records, as a list in the order of arrival. The state is as long."""

    @overload
    def __init__(self: ToList[T, T], function: None = None) -> None: ...

    @overload
    def __init__(self, function: Callable[[T], V]) -> None: ...

    def __init__(self, function: Any = None) -> None:
        super().__init__(function)

    def create(self) -> list[V]:
        """An empty list."""
        return []

    def add(self, state: list[V], value: T) -> list[V]:
        """With the value of the record at the end."""
        state.append(self._value(value))
        return state

    def merge(self, left: list[V], right: list[V]) -> list[V]:
        """The values of `left`, then those of `right`."""
        left += right
        return left

    def result(self, state: list[V]) -> list[V]:
        """A copy of the list."""
        return list(state)


# --- for the engine ------------------------------------------------------------------------------------------


class Several(Aggregate[Any, "list[Any]", "dict[str, Any]"]):
    """Several aggregates by name, whose values become a dict: `aggregate(bids=Count(), best=Max(f))`."""

    def __init__(self, **aggregates: Aggregate[Any, Any, Any]) -> None:
        if not aggregates:
            raise PipelineError(f"aggregate() needs an aggregate: write aggregate(Count()) ({caller_location()})")
        self.names = tuple(aggregates)
        self.parts = [checked_aggregate(aggregate, name) for name, aggregate in aggregates.items()]

    def create(self) -> list[Any]:
        """A state of each."""
        return [part.create() for part in self.parts]

    def add(self, state: list[Any], value: Any) -> list[Any]:
        """Each with one more record; if one raises, all that do not change their states in place stay without it."""
        return [part.add(one, value) for part, one in zip(self.parts, state)]

    def merge(self, left: list[Any], right: list[Any]) -> list[Any]:
        """Each merged."""
        return [part.merge(one, other) for part, one, other in zip(self.parts, left, right)]

    @property
    def can_subtract(self) -> bool:
        """Whether all can."""
        return all(part.can_subtract for part in self.parts)

    def is_exact(self, state: list[Any]) -> bool:
        """Whether all are."""
        return all(part.is_exact(one) for part, one in zip(self.parts, state))

    def subtract(self, state: list[Any], older: list[Any]) -> list[Any]:
        """Each subtracted."""
        parts: list[Any] = self.parts
        return [part.subtract(one, other) for part, one, other in zip(parts, state, older)]

    def result(self, state: list[Any]) -> dict[str, Any]:
        """The value of each, by its name."""
        return {name: part.result(one) for name, part, one in zip(self.names, self.parts, state)}


def checked_aggregate(given: Any, name: str = "aggregate") -> Aggregate[Any, Any, Any]:
    """Return what a user gave as an aggregate. Raises PipelineError if it is none."""
    if isinstance(given, Aggregate):
        return given
    cure = f"{given.__name__}(...)" if isinstance(given, type) and issubclass(given, Aggregate) else "Count() or Max(f)"
    raise PipelineError(f"{name} must be an Aggregate, not {given!r}: write {cure} ({caller_location()})")


def _difference(total: Any, older: Any) -> int:
    if type(total) is int and type(older) is int:
        return total - older
    raise InternalError(f"{older!r} was to be subtracted from {total!r}, but only ints are subtracted")


def _is_less(one: Any, other: Any) -> bool:
    """Whether it is less; a NaN, which does not equal itself, is less than all else."""
    return bool(one < other or (one != one and other == other))


def _of_nothing(aggregate: Aggregate[Any, Any, Any]) -> ValueError:
    return ValueError(f"{type(aggregate).__name__} has no value without records")
