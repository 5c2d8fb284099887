"""The collected rows of a job, as its checkpoints store them: each adds a file with those that are new."""

from __future__ import annotations

from sage_flow.checkpoint.format import sealed, unpickled
from sage_flow.checkpoint.runs import chunk_name
from sage_flow.checkpoint.storage import Storage, open_storage
from sage_flow.executors.collected_rows import CollectedRows
from sage_flow.plan.physical import Plan
from sage_flow.runtime.messages import DRIVER
from sage_flow.wire import by_value

__all__ = ["StoredRows"]

_ROWS = "rows"  # the kind of the sealed files
_MOST_FILES = 64
"""With more, the next checkpoint stores all rows anew, in one file."""


class StoredRows:
    """The files with the collected rows: each checkpoint adds those that are new.

    Only the activation that records uses `store` and `note_stored`; only one of them runs at a time.
    """

    def __init__(self, storage: Storage, plan: Plan, collected: CollectedRows) -> None:
        self._storage = storage
        self._plan = plan
        self._collected = collected
        self.cuts: dict[int, dict[str, int]] = {}
        """Where the rows of the checkpoints under way end."""
        self._ends: dict[str, int] = {}  # of what is stored
        self._files: tuple[tuple[str, dict[str, int]], ...] = ()  # with where the rows in them end
        if plan.restores is not None:
            self._files = _put_back(plan, collected)
            for _, ends in self._files:
                self._ends.update(ends)
            if plan.restores.location != plan.checkpoints:  # of another run, which may delete them
                self._files, self._ends = (), {}

    def on_complete(self, checkpoint: int) -> None:
        """A checkpoint is complete: others may see its rows."""
        if checkpoint in self.cuts:
            self._collected.show(self.cuts[checkpoint])
        self.cuts = {number: ends for number, ends in self.cuts.items() if number > checkpoint}

    def store(self, checkpoint: int) -> tuple[str, ...]:
        """Store the rows up to a checkpoint; return the names of all files that hold rows."""
        ends = self.cuts.get(checkpoint, {})
        kept = [name for name, in_file in self._files if not self._is_forgotten(in_file)]
        starts = self._ends
        if len(kept) >= _MOST_FILES:
            kept, starts = [], {}
        new = self._collected.between(starts, ends)
        if not new:
            return tuple(kept)
        name = chunk_name(self._plan.attempt, checkpoint, DRIVER, 0)
        self._storage.write(name, sealed(_ROWS, by_value.dumps_state(new)))
        return (*kept, name)

    def note_stored(self, checkpoint: int, names: tuple[str, ...]) -> None:
        """The checkpoint is recorded: the next one adds to it."""
        ends = self.cuts.get(checkpoint, {})
        known = dict(self._files)
        self._files = tuple((name, known.get(name, ends)) for name in names)
        self._ends = dict(ends)

    def _is_forgotten(self, ends: dict[str, int]) -> bool:
        return all(self._collected.first_of(name) >= end for name, end in ends.items())


def _put_back(plan: Plan, collected: CollectedRows) -> tuple[tuple[str, dict[str, int]], ...]:
    """Put back the rows of the checkpoint that the plan restores; return its files, and where the rows in each end.

    Raises CheckpointError, StorageError.
    """
    if plan.restores is None or collected.is_empty:
        return ()
    storage = open_storage(plan.restores.location)
    files = []
    for name in plan.restores.metadata.rows:
        (chunk,) = unpickled(_ROWS, storage.read(name), storage.place_of(name))
        collected.put_back(chunk)
        files.append((name, {label: start + len(rows) for label, (start, rows) in chunk.items()}))
    return tuple(files)
