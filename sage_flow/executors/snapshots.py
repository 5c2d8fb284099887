"""Stores what a subtask gives for checkpoints, and reads what an earlier attempt has stored.

A subtask pickles its parts in its own thread and goes on; an activation beside it stores them and tells the driver. A
storage that is slow, full or gone costs a checkpoint and never stops data.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from sage_flow.checkpoint.coordinator import CutTimes, StoredPart
from sage_flow.checkpoint.format import PARTS, sealed, unpickled
from sage_flow.checkpoint.metadata import SubtaskPart
from sage_flow.checkpoint.prepared import Prepared
from sage_flow.checkpoint.restore import OperatorShare, share_for
from sage_flow.checkpoint.runs import chunk_name
from sage_flow.checkpoint.storage import Storage, open_storage
from sage_flow.errors import StorageError
from sage_flow.executors.shell import Shell
from sage_flow.plan.physical import Plan, Subtask, prepared_for
from sage_flow.runtime.cut_writing import Cut, CutPiece
from sage_flow.runtime.failure import pack_error
from sage_flow.runtime.key_table import TableEntries
from sage_flow.runtime.messages import Declined, Failed, Message, Snapshotted
from sage_flow.runtime.operators import add_kept_of_sink
from sage_flow.runtime.parts import Entries, Parts, share_of
from sage_flow.runtime.sinks import LAST
from sage_flow.runtime.table_writing import merged_chunks
from sage_flow.splits import FINISHED

__all__ = ["Restored", "SnapshotWriter", "finished_part", "read_parts", "restored"]


class SnapshotWriter:
    """Stores the cuts of one subtask, one after another. `tell` sends a message to the driver, from any thread."""

    def __init__(
        self, storage: Storage, plan: Plan, subtask: Subtask, shell: Shell, tell: Callable[[Message], None]
    ) -> None:
        self._storage = storage
        self._plan = plan
        self._subtask = subtask
        self._shell = shell
        self._tell = tell
        self._condition = shell.condition()
        self._cuts: deque[Cut | CutPiece] = deque()
        self._failed = 0  # the latest checkpoint of which something could not be stored
        self._files: dict[int, tuple[tuple[str, ...], int]] = {}  # with entries by key, and their bytes, by checkpoint
        self._is_closed = False

    # -- from the subtask -----------------------------------------------------------------------------------

    def put(self, cut: Cut | CutPiece) -> None:
        """Let a cut be stored, or a part of it."""
        with self._condition.lock:
            self._cuts.append(cut)
            self._condition.notify_all()

    def drop(self, checkpoint: int) -> None:
        """A checkpoint has failed: what waits for it is not stored."""
        with self._condition.lock:
            self._cuts = deque(cut for cut in self._cuts if cut.checkpoint > checkpoint)

    def close(self) -> None:
        """Let the activation end; what waits is not stored."""
        with self._condition.lock:
            self._is_closed = True
            self._cuts.clear()
            self._condition.notify_all()

    # -- its own activation ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Store what comes, until `close`."""
        while (cut := self._next()) is not None:
            if cut.checkpoint == self._failed:
                continue
            try:
                if isinstance(cut, CutPiece):
                    self._write(cut.checkpoint, cut.number, b"".join(cut.keyed))
                    continue
                message: Message = self._stored(cut)
            except StorageError as error:
                self._failed = cut.checkpoint
                message = Declined(self._subtask.address, cut.checkpoint, str(error))
            except Exception as error:  # a fault of the engine, which must not pass for one of the storage
                message = Failed(self._subtask.address, None, pack_error(error))
            self._tell(message)

    def _next(self) -> Cut | CutPiece | None:
        with self._condition.lock:
            while not self._cuts and not self._is_closed:
                self._condition.wait()
            return self._cuts.popleft() if self._cuts else None

    def _write(self, checkpoint: int, number: int, content: bytes) -> str:
        """Store a file of a checkpoint; return its name."""
        name = chunk_name(self._plan.attempt, checkpoint, self._subtask.address, number)
        self._storage.write(name, sealed(PARTS, content))
        if number > 0:
            names, size = self._files.get(checkpoint, ((), 0))
            self._files[checkpoint] = (*names, name), size + len(content)
        return name

    def _stored(self, cut: Cut) -> Snapshotted:
        began = self._shell.now()
        address = self._subtask.address
        small = self._write(cut.checkpoint, 0, cut.small)
        if cut.keyed:
            self._write(cut.checkpoint, cut.pieces + 1, b"".join(cut.keyed))
        new, size = self._files.get(cut.checkpoint, ((), 0))
        before, size_before = ((), 0) if cut.base is None else self._files[cut.base]
        self._files = {number: files for number, files in self._files.items() if number == cut.base}
        self._files[cut.checkpoint] = (*before, *new), size_before + size
        part = SubtaskPart(
            address=address,
            chain=tuple(operator.name for operator in self._subtask.chain.operators),
            index=self._subtask.index,
            parallelism=self._subtask.chain.parallelism,
            is_finished=False,
            chunks=(small, *before, *new),
            size=size_before + size + len(cut.small),
            stored=size + len(cut.small),
            keeping=cut.keeping,
        )
        timing = CutTimes(cut.alignment_s, cut.pause_s, self._shell.now() - began)
        return Snapshotted(address, cut.checkpoint, StoredPart(part, cut.prepared, timing))


