"""Where a job's processes look for the modules of its user: where the process that submitted it did."""

from __future__ import annotations

import os
import sys

__all__ = ["SearchPath"]


class SearchPath:
    """The folders on `sys.path` of the process that makes this; picklable.

    What is below its working directory is remembered relative to that, too: with a `working_dir` every process of a job
    has its own copy of it, as its own working directory.
    """

    def __init__(self) -> None:
        here = os.getcwd()
        folders = [os.path.abspath(path) for path in sys.path]
        self._folders = [(path, _below(here, path)) for path in folders if os.path.isdir(path)]

    def follow(self) -> None:
        """Look there, too, where it exists here."""
        for path, relative in self._folders:
            here = path if relative is None else os.path.join(os.getcwd(), relative)
            for folder in (os.path.normpath(here), path):
                if folder not in sys.path and os.path.isdir(folder):
                    sys.path.append(folder)


def _below(here: str, path: str) -> str | None:
    relative = os.path.relpath(path, here)
    return None if relative.startswith("..") else relative
