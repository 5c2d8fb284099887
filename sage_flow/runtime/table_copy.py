"""Keys and their values as they are at a moment: two lists, which are made much faster than a list of pairs.

A million pairs are a million objects for the garbage collector to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["TableCopy"]


class TableCopy:
    """TableCopy of `keys` and `values`, which have one length."""

    __slots__ = ("keys", "values")

    def __init__(self, keys: list[Any], values: list[Any]) -> None:
        self.keys = keys
        self.values = values

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return zip(self.keys, self.values, strict=True)

    def part(self, start: int, stop: int) -> list[tuple[Any, Any]]:
        """The pairs from `start` to before `stop`, as a list."""
        return list(zip(self.keys[start:stop], self.values[start:stop], strict=True))

    def __repr__(self) -> str:
        return f"TableCopy({list(self)!r})"
