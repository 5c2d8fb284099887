"""The logs of several processes as one, by time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

__all__ = ["merged"]

_TIME: Final = re.compile(r'(?:\{"time": ")?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)')
"""At the begin of a line that a process has logged, as text or as JSON (`executors/log_lines.py`)."""


def merged(logs: Mapping[str, str]) -> list[str]:
    """The lines of all processes, each behind the name of its process, in the order of their times.

    A line without a time, such as one that was printed or that is part of a traceback, stays behind the line before it.
    What a process has printed to stdout comes first, because its times are not known.

    >>> a = "2026-11-28T10:00:02.000Z WARNING job=j slow\\nTraceback"
    >>> b = "printed\\n2026-11-28T10:00:01.000Z INFO job=j begins"
    >>> for line in merged({"a": a, "b": b}):
    ...     print(line)
    b: printed
    b: 2026-11-28T10:00:01.000Z INFO job=j begins
    a: 2026-11-28T10:00:02.000Z WARNING job=j slow
    a: Traceback
    """
    lines = [line for process, text in logs.items() for line in _timed(process, text)]
    return [line for _, line in sorted(lines, key=lambda timed: timed[0])]


def _timed(process: str, text: str) -> Iterator[tuple[str, str]]:
    """Each line with its time, or with that of the line before it; no time is before all others."""
    time = ""
    for line in text.splitlines():
        if (found := _TIME.match(line)) is not None:
            time = max(time, found[1])
        yield time, f"{process}: {line}"
