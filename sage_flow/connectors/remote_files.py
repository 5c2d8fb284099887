"""Files that are not on this machine, by URL, through fsspec: which ones a URL names, and how one is opened.

fsspec knows the protocols, and imports the package of each when a URL of it is first used. `file://` is a local path.
"""

from __future__ import annotations

import errno
import io
import os
import re
from typing import Any

from sage_flow.errors import InputError

__all__ = ["find_remote", "is_url", "local_path", "open_remote"]

_BUFFER = 1 << 16  # bytes


def is_url(path: str) -> bool:
    """Whether this is no path but the address of something elsewhere, such as `s3://bucket/a.csv`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None or ("::" in path and "://" in path)


def local_path(url: str) -> str | None:
    """The path that a URL of a file on this machine stands for; None for any other URL."""
    if "::" in url or not url.lower().startswith(("file://", "local://")):
        return None
    path: str = _file_system(url)[1]
    return path


def find_remote(url: str) -> list[str]:
    """The URLs of the files that `url` names; those of a glob sorted. Raises InputError."""
    files, path = _file_system(url)
    try:
        kind = files.info(path)["type"]
    except FileNotFoundError:
        kind = None
    except Exception as fault:  # each protocol has errors of its own
        raise InputError(f"{url}: cannot be read: {fault!r}") from fault
    if kind == "directory":
        raise InputError(f"{url}: is a directory; use {url.rstrip('/') + '/*'!r} to read the files in it")
    if kind is not None:
        return [url]
    if found := _glob(files, path, url):
        return found
    raise InputError(f"{url}: no such file")


def _glob(files: Any, path: str, url: str) -> list[str]:
    if "::" in url or not re.search(r"[*?[]", path):
        return []
    try:
        found = [name for name, info in files.glob(path, detail=True).items() if info["type"] != "directory"]
    except FileNotFoundError:
        return []
    except Exception as fault:
        raise InputError(f"{url}: cannot be listed: {fault!r}") from fault
    # What fsspec takes from the front of a URL, such as the host, is not in the names that it finds.
    front = url.removesuffix(path) if url.endswith(path) else ""
    return sorted(front + name if front or is_url(name) else files.unstrip_protocol(name) for name in found)


def open_remote(url: str) -> io.BufferedReader:
    """Open the file to read it. Raises OSError, also where the protocol has errors of its own; InputError."""
    files, path = _file_system(url)
    try:
        return io.BufferedReader(_Remote(files.open(path, "rb")), _BUFFER)
    except FileNotFoundError as fault:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from fault
    except OSError:
        raise
    except Exception as fault:
        raise OSError(repr(fault)) from fault


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url)
    except ImportError as fault:
        raise InputError(f"{url}: needs a package that is not installed: {fault}") from fault
    except ValueError as fault:
        raise InputError(f"{url}: {fault}; a URL begins with a protocol that fsspec knows, such as s3://") from fault
    except Exception as fault:
        raise InputError(f"{url}: cannot be reached: {fault!r}") from fault
    return files, path


class _Remote(io.RawIOBase):
    """A file of fsspec, some of which cannot be looked into; its errors are OSErrors."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        try:
            data = self._file.read(len(view))
        except OSError:
            raise
        except Exception as fault:
            raise OSError(repr(fault)) from fault
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
