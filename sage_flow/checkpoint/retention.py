"""Which files of a run are deleted: those of checkpoints that are dropped, and what attempts have left behind.

A file is deleted only if a checkpoint that this leader drops has named it, or if it is of an earlier attempt and no
checkpoint that is kept names it. Nothing is deleted because it is not known: another attempt may be writing it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sage_flow.checkpoint.metadata import CheckpointMetadata
from sage_flow.checkpoint.runs import attempt_of, chunks_of, metadata_name
from sage_flow.checkpoint.storage import Storage
from sage_flow.errors import CheckpointError

__all__ = ["Retention", "files_of"]


def files_of(metadata: CheckpointMetadata) -> set[str]:
    """The files of a checkpoint, in the folder of its run."""
    chunks = {chunk for part in metadata.parts for chunk in part.chunks}
    return {metadata_name(metadata.attempt, metadata.checkpoint), *chunks, *metadata.rows}


class Retention:
    """Keeps the latest `keep` checkpoints of a run.

    `attempt`: that of this leader. `restored`: the checkpoint it began from, if that is one of this run.
    """

    def __init__(self, storage: Storage, attempt: int, keep: int, restored: CheckpointMetadata | None) -> None:
        self._storage = storage
        self._attempt = attempt
        self._keep = keep
        self._kept: list[set[str]] | None = None  # the files of each, oldest first; None: not looked yet
        self._restored = restored

    def on_complete(self, metadata: CheckpointMetadata, aborted: Iterable[int]) -> None:
        """A checkpoint is recorded: delete what is not needed any more. Raises StorageError.

        `aborted`: earlier ones of this attempt that have failed; subtasks may have stored parts of them.
        """
        if self._kept is None:
            self._kept = self._found()
        self._kept.append(files_of(metadata))
        dropped, self._kept = self._kept[: -self._keep], self._kept[-self._keep :]
        needed = set().union(*self._kept)
        gone = {file for files in dropped for file in files}
        if failed := list(aborted):
            gone.update(metadata_name(self._attempt, number) for number in failed)
            starts = tuple(chunks_of(self._attempt, number) for number in failed)
            left = [f"chunks/{name}" for name in self._storage.names("chunks")]
            gone.update(name for name in left if name.startswith(starts))
        self._storage.delete(sorted(gone - needed))

    def _found(self) -> list[set[str]]:
        """What earlier attempts have left: their checkpoints, oldest first. Chunks that none of them names go."""
        found = [files for _, files in sorted(self._earlier())]
        if self._restored is not None:
            found.append(files_of(self._restored))
        named = set().union(*found)
        left = [f"chunks/{name}" for name in self._storage.names("chunks")]
        self._storage.delete([name for name in left if self._is_earlier(name) and name not in named])
        return found

    def _earlier(self) -> Iterable[tuple[tuple[int, int], set[str]]]:
        restored = "" if self._restored is None else metadata_name(self._restored.attempt, self._restored.checkpoint)
        for name in (f"checkpoints/{name}" for name in self._storage.names("checkpoints")):
            number = re.fullmatch(r"checkpoints/a([0-9]+)-n([0-9]+)", name)
            if number is None or not self._is_earlier(name) or name == restored:
                continue
            try:
                metadata = CheckpointMetadata.from_bytes(self._storage.read(name), self._storage.place_of(name))
            except CheckpointError:  # damaged: its own file is all that is known of it
                yield (int(number[1]), int(number[2])), {name}
            else:
                yield (int(number[1]), int(number[2])), files_of(metadata)

    def _is_earlier(self, name: str) -> bool:
        attempt = attempt_of(name)
        return attempt is not None and attempt < self._attempt
