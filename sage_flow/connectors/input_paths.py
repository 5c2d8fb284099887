"""Which files a source reads: paths, globs and lists of them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable

from sage_flow.errors import InputError

__all__ = ["Path", "Paths", "find_files", "is_url"]

Path = str | os.PathLike[str]
Paths = Path | Iterable[Path]


def find_files(paths: Paths) -> list[str]:
    """Return the absolute paths of the files that `paths` names, in order; those of a glob sorted.

    Each file comes once, by the first of its names: links and overlapping globs do not repeat it.
    """
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not several:
        raise InputError("the list of paths is empty; name at least one file")
    by_identity: dict[object, str] = {}
    for file in (file for path in several for file in _find(os.fspath(path))):
        by_identity.setdefault(_identity(file), file)
    return list(by_identity.values())


def is_url(path: str) -> bool:
    """Whether this is no path but the address of something elsewhere, such as `s3://bucket/a.csv`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def _identity(file: str) -> object:
    try:
        entry = os.stat(file)
    except OSError:  # who reads it says what is wrong
        return file
    return entry.st_dev, entry.st_ino


def _find(path: str) -> list[str]:
    full = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(full):
        raise InputError(f"{path}: is a directory; use {os.path.join(path, '*')!r} to read the files in it")
    if os.path.exists(full):
        return [full]
    found = sorted(file for file in glob.glob(full, recursive=True) if not os.path.isdir(file))
    if not found and is_url(path):
        raise InputError(
            f"{path}: is a URL, and sources read only files; copy it here, or write a Source that reads it"
        )
    if not found:
        raise InputError(f"{path}: no such file; a relative path starts at {os.getcwd()}")
    return found
