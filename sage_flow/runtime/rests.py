"""What a source has given and its subtask has not processed when it cuts: the rests of batches, by split.

A rest goes before everything else of its split. Of a source with splits it goes to whoever reads the split after a
restore; of another source it stays with the position of its subtask.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sage_flow.functions import Source
from sage_flow.runtime.parts import Parts
from sage_flow.splits import WHOLE

__all__ = ["Rest", "keep_rests", "kept_rests"]

Rest = tuple[str, list[Any]]
"""The name of a split, and records of it."""

_REST = "rest"  # in the parts of a source without splits


def keep_rests(parts: Parts, source: Source[Any], rests: Iterable[Rest]) -> None:
    """Add them to the parts of a source, in their order."""
    if source.splits_read() is None:
        parts.own[_REST] = [[record for _, records in rests for record in records]]
        return
    for split, records in rests:
        parts.rests[split] = parts.rests.get(split, []) + records


def kept_rests(parts: Parts, source: Source[Any]) -> list[Rest]:
    """Return those that are for this subtask."""
    mine = source.splits_read()
    if mine is None:
        return [(WHOLE, records) for records in parts.own.get(_REST, ()) if records]
    read = set(mine)
    return [(split, records) for split, records in parts.rests.items() if records and split in read]
