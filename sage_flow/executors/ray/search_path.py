"""The search path for a job's modules: its processes look where the process looked that submitted it."""

from __future__ import annotations

import os
import sys

__all__ = ["SearchPath"]


class SearchPath:
    """The folders on `sys.path` of the process that makes this; picklable.

    Folders below its working directory, or `base`, are also remembered relative to that: with a `working_dir` every
    process of a job has its own copy of that directory as its working directory.
    """

    def __init__(self, base: str | None = None) -> None:
        here = os.path.abspath(base or os.getcwd())
        folders = [os.path.abspath(path) for path in sys.path]
        self._folders = [(path, _below(here, path)) for path in folders if os.path.isdir(path)]

    def follow(self) -> None:
        """Add those folders that exist here to `sys.path`."""
        for path, relative in self._folders:
            here = path if relative is None else os.path.join(os.getcwd(), relative)
            for folder in (os.path.normpath(here), path):
                if folder not in sys.path and os.path.isdir(folder):
                    sys.path.append(folder)


def _below(here: str, path: str) -> str | None:
    relative = os.path.relpath(path, here)
    return None if relative.startswith("..") else relative
