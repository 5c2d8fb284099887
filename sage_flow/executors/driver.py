"""The driver: runs the coordinator's decisions, receives collected rows, knows how far the job is."""

from __future__ import annotations

import logging
import math
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_flow.errors import CloseTimeout, CodecError, CollectLimitError, ProtocolError
from sage_flow.executors.outside import OutsidePort
from sage_flow.executors.shell import Shell
from sage_flow.plan import kinds
from sage_flow.plan.physical import DRIVER_CHAIN, Plan
from sage_flow.runtime.coordinator import Coordinator, Decision, JobEnded, JobStatus, Tell
from sage_flow.runtime.credits import ConsumedCredit
from sage_flow.runtime.ending import Blocked, EndWatch
from sage_flow.runtime.failure import add_notes, pack_error
from sage_flow.runtime.messages import (
    DRIVER,
    OUTSIDE,
    Cancel,
    Closing,
    Commit,
    Control,
    Credit,
    Data,
    Drain,
    Ended,
    EndService,
    Failed,
    Finished,
    Inspect,
    Inspected,
    Locate,
    Located,
    Message,
    Opened,
    Progress,
    Reply,
    Request,
    ServiceOpened,
)
from sage_flow.runtime.report import OperatorCounts, PortReport, SubtaskReport
from sage_flow.runtime.statistics import CallStatistics, merged

__all__ = ["Driver", "DriverOptions", "WorkersDied"]

_log = logging.getLogger("sage_flow")


@dataclass(frozen=True, slots=True)
class DriverOptions:
    """Limits of a job.

    `cancel_grace_s`: how long user code may take to come back after a cancel before the job ends without it.
    `close_grace_s`: how long it may take to come back at the normal end before the job fails without it.
    `collect_rows`, `collect_bytes`: what one job's `collect` sinks may hold together.
    `restarts`: should this attempt fail, another one follows, and user code that waits is unwound with JobRestarting.
    """

    cancel_grace_s: float = 5.0
    close_grace_s: float = 30.0
    collect_rows: int = 1_000_000
    collect_bytes: int = 1_000_000_000
    restarts: bool = False


@dataclass(frozen=True, slots=True)
class WorkersDied:
    """From the shell: these subtasks are gone without a word."""

    addresses: tuple[int, ...]
    error: BaseException


@dataclass(slots=True)
class _Collected:
    rows: dict[str, list[Any]] = field(default_factory=dict)
    count: int = 0
    size: int = 0


