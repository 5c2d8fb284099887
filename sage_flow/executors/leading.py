"""Leads a job from its first attempt to its end: the shell around `runtime.leader.Leader`, the same in every mode.

The thread that calls `lead` does everything: it reads and writes the log, runs attempts one after another, and waits
between them. Other threads only leave requests for it: any thread may call `cancel` and `drain`. Each event of the
leader is handled under one lock. The log is read and written without it, so a cancel never waits for the log.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from sage_flow.checkpoint.log import (
    CreateEntry,
    DoneEntry,
    Entry,
    FinalEntry,
    ForeignCheckpoint,
    JobEnd,
    LogHistory,
    ReadLog,
)
from sage_flow.checkpoint.prepared import Prepared
from sage_flow.errors import (
    CheckpointError,
    CheckpointMissing,
    InternalError,
    LeaderReplaced,
    LogUnavailable,
    StorageError,
)
from sage_flow.executors.driver_checkpoints import DriverCalls
from sage_flow.executors.execution import JobOutcome
from sage_flow.executors.shell import Condition
from sage_flow.runtime.coordinator import JobStatus
from sage_flow.runtime.failure import PackedError, add_notes, pack_error
from sage_flow.runtime.leader import (
    CancelAttempt,
    CommitAll,
    CompleteCheckpoint,
    JobDecided,
    Leader,
    LeaderDecision,
    RestartJob,
    RunAttempt,
    StepDown,
)

__all__ = ["FinishedJob", "JobLead", "LedAttempt", "LogStore", "MemoryLog", "NextAttempt"]

_log = logging.getLogger("sage_flow")

_NOT_RESTORED = "the job cannot be restored from its last checkpoint, and an older one would publish rows again"

_POISON = 3
"""The same failure so often in a row is told."""

_AGAIN_S = 1.0
"""Seconds between two tries to reach the log."""


class LogStore(Protocol):
    """Where the log of a job is kept."""

    def read(self) -> LogHistory:
        """Return all of it. Raises LogUnavailable if it cannot be reached now."""

    def create(self, position: int, entry: Entry) -> None:
        """Store `entry` at `position` if nothing is there. The next `read` tells whether it was stored.

        Raises LogUnavailable if that is not known.
        """

    def trim(self, history: LogHistory, attempt: int) -> None:
        """Delete the entries that the leader of `attempt` does not need any more; see `StoredLog.trim`."""


class MemoryLog:
    """The log of a job that is led in this process; it ends with the process."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}

    def read(self) -> LogHistory:
        return LogHistory(dict(self._entries))

    def create(self, position: int, entry: Entry) -> None:
        self._entries.setdefault(position, entry)

    def trim(self, history: LogHistory, attempt: int) -> None:
        """It has no checkpoints."""


@dataclass(frozen=True)
class FinishedJob:
    """The result of a job, in the entry that decides its end. `outcome` has the rows, if the log can hold them."""

    prepared: tuple[Prepared, ...]
    outcome: JobOutcome


class LedAttempt(Protocol):
    """One attempt, made and not yet run."""

    def run(self) -> JobOutcome:
        """Run it to its end. Raises an error of the engine itself, or what `decide` raised."""

    def outcome(self) -> JobOutcome:
        """Return its outcome so far."""

    def cancel(self, reason: str) -> None:
        """End it, from any thread."""

    def drain(self) -> None:
        """Let its sources end, from any thread."""

    def stop(self) -> None:
        """Let it make a last checkpoint and end, from any thread."""

    @property
    def why_last(self) -> str:
        """Why no other attempt can run, such as that code of this one still does; empty: another one can."""


@dataclass(frozen=True)
class NextAttempt:
    """An attempt that is to be made: with `finished` it only publishes that, else it begins from `restores`."""

    number: int
    restores: DoneEntry | ForeignCheckpoint | None
    finished: FinishedJob | None
    calls: DriverCalls


