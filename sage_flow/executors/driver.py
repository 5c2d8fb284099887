"""The driver: carries out the coordinator's decisions, receives collected rows, and knows the progress of the job."""

# Theory of operation
#
# Threads. `run` is the driver's activation: a thread of its own in a local job, a thread of the master on Ray. Only it
# changes the coordinator, the end watch, the openings and the collected rows, so these have no locks. Threads that
# deliver messages and threads of users that look at the job or end it call the methods "from any thread".
#
# Everything from outside goes through the inbox (`driver_inbox`), whose condition is the only lock: a cancel, a drain,
# the death of a worker and the messages of subtasks are handled one after the other, in the order of their arrival.
# Answers to an inspection do not wait there, because the activation may be busy.
#
# What other threads read without a lock is replaced as a whole (`status`, `failure`, the report of a subtask) or only
# grows (`collected.rows`), so they may see an older state. `failure` is set before `status`, because a final `status`
# ends the job for those that wait for it.
#
# The activation sends while it holds no lock. Inside one process a message is delivered in this thread: a subtask's
# port takes its own lock, and never waits for the driver.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from sage_flow.checkpoint.options import CheckpointOptions
from sage_flow.errors import CloseTimeout, ProtocolError
from sage_flow.executors.collected_rows import CollectedRows
from sage_flow.executors.driver_checkpoints import (
    WITHOUT_LEADER,
    DriverCalls,
    DriverCheckpoints,
    Recorded,
)
from sage_flow.executors.driver_inbox import DriverInbox
from sage_flow.executors.job_reports import JobReports
from sage_flow.executors.outside import OutsidePort
from sage_flow.executors.shell import Shell
from sage_flow.plan.physical import Plan
from sage_flow.restart import NoRestart, RestartStrategy
from sage_flow.runtime.coordinator import AllFinished, Coordinator, Decision, JobEnded, JobStatus, Tell
from sage_flow.runtime.ending import ANSWER_S, Blocked, EndWatch
from sage_flow.runtime.failure import pack_error
from sage_flow.runtime.messages import (
    DRIVER,
    OUTSIDE,
    Cancel,
    Closing,
    Commit,
    Committed,
    Control,
    Data,
    Declined,
    Drain,
    Ended,
    EndService,
    Failed,
    Finished,
    Locate,
    Located,
    Message,
    Opened,
    Progress,
    Publish,
    Published,
    Reply,
    Request,
    ServiceOpened,
    Snapshotted,
)
from sage_flow.runtime.opening import OpeningServices
from sage_flow.runtime.report import PortReport
from sage_flow.runtime.statistics import CallStatistics

__all__ = ["Driver", "DriverOptions", "WorkersDied"]

_log = logging.getLogger("sage_flow")


@dataclass(frozen=True, slots=True)
class DriverOptions:
    """Limits of a job.

    `cancel_grace_s`: how long user code may take to return after a cancel before the job ends without it.
    `close_grace_s`: how long it may take to return at the normal end before the job fails.
    `collect_rows`, `collect_bytes`: what one job's `collect` sinks may hold together.
    `restart`: whether and when a job that has failed starts again. `checkpoints`: where it then begins.
    `unwind_s`: how long user code may take to return before a restart, where whatever has not is killed; None: as long
    as after a cancel.
    """

    cancel_grace_s: float = 5.0
    close_grace_s: float = 30.0
    collect_rows: int = 1_000_000
    collect_bytes: int = 1_000_000_000
    restart: RestartStrategy = field(default_factory=NoRestart)
    checkpoints: CheckpointOptions | None = None
    unwind_s: float | None = None

    @property
    def restarts(self) -> bool:
        """Whether another attempt may follow a failed one; then user code that waits unwinds with JobRestarting."""
        return not isinstance(self.restart, NoRestart)


@dataclass(frozen=True, slots=True)
class WorkersDied:
    """From the supervisor: the process of these subtasks is dead."""

    addresses: tuple[int, ...]
    error: BaseException


@dataclass(frozen=True, slots=True)
class StopJob:
    """The user wants a last checkpoint, and the end."""


DriverEvent = Message | WorkersDied | Recorded | StopJob


