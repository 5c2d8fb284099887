"""When a checkpoint begins, who takes part in it, and what becomes of it.

    begin -> every participant has stored its part -> record (`Done` in the log) -> complete
      |                                                |
      +--> abort: too late, declined, not stored       +--> once it was tried, nothing aborts it

The participants are the subtasks of the main pipeline, and the driver if it collects rows. A subtask that has finished
takes part in every later checkpoint with the part that it had at its end.

A checkpoint that fails never stops data: what the subtasks have prepared stays pending, and the next checkpoint names
it. After each failure the pause until the next one doubles.

Pure: events and times in, decisions out. Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_flow.checkpoint.metadata import SubtaskPart
    from sage_flow.checkpoint.prepared import Prepared

__all__ = [
    "Aborted",
    "Begin",
    "CheckpointCoordinator",
    "CheckpointDecision",
    "CheckpointRecord",
    "Complete",
    "CutTimes",
    "NoMoreCheckpoints",
    "Record",
    "StoredPart",
]

_FIRST_BACK_OFF_S = 0.1
_LONGEST_BACK_OFF_S = 60.0
_ALIGNMENTS = 3
"""A checkpoint may take at least so many times as long as the longest complete one before it."""
REMEMBERED = 100
"""Checkpoints whose records are kept for `sage-flow checkpoints`."""


@dataclass(frozen=True, slots=True)
class CutTimes:
    """How long it took a subtask: from its first barrier to the cut, the cut itself, and until all was stored; in s."""

    alignment_s: float = 0.0
    pause_s: float = 0.0
    stored_s: float = 0.0

    @staticmethod
    def longest(several: Iterable[CutTimes]) -> CutTimes:
        """The longest of each time."""
        known = [CutTimes(), *several]
        return CutTimes(
            max(times.alignment_s for times in known),
            max(times.pause_s for times in known),
            max(times.stored_s for times in known),
        )


@dataclass(frozen=True, slots=True)
class StoredPart:
    """What one subtask has stored: its part, and all that its sinks have prepared and not published.

    `cut`: of a subtask that has finished, the latest checkpoint that it had cut for before. Its end belongs to later
    ones only.
    """

    part: SubtaskPart
    prepared: tuple[Prepared, ...] = ()
    timing: CutTimes = CutTimes()
    cut: int = 0


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """What became of a checkpoint. `began`: seconds on the coordinator's clock. `why`: it failed; None: it is complete.

    `slowest`: the address of the subtask whose part came last, or is missing.
    """

    checkpoint: int
    began: float
    took_s: float
    size: int = 0
    timing: CutTimes = CutTimes()
    slowest: int | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Tell every subtask. `stops`: it is the last one, so sources read nothing more."""

    checkpoint: int
    stops: bool


@dataclass(frozen=True, slots=True)
class Record:
    """All parts are stored: store the metadata and write `Done`. Then call `on_recorded` or `on_not_recorded`.

    `began`: seconds on the coordinator's clock.
    """

    checkpoint: int
    began: float
    snapshots: tuple[StoredPart, ...]


@dataclass(frozen=True, slots=True)
class Complete:
    """It is in the log: tell every subtask. `stops`: the job ends with it."""

    checkpoint: int
    stops: bool


@dataclass(frozen=True, slots=True)
class Aborted:
    """Tell every subtask. `why` completes "checkpoint n failed: "."""

    checkpoint: int
    why: str


@dataclass(frozen=True, slots=True)
class NoMoreCheckpoints:
    """More checkpoints in a row have failed than are tolerated; `why` is that of the last one."""

    failures: int
    why: str


CheckpointDecision = Begin | Record | Complete | Aborted | NoMoreCheckpoints


@dataclass(slots=True)
class _Pending:
    """The checkpoint under way."""

    number: int
    began: float
    stops: bool
    waits_for: dict[int, None]
    snapshots: dict[int, StoredPart]
    is_recording: bool = False


