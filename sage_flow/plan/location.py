"""Where in the user's code something was written."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

__all__ = ["Location", "caller_location", "is_engine_file", "short_path"]

_RAY = os.path.join(os.sep, "site-packages", "ray", "")
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@dataclass(frozen=True, slots=True)
class Location:
    """A line of a file, printed as `file:line` with the path as short as the working directory allows."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{short_path(self.file)}:{self.line}"


def short_path(file: str) -> str:
    """Return `file` relative to the working directory if it is below it."""
    if not os.path.isabs(file):
        return file
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative


def is_engine_file(file: str) -> bool:
    """Whether `file` belongs to sage_flow itself, generated chains included, or to Ray below it."""
    return file.startswith((_PACKAGE, "<sage_flow ")) or _RAY in file


def caller_location() -> Location:
    """Return the innermost line on the stack that is not the engine's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_engine_file(frame.f_code.co_filename):
        frame = frame.f_back
    return Location(frame.f_code.co_filename, frame.f_lineno)
