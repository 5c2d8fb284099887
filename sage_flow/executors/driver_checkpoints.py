"""The checkpoints of one attempt, as its driver makes them: the shell around `CheckpointCoordinator`.

Everything here runs in the driver's activation, except that an activation of its own records each checkpoint: it stores
the collected rows and the metadata, and then writes `Done` into the log. A storage that is slow never holds up the
driver, which hears of the end by a message (`Recorded`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sage_flow.checkpoint.coordinator import (
    Aborted,
    Begin,
    CheckpointCoordinator,
    CheckpointDecision,
    Complete,
    CutTimes,
    NoMoreCheckpoints,
    Record,
    StoredPart,
)
from sage_flow.checkpoint.metadata import CheckpointMetadata, SubtaskPart
from sage_flow.checkpoint.options import CheckpointOptions
from sage_flow.checkpoint.prepared import Prepared
from sage_flow.checkpoint.restore import places_of
from sage_flow.checkpoint.retention import Retention
from sage_flow.checkpoint.runs import metadata_name
from sage_flow.checkpoint.storage import Storage, open_storage
from sage_flow.errors import CheckpointError, CheckpointsFail, InternalError, PipelineError, StorageError
from sage_flow.executors.checkpoint_reports import CheckpointInfo, reported
from sage_flow.executors.collected_rows import CollectedRows, RowsCut
from sage_flow.executors.shell import Shell
from sage_flow.executors.stored_rows import StoredRows
from sage_flow.plan.physical import Plan
from sage_flow.runtime.coordinator import AllFinished, Coordinator, Decision, Tell
from sage_flow.runtime.failure import pack_error
from sage_flow.runtime.messages import (
    DRIVER,
    AbortCheckpoint,
    BeginCheckpoint,
    CheckpointComplete,
    Committed,
    Control,
    Declined,
    Finished,
    Message,
    Snapshotted,
)
from sage_flow.wire import by_value

__all__ = ["WITHOUT_LEADER", "DriverCalls", "DriverCheckpoints", "Recorded", "no_checkpoints"]

_log = logging.getLogger("sage_flow")


def no_checkpoints(job: str) -> str:
    """The message for who wants to stop a job that has no checkpoints."""
    return (
        f"job {job!r} has no checkpoints, so it cannot stop with one and go on later: enable them"
        " (enable_checkpointing), or end it by drain() or cancel()"
    )


@dataclass(frozen=True, slots=True)
class Recorded:
    """From the activation that records: `checkpoint` is in the log; or `why` it is not.

    `fault`: another leader has taken over, or the engine has failed.
    """

    checkpoint: int
    why: str | None = None
    fault: BaseException | None = None


@dataclass(frozen=True, slots=True)
class DriverCalls:
    """What a driver asks of the leader of its job.

    `decide` records that the job has finished with what its sinks have prepared; False: it is cancelled. `record`
    records a checkpoint, from another activation; False: the job is cancelled.
    """

    decide: Callable[[tuple[Prepared, ...]], bool] = lambda prepared: True
    record: Callable[[int], bool] = lambda checkpoint: True


WITHOUT_LEADER: Final = DriverCalls()
"""Nothing is written down, as nobody but the driver leads the job."""


class DriverCheckpoints:
    """Events of the driver in, decisions out, as those of the `Coordinator` of the attempt, which it asks.

    `options`: None for a job without checkpoints, of which only the collected rows and the end come here. `deliver`
    puts a `Recorded` into the inbox of the driver.
    """

    def __init__(
        self,
        plan: Plan,
        options: CheckpointOptions | None,
        shell: Shell,
        job: Coordinator,
        collected: CollectedRows,
        leader: DriverCalls,
        deliver: Callable[[Recorded], None],
    ) -> None:
        self._plan = plan
        self._options = options
        self._shell = shell
        self._job = job
        self._collected = collected
        self._leader = leader
        self._deliver = deliver
        self._rows: StoredRows | None = None
        self._coordinator: CheckpointCoordinator | None = None
        self._retention: Retention | None = None
        self._aborted: list[int] = []  # since the latest complete one
        self._storage: Storage | None = None
        self._uncommitted: dict[int, None] | None = None  # addresses that still publish for the last checkpoint
        self._commit_failure: Any = None
        self._waiting_end: AllFinished | None = None  # while a checkpoint is being recorded

    def begin(self) -> Iterator[Decision]:
        """The attempt begins: put back the rows of its checkpoint. If they cannot be read, it fails."""
        try:
            self._begin()
        except (CheckpointError, StorageError) as error:  # the subtasks run already: they are to end
            yield from self._job.on_failed(self._plan.subtasks[0].address, pack_error(error))

    def _begin(self) -> None:
        plan, options = self._plan, self._options
        if options is None or plan.checkpoints is None or plan.publishes is not None:
            return
        self._storage = open_storage(plan.checkpoints)
        self._rows = StoredRows(self._storage, plan, self._collected)
        point = plan.restores
        restored = None if point is None or point.location != plan.checkpoints else point.metadata
        self._retention = Retention(self._storage, plan.attempt, options.keep, restored)
        participants = [subtask.address for subtask in plan.subtasks if plan.takes_part(subtask)]
        if not self._collected.is_empty:
            participants.append(DRIVER)
        self._coordinator = CheckpointCoordinator(
            options.interval_s,
            options.timeout_s,
            options.min_pause_s,
            options.tolerable_failures,
            participants,
            1 if plan.restores is None else plan.restores.metadata.checkpoint + 1,
            self._shell.now(),
        )

    def check_can_stop(self) -> None:
        """Raises PipelineError if the job has no checkpoints."""
        if self._options is None:
            raise PipelineError(no_checkpoints(self._plan.job))

    @property
    def next_look(self) -> float:
        """When `on_time` has something to do."""
        return math.inf if self._coordinator is None else self._coordinator.next_look

    def told(self) -> list[CheckpointInfo]:
        """What is known of the latest checkpoints, oldest first; from any thread."""
        records = [] if self._coordinator is None else list(self._coordinator.records)
        return reported(self._plan, records, self._shell.now(), self._shell.wall_ms())

    # -- events ---------------------------------------------------------------------------------------------

    def on_time(self) -> Iterator[Decision]:
        """The clock has moved."""
        if self._coordinator is not None and self._shell.now() >= self._coordinator.next_look:
            yield from self._obey(self._coordinator.on_time(self._shell.now()))

    def on_stop(self) -> Iterator[Decision]:
        """The user wants a last checkpoint, and the end."""
        if self._coordinator is not None:
            yield from self._obey(self._coordinator.on_stop(self._shell.now()))

    def on_message(self, message: Snapshotted | Declined | Committed | Finished) -> Iterator[Decision]:
        """A subtask has reported."""
        if self._coordinator is None:
            return
        now = self._shell.now()
        match message:
            case Snapshotted(address, checkpoint, part):
                yield from self._obey(self._coordinator.on_snapshot(address, checkpoint, part, now))
            case Declined(address, checkpoint, why):
                yield from self._obey(self._coordinator.on_declined(address, checkpoint, why, now))
            case Finished(address) if message.part is not None:
                yield from self._obey(self._coordinator.on_finished(address, message.part, now))
            case Committed(address, checkpoint, failure):
                if failure is None:
                    self._coordinator.on_committed(address, checkpoint)
                    self._job.on_committed(address, checkpoint)
                else:
                    _log.error(
                        "job %s: what checkpoint %d has prepared is not published; the next one tries again: %s",
                        *(self._plan.job, checkpoint, failure.text),
                    )
                yield from self._on_committed(address, failure)

    def on_control(self, control: Control) -> Iterator[Decision]:
        """A control element has come on a channel of collected rows."""
        yield from self._on_rows(self._collected.on_control(control))
        under_way = None if self._coordinator is None else self._coordinator.under_way
        if under_way is not None:
            yield from self._cut_rows_at_the_end(under_way)

    def _cut_rows_at_the_end(self, checkpoint: int) -> Iterator[Decision]:
        """No barrier comes any more if all channels have ended: the rows of a checkpoint are those that are there."""
        if self._rows is None or self._collected.is_empty or checkpoint in self._rows.cuts:
            return
        if (cut := self._collected.cut_of_all(checkpoint)) is not None:
            yield from self._on_rows_cut(cut)

    def on_recorded(self, recorded: Recorded) -> Iterator[Decision]:
        """The activation that records has done its work. Raises its fault."""
        if isinstance(recorded.fault, (StorageError, CheckpointError)):
            # It is not known whether it is in the log, so it can be neither complete nor aborted.
            yield from self._job.on_failed(self._plan.subtasks[0].address, pack_error(recorded.fault))
            return
        if recorded.fault is not None:
            raise recorded.fault
        if self._coordinator is not None:
            now = self._shell.now()
            if recorded.why is None:
                yield from self._obey(self._coordinator.on_recorded(recorded.checkpoint, now))
            else:
                yield from self._obey(self._coordinator.on_not_recorded(recorded.checkpoint, recorded.why, now))
        waiting, self._waiting_end = self._waiting_end, None
        if waiting is not None:
            yield waiting

    def decide(self, finished: AllFinished) -> bool:
        """Let the leader record the end; False: the job is cancelled, or a checkpoint is being recorded.

        In the second case `on_recorded` gives `finished` again.
        """
        if self._coordinator is not None:
            self._coordinator.on_end()
            if self._coordinator.is_recording:
                self._waiting_end = finished
                return False
        self._collected.is_complete = True  # so the end is recorded with all rows
        is_decided = self._collected.is_complete = self._leader.decide(finished.prepared)
        if is_decided:
            self._collected.show(None)
        return is_decided

    def _on_rows(self, events: Iterator[RowsCut | tuple[int, Exception]]) -> Iterator[Decision]:
        for event in events:
            if isinstance(event, RowsCut):
                yield from self._on_rows_cut(event)
            else:
                producer, error = event
                yield from self._job.on_failed(producer, pack_error(error))

    def _on_rows_cut(self, cut: RowsCut) -> Iterator[Decision]:
        if self._coordinator is None or self._rows is None:
            return
        self._rows.cuts[cut.checkpoint] = cut.ends
        part = SubtaskPart(address=DRIVER, chain=(), index=0, parallelism=1, is_finished=False, chunks=(), size=0)
        now = self._shell.now()
        yield from self._obey(self._coordinator.on_snapshot(DRIVER, cut.checkpoint, StoredPart(part), now))

    def _on_committed(self, address: int, failure: Any) -> Iterator[Decision]:
        if self._uncommitted is None or address not in self._uncommitted:
            return
        del self._uncommitted[address]
        self._commit_failure = self._commit_failure or failure
        if not self._uncommitted:
            yield from self._job.on_stopped(self._commit_failure)

    # -- decisions ------------------------------------------------------------------------------------------

    def _obey(self, decisions: Iterator[CheckpointDecision]) -> Iterator[Decision]:
        for decision in decisions:
            match decision:
                case Begin(checkpoint, stops):
                    yield from self._tell_all(BeginCheckpoint(checkpoint, stops))
                    yield from self._cut_rows_at_the_end(checkpoint)
                case Record():
                    self._shell.spawn(f"checkpoint {decision.checkpoint}", partial(self._store, decision), stores=True)
                case Complete(checkpoint, stops):
                    if self._rows is not None:
                        self._rows.on_complete(checkpoint)
                    if stops:
                        self._uncommitted = {s.address: None for s in self._plan.subtasks if self._plan.takes_part(s)}
                    yield from self._tell_all(CheckpointComplete(checkpoint))
                case Aborted(checkpoint, why):
                    _log.warning("job %s: checkpoint %d failed: %s", self._plan.job, checkpoint, why)
                    self._aborted.append(checkpoint)
                    yield from self._tell_all(AbortCheckpoint(checkpoint))
                    yield from self._on_rows(self._collected.on_abort(checkpoint))
                case NoMoreCheckpoints(failures, why):
                    error = CheckpointsFail(
                        f"{failures} checkpoints of job {self._plan.job!r} in a row have failed, and {failures - 1} are"
                        f" tolerated (tolerable_failures); the last one: {why}"
                    )
                    yield from self._job.on_failed(self._plan.subtasks[0].address, pack_error(error))

    def _tell_all(self, message: Message) -> Iterator[Decision]:
        for address in self._job.alive:
            if self._job.takes_part(address):
                yield Tell(address, message)

    def _store(self, record: Record) -> None:
        """Store what is left of a checkpoint, and record it; the body of an activation."""
        checkpoint = record.checkpoint
        if self._rows is None or self._storage is None:
            raise InternalError("a checkpoint of a job that has none")
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
            is_recorded = self._leader.record(checkpoint)
        except Exception as error:
            self._deliver(Recorded(checkpoint, fault=error))
            return
        if is_recorded:
            self._rows.note_stored(checkpoint, rows)
            self._clean_up(metadata)
        self._deliver(Recorded(checkpoint, None if is_recorded else "the job is being cancelled"))

    def _clean_up(self, metadata: CheckpointMetadata) -> None:
        if self._retention is None:
            return
        aborted, self._aborted = self._aborted, []  # no other one begins before this one is reported
        try:
            self._retention.on_complete(metadata, aborted)
        except StorageError as error:
            _log.warning("job %s: old checkpoints are not deleted: %s", self._plan.job, error)

    def _metadata(self, record: Record, rows: tuple[str, ...]) -> CheckpointMetadata:
        parts = tuple(s.part for s in record.snapshots if s.part.address != DRIVER)
        prepared: tuple[Prepared, ...] = tuple(p for s in record.snapshots for p in s.prepared)
        keeping = {name for part in parts for name in part.keeping} | {p.operator for p in prepared}
        longest = CutTimes.longest(part.timing for part in record.snapshots)
        return CheckpointMetadata(
            job=self._plan.job,
            run=self._plan.job_id,
            attempt=self._plan.attempt,
            checkpoint=record.checkpoint,
            created_ms=self._shell.wall_ms(),
            max_parallelism=self._plan.max_parallelism,
            operators=tuple(place for name, place in places_of(self._plan).items() if name in keeping),
            parts=parts,
            prepared=by_value.dumps_state(prepared),
            rows=rows,
            size=sum(part.size for part in parts),
            took_ms=int(1000 * (self._shell.now() - record.began)),
            alignment_ms=int(1000 * longest.alignment_s),
            pause_ms=1000 * longest.pause_s,
        )
