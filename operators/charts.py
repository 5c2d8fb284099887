"""Charts made of letters."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["columns"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def columns(values: Sequence[float | None], *, height: int, most: float) -> list[str]:
    """Draw a column for each value, as `height` lines, the topmost first; a column for `most` fills them.

    A value that is there has at least the lowest mark, also when it is negative. None has no column.

    >>> for line in columns([0, 4, None, 16, 9], height=2, most=16):
    ...     print(repr(line))
    '   █▁'
    '▁▄ ██'
    """
    marks = [0 if value is None else min(max(round(value / most * height * 8), 1), height * 8) for value in values]
    return ["".join(_EIGHTHS[min(max(mark - 8 * below, 0), 8)] for mark in marks) for below in reversed(range(height))]
