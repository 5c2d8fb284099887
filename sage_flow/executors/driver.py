"""The driver: runs the coordinator's decisions, receives collected rows, knows how far the job is."""

from __future__ import annotations

import logging
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_flow.channels.frame import (
    DRIVER,
    OUTSIDE,
    Cancel,
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
    Message,
    Progress,
    Reply,
    Request,
)
from sage_flow.errors import CodecError, CollectLimitError, ProtocolError
from sage_flow.executors.outside import OutsidePort
from sage_flow.executors.shell import Shell
from sage_flow.plan.graph import Kind
from sage_flow.plan.physical import DRIVER_CHAIN, Plan
from sage_flow.runtime.coordinator import Coordinator, Decision, JobEnded, JobStatus, Tell
from sage_flow.runtime.credits import ConsumedCredit
from sage_flow.runtime.failure import add_notes, pack_error
from sage_flow.runtime.report import OperatorCounts, PortReport, SubtaskReport
from sage_flow.runtime.statistics import CallStatistics, merged

__all__ = ["Driver", "DriverOptions", "WorkersDied"]

_log = logging.getLogger("sage_flow")


@dataclass(frozen=True, slots=True)
class DriverOptions:
    """Limits of a job.

    `cancel_grace_s`: how long user code may take to come back after a cancel before the job ends without it.
    `collect_rows`, `collect_bytes`: what one job's `collect` sinks may hold together.
    `restarts`: should this attempt fail, another one follows, and user code that waits is unwound with JobRestarting.
    """

    cancel_grace_s: float = 5.0
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
        where_stuck: Callable[[int], str] = lambda _: "its position is unknown",
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
        self._inspections = 0
        self._inspected: dict[int, Inspected] = {}
        self._give_up_at: float | None = None
        for chain in plan.chains:
            for operator in chain.operators:
                if operator.kind is Kind.COLLECT:
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
        totals = {
            o.name: OperatorCounts() for chain in self.plan.chains for o in chain.operators if o.kind != Kind.KEY_BY
        }
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
            if not messages and self._is_late():
                self._give_up()
                return

    def _take(self) -> list[Message | WorkersDied]:
        with self._lock:
            while not self._inbox:
                left = None if self._give_up_at is None else self._give_up_at - self._shell.now()
                if left is not None and left <= 0:
                    return []
                self._condition.wait(left)
            taken = list(self._inbox)
            self._inbox.clear()
            return taken

    def _handle(self, message: Message | WorkersDied) -> Iterable[Decision]:
        match message:
            case Data():
                return self._collect(message)
            case Progress(subtask, report):
                self._note_report(subtask, report)
            case Finished(subtask, report, called):
                self._note_report(subtask, report)
                return self._coordinator.on_finished(subtask, called)
            case Failed(subtask, report, failure):
                self._note_report(subtask, report)
                return self._coordinator.on_failed(subtask, failure)
            case Ended(subtask, report, failure):
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
                    if isinstance(message, Cancel) and self._give_up_at is None:
                        self._give_up_at = self._shell.now() + self._options.cancel_grace_s
                        self._close_outside(message.reason)
                    if isinstance(message, EndService):
                        message = self._with_outside(address, message)
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

    def _is_late(self) -> bool:
        return self._give_up_at is not None and self._shell.now() >= self._give_up_at

    def _give_up(self) -> None:
        """Some user code does not come back: end without it, and say where it is."""
        names = {subtask.address: subtask.name for subtask in self.plan.subtasks}
        self.stuck = [f"{names[address]}: {self._where_stuck(address)}" for address in self._coordinator.alive]
        error = TimeoutError("; ".join(self.stuck))
        self._obey(self._coordinator.on_died(self._coordinator.alive, pack_error(error)))

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
