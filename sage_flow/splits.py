"""What a source says about its splits: the parts that it reads, such as files or partitions, each in its own order.

Time is counted for each split apart (`assign_timestamps`): the slowest one counts, so files that are read one after
another, and partitions of different age, lose no records. A source that says nothing has one split, "".

A source names in `splits_read()` what it is going to read, sets `split` to the name of the one that a batch is from,
and may return one of these signals in place of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

__all__ = ["FINISHED", "SplitEnd", "SplitFound", "SplitIdle", "SplitSignal", "SplitWatermark", "WHOLE"]

WHOLE = ""
"""The only split of a source that says nothing about splits."""


class _Progress(Enum):
    FINISHED = "finished"

    def __repr__(self) -> str:
        return self.name


FINISHED: Literal[_Progress.FINISHED] = _Progress.FINISHED
"""The position of a split that was read to its end."""


@dataclass(frozen=True, slots=True)
class SplitEnd:
    """Nothing more comes of this split."""

    split: str = WHOLE


@dataclass(frozen=True, slots=True)
class SplitIdle:
    """This split does not hold the time of the others until its next record or watermark."""

    split: str = WHOLE


@dataclass(frozen=True, slots=True)
class SplitWatermark:
    """No record with a timestamp before `timestamp` (ms since the epoch) is expected of this split."""

    timestamp: int
    split: str = WHOLE


@dataclass(frozen=True, slots=True)
class SplitFound:
    """This split was found while the job runs. It holds the time of the others until it has a time of its own."""

    split: str


SplitSignal = SplitEnd | SplitFound | SplitIdle | SplitWatermark
