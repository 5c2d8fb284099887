"""Where in the user's code something was written: a file and a line, or a cell of a notebook and a line."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["Location", "caller_location", "current_cell", "is_engine_file", "short_path"]

_RAY = os.path.join(os.sep, "site-packages", "ray", "")
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@dataclass(frozen=True, slots=True)
class Location:
    """A line of a file, printed as `file:line` with the path as short as the working directory allows.

    In IPython `cell` is the number of the cell that ran then, and `title` the name of the cell that `file` stands for,
    such as `In[3]`. The file of a cell is a name that IPython makes of its text, and no reader sees.
    """

    file: str
    line: int
    cell: int | None = None
    title: str = ""

    def __str__(self) -> str:
        return f"{self.title or short_path(self.file)}:{self.line}"

    def is_after(self, other: Location) -> bool:
        """Whether this was written by a later cell of a notebook; False elsewhere."""
        return self.cell is not None and other.cell is not None and self.cell > other.cell

    def is_again(self, other: Location) -> bool:
        """Whether this is the same line of the same cell, which was run again."""
        return self.is_after(other) and (_text_of(self.file), self.line) == (_text_of(other.file), other.line)


def short_path(file: str) -> str:
    """Return `file` relative to the working directory if it is below it."""
    if not os.path.isabs(file):
        return file
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative


def is_engine_file(file: str) -> bool:
    """Whether `file` belongs to sage_flow itself, generated chains included, to Ray, or to `with` in between."""
    return file.startswith((_PACKAGE, "<sage_flow ")) or _RAY in file or file == contextlib.__file__


def caller_location() -> Location:
    """Return the innermost line on the stack that is not the engine's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_engine_file(frame.f_code.co_filename):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    return Location(file, line, current_cell(), _title(file))


def current_cell() -> int | None:
    """Return the number of the notebook cell that runs now; None outside of IPython."""
    shell = _ipython()
    return None if shell is None else int(shell.execution_count)


def _text_of(file: str) -> str:
    """The name of a cell's file without the number that IPython 7, and IPython in a terminal, put into it."""
    return re.sub(r"^<ipython-input-\d+-", "<ipython-input-", file)


def _title(file: str) -> str:
    """The name of the cell that IPython has compiled under this name; "" for a real file."""
    name_of = getattr(getattr(_ipython(), "compile", None), "format_code_name", None)  # IPython 7 has none
    named = None if name_of is None else name_of(file)
    return "" if named is None else str(named[1])


def _ipython() -> Any:
    """The shell whose cells run in this process, if there is one. Nothing is imported for that."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return None if get_ipython is None else get_ipython()