class Driver:
    """The address 0 of a job. `run` is its activation; the other methods may be called from any thread."""

    def __init__(
        self,
        plan: Plan,
        shell: Shell,
        options: DriverOptions,
        where_stuck: Callable[[int], str] = lambda _: "",
        outside: OutsidePort | None = None,
        leader: DriverCalls = WITHOUT_LEADER,
    ) -> None:
        self.plan = plan
        self.outside = outside
        self.status = JobStatus.CREATED
        self.failure: Any = None
        self.stuck: list[str] = []
        self.reports = JobReports(plan)
        self._shell = shell
        self._options = options
        self._where_stuck = where_stuck
        self._coordinator = Coordinator(plan, restarts=options.restarts)
        self._inbox: DriverInbox[DriverEvent] = DriverInbox(shell)
        self.collected = CollectedRows(plan, shell, options.collect_rows, options.collect_bytes)
        self.checkpoints = DriverCheckpoints(
            plan, options.checkpoints, shell, self._coordinator, self.collected, leader, self.deliver
        )
        self._openings = OpeningServices(plan)
        self._ending = EndWatch(options.close_grace_s, [subtask.address for subtask in plan.subtasks])

    # -- from any thread ------------------------------------------------------------------------------------

    def deliver(self, message: DriverEvent) -> None:
        """Take a message."""
        self._inbox.put(message)

    def inspect(self, timeout_s: float = 1.0, *, stacks: bool = False) -> dict[int, PortReport | None]:
        """Ask every subtask that has not ended what its port sees; None: it did not answer in time.

        `stacks`: see `Inspect`.

        Not for the simulation, where only activations wait.
        """
        return self._inbox.inspect(self._coordinator.alive, timeout_s, lambda: self.status.is_final, stacks=stacks)

    def cancel(self, reason: str) -> None:
        """Ask the job to end."""
        self.deliver(Cancel(reason))

    def drain(self) -> None:
        """Ask the sources to end; the job ends after them."""
        self.deliver(Drain())

    def stop(self) -> None:
        """Ask for a last checkpoint and the end. Raises PipelineError if the job has no checkpoints."""
        self.checkpoints.check_can_stop()
        self.deliver(StopJob())

    def now(self) -> float:
        """Seconds of the job's clock."""
        return self._shell.now()

    def subtask_statuses(self) -> dict[int, str]:
        """Of each address: RUNNING, FINISHED or ENDED."""
        return self._coordinator.statuses()

    def services(self, inspected: Mapping[int, PortReport] | None = None) -> dict[str, dict[str, CallStatistics]]:
        """The outcomes of the calls so far, by service and method; see `JobReports.services`."""
        return self.reports.services({} if self.outside is None else self.outside.statistics(), inspected)

    # -- its own activation ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Lead the job to its end."""
        self.status = JobStatus.RUNNING
        over = self._obey(chain(self.checkpoints.begin(), self._coordinator.start()))
        while not over:
            messages = self._inbox.take(min(self._ending.next_look, self.checkpoints.next_look))
            over = any(self._obey(self._handle(message)) for message in messages)
            over = over or self._look_after_ends() or self._obey(self.checkpoints.on_time())

    def _handle(self, message: DriverEvent) -> Iterable[Decision]:
        match message:
            case Data():
                error = self.collected.add(message)
                if error is not None:
                    return self._coordinator.on_failed(self.collected.producer(message.channel), pack_error(error))
            case Progress(subtask, report):
                self._ending.start(subtask, self._shell.now())
                if (error := self.reports.note(subtask, report)) is not None:
                    return self._coordinator.on_failed(subtask, pack_error(error))
            case Opened(subtask):
                self._note_open(subtask)
            case Closing(subtask):
                self._begin_end([subtask])
            case Located():
                self._ending.on_located(message)
            case Finished(subtask, report):
                self._ending.over(subtask)
                if (error := self.reports.note(subtask, report)) is not None:
                    return self._coordinator.on_failed(subtask, pack_error(error))
                return chain(self.checkpoints.on_message(message), self._coordinator.on_finished(message))
            case Snapshotted() | Declined() | Committed():
                return self.checkpoints.on_message(message)
            case Recorded():
                return self.checkpoints.on_recorded(message)
            case StopJob():
                return self.checkpoints.on_stop()
            case Published(subtask):
                self._ending.over(subtask)
                return self._coordinator.on_published(subtask)
            case Failed(subtask, report, failure):
                self.reports.note(subtask, report)
                return self._coordinator.on_failed(subtask, failure)
            case Ended(subtask, report, failure):
                self._ending.over(subtask)
                self.reports.note(subtask, report)
                if failure is not None:
                    _log.error("closing subtask %d failed: %s", subtask, failure.text)
                return self._coordinator.on_ended(subtask, failure)
            case Request():
                self._answer(message)
            case Cancel(reason):
                return self._coordinator.on_cancel(reason)
            case Drain():
                return self._coordinator.on_drain()
            case WorkersDied(addresses, cause):
                for address in addresses:
                    self._ending.over(address)
                return self._coordinator.on_died(addresses, pack_error(cause))
            case Control():
                return self.checkpoints.on_control(message)
            case _:
                raise ProtocolError(f"the driver cannot take a {type(message).__name__}")
        return ()

    def _obey(self, decisions: Iterable[Decision]) -> bool:
        """Carry out decisions; return whether the job is over."""
        for decision in decisions:
            match decision:
                case Tell(address, message):
                    match message:
                        case Cancel(reason, restarts):
                            self._begin_cancel(reason, restarts=restarts)
                        case EndService():
                            message = self._with_outside(address, message)
                            self._begin_end(self._openings.replicas(address))
                        case Commit() | Publish():
                            self._begin_end([address])
                    self._shell.send(DRIVER, address, message)
                case AllFinished():
                    if self.checkpoints.decide(decision) and self._obey(self._coordinator.on_decided()):
                        return True
                case JobEnded(status, failure):
                    # Callers outside first: nobody would answer them any more.
                    self._close_outside("it has ended")
                    self.failure = failure
                    self.status = status
                    return True
        return False

    def _with_outside(self, address: int, message: EndService) -> EndService:
        """Callers outside the job end with its last caller inside."""
        if self.outside is None or address not in self.outside.end_service(self._openings.service(address)):
            return message
        return EndService((*message.callers, OUTSIDE))

    def _close_outside(self, why: str) -> None:
        if self.outside is not None:
            self.outside.close(f"job {self.plan.job!r} cannot answer calls: {why}")

    # -- user code that does not return ----------------------------------------------------------------------

    def is_ending(self, address: int) -> bool:
        """Whether a subtask has processed all its records."""
        return address in self._ending

    @property
    def is_cancelled(self) -> bool:
        """Whether every subtask was told to unwind."""
        return self._ending.give_up_at is not None

    def _begin_end(self, addresses: Iterable[int]) -> None:
        """These subtasks have only their end left, or the next step of it."""
        for address in addresses:
            self._ending.begin(address, self._shell.now())

    def _begin_cancel(self, reason: str, *, restarts: bool) -> None:
        if not self.is_cancelled:
            grace_s, answer_s = self._options.cancel_grace_s, ANSWER_S
            if restarts and self._options.unwind_s is not None:
                grace_s, answer_s = min(grace_s, self._options.unwind_s), self._options.unwind_s
            self._ending.on_cancel(self._shell.now() + grace_s, answer_s)
            self._close_outside(reason)

    def _look_after_ends(self) -> bool:
        """Ask late subtasks where they are, and end the job if user code blocks it; return whether it is over."""
        # First ask, then decide: the answers come as `Located` messages, so a later call of this method decides.
        now = self._shell.now()
        asked = self._ending.look_once(self._coordinator.alive, now) if self.is_cancelled else self._ending.look(now)
        for address in asked:
            self._shell.send(DRIVER, address, Locate())
        if not self.is_cancelled:
            return self._fail_blocked(self._ending.verdict(now))
        return self._ending.is_answered(now) and self._give_up(self._ending.answers())

    def _give_up(self, places: Mapping[int, tuple[str, ...] | None]) -> bool:
        """After a cancel: end the job without the user code that has not returned, and say where it is."""
        alive = self._coordinator.alive
        self.stuck += [self._stuck_at(a, places.get(a)) for a in alive]
        return self._obey(self._coordinator.on_died(alive, pack_error(TimeoutError("; ".join(self.stuck)))))

    def _fail_blocked(self, blocked: tuple[Blocked, ...]) -> bool:
        """User code blocks the normal end: the job fails with an error that says where that code is."""
        if not blocked:
            return False
        where = [self._stuck_at(b.address, b.places) for b in blocked]
        commits = self._coordinator.is_committing
        error = CloseTimeout(
            f"user code of job {self.plan.job!r} has not returned {self._options.close_grace_s:g} s (close_grace_s)"
            f" after its work was done: {'; '.join(where)}; " + self._published_so_far()
        )
        if not commits:
            return self._obey(self._coordinator.on_failed(blocked[0].address, pack_error(error)))
        alive = self._coordinator.alive  # their time is over, too, and a cancel would hit them while they publish
        self.stuck += where
        return self._obey(self._coordinator.on_died(alive, pack_error(error)))

    def _published_so_far(self) -> str:
        if self._coordinator.is_committing:
            return "the end of the job is recorded, and the outputs that other sinks have published stay"
        if self._coordinator.is_publishing:
            return "what at-least-once sinks have published stays, and no other sink has published"
        return "nothing was published"

    def _stuck_at(self, address: int, places: tuple[str, ...] | None) -> str:
        name = next(subtask.name for subtask in self.plan.subtasks if subtask.address == address)
        known = self._where_stuck(address)
        if places is None:
            return f"{name}: {known or 'it does not answer'}"
        stuck = f"stuck at {', '.join(places)}" if places else "in the engine"
        return f"{name}: {known}: {stuck}" if known else f"{name}: {stuck}"

    def _note_open(self, address: int) -> None:
        """A subtask of a service is open. After the last one, tell all that may call the service, once."""
        name = self._openings.on_opened(address)
        if name is None:
            return
        if self.outside is not None:
            self.outside.note_open(name)
        # Callers in subtasks wait at their ports: each is told, whether it has called the service or not.
        for other in self._coordinator.alive:
            self._shell.send(DRIVER, other, ServiceOpened(name))

    def _answer(self, request: Request) -> None:
        refusal = self._coordinator.on_open_call(request.reply_to, request.args[0])
        error = None if refusal is None else pack_error(refusal)
        self._shell.send(DRIVER, request.reply_to, Reply(request.call_id, 1, (True,), error))
