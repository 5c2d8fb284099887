"""Windows over event time: which there are, which of them a timestamp belongs to, and what they give.

A window has the timestamps from its `start` up to, but not including, its `end`. Tumbling and sliding windows begin at
the multiples of their slide since 1970, moved by `offset`; before 1970, too. The state of both is kept by *pane*: the
longest spans of which every window is made, so a record is counted once and not once per window. Sessions have no grid:
the records of a key, and the gaps between them, make them.

Pure. `Window` and its subclasses are values that the plan carries to the subtasks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, Literal, TypeVar

from typing_extensions import NamedTuple  # the one of `typing` cannot be generic before Python 3.11

from sage_flow.errors import PipelineError
from sage_flow.plan.location import caller_location
from sage_flow.timestamps import checked_duration, duration_text, utc_datetime

__all__ = [
    "AlignedWindow",
    "Firing",
    "SessionWindow",
    "SlidingWindow",
    "TimeSpan",
    "Timer",
    "TumblingWindow",
    "Window",
    "WindowResult",
]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Firing = Literal["early", "on_time", "late"]
"""Why a result of a window was given: before its end (`early_every`), at its end, or for a late record."""


# --- windows -------------------------------------------------------------------------------------------------


class Window(ABC):
    """What `window()` takes: a `TumblingWindow`, a `SlidingWindow` or a `SessionWindow`. It cannot be changed."""

    @abstractmethod
    def __repr__(self) -> str: ...


@dataclass(frozen=True, init=False, repr=False)
class AlignedWindow(Window):
    """A tumbling or sliding window.

    Attributes, in ms:
        size_ms: how long a window is.
        slide_ms: from the start of one window to the start of the next.
        offset_ms: the start of one of the windows, the one in [0, slide_ms).
        pane_ms: the length of a pane, the greatest common divisor of size and slide.
    """

    size_ms: int
    slide_ms: int
    offset_ms: int
    pane_ms: int

    def window_starts(self, timestamp: int) -> range:
        """Return the starts of the windows that contain `timestamp`, in order; none in a gap between windows.

        >>> list(SlidingWindow(timedelta(seconds=10), timedelta(seconds=4)).window_starts(9_000))
        [0, 4000, 8000]
        """
        past = (
            timestamp - self.offset_ms
        ) % self.slide_ms  # also right for negative times: Python's % is never negative
        last = timestamp - past
        count = -((past - self.size_ms) // self.slide_ms)  # rounded up
        return range(last - (count - 1) * self.slide_ms, last + 1, self.slide_ms)

    def pane_start(self, timestamp: int) -> int:
        """Return the start of the pane that contains `timestamp`.

        >>> SlidingWindow(timedelta(seconds=10), timedelta(seconds=4)).pane_start(-1)
        -2000
        """
        return timestamp - (timestamp - self.offset_ms) % self.pane_ms

    def pane_starts(self, start: int) -> range:
        """Return the starts of the panes of the window that begins at `start`, in order.

        >>> list(SlidingWindow(timedelta(seconds=10), timedelta(seconds=4)).pane_starts(4_000))
        [4000, 6000, 8000, 10000, 12000]
        """
        return range(start, start + self.size_ms, self.pane_ms)

    def _measure(self, size: timedelta, slide: timedelta, offset: timedelta) -> None:
        size_ms, slide_ms = checked_duration(size, "size"), checked_duration(slide, "slide")
        _set(self, size_ms=size_ms, slide_ms=slide_ms, pane_ms=math.gcd(size_ms, slide_ms))
        _set(self, offset_ms=checked_duration(offset, "offset", negative=True) % slide_ms)

    def _offset_text(self) -> str:
        return f", offset {duration_text(self.offset_ms)}" if self.offset_ms else ""


class TumblingWindow(AlignedWindow):
    """Windows of one `size`, each beginning where the one before ends.

    offset: by how much they begin later than the multiples of `size` since 1970. Days begin at midnight UTC; with
    `offset=timedelta(hours=5)` they begin at 05:00 UTC.

    >>> TumblingWindow(timedelta(minutes=90))
    TumblingWindow(1 h 30 min)

    Raises:
        PipelineError: a duration is no `timedelta` or not of whole milliseconds, or `size` is not longer than 0.
    """

    def __init__(self, size: timedelta, *, offset: timedelta = timedelta(0)) -> None:
        self._measure(size, size, offset)

    def __repr__(self) -> str:
        return f"TumblingWindow({duration_text(self.size_ms)}{self._offset_text()})"


class SlidingWindow(AlignedWindow):
    """Windows of one `size`, of which one begins every `slide`; a record belongs to all that contain its timestamp.

    offset: by how much they begin later than the multiples of `slide` since 1970.
    allow_gaps: whether `slide` may be longer than `size`. Records between two windows then belong to none.

    >>> SlidingWindow(timedelta(hours=1), timedelta(minutes=5))
    SlidingWindow(1 h, slide 5 min)

    Raises:
        PipelineError: a duration is no `timedelta` or not of whole milliseconds, `size` or `slide` is not longer than
            0, or `slide` is longer than `size`.
    """

    def __init__(
        self, size: timedelta, slide: timedelta, *, offset: timedelta = timedelta(0), allow_gaps: bool = False
    ) -> None:
        self._measure(size, slide, offset)
        if self.slide_ms > self.size_ms and not allow_gaps:
            raise PipelineError(
                f"slide {duration_text(self.slide_ms)} is longer than size {duration_text(self.size_ms)}, so records"
                f" between two windows would belong to none: write allow_gaps=True if you mean that"
                f" ({caller_location()})"
            )

    def __repr__(self) -> str:
        slide = duration_text(self.slide_ms)
        return f"SlidingWindow({duration_text(self.size_ms)}, slide {slide}{self._offset_text()})"


@dataclass(frozen=True, init=False, repr=False)
class SessionWindow(Window):
    """The records of a key that follow each other within `gap`. A session ends `gap` after its last record.

    touching: what two records exactly `gap` apart are: "split", two sessions; "merge", one.

    Attributes:
        gap_ms: the gap in ms.

    >>> SessionWindow(timedelta(minutes=30))
    SessionWindow(gap 30 min)

    Raises:
        PipelineError: `gap` is no `timedelta`, is not of whole milliseconds or not longer than 0, or `touching` is
            unknown.
    """

    gap_ms: int
    touching: Literal["split", "merge"]

    def __init__(self, gap: timedelta, *, touching: Literal["split", "merge"] = "split") -> None:
        if touching not in ("split", "merge"):
            raise PipelineError(f'touching must be "split" or "merge", not {touching!r} ({caller_location()})')
        _set(self, gap_ms=checked_duration(gap, "gap"), touching=touching)

    def __repr__(self) -> str:
        touching = "" if self.touching == "split" else f", touching={self.touching!r}"
        return f"SessionWindow(gap {duration_text(self.gap_ms)}{touching})"


def _set(window: Window, **fields: int | str) -> None:
    for name, value in fields.items():
        object.__setattr__(window, name, value)  # windows are frozen


# --- what functions and sinks get ----------------------------------------------------------------------------


class WindowResult(NamedTuple, Generic[K, V]):
    """What a window gives for a key. It is a named tuple: read it by name.

    Attributes:
        key: the key of the records.
        start, end: the window has the timestamps from `start` up to, but not including, `end`, in ms since 1970.
        value: what the aggregate gave.
        firing: "on_time"; "early" if the window had not ended; "late" if records have come after its result.

    >>> result = WindowResult("JFK", 1_710_063_000_000, 1_710_066_600_000, 17)
    >>> result.value, f"{result.start_time:%H:%M}", f"{result.end_time:%H:%M}"
    (17, '09:30', '10:30')
    """

    key: K
    start: int
    end: int
    value: V
    firing: Firing = "on_time"

    @property
    def start_time(self) -> datetime:
        """`start` as a datetime in UTC. Raises InvalidTimestampError outside the years 1 to 9999."""
        return utc_datetime(self.start)

    @property
    def end_time(self) -> datetime:
        """`end` as a datetime in UTC. Raises InvalidTimestampError outside the years 1 to 9999."""
        return utc_datetime(self.end)


class TimeSpan(NamedTuple):
    """The timestamps from `start` up to, but not including, `end`, in ms since 1970: a window without its key."""

    start: int
    end: int


class Timer(NamedTuple):
    """A timer that has fired.

    Attributes:
        name: the name under which it was set.
        timestamp: the time for which it was set, in ms since 1970.
        at_end: whether it fires because the input has ended, and not because its time has come.
    """

    name: str
    timestamp: int
    at_end: bool
