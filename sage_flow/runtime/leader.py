"""Who leads a job: its attempts, where each begins, when it is started again, and the decision that it has finished.

    claim an attempt -> run it -> decide the end (`Final`) -> commit -> over
          ^                |                                    |
          +--- wait <---- failed                              failed: the next attempt only commits

A leader writes the log (`checkpoint.log`) and believes nothing else: where an attempt begins is what the log says at
the position of its claim, not what the leader remembers. From the first try to write `Final` nothing cancels the job:
it may be in the log, and then some attempt publishes everything.

A leader that has led an attempt and finds that of another one behind it is a zombie: it was thought dead and was
replaced. It stops for good, and writes, publishes and deletes nothing. (If it claimed another attempt, the two would
fence each other for ever.) A new leader may go past what it finds.

Pure: events in, decisions out. The shell reads and writes the log, runs attempts, and keeps the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from sage_flow.checkpoint.log import (
    Append,
    AttemptEntry,
    CreateEntry,
    DoneEntry,
    Entry,
    EntryOvertaken,
    EntryRefused,
    EntryWritten,
    FinalEntry,
    ForeignCheckpoint,
    JobEnd,
    LogHistory,
    OverEntry,
    ReadLog,
)
from sage_flow.errors import InternalError
from sage_flow.restart import GiveUp, RestartHistory

__all__ = [
    "CancelAttempt",
    "CommitAll",
    "CompleteCheckpoint",
    "JobDecided",
    "Leader",
    "LeaderDecision",
    "RestartJob",
    "RunAttempt",
    "StepDown",
]


@dataclass(frozen=True, slots=True)
class RunAttempt:
    """Run attempt `attempt` from `restores`. Of a `FinalEntry` it only commits: no source is read."""

    attempt: int
    restores: DoneEntry | FinalEntry | ForeignCheckpoint | None


@dataclass(frozen=True, slots=True)
class CompleteCheckpoint:
    """Checkpoint `checkpoint` is in the log: tell the subtasks."""

    checkpoint: int


@dataclass(frozen=True, slots=True)
class CommitAll:
    """The end is in the log: let every sink publish `handles`."""

    handles: Any


@dataclass(frozen=True, slots=True)
class CancelAttempt:
    """End the attempt that runs."""

    reason: str


@dataclass(frozen=True, slots=True)
class RestartJob:
    """Call `on_time` in `delay_s` seconds. `failure`: what ended the attempt."""

    delay_s: float
    failure: Any = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class StepDown:
    """Another leader has taken over: end everything here, and leave no trace of it."""

    reason: str


@dataclass(frozen=True, slots=True)
class JobDecided:
    """The job is over, and the log says so, unless it is NOT_PUBLISHED."""

    end: JobEnd
    failure: Any = None
    note: str = ""


LeaderDecision = (
    ReadLog
    | CreateEntry
    | RunAttempt
    | CompleteCheckpoint
    | CommitAll
    | CancelAttempt
    | RestartJob
    | StepDown
    | JobDecided
)


class _Phase(Enum):
    CLAIMING = "claiming"
    RUNNING = "running"
    RECORDING = "recording"  # a checkpoint
    DECIDING = "deciding"
    COMMITTING = "committing"
    CLOSING = "closing"
    WAITING = "waiting"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class _Before:
    """What was before this leader: another leader, or a run that it goes on with; see the arguments of `Leader`.

    `failure`: the end of the other leader. `noticed`: when this one began. `claimed`: the attempt that begins when the
    delay after the loss is over.
    """

    failure: Any
    begins_from: ForeignCheckpoint | None = None
    continues: bool = False
    noticed: float = 0.0
    claimed: AttemptEntry | None = None


class Leader:
    """Leads one job, in one process.

    Args:
        name: what no other leader is called, also not one of this process before.
        history: says whether and when the job is started again.
        commit_tries: attempts to publish a job that has finished, whatever its restart strategy.
        commit_delay_s: seconds between them.
        lost: the failure of an earlier leader, if there was one. Unless the job has finished it counts as a failure of
            the job, so the restart strategy decides whether another attempt follows.
        begins_from: a checkpoint of another run, with which a log without checkpoints begins.
        continues: the user wants to go on with a job that is over, if it has not finished.
    """

    def __init__(
        self,
        name: str,
        history: RestartHistory,
        commit_tries: int = 5,
        commit_delay_s: float = 1.0,
        lost: Any = None,
        begins_from: ForeignCheckpoint | None = None,
        *,
        continues: bool = False,
    ) -> None:
        self._name = name
        self._history = history
        self._commits_left = commit_tries
        self._commit_delay_s = commit_delay_s
        self._serial = 0
        self._phase = _Phase.CLAIMING
        self._append: Append | None = None
        self._attempt = 0
        self._before = _Before(lost, begins_from, continues)
        self._checkpoint = 0  # that is being recorded
        self._finished: tuple[Any] | None = None  # the handles of the end
        self._final: FinalEntry | None = None
        self._cancelled: str | None = None
        self._failure: Any = None  # of a subtask that died while the end was being decided
        self._decided = JobDecided(JobEnd.FINISHED)  # once the log says that the job is over

    @property
    def attempt(self) -> int:
        """The attempt that was claimed last; 0: none."""
        return self._attempt

    @property
    def writes(self) -> Append | None:
        """The entry that is being written; another object for each."""
        return self._append

    @property
    def has_final(self) -> bool:
        """The end of the job is in the log."""
        return self._final is not None

    @property
    def can_cancel(self) -> bool:
        """The end of the job is not decided, and cannot be in the log."""
        return self._final is None and self._phase not in (_Phase.DECIDING, _Phase.CLOSING, _Phase.ENDED)

    @property
    def can_abort_checkpoint(self) -> bool:
        """The checkpoint that is being recorded may still be given up. Once it was tried, it may be in the log."""
        return self._phase is not _Phase.RECORDING or self._append is None or not self._append.is_tried

    # -- events ---------------------------------------------------------------------------------------------

    def start(self, now: float = 0.0) -> Iterator[LeaderDecision]:
        """Begin to lead. `now`: as for `on_failed`."""
        self._before = replace(self._before, noticed=now)
        yield from self._write(_Phase.CLAIMING)

    def on_read(self, history: LogHistory) -> Iterator[LeaderDecision]:
        """The log was read. An answer that nobody waits for any more changes nothing."""
        if self._append is None:
            return
        over = history.over
        goes_on = self._before.continues and self._attempt == 0 and over is not None and over.end is not JobEnd.FINISHED
        if over is not None and not goes_on:
            self._append, self._phase = None, _Phase.ENDED
            yield self._decided if self._decided.end is over.end else JobDecided(over.end, over.failure, over.note)
            return
        if self._phase is _Phase.CLOSING and self._decided.end is JobEnd.NOT_PUBLISHED and not self._is_fenced(history):
            self._append, self._phase = None, _Phase.ENDED
            yield self._decided
            return
        match self._append.on_read(history, self._compose):
            case EntryWritten(entry):
                self._append = None
                yield from self._written(entry)
            case EntryOvertaken(AttemptEntry()):
                yield from self._write(_Phase.CLAIMING)
            case EntryOvertaken() | EntryRefused():
                self._append, self._phase = None, _Phase.ENDED
                yield StepDown(f"attempt {history.latest_attempt} of another process has begun")
            case create:
                yield create

    def on_checkpoint(self, checkpoint: int) -> Iterator[LeaderDecision]:
        """All parts of a checkpoint are stored."""
        if self._phase is _Phase.RUNNING and self._cancelled is None:
            self._checkpoint = checkpoint
            yield from self._write(_Phase.RECORDING)

    def on_finished(self, handles: Any) -> Iterator[LeaderDecision]:
        """Every subtask has finished, and the sinks have prepared `handles`."""
        if self._cancelled is not None:
            return
        self._finished = (handles,)
        if self._phase is _Phase.RUNNING:
            yield from self._write(_Phase.DECIDING)

    def on_committed(self) -> Iterator[LeaderDecision]:
        """Every sink has published."""
        if self._phase is _Phase.COMMITTING:
            yield from self._end(JobEnd.FINISHED)

    def on_stopped(self) -> Iterator[LeaderDecision]:
        """The attempt has ended with a last checkpoint, and all that belongs to it is published."""
        if self._phase is _Phase.RUNNING:
            yield from self._end(JobEnd.STOPPED)

    def on_failed(self, failure: Any, now: float, *, why_last: str = "") -> Iterator[LeaderDecision]:
        """The attempt has ended without having finished, or without having published all.

        `now`: seconds, as the restart history counts them. `why_last`: why no other attempt can run, such as that code
        of this one still does in the same process; empty: another one can.
        """
        if self._phase in (_Phase.CLAIMING, _Phase.CLOSING, _Phase.WAITING, _Phase.ENDED):
            return
        if self._phase is _Phase.DECIDING:
            self._failure = failure  # the end may be in the log already: what follows depends on that
        elif self._final is not None:
            self._commits_left = 0 if why_last else self._commits_left
            yield from self._commit_again(failure)
        elif self._cancelled is not None:
            yield from self._end(JobEnd.CANCELLED)
        else:
            yield from self._restart(failure, now, why_last)

    def on_cancel(self, reason: str) -> Iterator[LeaderDecision]:
        """The user wants the job to end. Too late once its end may be in the log."""
        if not self.can_cancel or self._cancelled is not None:
            return
        self._cancelled = reason
        if self._phase is _Phase.WAITING:
            yield from self._end(JobEnd.CANCELLED)
        elif self._phase is not _Phase.CLAIMING:
            yield CancelAttempt(reason)

    def on_time(self) -> Iterator[LeaderDecision]:
        """The time of `RestartJob` has come."""
        if self._phase is not _Phase.WAITING:
            return
        inherited, self._before = self._before.claimed, replace(self._before, claimed=None)
        if inherited is None:
            yield from self._write(_Phase.CLAIMING)
        else:
            self._phase = _Phase.RUNNING
            yield RunAttempt(inherited.attempt, inherited.restores)

    # -- writing the log ------------------------------------------------------------------------------------

    def _write(self, phase: _Phase) -> Iterator[LeaderDecision]:
        self._serial += 1
        self._phase, self._append = phase, Append((self._name, self._serial))
        yield ReadLog()

    def _compose(self, history: LogHistory) -> Entry | EntryRefused:
        """The entry of this phase, for the end of this log."""
        if self._is_fenced(history):
            return EntryRefused("another leader has begun an attempt behind that of this one")
        nonce = (self._name, self._serial)
        match self._phase:
            case _Phase.CLAIMING:
                return AttemptEntry(nonce, history.latest_attempt + 1, self._restore_point(history))
            case _Phase.RECORDING:
                return DoneEntry(nonce, self._attempt, self._checkpoint)
            case _Phase.DECIDING if self._finished is not None:
                return FinalEntry(nonce, self._attempt, self._finished[0])
            case _Phase.CLOSING:
                return OverEntry(nonce, self._attempt, self._decided.end, self._decided.failure, self._decided.note)
        raise InternalError(f"a leader that is {self._phase.value} writes nothing")

    def _restore_point(self, history: LogHistory) -> DoneEntry | FinalEntry | ForeignCheckpoint | None:
        """The end, else the last checkpoint, else the beginning. Never an older one: its sinks may have published."""
        return history.final or history.done or history.foreign or self._before.begins_from

    def _is_fenced(self, history: LogHistory) -> bool:
        mine = history.latest_attempt_of(self._name)
        return 0 < mine < history.latest_attempt

    def _written(self, entry: Entry) -> Iterator[LeaderDecision]:
        match entry:
            case AttemptEntry():
                yield from self._run(entry)
            case DoneEntry(_, _, checkpoint):
                self._phase = _Phase.RUNNING
                yield CompleteCheckpoint(checkpoint)
                if self._finished is not None:
                    yield from self._write(_Phase.DECIDING)
            case FinalEntry():
                self._phase, self._final = _Phase.COMMITTING, entry
                if self._failure is None:
                    yield CommitAll(entry.handles)
                else:
                    yield from self._commit_again(self._failure)
            case OverEntry():
                self._phase = _Phase.ENDED
                yield self._decided

    def _run(self, claimed: AttemptEntry) -> Iterator[LeaderDecision]:
        inherits = self._attempt == 0 and claimed.attempt > 1
        self._attempt = claimed.attempt
        self._finished, self._failure = None, None
        if isinstance(claimed.restores, FinalEntry):
            self._phase, self._final = _Phase.COMMITTING, claimed.restores
        elif self._cancelled is not None:
            yield from self._end(JobEnd.CANCELLED)
            return
        elif inherits and self._before.failure is not None:
            self._before = replace(self._before, claimed=claimed)
            yield from self._restart(self._before.failure, self._before.noticed)
            return
        else:
            self._phase = _Phase.RUNNING
        yield RunAttempt(claimed.attempt, claimed.restores)

    # -- ends -----------------------------------------------------------------------------------------------

    def _restart(self, failure: Any, now: float, why_last: str = "") -> Iterator[LeaderDecision]:
        decision = self._history.on_failure(now)
        if isinstance(decision, GiveUp):
            yield from self._end(JobEnd.FAILED, failure, decision.reason)
        elif why_last:
            yield from self._end(JobEnd.FAILED, failure, why_last)
        else:
            yield from self._wait(decision.delay_s, failure)

    def _commit_again(self, failure: Any) -> Iterator[LeaderDecision]:
        self._commits_left -= 1
        if self._commits_left > 0:
            yield from self._wait(self._commit_delay_s, failure)
        else:
            yield from self._end(JobEnd.NOT_PUBLISHED, failure)

    def _wait(self, delay_s: float, failure: Any) -> Iterator[LeaderDecision]:
        self._phase, self._append = _Phase.WAITING, None
        yield RestartJob(delay_s, failure)

    def _end(self, end: JobEnd, failure: Any = None, note: str = "") -> Iterator[LeaderDecision]:
        self._decided = JobDecided(end, failure, note)
        yield from self._write(_Phase.CLOSING)