@dataclass(slots=True)
class _Asked:
    """How the job was asked to end. `cancelled` is the reason."""

    cancelled: str | None = None
    drains: bool = False
    stops: bool = False


class _Repeated:
    """Counts how often in a row attempts have ended by the same failure, as one record lets each of them fail."""

    def __init__(self) -> None:
        self._text, self._count = "", 0

    def note(self, failure: PackedError) -> PackedError:
        """Return the failure, with a note if it has come too often."""
        self._count = self._count + 1 if failure.text == self._text else 1
        self._text = failure.text
        if self._count < _POISON:
            return failure
        why = f"the same failure has ended {self._count} attempts in a row, so the next one will probably meet it, too"
        return replace(failure, notes=(*failure.notes, why))


@dataclass(frozen=True)
class _NotMade:
    """The storage or the checkpoint does not let an attempt begin. `why_last`: no other one can; empty: one may."""

    failure: PackedError
    why_last: str


def _why_not_restored(failure: PackedError | None) -> str:
    """Why no other attempt can run if a subtask could not restore its part; empty: it was another failure."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in (CheckpointError, CheckpointMissing)}
    return _NOT_RESTORED if failure is not None and failure.type_name in names else ""


class JobLead:
    """Leads one job.

    `make(attempt)` makes an attempt; a CheckpointError that it raises ends the job, as the checkpoint will not get
    better, and a StorageError counts as a failure of the attempt. `on_restart(delay_s, failure)` is called before the
    job waits for its next attempt.
    """

    def __init__(
        self,
        leader: Leader,
        log: LogStore,
        make: Callable[[NextAttempt], LedAttempt],
        condition: Condition,
        now: Callable[[], float],
        on_restart: Callable[[float, PackedError], None] = lambda delay_s, failure: None,
        kept: Callable[[JobOutcome], JobOutcome] = lambda outcome: outcome,
    ) -> None:
        """`kept` returns what the log keeps of an outcome."""
        self._leader = leader
        self._log = log
        self._make = make
        self._condition = condition
        self._now = now
        self._on_restart = on_restart
        self._kept = kept
        self._attempt: LedAttempt | None = None
        self._handed: deque[LeaderDecision] = deque()  # decisions that `cancel` has led to, for the thread that leads
        self._asked = _Asked()
        self._finished: FinishedJob | None = None
        self._next: LeaderDecision | None = None
        self._begun: LedAttempt | _NotMade | None = None
        self._last = JobOutcome(JobStatus.CREATED)  # the outcome of the attempt that ran last
        self._repeated = _Repeated()

    @property
    def is_recorded(self) -> bool:
        """The end of the job is in the log, so nothing cancels it any more."""
        return self._leader.has_final

    # -- from any thread ------------------------------------------------------------------------------------

    def cancel(self, reason: str) -> None:
        """Ask the job to end; too late once its end may be in the log."""
        with self._condition.lock:
            for decision in self._leader.on_cancel(reason):
                if isinstance(decision, CancelAttempt):
                    self._asked.cancelled = reason
                else:
                    self._handed.append(decision)
            attempt = self._attempt if self._asked.cancelled is not None else None
            self._condition.notify_all()
        if attempt is not None:
            attempt.cancel(reason)

    def drain(self) -> None:
        """Let the sources end, also those of a later attempt."""
        with self._condition.lock:
            self._asked.drains = True
            attempt = self._attempt
        if attempt is not None:
            attempt.drain()

    def stop(self) -> None:
        """Ask for a last checkpoint and the end, also those of a later attempt."""
        with self._condition.lock:
            self._asked.stops = True
            attempt = self._attempt
        if attempt is not None:
            attempt.stop()

    # -- an activation that records a checkpoint ------------------------------------------------------------

    def record(self, checkpoint: int) -> bool:
        """Record a checkpoint of the attempt that runs; False if it is cancelled, or has ended meanwhile.

        While the log cannot be used it tries again: data goes on, and nobody knows whether the entry is stored. Raises
        LeaderReplaced; CheckpointError if an entry is damaged.
        """
        with self._condition.lock:
            todo = deque(self._leader.on_checkpoint(checkpoint))
            mine = self._leader.writes
        while todo:
            match todo.popleft():
                case CompleteCheckpoint():
                    self._trim()
                    return True
                case StepDown(reason):
                    raise LeaderReplaced(reason)
                case CreateEntry() as create:
                    history = self._created(create)
                case _:
                    history = self._created(None)
            with self._condition.lock:
                if self._leader.writes is not mine:
                    return False  # the attempt has ended: the thread that leads goes on, by what the log says
                todo.extend([ReadLog()] if history is None else self._leader.on_read(history))
        return False

    def _created(self, create: CreateEntry | None) -> LogHistory | None:
        """Create an entry and read the log; None if the log cannot be read now."""
        try:
            if create is not None:
                self._log.create(create.position, create.entry)
        except (LogUnavailable, StorageError) as error:
            self._tell_and_wait("an entry of the log of a job may not be stored", error)
        try:
            return self._log.read()
        except (LogUnavailable, StorageError) as error:
            self._tell_and_wait("the log of a job cannot be read", error)
            return None

    def _tell_and_wait(self, what: str, error: Exception) -> None:
        _log.warning("%s: %s", what, error)
        with self._condition.lock:
            self._condition.wait(_AGAIN_S)

    def _trim(self) -> None:
        try:
            self._log.trim(self._log.read(), self._leader.attempt)
        except (LogUnavailable, StorageError) as error:  # the next checkpoint tries again
            _log.warning("old entries of the log of a job are not deleted: %s", error)

    # -- the thread that leads ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Claim and make the first attempt, so that it can be inspected before it runs. Raises what `make` raises."""
        self._next = self._settled(self._leader.start(self._now()))
        if isinstance(self._next, RunAttempt) and not self._is_published(self._next):
            self._begun = self._prepared(self._next)

    def lead(self) -> JobOutcome:
        """Lead the job to its end and return its outcome. Raises LeaderReplaced, or an error of the engine."""
        if self._next is None:
            self.begin()
        while True:
            match self._next:
                case RunAttempt() as run:
                    self._next = self._run(run)
                case RestartJob(delay_s, failure):
                    self._on_restart(delay_s, self._repeated.note(failure))
                    self._next = self._wait(delay_s)
                case JobDecided() as decided:
                    return self._outcome(decided)
                case StepDown(reason):
                    raise LeaderReplaced(reason)
                case decision:
                    raise InternalError(f"a leader has decided {decision!r}, which does not go on")

    def _run(self, run: RunAttempt) -> LeaderDecision | None:
        if self._is_published(run):
            return self._settled(self._leader.on_committed())
        begun = self._attempt or self._begun or self._prepared(run)
        self._begun = None
        if isinstance(begun, _NotMade):
            self._last = JobOutcome(JobStatus.FAILED, begun.failure)
            return self._settled(self._leader.on_failed(begun.failure, self._now(), why_last=begun.why_last))
        try:
            outcome = begun.run()
        finally:
            self._attempt = None
        if outcome.status is JobStatus.FINISHED:
            return self._settled(self._leader.on_committed())
        self._last = outcome
        if outcome.status is JobStatus.STOPPED:
            return self._settled(self._leader.on_stopped())
        why_last = begun.why_last or _why_not_restored(outcome.failure)
        return self._settled(self._leader.on_failed(outcome.failure, self._now(), why_last=why_last))

    def _prepared(self, run: RunAttempt) -> LedAttempt | _NotMade:
        """Make the attempt; or return the error of its checkpoint."""
        try:
            return self._prepare(run)
        except CheckpointError as error:
            return _NotMade(pack_error(error), _NOT_RESTORED)
        except StorageError as error:
            return _NotMade(pack_error(error), "" if error.may_pass else "its last checkpoint cannot be read")

    def _is_published(self, run: RunAttempt) -> bool:
        """Whether the job has finished, and its sinks have prepared nothing."""
        if isinstance(run.restores, FinalEntry) and self._finished is None:
            self._finished = run.restores.handles  # of an earlier leader
        return self._finished is not None and not self._finished.prepared

    def _prepare(self, run: RunAttempt) -> LedAttempt:
        """Make the attempt, and pass on a cancel or a drain that came before."""
        restores = None if isinstance(run.restores, FinalEntry) else run.restores
        attempt = self._make(NextAttempt(run.attempt, restores, self._finished, DriverCalls(self._decide, self.record)))
        with self._condition.lock:
            self._attempt = attempt
            asked = replace(self._asked)
        if asked.drains:
            attempt.drain()
        if asked.stops:
            attempt.stop()
        if asked.cancelled is not None:
            attempt.cancel(asked.cancelled)
        return attempt

    def _decide(self, prepared: tuple[Prepared, ...]) -> bool:
        """Record that the job has finished; False if it was cancelled before. Raises LeaderReplaced."""
        if self._attempt is None:
            raise InternalError("an attempt finished that does not run")
        outcome = replace(self._attempt.outcome(), status=JobStatus.FINISHED)
        finished = FinishedJob(prepared, outcome)
        match self._settled(self._leader.on_finished(replace(finished, outcome=self._kept(outcome)))):
            case CommitAll():
                self._finished = finished
                return True
            case StepDown(reason):
                raise LeaderReplaced(reason)
        return False

    def _wait(self, delay_s: float) -> LeaderDecision | None:
        """Wait until it is time for the next attempt, or the job is cancelled."""
        until = self._now() + delay_s
        with self._condition.lock:
            while not self._handed and (left_s := until - self._now()) > 0:
                self._condition.wait(left_s)
            handed = iter(tuple(self._handed)) if self._handed else self._leader.on_time()
            self._handed.clear()
            decisions = list(handed)
        return self._settled(iter(decisions))

    def _outcome(self, decided: JobDecided) -> JobOutcome:
        match decided.end:
            case JobEnd.FINISHED if self._finished is not None:
                return self._finished.outcome
            case JobEnd.FINISHED:  # by an earlier leader
                final = self._read().final
                if final is None:
                    raise InternalError("the log says that the job has finished, and not with what")
                outcome: JobOutcome = final.handles.outcome
                return outcome
            case JobEnd.STOPPED:
                return replace(self._last, status=JobStatus.STOPPED, failure=None)
            case JobEnd.CANCELLED:
                return replace(self._last, status=JobStatus.CANCELLED, failure=None)
        failure: PackedError | None = decided.failure
        notes = [f"not restarted: {decided.note}"] if decided.note else []
        if decided.end is JobEnd.NOT_PUBLISHED:
            notes.append("the job has finished and its end is recorded, but not all of its output could be published")
        if failure is not None and notes:
            failure = replace(failure, notes=(*failure.notes, *notes))
            if failure.original is not None:
                add_notes(failure.original, notes)
        return replace(self._last, status=JobStatus.FAILED, failure=failure)

    # -- the log --------------------------------------------------------------------------------------------

    def _settled(self, decisions: Iterator[LeaderDecision]) -> LeaderDecision | None:
        """Read and write the log as the leader decides; return its first other decision, None if there is none."""
        with self._condition.lock:
            todo = deque(decisions)
        while todo:
            match todo.popleft():
                case ReadLog():
                    pass
                case CreateEntry(position, entry):
                    self._create(position, entry)
                case other:
                    return other
            history = self._read()
            with self._condition.lock:
                todo.extend(self._leader.on_read(history))
        return None

    def _create(self, position: int, entry: Entry) -> None:
        try:
            self._log.create(position, entry)
        except LogUnavailable as error:  # it may be stored all the same: the next read tells
            self._tell_and_wait("an entry of the log of a job may not be stored", error)

    def _read(self) -> LogHistory:
        while True:
            try:
                return self._log.read()
            except LogUnavailable as error:
                self._tell_and_wait("the log of a job cannot be read", error)