class CheckpointCoordinator:
    """The checkpoints of one attempt.

    Args:
        interval_s: from the begin of one checkpoint to the begin of the next.
        timeout_s: a checkpoint that takes longer is aborted.
        min_pause_s: from the end of one checkpoint to the begin of the next.
        tolerable_failures: failures in a row; one more ends the attempt. None: any number.
        participants: addresses of the subtasks, and that of the driver if rows are collected.
        first: the number of the first checkpoint.
        now: seconds.
    """

    def __init__(
        self,
        interval_s: float,
        timeout_s: float,
        min_pause_s: float,
        tolerable_failures: int | None,
        participants: Iterable[int],
        first: int,
        now: float,
    ) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._min_pause_s = min_pause_s
        self._tolerable = math.inf if tolerable_failures is None else tolerable_failures
        self._participants = dict.fromkeys(participants)
        self._next = first
        self._begin_at = now + interval_s
        self._pending: _Pending | None = None
        self._finished: dict[int, StoredPart] = {}
        self._in_a_row = 0
        self._longest_s = 0.0
        self._stops = False
        self._has_ended = False
        self.records: list[CheckpointRecord] = []
        """Of the latest checkpoints, oldest first."""

    @property
    def next_look(self) -> float:
        """When `on_time` has something to do."""
        if self._pending is not None:
            return math.inf if self._pending.is_recording else self._pending.began + self._limit_s
        return math.inf if self._has_ended else self._begin_at

    @property
    def is_recording(self) -> bool:
        """Whether a checkpoint is being recorded: the end of the job cannot be, meanwhile."""
        return self._pending is not None and self._pending.is_recording

    @property
    def under_way(self) -> int | None:
        """The checkpoint under way."""
        return None if self._pending is None else self._pending.number

    @property
    def _limit_s(self) -> float:
        return max(self._timeout_s, _ALIGNMENTS * self._longest_s)

    # -- events ---------------------------------------------------------------------------------------------

    def on_time(self, now: float) -> Iterator[CheckpointDecision]:
        """`next_look` has come, or the clock has moved."""
        pending = self._pending
        if pending is None:
            if not self._has_ended and now >= self._begin_at:
                yield from self._begin(now)
        elif not pending.is_recording and now >= pending.began + self._limit_s:
            yield from self._abort(now, f"it was not complete after {self._limit_s:g} s")

    def on_stop(self, now: float) -> Iterator[CheckpointDecision]:
        """The job is to end with a last checkpoint, which begins as soon as none is under way."""
        if not self._stops:
            self._stops = True
            self._begin_at = now
            yield from self.on_time(now)

    def on_end(self) -> None:
        """The job ends in another way: no further checkpoint begins or is recorded. One under record is completed."""
        self._has_ended = True

    def on_snapshot(
        self, address: int, checkpoint: int, snapshot: StoredPart, now: float
    ) -> Iterator[CheckpointDecision]:
        """A subtask has stored its part."""
        pending = self._pending
        if pending is not None and pending.number == checkpoint and address in pending.waits_for:
            pending.snapshots[address] = snapshot
            del pending.waits_for[address]
            yield from self._check_complete(now)

    def on_finished(self, address: int, snapshot: StoredPart, now: float) -> Iterator[CheckpointDecision]:
        """A subtask has finished; `snapshot` is its part from now on."""
        if address not in self._participants:
            return
        self._finished[address] = snapshot
        pending = self._pending
        if pending is not None and address in pending.waits_for and pending.number > snapshot.cut:
            # It has met no barrier, so all that it gave is before it. If it has cut, its part may still be on the way:
            # its end, with what came behind the barrier, must not take the place of that.
            pending.snapshots[address] = snapshot
            del pending.waits_for[address]
            yield from self._check_complete(now)

    def on_committed(self, address: int, checkpoint: int) -> None:
        """A subtask that has finished has published what it had prepared up to a checkpoint."""
        snapshot = self._finished.get(address)
        if snapshot is not None:
            left = tuple(p for p in snapshot.prepared if not 0 < p.checkpoint <= checkpoint)
            self._finished[address] = replace(snapshot, prepared=left)

    def on_declined(self, address: int, checkpoint: int, why: str, now: float) -> Iterator[CheckpointDecision]:
        """A subtask cannot take part."""
        pending = self._pending
        if pending is not None and pending.number == checkpoint and not pending.is_recording:
            yield from self._abort(now, why, address)

    def on_recorded(self, checkpoint: int, now: float) -> Iterator[CheckpointDecision]:
        """`Done` is in the log."""
        pending = self._pending
        if pending is None or pending.number != checkpoint:
            return
        self._pending, self._in_a_row = None, 0
        took_s = now - pending.began
        self._longest_s = max(self._longest_s, took_s)
        self._note(pending, now)
        self._begin_at = now if self._stops else max(now + self._min_pause_s, pending.began + self._interval_s)
        if pending.stops:
            self._has_ended = True
        yield Complete(checkpoint, pending.stops)
        if self._stops and not pending.stops:
            yield from self.on_time(now)

    def on_not_recorded(self, checkpoint: int, why: str, now: float) -> Iterator[CheckpointDecision]:
        """Its metadata could not be stored, so `Done` was not tried."""
        if self._pending is not None and self._pending.number == checkpoint:
            yield from self._abort(now, why)

    # -- decisions ------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> Iterator[CheckpointDecision]:
        number, self._next = self._next, self._next + 1
        waits_for = {address: None for address in self._participants if address not in self._finished}
        self._pending = _Pending(number, now, self._stops, waits_for, dict(self._finished))
        yield Begin(number, self._stops)
        yield from self._check_complete(now)

    def _check_complete(self, now: float) -> Iterator[CheckpointDecision]:
        pending = self._pending
        if pending is None or pending.is_recording or pending.waits_for or self._has_ended:
            return  # after the end the log takes no checkpoint any more
        pending.is_recording = True
        yield Record(pending.number, pending.began, tuple(pending.snapshots[address] for address in self._participants))

    def _abort(self, now: float, why: str, address: int | None = None) -> Iterator[CheckpointDecision]:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if address is None and pending.waits_for:
            address = next(iter(pending.waits_for))
        self._in_a_row += 1
        self._note(pending, now, why, address)
        back_off_s = min(
            _LONGEST_BACK_OFF_S, max(self._interval_s, _FIRST_BACK_OFF_S) * 2 ** min(self._in_a_row - 1, 16)
        )
        self._begin_at = now + max(self._min_pause_s, back_off_s)
        yield Aborted(pending.number, why)
        if self._in_a_row > self._tolerable:
            yield NoMoreCheckpoints(self._in_a_row, why)

    def _note(self, pending: _Pending, now: float, why: str | None = None, address: int | None = None) -> None:
        taken = list(pending.snapshots.items())
        longest = CutTimes.longest(part.timing for _, part in taken)
        slowest = taken[-1][0] if address is None and taken else address
        size = sum(s.part.size for _, s in taken)
        self.records.append(
            CheckpointRecord(pending.number, pending.began, now - pending.began, size, longest, slowest, why)
        )
        del self.records[:-REMEMBERED]