def finished_part(
    subtask: Subtask, splits: tuple[str, ...], prepared: tuple[Prepared, ...], cut: int = 0
) -> StoredPart:
    """The part of a subtask that has finished. Nothing comes to it any more, so it keeps nothing but its splits.

    `cut`: see `StoredPart`.
    """
    part = SubtaskPart(
        address=subtask.address,
        chain=tuple(operator.name for operator in subtask.chain.operators),
        index=subtask.index,
        parallelism=subtask.chain.parallelism,
        is_finished=True,
        chunks=(),
        size=0,
        finished_splits=splits,
    )
    return StoredPart(part, prepared, cut=cut)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a subtask takes over: `parts` by operator, and what former subtasks have prepared and not published.

    `is_finished`: there is nothing left for it to do but to publish. `finished_splits`: what a source has read then.
    """

    parts: dict[str, Parts] = field(default_factory=dict)
    prepared: tuple[Prepared, ...] = ()
    is_finished: bool = False
    finished_splits: tuple[str, ...] = ()


def restored(plan: Plan, subtask: Subtask) -> Restored | None:
    """Read what a subtask takes over; None if the attempt begins at the beginning.

    Raises CheckpointError naming the file that is missing or damaged; StorageError.
    """
    point = plan.restores
    if point is None or subtask.chain.service is not None:
        return None
    share = share_for(point.metadata, plan, subtask)
    prepared = prepared_for(subtask, pickle.loads(point.metadata.prepared))
    if share.is_finished:
        splits = {split: None for one in share.operators for part in one.parts for split in part.finished_splits}
        return Restored(prepared=prepared, is_finished=True, finished_splits=tuple(splits))
    reader = _Reader(open_storage(point.location))
    count, most = subtask.chain.parallelism, plan.max_parallelism
    parts = {
        one.operator: share_of(reader.parts(one), subtask.index, count, most, alike=one.alike)
        for one in share.operators
    }
    # Names of an output tell the number of subtasks, so another number of them does not publish what was prepared.
    divided = {one.operator for one in share.operators if len(one.parts) != count}
    taken = [p for p in prepared if p.operator in divided and p.checkpoint == LAST and p.kept is not None]
    for one in taken:
        add_kept_of_sink(parts[one.operator], one.kept)
    return Restored(parts, tuple(p for p in prepared if not any(p is other for other in taken)))


def read_parts(storage: Storage, share: OperatorShare) -> list[Parts]:
    """Read what the former subtasks of one operator have kept. Raises CheckpointError, StorageError."""
    return _Reader(storage).parts(share)


class _Reader:
    """Reads each file once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._loaded: dict[str, list[Any]] = {}

    def parts(self, share: OperatorShare) -> list[Parts]:
        return [self._part(share.operator, part, with_keys=i in share.with_keys) for i, part in enumerate(share.parts)]

    def _part(self, operator: str, part: SubtaskPart, *, with_keys: bool) -> Parts:
        if part.is_finished:
            return Parts(splits={split: [FINISHED] for split in part.finished_splits})
        small, *files = part.chunks
        splits, rests, own, lowest, tables = self._loaded_of(small)[0][operator]
        keyed: dict[Hashable, Entries] = {}
        if with_keys:
            chunks = [one for file in files for several in self._loaded_of(file) for one in several]
            of_all = merged_chunks(chunk for chunk in chunks if chunk[0] == operator)
            for table in tables:
                entries = of_all.get((operator, table), [])
                keyed[table] = TableEntries(entries) if isinstance(entries, dict) else entries
        return Parts(keyed, splits, rests, own, lowest)

    def _loaded_of(self, name: str) -> list[Any]:
        """The pickles in a file."""
        if name not in self._loaded:
            self._loaded[name] = unpickled(PARTS, self._storage.read(name), self._storage.place_of(name))
        return self._loaded[name]