class Driver:
    """The address 0 of a job. `run` is its activation; the other methods may be called from any thread."""

    def __init__(
        self,
        plan: Plan,
        shell: Shell,
        options: DriverOptions,
        where_stuck: Callable[[int], str] = lambda _: "",
        outside: OutsidePort | None = None,
    ) -> None:
        self.plan = plan
        self.outside = outside
        self.status = JobStatus.CREATED
        self.failure: Any = None
        self.stuck: list[str] = []
        self.reports: dict[int, SubtaskReport] = {}
        self._shell = shell
        self._options = options
        self._where_stuck = where_stuck
        self._coordinator = Coordinator(plan, restarts=options.restarts)
        self._condition = shell.condition()
        self._lock = self._condition.lock
        self._inbox: deque[Message | WorkersDied] = deque()
        self._collected = _Collected()
        self._names = {c.id: c.edge for c in plan.channels if c.edge.target == DRIVER_CHAIN}
        self._producers = {c.id: c.producer for c in plan.channels if c.edge.target == DRIVER_CHAIN}
        self._credits = {id: ConsumedCredit(shell.window(sender, DRIVER)) for id, sender in self._producers.items()}
        self._next_seq = dict.fromkeys(self._producers, 0)
        self._service_of = {s.address: s.chain.service for s in plan.subtasks if s.chain.service is not None}
        self._opening = {
            name: {address for address, service in self._service_of.items() if service == name}
            for name in plan.services
        }
        self._inspections = 0
        self._inspected: dict[int, Inspected] = {}
        self._give_up_at: float | None = None
        self._ending = EndWatch(options.close_grace_s)
        self._not_started = {subtask.address for subtask in plan.subtasks}
        self._end_at_start: set[int] = set()  # their end began before they did
        self._names_of = {subtask.address: subtask.name for subtask in plan.subtasks}
        for chain in plan.chains:
            for operator in chain.operators:
                if operator.kind is kinds.COLLECT:
                    self._collected.rows[operator.label] = []

    # -- from any thread ------------------------------------------------------------------------------------

    def deliver(self, message: Message | WorkersDied) -> None:
        """Take a message."""
        with self._lock:
            if isinstance(message, Inspected):
                self._inspected[message.subtask] = message
            else:
                self._inbox.append(message)
            self._condition.notify_all()

    def inspect(self, timeout_s: float = 1.0) -> dict[int, PortReport | None]:
        """Ask every subtask that has not ended what its port sees; None: it did not answer in time.

        Not for the simulation, where only activations wait.
        """
        asked = self._coordinator.alive
        with self._lock:
            self._inspections += 1
            number = self._inspections
        for address in asked:
            self._shell.send(DRIVER, address, Inspect(number))
        until = self._shell.now() + timeout_s
        found: dict[int, PortReport | None] = dict.fromkeys(asked)
        with self._lock:
            while True:
                for address in asked:
                    told = self._inspected.get(address)
                    if told is not None and told.number >= number:
                        found[address] = told.report
                left = until - self._shell.now()
                if None not in found.values() or left <= 0 or self.status.is_final:
                    return found
                self._condition.wait(left)

    def cancel(self, reason: str) -> None:
        """Ask the job to end."""
        self.deliver(Cancel(reason))

    def drain(self) -> None:
        """Ask the sources to end, and the job behind them."""
        self.deliver(Drain())

    def now(self) -> float:
        """Seconds of the job's clock."""
        return self._shell.now()

    def subtask_statuses(self) -> dict[int, str]:
        """Of each address: RUNNING, FINISHED or ENDED."""
        return self._coordinator.statuses()

    @property
    def collected(self) -> dict[str, list[Any]]:
        """The rows of each `collect` sink so far."""
        return self._collected.rows

    def counts(self) -> dict[str, OperatorCounts]:
        """The counts of all operators, added up over their subtasks, in the order of the plan."""
        totals = {o.name: OperatorCounts() for chain in self.plan.chains for o in chain.operators if o.kind.is_counted}
        for report in list(self.reports.values()):
            for name, counts in report.operators.items():
                totals[name] = totals[name].plus(counts)
        return totals

    def services(self, inspected: Mapping[int, PortReport] | None = None) -> dict[str, dict[str, CallStatistics]]:
        """What came of the calls so far, by service and method; a service that was not called has none.

        `inspected` is what some subtasks have just told, which is newer than their reports.
        """
        calls = {address: report.calls for address, report in list(self.reports.items())}
        calls.update({address: report.calls for address, report in (inspected or {}).items()})
        parts = list(calls.values())
        if self.outside is not None:
            parts.append(self.outside.statistics())
        found: dict[str, dict[str, CallStatistics]] = {name: {} for name in self.plan.services}
        for label, statistics in merged(parts).items():
            name, _, method = label.rpartition(".")
            if name in found:
                found[name][method] = statistics
        return found

    # -- its own activation ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Lead the job to its end."""
        self.status = JobStatus.RUNNING
        over = self._obey(self._coordinator.start())
        while not over:
            messages = self._take()
            over = any(self._obey(self._handle(message)) for message in messages)
            over = over or self._look_after_ends()

    def _take(self) -> list[Message | WorkersDied]:
        with self._lock:
            while not self._inbox:
                look_at = self._ending.next_look
                if self._give_up_at is not None:
                    look_at = min(look_at, self._give_up_at)
                left = look_at - self._shell.now()
                if left <= 0:
                    return []
                self._condition.wait(None if math.isinf(left) else left)
            taken = list(self._inbox)
            self._inbox.clear()
            return taken

    def _handle(self, message: Message | WorkersDied) -> Iterable[Decision]:
        match message:
            case Data():
                return self._collect(message)
            case Progress(subtask, report):
                self._note_start(subtask)
                self._note_report(subtask, report)
            case Opened(subtask):
                self._note_open(subtask)
            case Closing(subtask):
                self._begin_end([subtask])
            case Located():
                self._ending.on_located(message)
            case Finished(subtask, report, called):
                self._ending.over(subtask)
                self._note_report(subtask, report)
                return self._coordinator.on_finished(subtask, called)
            case Failed(subtask, report, failure):
                self._note_report(subtask, report)
                return self._coordinator.on_failed(subtask, failure)
            case Ended(subtask, report, failure):
                self._ending.over(subtask)
                self._note_report(subtask, report)
                if failure is not None:
                    _log.error("closing subtask %d failed: %s", subtask, failure.text)
                return self._coordinator.on_ended(subtask, failure)
            case Request():
                self._answer(message)
            case Cancel(reason):
                return self._coordinator.on_cancel(reason)
            case Drain():
                return self._coordinator.on_drain()
            case WorkersDied(addresses, error):
                for address in addresses:
                    self._ending.over(address)
                return self._coordinator.on_died(addresses, pack_error(error))
            case Control(channel, seq):
                self._check_sequence(channel, seq)
            case _:
                raise ProtocolError(f"the driver cannot take a {type(message).__name__}")
        return ()

    def _obey(self, decisions: Iterable[Decision]) -> bool:
        """Carry out decisions; return whether the job is over."""
        for decision in decisions:
            match decision:
                case Tell(address, message):
                    match message:
                        case Cancel(reason):
                            self._begin_cancel(reason)
                        case EndService():
                            message = self._with_outside(address, message)
                            service = self._service_of[address]
                            self._begin_end(a for a, name in self._service_of.items() if name == service)
                        case Commit():
                            self._begin_end([address])
                    self._shell.send(DRIVER, address, message)
                case JobEnded(status, failure):
                    self._close_outside("it has ended")
                    self.failure = failure
                    self.status = status
                    return True
        return False

    def _with_outside(self, address: int, message: EndService) -> EndService:
        """Callers outside the job end with its last caller inside."""
        if self.outside is None or address not in self.outside.end_service(self._service_of[address]):
            return message
        return EndService((*message.callers, OUTSIDE))

    def _close_outside(self, why: str) -> None:
        if self.outside is not None:
            self.outside.close(f"job {self.plan.job!r} cannot answer calls: {why}")

    # -- user code that does not come back --------------------------------------------------------------------

    def is_ending(self, address: int) -> bool:
        """Whether a subtask has processed all its records."""
        return address in self._ending

    @property
    def is_cancelled(self) -> bool:
        """Whether every subtask was told to unwind."""
        return self._give_up_at is not None

    def _begin_end(self, addresses: Iterable[int]) -> None:
        """Only their end is left, or the next step of it."""
        if self._give_up_at is None:
            for address in addresses:
                if address in self._not_started:
                    self._end_at_start.add(address)
                else:
                    self._ending.begin(address, self._shell.now())

    def _note_start(self, address: int) -> None:
        """A subtask tells of itself. What a process needs to start is not the time of its end."""
        self._not_started.discard(address)
        if address in self._end_at_start:
            self._end_at_start.remove(address)
            self._begin_end([address])

    def _begin_cancel(self, reason: str) -> None:
        if self._give_up_at is None:
            self._give_up_at = self._shell.now() + self._options.cancel_grace_s
            self._ending.clear()
            self._close_outside(reason)

    def _look_after_ends(self) -> bool:
        """Ask who is late where it is, and end what is held up; return whether the job is over."""
        now = self._shell.now()
        if self._give_up_at is None:
            self._ask(self._ending.look(now))
            return self._fail_blocked(self._ending.verdict(now))
        if now >= self._give_up_at:
            self._give_up_at = math.inf  # from now on only the answers are waited for
            self._ending.ask(self._coordinator.alive, now)
            self._ask(self._coordinator.alive)
        return self._ending.is_answered(now) and self._give_up(self._ending.answers())

    def _ask(self, addresses: Iterable[int]) -> None:
        for address in addresses:
            self._shell.send(DRIVER, address, Locate())

    def _give_up(self, places: Mapping[int, tuple[str, ...] | None]) -> bool:
        """After a cancel: end without the user code that has not come back, and say where it is."""
        alive = self._coordinator.alive
        self.stuck += [f"{self._names_of[a]}: {self._stuck_at(a, places.get(a))}" for a in alive]
        return self._obey(self._coordinator.on_died(alive, pack_error(TimeoutError("; ".join(self.stuck)))))

    def _fail_blocked(self, blocked: tuple[Blocked, ...]) -> bool:
        """User code holds up the normal end: the job fails, by an error that says where it is."""
        if not blocked:
            return False
        where = [f"{self._names_of[b.address]}: {self._stuck_at(b.address, b.places)}" for b in blocked]
        commits = self._coordinator.is_committing
        error = CloseTimeout(
            f"user code of job {self.plan.job!r} has not returned {self._options.close_grace_s:g} s (close_grace_s)"
            f" after its work was done: {'; '.join(where)}; "
            + ("the outputs that other sinks have published stay" if commits else "nothing was published")
        )
        if not commits:
            return self._obey(self._coordinator.on_failed(blocked[0].address, pack_error(error)))
        alive = self._coordinator.alive  # their time is over, too, and a cancel would reach them while they publish
        self.stuck += where
        return self._obey(self._coordinator.on_died(alive, pack_error(error)))

    def _stuck_at(self, address: int, places: tuple[str, ...] | None) -> str:
        known = self._where_stuck(address)
        if places is None:
            return known or "it does not answer"
        stuck = f"stuck at {', '.join(places)}" if places else "in the engine"
        return f"{known}: {stuck}" if known else stuck

    def _note_open(self, address: int) -> None:
        """When the last subtask of a service is open, all who may call it are told, once."""
        name = self._service_of[address]
        self._opening[name].discard(address)
        if self._opening[name]:
            return
        if self.outside is not None:
            self.outside.note_open(name)
        for other in self._coordinator.alive:
            self._shell.send(DRIVER, other, ServiceOpened(name))

    def _note_report(self, subtask: int, report: SubtaskReport | None) -> None:
        if report is not None:
            self.reports[subtask] = report

    def _answer(self, request: Request) -> None:
        refusal = self._coordinator.on_open_call(request.reply_to, request.args[0])
        error = None if refusal is None else pack_error(refusal)
        self._shell.send(DRIVER, request.reply_to, Reply(request.call_id, 1, (True,), error))

    # -- collected rows -------------------------------------------------------------------------------------

    def _check_sequence(self, channel: int, seq: int) -> None:
        if seq != self._next_seq[channel]:
            raise ProtocolError(f"frame {seq} of collected channel {channel}, where {self._next_seq[channel]} was due")
        self._next_seq[channel] = seq + 1

    def _collect(self, data: Data) -> Iterable[Decision]:
        self._check_sequence(data.channel, data.seq)
        edge = self._names[data.channel]
        name = self.plan.chains[edge.source].operators[edge.operator].label
        held = self._collected
        try:
            records = data.unpacked()
        except CodecError as error:
            add_notes(error, [f"collect   {name!r}"])
            return self._coordinator.on_failed(self._producers[data.channel], pack_error(error))
        held.count += len(records)
        held.size += _estimated_size(records)
        limits = self._options
        if held.count > limits.collect_rows or held.size > limits.collect_bytes:
            too_many = CollectLimitError(
                f"collect {name!r} received more than {limits.collect_rows:,} rows or {limits.collect_bytes:,} bytes:"
                " write such results to a file (write_csv, write_jsonl), or aggregate them first"
            )
            return self._coordinator.on_failed(self._producers[data.channel], pack_error(too_many))
        held.rows[name].extend(records)
        amount = self._credits[data.channel].consume(data.cost)
        if amount:
            self._shell.send(DRIVER, self._producers[data.channel], Credit(data.channel, amount))
        return ()


def _estimated_size(records: list[Any]) -> int:
    """Bytes of a frame of rows, from its first: an exact count would pickle everything twice."""
    try:
        one = len(pickle.dumps(records[0], protocol=5))
    except Exception:  # rows of a local job need not be picklable; then their own size must do
        one = sys.getsizeof(records[0])
    return one * len(records)
