"""The checkpoints of one attempt, as its driver makes them: the shell around `CheckpointCoordinator`.

Everything here runs in the driver's activation, except that an activation of its own records each checkpoint: it stores
the collected rows and the metadata, and then writes `Done` into the log. A storage that is slow never holds up the
driver, which hears of the end by a message (`Recorded`).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from sage_flow.checkpoint.coordinator import (
    Aborted,
    Begin,
    CheckpointCoordinator,
    CheckpointDecision,
    CheckpointRecord,
    Complete,
    NoMoreCheckpoints,
    Record,
    Snapshot,
    Timing,
)
from sage_flow.checkpoint.format import sealed, unsealed
from sage_flow.checkpoint.metadata import CheckpointMetadata, SubtaskPart
from sage_flow.checkpoint.options import CheckpointOptions
from sage_flow.checkpoint.prepared import Prepared
from sage_flow.checkpoint.restore import places_of
from sage_flow.checkpoint.runs import chunk_name, metadata_name
from sage_flow.checkpoint.storage import Storage, open_storage
from sage_flow.errors import StorageError
from sage_flow.executors.collected_rows import CollectedRows, RowsCut
from sage_flow.executors.shell import Shell
from sage_flow.plan.physical import Plan
from sage_flow.runtime.messages import DRIVER, Committed, Declined, Finished, Snapshotted
from sage_flow.wire import by_value

__all__ = ["AllCommitted", "DriverCheckpoints", "Recorded", "restore_rows"]

_ROWS = "rows"  # the kind of the sealed files with collected rows
_MOST_ROW_FILES = 64


@dataclass(frozen=True, slots=True)
class Recorded:
    """From the activation that records: `checkpoint` is in the log; or `why` it is not.

    `fault`: another leader has taken over, or the engine has failed.
    """

    checkpoint: int
    why: str | None = None
    fault: BaseException | None = None


@dataclass(frozen=True, slots=True)
class AllCommitted:
    """The last checkpoint is complete, and every sink has published what belongs to it, or could not."""

    failure: Any = None


DriverCheckpointDecision = Begin | Aborted | Complete | NoMoreCheckpoints | AllCommitted


class DriverCheckpoints:
    """Events of the driver in, what it has to tell its subtasks out.

    `record(checkpoint)` writes `Done`; False: the job is cancelled. `deliver` puts a `Recorded` into the inbox of the
    driver.
    """

    def __init__(
        self,
        plan: Plan,
        options: CheckpointOptions,
        shell: Shell,
        collected: CollectedRows,
        record: Callable[[int], bool],
        deliver: Callable[[Recorded], None],
        wall_ms: Callable[[], int],
    ) -> None:
        if plan.checkpoints is None:
            raise ValueError("the plan of a job without checkpoints")
        self._plan = plan
        self._shell = shell
        self._storage = open_storage(plan.checkpoints)
        self._collected = collected
        self._record = record
        self._deliver = deliver
        self._wall_ms = wall_ms
        self._rows = _StoredRows(self._storage, plan, collected)
        participants = [subtask.address for subtask in plan.subtasks if plan.takes_part(subtask)]
        if not collected.is_empty:
            participants.append(DRIVER)
        first = 1 if plan.restores is None else plan.restores.metadata.checkpoint + 1
        self._coordinator = CheckpointCoordinator(
            options.interval_s,
            options.timeout_s,
            options.min_pause_s,
            options.tolerable_failures,
            participants,
            first,
            shell.now(),
        )
        self._uncommitted: dict[int, None] | None = None  # addresses that still publish for the last checkpoint
        self._commit_failure: Any = None

    @property
    def next_look(self) -> float:
        """When `on_time` has something to do."""
        return self._coordinator.next_look

    @property
    def is_recording(self) -> bool:
        """Whether the end of the job has to wait for a checkpoint that is being recorded."""
        return self._coordinator.is_recording

    @property
    def records(self) -> list[CheckpointRecord]:
        """Of the latest checkpoints, oldest first."""
        return self._coordinator.records

    # -- events ---------------------------------------------------------------------------------------------

    def on_time(self) -> Iterator[DriverCheckpointDecision]:
        """The clock has moved."""
        yield from self._obey(self._coordinator.on_time(self._shell.now()))

    def on_stop(self) -> Iterator[DriverCheckpointDecision]:
        """The user wants a last checkpoint, and the end."""
        yield from self._obey(self._coordinator.on_stop(self._shell.now()))

    def on_end(self) -> None:
        """The job ends in another way."""
        self._coordinator.on_end()

    def on_message(self, message: Snapshotted | Declined | Committed | Finished) -> Iterator[DriverCheckpointDecision]:
        """A subtask has reported."""
        now = self._shell.now()
        match message:
            case Snapshotted(address, checkpoint, snapshot):
                yield from self._obey(self._coordinator.on_snapshot(address, checkpoint, snapshot, now))
            case Declined(address, checkpoint, why):
                yield from self._obey(self._coordinator.on_declined(address, checkpoint, why, now))
            case Finished(address) if message.snapshot is not None:
                yield from self._obey(self._coordinator.on_finished(address, message.snapshot, now))
            case Committed(address, checkpoint, failure):
                if failure is None:
                    self._coordinator.on_committed(address, checkpoint)
                yield from self._on_committed(address, failure)

    def on_rows_cut(self, cut: RowsCut) -> Iterator[DriverCheckpointDecision]:
        """All rows of a checkpoint have come."""
        self._rows.cuts[cut.checkpoint] = cut.ends
        part = SubtaskPart(address=DRIVER, chain=(), index=0, parallelism=1, is_finished=False, chunks=(), size=0)
        now = self._shell.now()
        yield from self._obey(self._coordinator.on_snapshot(DRIVER, cut.checkpoint, Snapshot(part), now))

    def on_recorded(self, recorded: Recorded) -> Iterator[DriverCheckpointDecision]:
        """The activation that records has done its work. Raises its fault."""
        if recorded.fault is not None:
            raise recorded.fault
        now = self._shell.now()
        if recorded.why is None:
            yield from self._obey(self._coordinator.on_recorded(recorded.checkpoint, now))
        else:
            yield from self._obey(self._coordinator.on_not_recorded(recorded.checkpoint, recorded.why, now))

    def _on_committed(self, address: int, failure: Any) -> Iterator[DriverCheckpointDecision]:
        if self._uncommitted is None or address not in self._uncommitted:
            return
        del self._uncommitted[address]
        self._commit_failure = self._commit_failure or failure
        if not self._uncommitted:
            yield AllCommitted(self._commit_failure)

    # -- decisions ------------------------------------------------------------------------------------------

    def _obey(self, decisions: Iterator[CheckpointDecision]) -> Iterator[DriverCheckpointDecision]:
        for decision in decisions:
            match decision:
                case Begin(checkpoint):
                    yield decision
                    if not self._collected.is_empty and (cut := self._collected.cut_of_all(checkpoint)) is not None:
                        yield from self.on_rows_cut(cut)
                case Record():
                    self._shell.spawn(f"checkpoint {decision.checkpoint}", partial(self._store, decision))
                case Complete(checkpoint, stops):
                    if not self._collected.is_empty:
                        self._collected.show(self._rows.cuts[checkpoint])
                        self._rows.forget_cuts(checkpoint)
                    if stops:
                        self._uncommitted = {s.address: None for s in self._plan.subtasks if self._plan.takes_part(s)}
                    yield decision
                case _:
                    yield decision

    def _store(self, record: Record) -> None:
        """Store what is left of a checkpoint, and record it; the body of an activation."""
        checkpoint = record.checkpoint
        try:
            rows = self._rows.store(checkpoint)
            metadata = self._metadata(record, rows)
            self._storage.write(metadata_name(self._plan.attempt, checkpoint), metadata.to_bytes())
        except StorageError as error:
            self._deliver(Recorded(checkpoint, str(error)))
            return
        except Exception as error:
            self._deliver(Recorded(checkpoint, fault=error))
            return
        try:
            is_recorded = self._record(checkpoint)
        except Exception as error:
            self._deliver(Recorded(checkpoint, fault=error))
        else:
            if is_recorded:
                self._rows.note_stored(checkpoint, rows)
            self._deliver(Recorded(checkpoint, None if is_recorded else "the job is being cancelled"))

    def _metadata(self, record: Record, rows: tuple[str, ...]) -> CheckpointMetadata:
        parts = tuple(s.part for s in record.snapshots if s.part.address != DRIVER)
        prepared: tuple[Prepared, ...] = tuple(p for s in record.snapshots for p in s.prepared)
        keeping = {name for part in parts for name in part.keeping} | {p.operator for p in prepared}
        longest = Timing(
            max((s.timing.alignment_s for s in record.snapshots), default=0.0),
            max((s.timing.pause_s for s in record.snapshots), default=0.0),
            max((s.timing.stored_s for s in record.snapshots), default=0.0),
        )
        return CheckpointMetadata(
            job=self._plan.job,
            run=self._plan.job_id,
            attempt=self._plan.attempt,
            checkpoint=record.checkpoint,
            created_ms=self._wall_ms(),
            max_parallelism=self._plan.max_parallelism,
            operators=tuple(place for name, place in places_of(self._plan).items() if name in keeping),
            parts=parts,
            prepared=by_value.dumps_state(prepared),
            rows=rows,
            size=sum(part.size for part in parts),
            took_ms=int(1000 * (longest.alignment_s + longest.pause_s + longest.stored_s)),
            alignment_ms=int(1000 * longest.alignment_s),
            pause_ms=1000 * longest.pause_s,
        )


class _StoredRows:
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
            self._files = restore_rows(plan, collected)
            for _, ends in self._files:
                self._ends.update(ends)
            if plan.restores.location != plan.checkpoints:  # of another run, which may delete them
                self._files, self._ends = (), {}

    def forget_cuts(self, checkpoint: int) -> None:
        """A checkpoint is complete."""
        self.cuts = {number: ends for number, ends in self.cuts.items() if number > checkpoint}

    def store(self, checkpoint: int) -> tuple[str, ...]:
        """Store the rows up to a checkpoint; return the names of all files that hold rows."""
        ends = self.cuts.get(checkpoint, {})
        kept = [name for name, in_file in self._files if not self._is_forgotten(in_file)]
        starts = self._ends
        if len(kept) >= _MOST_ROW_FILES:
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


def restore_rows(plan: Plan, collected: CollectedRows) -> tuple[tuple[str, dict[str, int]], ...]:
    """Put back the rows of the checkpoint that the plan restores; return its files, and where the rows in each end.

    Raises CheckpointError, StorageError.
    """
    if plan.restores is None or collected.is_empty:
        return ()
    storage = open_storage(plan.restores.location)
    files = []
    for name in plan.restores.metadata.rows:
        chunk = pickle.loads(unsealed(_ROWS, storage.read(name), storage.place_of(name)))
        collected.put_back(chunk)
        files.append((name, {label: start + len(rows) for label, (start, rows) in chunk.items()}))
    return tuple(files)
