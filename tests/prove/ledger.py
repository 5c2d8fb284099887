"""Where the sinks of a world put their rows: what is prepared, what others see, and whether both obey the contract."""

import pickle
import re

from sage_flow.checkpoint import storage as storages
from sage_flow.checkpoint.format import unsealed
from sage_flow.checkpoint.log import DoneEntry, FinalEntry
from sage_flow.checkpoint.metadata import CheckpointMetadata

__all__ = ["Ledger"]


class Ledger:
    """Outlives every process of the job.

    `staged`: rows by handle, prepared and not published. `published`: rows by handle, in the order of publication.
    `files`: rows that a sink keeps until the end of the job, by file.
    """

    def __init__(self, world):
        self._world = world
        self._read = {}
        self.staged = {}
        self.published = {}
        self.files = {}

    # -- published with a checkpoint ------------------------------------------------------------------------

    def stage(self, handle, rows):
        if handle in self.staged or handle in self.published:
            self._world.violate(f"{handle} is prepared twice")
        self.staged[handle] = list(rows)

    def commit(self, handle):
        self._check_recorded(handle)
        if handle in self.published:
            return
        if handle not in self.staged:
            self._world.violate(f"{handle} is to be published, and was removed")
            return
        self.published[handle] = self.staged.pop(handle)

    def sweep(self, is_mine, kept):
        """Remove what is staged and mine, but for what is kept."""
        for handle in [h for h in self.staged if is_mine(h) and h not in kept]:
            if handle in self.recorded():
                self._world.violate(f"{handle} is removed, and a recorded checkpoint names it")
            del self.staged[handle]

    # -- published at the end -------------------------------------------------------------------------------

    def commit_file(self, handle):
        self._check_recorded(handle)
        if handle in self.published:
            return
        file, length, before = handle[-1]
        self.check_files([(file, length)])
        self.published[handle] = self.files.get(file, [])[:length]
        for name in (file, *before):
            self.files.pop(name, None)

    def check_files(self, named):
        for file, length in named:
            if len(self.files.get(file, ())) < length:
                self._world.violate(f"{file} is wanted up to row {length}, and is not there")

    def sweep_files(self, is_mine, kept):
        for file in [f for f in self.files if is_mine(f) and f not in kept]:
            del self.files[file]

    # -- what the log of the job says -----------------------------------------------------------------------

    def _check_recorded(self, handle):
        if not self._world.is_fault_free and handle not in self.recorded():
            self._world.violate(f"{handle} is published, and no recorded checkpoint names it")

    def recorded(self):
        """The handles that a recorded checkpoint or the recorded end names."""
        return set().union(*self.recorded_entries().values())

    def recorded_entries(self):
        """The same, by the name of the entry in the log."""
        files = storages._memories.get(self._world.name, {})
        for name in [n for n in files if n not in self._read and re.search(r"/log/\d{12}$", n)]:
            entry = pickle.loads(unsealed("log entry", bytes(files[name]), name))
            if isinstance(entry, DoneEntry):
                self._world.note_recorded()
            self._read[name] = self._handles_of(entry, files, name.rpartition("/log/")[0])
        return self._read

    @staticmethod
    def _handles_of(entry, files, run):
        prepared = ()
        if isinstance(entry, DoneEntry):
            name = f"{run}/checkpoints/a{entry.attempt}-n{entry.checkpoint}"
            prepared = pickle.loads(CheckpointMetadata.from_bytes(bytes(files[name]), name).prepared)
        elif isinstance(entry, FinalEntry):
            prepared = entry.handles.prepared
        return {one.handle for one in prepared}

    def left_behind(self, names):
        """Of handles or files, those that are not of an attempt that was frozen and has come back."""
        return [name for name in names if name[3] not in self._world.frozen_attempts]

    # -- for the comparison ---------------------------------------------------------------------------------

    def rows(self, label):
        """The published rows of all sinks of this label, in the order of publication."""
        return [row for handle, rows in self.published.items() if handle[0] == label for row in rows]
