"""The keys and values of a table as they are at a moment: two lists, which are made much faster than one of pairs.

A million pairs are a million objects for the garbage collector to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["TableCopy"]


class TableCopy:
    """The pairs of a table. `key_list` and `value_list` have one length."""

    __slots__ = ("key_list", "value_list")

    def __init__(self, key_list: list[Any], value_list: list[Any]) -> None:
        self.key_list = key_list
        self.value_list = value_list

    def __len__(self) -> int:
        return len(self.key_list)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return zip(self.key_list, self.value_list, strict=True)

    def part(self, start: int, stop: int) -> list[tuple[Any, Any]]:
        """The pairs from `start` to before `stop`, as a list."""
        return list(zip(self.key_list[start:stop], self.value_list[start:stop], strict=True))

    def __repr__(self) -> str:
        return f"TableCopy({list(self)!r})"
