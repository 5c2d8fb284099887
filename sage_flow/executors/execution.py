"""A started job, as its handle sees it, wherever it runs; and one whose driver is in this process."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_flow.errors import PipelineError
from sage_flow.executors.collected_rows import TakenRows
from sage_flow.executors.driver import Driver, DriverOptions
from sage_flow.plan.physical import Plan, ServicePlan, Subtask
from sage_flow.plan.picture import picture_of
from sage_flow.plan.queues import JobQueues
from sage_flow.runtime.caller import Caller
from sage_flow.runtime.coordinator import JobStatus
from sage_flow.runtime.failure import PackedError, add_notes, pack_error
from sage_flow.runtime.messages import DRIVER, OUTSIDE, Failed
from sage_flow.runtime.port import Crashed
from sage_flow.runtime.report import ChannelReport, OperatorCounts, PortReport, SubtaskReport
from sage_flow.runtime.statistics import CallStatistics
from sage_flow.service import ServiceHandle

if TYPE_CHECKING:
    import ssl

    from sage_flow.executors.checkpoint_reports import CheckpointInfo
    from sage_flow.executors.outside import OutsidePort
    from sage_flow.executors.remote_service import ServedService
    from sage_flow.executors.request_door import RequestDoor

__all__ = [
    "MOST_FAILURES",
    "Execution",
    "Executor",
    "JobOutcome",
    "LocalExecution",
    "SubtaskInfo",
    "no_metrics",
    "no_statistics",
    "outcome_of",
]


MOST_FAILURES: Final = 10
"""The failures of earlier attempts that `statistics` tells, the latest ones."""

_LAST_REPLIES_S = 1.0
"""How long the end of a job waits until its last replies are in the queues of their callers, in seconds."""


class Executor(Protocol):
    """A way to run plans. One whose jobs are wholly in this process says `is_one_process = True`."""

    def start(self, plan: Plan, options: DriverOptions) -> Execution:
        """Start a job and return at once."""

    def queues(self, scope: str) -> JobQueues:
        """Return where a job of this scope has its queues, so that all its processes and this one reach them."""


@dataclass(frozen=True)
class JobOutcome:
    """The outcome of a job, as it travels.

    `stuck`: where user code was that had not returned after a cancel. `has_rows`: `collected` holds the rows.
    """

    status: JobStatus
    failure: PackedError | None = None
    collected: dict[str, list[Any]] = field(default_factory=dict)
    counts: dict[str, OperatorCounts] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)
    has_rows: bool = True


@dataclass(frozen=True)
class SubtaskInfo:
    """A subtask of a job, and where it is.

    `status`: CREATED, RUNNING, FINISHED (it has closed, and waits for the others) or ENDED. `actor`, `node`: on Ray,
    the name and the node id. `pid`: of its process, 0 while it has none.
    """

    name: str
    status: str
    actor: str = ""
    node: str = ""
    pid: int = 0


class Execution(ABC):
    """A job that was started."""

    is_announced = False
    """Whether commands such as `sage-flow channels` reach it through this process."""

    plan: Plan | None = None
    """The plan, if this process has made it."""

    stores_checkpoints = False
    """Whether this process has submitted it with checkpoints."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The job's name."""

    @property
    def id(self) -> str:
        """The id by which others find it."""
        return self.name

    @property
    @abstractmethod
    def status(self) -> JobStatus:
        """Where the job is in its life."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether `wait` would return at once."""

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; return whether it has come."""

    @abstractmethod
    def cancel(self, reason: str) -> None:
        """Ask the job to end; `wait` waits for that."""

    @abstractmethod
    def drain(self) -> None:
        """Ask the sources to end; the job ends after them. `wait` waits for that."""

    @abstractmethod
    def stop(self) -> None:
        """Ask for a last checkpoint and the end; `wait` waits for that. Raises PipelineError without checkpoints."""

    @property
    @abstractmethod
    def stuck(self) -> list[str]:
        """Where user code was that had not returned after a cancel."""

    @abstractmethod
    def outcome(self) -> JobOutcome:
        """Return its outcome, once it is over. Raises the error of the engine itself that ended it, if one did."""

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """See `JobHandle.metrics`."""

    @abstractmethod
    def statistics(self, *, stacks: bool = False) -> dict[str, Any]:
        """See `JobHandle.statistics`; with `stacks` every subtask has all its `threads`."""

    @abstractmethod
    def collected(self) -> dict[str, list[Any]]:
        """See `JobHandle.collected`."""

    @abstractmethod
    def take_rows(self, name: str, attempt: int, number: int) -> TakenRows:
        """Return rows of a `collect` sink; see `CollectedRows.take`."""

    @abstractmethod
    def subtasks(self) -> list[SubtaskInfo]:
        """See `JobHandle.subtasks`."""

    def logs(self) -> dict[str, str]:
        """See `JobHandle.logs`."""
        raise PipelineError("a job of this process prints to its own stdout and stderr, and has no other logs")

    @abstractmethod
    def service(self, service: str | type) -> ServiceHandle:
        """See `JobHandle.service`."""

    @abstractmethod
    def serve(
        self, service: str, host: str, port: int, key: bytes | None, ssl_context: ssl.SSLContext | None
    ) -> ServedService:
        """See `JobHandle.serve`."""


class LocalExecution(Execution):
    """One attempt of a job whose driver is in this process.

    `crash` is an error of the engine itself that ended the driver.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.crash: BaseException | None = None
        self._began = driver.now()
        self._seen: dict[tuple[str, str, int], tuple[float, int]] = {}  # time and received messages at the last look
        self._over = threading.Event()

    def lead(self, clean_up: Callable[[], None] = lambda: None) -> None:
        """Run the driver to the end of the job, then `clean_up`; the body of the driver's activation."""
        doors = self._open_doors()
        try:
            try:
                self.driver.run()
            finally:
                for door in doors:
                    door.close(_LAST_REPLIES_S)
            clean_up()
        except Crashed:
            raise
        except BaseException as error:  # an engine fault must reach the threads that wait
            self.crash = error
            self._over.set()
        else:
            self._over.set()

    def _open_doors(self) -> list[RequestDoor]:
        """Open the doors of services that take requests from queues."""
        plan, outside = self.driver.plan, self.driver.outside
        if outside is None or all(service.requests is None for service in plan.services.values()):
            return []
        from sage_flow.executors.request_door import doors_of  # most jobs need none

        doors = doors_of(plan, outside, self._on_door_fault)
        for door in doors:
            door.open()
        return doors

    def _on_door_fault(self, service: ServicePlan, error: Exception) -> None:
        add_notes(error, [f"raised where service {service.name!r} takes requests from its queue"])
        address = self.driver.plan.addresses(service.chain)[0]
        self.driver.deliver(Failed(address, None, pack_error(error)))

    @property
    def name(self) -> str:
        return self.driver.plan.job

    @property
    def status(self) -> JobStatus:
        return self.driver.status

    @property
    def is_announced(self) -> bool:  # type: ignore[override]
        return self.driver.outside is not None

    def wait(self, timeout_s: float | None = None) -> bool:
        return self._over.wait(timeout_s)

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def cancel(self, reason: str) -> None:
        self.driver.cancel(reason)

    def drain(self) -> None:
        self.driver.drain()

    def stop(self) -> None:
        self.driver.stop()

    @property
    def stuck(self) -> list[str]:
        return self.driver.stuck

    def outcome(self) -> JobOutcome:
        if self.crash is not None:
            raise self.crash
        return outcome_of(self.driver)

    def service(self, service: str | type) -> ServiceHandle:
        return Caller(self.services, self.outside).handle(service)

    @property
    def outside(self) -> OutsidePort:
        """The port for calls from outside the job. Raises PipelineError if the job takes none."""
        if self.driver.outside is None:
            raise PipelineError("a job in the simulation cannot be called from outside: that would not be repeatable")
        return self.driver.outside

    def serve(
        self, service: str, host: str, port: int, key: bytes | None, ssl_context: ssl.SSLContext | None
    ) -> ServedService:
        from sage_flow.executors.remote_service import ServedService
        from sage_flow.links.address import TcpAddress

        self.service(service)
        return ServedService(self.outside, self.services[service], TcpAddress(host, port, ssl_context), key)

    def collected(self) -> dict[str, list[Any]]:
        return {name: list(rows) for name, rows in self.driver.collected.rows().items()}

    def take_rows(self, name: str, attempt: int, number: int) -> TakenRows:
        return self.driver.collected.take(name, attempt, number)

    def subtasks(self) -> list[SubtaskInfo]:
        statuses = self.driver.subtask_statuses()
        return [SubtaskInfo(s.name, statuses[s.address], pid=os.getpid()) for s in self.driver.plan.subtasks]

    @property
    def services(self) -> Mapping[str, ServicePlan]:
        """The services of the job, by name."""
        return self.driver.plan.services

    def metrics(self) -> dict[str, Any]:
        calls = self.driver.services()
        return {
            "operators": self.driver.reports.counts(),
            "queued": self.driver.reports.queued(),
            "watermarks": self.driver.reports.watermarks(),
            "services": _in_plain_types(calls),
            "calls": calls,
            "checkpoints": self.driver.checkpoints.told(),
            "user": self.driver.reports.user_metrics(),
        }

    def statistics(self, *, stacks: bool = False) -> dict[str, Any]:
        if self.driver.outside is None:
            raise PipelineError("a job in the simulation cannot be asked from outside: that would not be repeatable")
        told = {} if self.is_over else self.driver.inspect(stacks=stacks)
        answered = {address: report for address, report in told.items() if report is not None}
        names = {subtask.address: subtask.name for subtask in self.driver.plan.subtasks}
        names |= {DRIVER: "driver", OUTSIDE: "outside"}
        return {
            "channels": [
                self._channel(channel, names, report.now) for report in answered.values() for channel in report.channels
            ],
            "services": _in_plain_types(self.driver.services(answered)),
            "subtasks": [
                self._subtask(subtask, answered.get(subtask.address)) for subtask in self.driver.plan.subtasks
            ],
            "stories": {names[address]: _ages(report) for address, report in answered.items() if report.story},
            "unresponsive": [names[address] for address in told if address not in answered],
            "attempt": self.driver.plan.attempt,
            "failures": [],
            "pipeline": asdict(picture_of(self.driver.plan)),
        }

    def _subtask(self, subtask: Subtask, port: PortReport | None) -> dict[str, Any]:
        known = self.driver.reports.latest(subtask.address)
        report = SubtaskReport({}) if known is None else known
        waiting = [] if port is None else [one for one in port.channels if one.kind != "responses"]
        return {
            "name": subtask.name,
            "chain": subtask.chain.id,
            "index": subtask.index,
            "operators": {name: counts._asdict() for name, counts in report.operators.items()},
            "watermarks": dict(report.watermarks),
            "now": None if port is None else port.now,
            "work": None if port is None else port.work._asdict(),
            "flow": None if port is None else port.flow._asdict(),
            "sampled": {} if port is None else port.sampled,
            "threads": [] if port is None else [thread._asdict() for thread in port.threads],
            "queued": sum(channel.depth for channel in waiting),
            "oldest_s": max((channel.oldest_s for channel in waiting if channel.oldest_s is not None), default=None),
        }

    def _channel(self, channel: ChannelReport, names: dict[int, str], now: float) -> dict[str, Any]:
        key = (channel.kind, channel.name, channel.host)
        then, before = self._seen.get(key, (self._began, 0))
        self._seen[key] = (now, channel.received)
        return {
            **channel._asdict(),
            "host": names[channel.host],
            "producers": [names[producer] for producer in channel.producers],
            "rate_per_s": (channel.received - before) / (now - then) if now > then else 0.0,
        }


