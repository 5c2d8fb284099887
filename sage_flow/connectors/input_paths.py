"""Which files a source reads: paths, URLs, globs and lists of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable

from sage_flow.connectors.remote_files import find_remote, is_url, local_path
from sage_flow.errors import InputError

__all__ = ["Path", "Paths", "find_files"]

Path = str | os.PathLike[str]
Paths = Path | Iterable[Path]


def find_files(paths: Paths) -> list[str]:
    """Return the absolute paths, or the URLs, of the files that `paths` names, in order; those of a glob sorted.

    Each file comes once, by the first of its names: links and overlapping globs do not repeat it.
    """
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not several:
        raise InputError("the list of paths is empty; name at least one file")
    by_identity: dict[object, str] = {}
    for file in (file for path in several for file in _find(os.fspath(path))):
        by_identity.setdefault(_identity(file), file)
    return list(by_identity.values())


def _identity(file: str) -> object:
    if is_url(file):
        return file
    try:
        entry = os.stat(file)
    except OSError:  # who reads it says what is wrong
        return file
    return entry.st_dev, entry.st_ino


def _find(path: str) -> list[str]:
    if is_url(path):
        local = local_path(path)
        return find_remote(path) if local is None else _find(local)
    full = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(full):
        raise InputError(f"{path}: is a directory; use {os.path.join(path, '*')!r} to read the files in it")
    if os.path.exists(full):
        return [full]
    found = sorted(file for file in glob.glob(full, recursive=True) if not os.path.isdir(file))
    if not found:
        raise InputError(f"{path}: no such file; a relative path starts at {os.getcwd()}")
    return found
