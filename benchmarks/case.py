"""What a benchmark is: the same work by hand and by the engine, and the bar for their ratio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

__all__ = ["Case", "Clock", "Figure", "Timed"]

Clock = Literal["cpu", "wall"]


class Figure(Enum):
    """What is made of the two sides."""

    SPEED = "speed"
    """The engine's speed in parts of the hand-written one; more is better."""
    TIMES = "times"
    """The engine's time as a multiple of the hand-written one; less is better."""
    GROWTH = "growth"
    """The engine's peak memory as a multiple of that for a tenth of the records; 1 is best."""
    CALLS = "calls"
    """As TIMES, of one call among many."""
    ITEMS = "items"
    """As SPEED, of one item among many."""

    @property
    def more_is_better(self) -> bool:
        """Whether the ratio is one of speeds."""
        return self in (Figure.SPEED, Figure.ITEMS)


@dataclass(frozen=True)
class Timed:
    """A result that comes with its own times.

    `wall_s` and `cpu_s` are seconds of one operation, the median one or the mean; `per_s` operations per second;
    `p99_s` the seconds that 99 % of them stay within. None: not measured.
    """

    result: Any
    wall_s: float
    per_s: float
    cpu_s: float | None = None
    p99_s: float | None = None


@dataclass(frozen=True)
class Case:
    """One comparison. `hand` and `flow` get what `prepare` made, and must give equal results.

    Attributes:
        what: one line for the table.
        size, quick_size: records (or calls) of a run that counts, and of one that only shows that it works.
        prepare: `prepare(size, folder)` makes the input, not measured; `folder` is empty and temporary.
        bar: the least speed, or the most times or growth; None: reported only.
        most_s: instead of a bar for the ratio, one for the engine's time alone, in seconds by wall.
        clock: which time the bar is for.
        same_process: both sides run in one process, one after the other.
    """

    name: str
    what: str
    size: int
    quick_size: int
    prepare: Callable[[int, Path], Any]
    hand: Callable[[Any], Any]
    flow: Callable[[Any], Any]
    figure: Figure = Figure.SPEED
    bar: float | None = None
    most_s: float | None = None
    clock: Clock = "cpu"
    rounds: int = 5
    same_process: bool = False
