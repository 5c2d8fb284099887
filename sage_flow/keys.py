"""Which key group a key belongs to: the same on every Python and in every process.

Python's own `hash` of a str differs from process to process, so it cannot route records. The rule here:
a == b implies stable_hash(a) == stable_hash(b), for every type that may be a key.

Group to subtask is `group * parallelism // max_parallelism`: contiguous ranges, so that state can move
in slices when the parallelism changes (the key groups of Flink, FLIP-8).
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import numbers
import struct
import uuid
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import xxhash

from sage_flow.errors import InvalidKeyError

__all__ = ["group_to_subtask", "key_group", "stable_hash"]

K = TypeVar("K")

_digest = xxhash.xxh64_intdigest
_pack = struct.Struct("<q").pack


class StableHash:
    """`stable_hash(key) -> int` (64 bits, unsigned): equal keys give equal hashes, in every process.

    Takes numbers (bool, int, float, Decimal, Fraction, numpy's), str, bytes, enums, None, UUID, dates,
    datetimes (aware ones compare in UTC), timedelta, and tuples, frozensets and frozen dataclasses of these.

    >>> stable_hash(1) == stable_hash(1.0) == stable_hash(True)
    True
    >>> stable_hash(("AA", 1)) == stable_hash(("AA", 1.0))
    True

    Raises:
        InvalidKeyError: the key is NaN, unhashable, or of another type; `register` adds a type.
    """

    def __init__(self) -> None:
        self._registered: dict[type, Callable[[Any], Hashable]] = {}

    def register(self, key_type: type[K], as_key: Callable[[K], Hashable]) -> None:
        """Let instances of `key_type` be keys, hashed as `as_key(instance)`.

        `as_key` must give equal values for equal instances, e.g. a tuple of the fields that `__eq__` compares.
        Register in the module that defines the type, so that every worker process does.
        """
        self._registered[key_type] = as_key

    def __call__(self, key: Hashable) -> int:
        if isinstance(key, str):
            return _digest(key.encode("utf-8", "surrogatepass"))
        if isinstance(key, (int, float)):  # the commonest numbers, without asking the ABC
            return self._number(key)
        if isinstance(key, bytes):
            return _digest(key, seed=1)
        if isinstance(key, tuple):
            return _combine("tuple", [self(item) for item in key])
        return self._rarer(key)

    def _number(self, key: Any) -> int:
        if not _equals_itself(key):
            raise InvalidKeyError("NaN cannot be a key: it equals nothing, not even itself; map it to None first")
        return _digest(_pack(hash(key)))

    def _rarer(self, key: Any) -> int:
        kind = type(key)
        for known in kind.__mro__[:-1]:
            if known in self._registered:
                return _combine(known.__qualname__, [self(self._registered[known](key))])
        if key is None:
            return _combine("None", [])
        if isinstance(key, numbers.Number) and not isinstance(key, complex):
            return self._number(key)
        if _is_bool_of_numpy(kind):  # equals True or False, and yet is no Number
            return self._number(bool(key))
        if isinstance(key, enum.Flag):  # a combination has a name only since Python 3.11
            return _combine(f"flag {kind.__qualname__}", [self(key.value)])
        if isinstance(key, enum.Enum):
            return _combine(f"enum {kind.__qualname__}.{key.name}", [])
        if isinstance(key, frozenset):
            return _combine("frozenset", sorted(self(item) for item in key))
        if isinstance(key, uuid.UUID):
            return _digest(key.bytes, seed=2)
        if isinstance(key, (datetime.datetime, datetime.timedelta)) and not _equals_itself(key):
            raise InvalidKeyError("NaT cannot be a key: it equals nothing, not even itself; map it to None first")
        if isinstance(key, datetime.datetime):
            return _combine("datetime", [self._number(_microseconds(key))])
        if isinstance(key, datetime.date):
            return _combine("date", [key.toordinal()])
        if isinstance(key, datetime.timedelta):
            return _combine("timedelta", [self._number(part) for part in (key.days, key.seconds, key.microseconds)])
        if dataclasses.is_dataclass(kind) and _compares_by_frozen_fields(kind):
            fields = [getattr(key, field.name) for field in dataclasses.fields(kind) if field.compare]
            return _combine(kind.__qualname__, [self(value) for value in fields])
        raise InvalidKeyError(_refusal(key))


def _combine(tag: str, parts: list[int]) -> int:
    return _digest(tag.encode() + b"\0" + b"".join(part.to_bytes(8, "little") for part in parts), seed=3)


def _equals_itself(key: Any) -> bool:
    try:
        return bool(key == key)
    except ArithmeticError:  # a signalling NaN
        return False


def _is_bool_of_numpy(kind: type) -> bool:
    """By its name, which is `bool` since numpy 2: numpy is not imported for it."""
    return kind.__module__ == "numpy" and kind.__name__ in {"bool", "bool_"}


def _microseconds(moment: datetime.datetime) -> int:
    """Since the year 1, in UTC where the moment is aware. As in comparisons, `fold` does not count."""
    seconds = (moment.toordinal() * 24 + moment.hour) * 3600 + moment.minute * 60 + moment.second
    offset = moment.replace(fold=0).utcoffset() or datetime.timedelta()
    return seconds * 1_000_000 + moment.microsecond - offset // datetime.timedelta(microseconds=1)


def _compares_by_frozen_fields(kind: Any) -> bool:
    params = kind.__dataclass_params__
    generated = getattr(kind.__eq__, "__code__", None)  # not one of the user's own, which may compare otherwise
    return bool(params.frozen and params.eq and generated and generated.co_filename == "<string>")


def _refusal(key: Any) -> str:
    kind = type(key).__qualname__
    if type(key).__hash__ is None:
        cure = {"list": "use a tuple", "set": "use a frozenset", "dict": "use a tuple of its items"}.get(
            kind, "use a tuple of its fields"
        )
        return f"a key of type {kind} is not hashable: {cure}"
    return (
        f"a key of type {kind} has no stable hash: use a str, a number or a tuple of its fields,"
        f" or tell how it compares with stable_hash.register({kind}, lambda key: ...)"
    )


stable_hash = StableHash()


def key_group(key: Hashable, max_parallelism: int) -> int:
    """Return the key group of `key`, in [0, max_parallelism)."""
    return stable_hash(key) % max_parallelism


def group_to_subtask(group: int, parallelism: int, max_parallelism: int) -> int:
    """Return the index of the subtask that owns `group`."""
    return group * parallelism // max_parallelism
