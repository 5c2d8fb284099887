"""Checkpoints in an object store: which ones can create a file exclusively, and by which argument of fsspec.

fsspec's own `pipe_file(mode="create")` does not: it asks whether the file exists, and then writes it. So only file
systems of this table hold checkpoints:

    protocol         package   request                            what its server says to a second one
    s3, s3a          s3fs      PUT with `If-None-Match: *`        412 Precondition Failed
    gs, gcs          gcsfs     upload with `ifGenerationMatch=0`  412 Precondition Failed
    abfs, abfss, az  adlfs     PUT with `If-None-Match: *`        409 Blob Already Exists

The server decides, so the create is as exclusive as the service says that the request is. Verified with s3fs 2026.9,
gcsfs 2026.10 and adlfs 2026.8, against a server in the test (`tests/checkpoint/test_object_store_packages.py`): they
send this condition, with all of the content in one request, and the refusal is told. Not verified: a race at the real
services, and Google's zonal buckets, for which gcsfs takes another way.

Two things make a request less than that, and neither is an error for the package: a botocore before 1.35.20 does not
know the header, and s3fs leaves out what botocore does not know; and a server that only resembles S3 may ignore it. So
a storage tries it out before its first create (`Storage.check`).

Not in the table: SFTP and HDFS, whose files are seen before they are complete; HTTP and archives, which are read-only;
caches (`simplecache::`), which write later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sage_flow.checkpoint.storage_contract import Storage, checked_name, missing_text
from sage_flow.errors import CheckpointMissing, StorageError

__all__ = ["OBJECT_STORES", "ObjectStorage", "ObjectStore"]


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """One kind of object store.

    `arguments` makes the arguments of `pipe_file` with which it raises FileExistsError if there is a file, from the
    number of bytes. `list_anew` are those of `ls` that make it ask the server.
    """

    package: str
    arguments: Callable[[int], Mapping[str, Any]]
    list_anew: Mapping[str, Any] = field(default_factory=lambda: {"refresh": True})


# A file that is larger than `chunksize` would be sent in pieces.
_S3 = ObjectStore("s3fs", lambda size: {"mode": "create", "chunksize": size + 1})
_GOOGLE = ObjectStore("gcsfs", lambda size: {"mode": "create", "chunksize": size + 1})
# `mode` is not known to older versions of adlfs, which pass it on.
_AZURE = ObjectStore("adlfs", lambda size: {"overwrite": False}, {"invalidate_cache": True})

OBJECT_STORES = {
    "s3": _S3,
    "s3a": _S3,
    "gs": _GOOGLE,
    "gcs": _GOOGLE,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "az": _AZURE,
}
"""By the protocol of a URL."""


class ObjectStorage(Storage):
    """An object store, through the fsspec package for its protocol: a folder of a bucket.

    A file appears whole, with the answer to the request that stores it. The folders of others are listed as the server
    knows them, and never from a cache.
    """

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._store = _object_store(location)
        self._files, self._root = _file_system(location, self._store.package)
        self._checked: list[bool] = []  # filled by `check`, for all folders

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.location,)  # its connections stay here

    def at(self, folder: str) -> ObjectStorage:
        below = object.__new__(type(self))
        below.__dict__.update(self.__dict__)  # the same connections
        below.location = self.place_of(checked_name(folder))
        below._root = self._path(folder)
        return below

    def write(self, name: str, data: bytes) -> None:
        with _reported("written", self.place_of(name)):
            self._files.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        if not self._checked:
            self.check()
        return self._create(name, data)

    def check(self) -> None:
        self._check_creates(
            self._create,
            "the server, or a botocore before 1.35.20, ignores the condition of the request: use a later botocore, or "
            "store checkpoints elsewhere",
        )
        self._checked.append(True)

    def _create(self, name: str, data: bytes) -> bool:
        with _reported("created", self.place_of(name)):
            try:
                self._files.pipe_file(self._path(name), data, **self._store.arguments(len(data)))
            except OSError as fault:
                if isinstance(fault, FileExistsError) or _is_refused(fault.__cause__):
                    return False
                raise
            return True

    def read(self, name: str) -> bytes:
        with _reported("read", self.place_of(name)):
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                raise CheckpointMissing(missing_text(self.place_of(name))) from None

    def names(self, folder: str = "") -> list[str]:
        path = self._path(folder) if folder else self._root
        with _reported("listed", self.place_of(folder)):
            try:
                found = self._files.ls(path, detail=False, **self._store.list_anew)
            except FileNotFoundError:
                return []
        front = f"{path}/"
        below = (name.removeprefix(front).rstrip("/") for name in found if name.startswith(front))
        return sorted({name for name in below if name and not name.startswith(".")})

    def delete(self, names: Iterable[str]) -> None:
        paths = [self._path(name) for name in names]
        if not paths:
            return
        with _reported("deleted", self.place_of("")):
            try:
                if not any(sign in self._root for sign in "*?["):  # else it would be taken for a pattern
                    self._files.rm(paths)
                    return
            except FileNotFoundError:
                pass  # one of them is gone, and perhaps the others are left
            for path in paths:
                try:
                    self._files.rm_file(path)
                except FileNotFoundError:
                    pass

    def make_durable(self, folder: str) -> None:
        pass  # what is stored is durable

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked_name(name)}"


def _object_store(url: str) -> ObjectStore:
    protocol = url.partition("://")[0].lower()
    store = OBJECT_STORES.get(protocol)
    if store is None:
        known = ", ".join(f"{name}://" for name in OBJECT_STORES)
        raise StorageError(
            f"{url}: checkpoints cannot be stored by {protocol}://, where a file cannot be created exclusively; give a "
            f"path (also of a folder that is mounted), or a URL that begins with one of {known}",
            may_pass=False,
        )
    return store


def _file_system(url: str, package: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        # An instance of its own: others would share its cache of lists.
        files, path = url_to_fs(url, skip_instance_cache=True)
    except ImportError as fault:
        raise StorageError(
            f"{url}: needs a package that is not installed: pip install {package} ({fault})", may_pass=False
        ) from fault
    except Exception as fault:  # each protocol has errors of its own
        raise StorageError(f"{url}: cannot be opened: {fault!r}", may_pass=False) from fault
    return files, path.rstrip("/")


@contextmanager
def _reported(done: str, place: str) -> Iterator[None]:
    try:
        yield
    except (CheckpointMissing, StorageError):
        raise
    except FileNotFoundError as fault:
        raise StorageError(
            f"{place}: cannot be {done}: {fault!r}; make the bucket or container first", may_pass=False
        ) from fault
    except PermissionError as fault:
        raise StorageError(
            f"{place}: cannot be {done}: {fault!r}; give this process credentials that may list, read, write and "
            f"delete there",
            may_pass=False,
        ) from fault
    except Exception as fault:  # each protocol has errors of its own
        raise StorageError(
            f"{place}: cannot be {done}: {fault!r}; look whether the server answers, and knows these credentials"
        ) from fault


def _is_refused(cause: BaseException | None) -> bool:
    """Whether the server says that the condition of a request does not hold.

    s3fs makes FileExistsError of it only if the answer names the condition, as Amazon's does and others do not.
    """
    answer = getattr(cause, "response", None)
    return isinstance(answer, dict) and answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412
