"""Where checkpoints and logs are stored: a folder of this machine, an object store, or the memory of this process."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sage_flow.checkpoint.storage_contract import Storage, checked_name, missing_text
from sage_flow.errors import CheckpointMissing, StorageError

__all__ = ["MemoryStorage", "Storage", "open_storage"]


def open_storage(location: str | os.PathLike[str]) -> Storage:
    """Open a storage by its path or URL; nothing is read or written yet.

    `memory://name` is in the memory of this process, and ends with it. Raises StorageError if the URL is of a kind that
    cannot create a file exclusively, or its package is not installed.
    """
    place = os.fspath(location)
    if not isinstance(place, str) or not place:
        raise StorageError(f"{location!r} is no place for checkpoints: give a path, or a URL", may_pass=False)
    if place.startswith("memory://"):
        return MemoryStorage(place)
    from sage_flow.checkpoint.local_storage import LocalStorage  # most jobs need none of these modules
    from sage_flow.checkpoint.object_storage import ObjectStorage
    from sage_flow.connectors.remote_files import is_url, local_path

    if not is_url(place):
        return LocalStorage(place)
    path = local_path(place)
    if path is not None:
        return LocalStorage(path)
    return ObjectStorage(place)


_memories: dict[str, dict[str, bytearray]] = {}


class MemoryStorage(Storage):
    """`memory://name`: kept by this process, for tests and for trying things out. All of one name is one storage."""

    def __init__(self, location: str) -> None:
        memory, _, folder = location.removeprefix("memory://").strip("/").partition("/")
        super().__init__(f"memory://{memory}" + (f"/{checked_name(folder)}" if folder else ""))
        self._memory = memory
        self._folder = f"{folder}/" if folder else ""

    @property
    def _files(self) -> dict[str, bytearray]:
        return _memories.setdefault(self._memory, {})

    def write(self, name: str, data: bytes) -> None:
        self._files[self._folder + checked_name(name)] = bytearray(data)

    def create(self, name: str, data: bytes) -> bool:
        mine = bytearray(data)  # an object of this call alone, which equal bytes are not always
        return self._files.setdefault(self._folder + checked_name(name), mine) is mine

    def read(self, name: str) -> bytes:
        try:
            return bytes(self._files[self._folder + checked_name(name)])
        except KeyError:
            raise CheckpointMissing(missing_text(self.place_of(name))) from None

    def names(self, folder: str = "") -> list[str]:
        front = self._folder + (f"{checked_name(folder)}/" if folder else "")
        below = (path.removeprefix(front) for path in list(self._files) if path.startswith(front))
        return sorted({path.partition("/")[0] for path in below})

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._files.pop(self._folder + checked_name(name), None)

    def make_durable(self, folder: str) -> None:
        pass