def no_metrics(counts: Mapping[str, OperatorCounts], checkpoints: Sequence[CheckpointInfo] = ()) -> dict[str, Any]:
    """What `metrics` tells while no attempt runs."""
    nothing: dict[str, Any] = {"queued": {}, "watermarks": {}, "services": {}, "calls": {}, "user": []}
    return {"operators": dict(counts), **nothing, "checkpoints": list(checkpoints)}


def no_statistics() -> dict[str, Any]:
    """What `statistics` tells while no attempt runs."""
    nothing: dict[str, Any] = {"channels": [], "services": {}, "subtasks": [], "stories": {}, "unresponsive": []}
    return {**nothing, "attempt": 0, "failures": [], "pipeline": {"job": "", "boxes": (), "arrows": (), "missing": ()}}


def outcome_of(driver: Driver) -> JobOutcome:
    """Return the outcome of the job of a driver."""
    return JobOutcome(
        driver.status, driver.failure, driver.collected.rows_at_end(), driver.reports.counts(), driver.stuck
    )


def _ages(report: PortReport) -> list[str]:
    """The events of a story with their age."""
    return [f"{report.now - when:.1f} s ago: {what}" for when, what in report.story]


def _in_plain_types(services: dict[str, dict[str, CallStatistics]]) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        name: {method: statistics.as_dict() for method, statistics in methods.items()}
        for name, methods in services.items()
    }
