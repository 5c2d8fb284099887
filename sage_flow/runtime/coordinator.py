"""One attempt of a job: who has to end, in what order, and when it is over.

    main subtasks finish -> services end, callers before callees -> at-least-once sinks publish
                         -> the leader records that the job has finished -> all commit -> FINISHED
    one subtask fails    -> all others are cancelled, nothing is committed     -> FAILED
    the job is drained   -> its sources end, and with them, in order, the rest -> FINISHED

Once the leader has recorded the end, nothing cancels any more: a subtask that fails in its commit leaves the others to
theirs, and the leader lets another attempt publish the rest.

Services end by the graph of calls between them. An edge of that graph is opened, through here, before its
first call; the edge that would close a circle is refused, so that no two services ever wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from sage_flow.errors import InternalError, ServiceCycle
from sage_flow.plan import kinds
from sage_flow.plan.physical import Plan
from sage_flow.runtime.failure import pack_error
from sage_flow.runtime.messages import Cancel, Commit, Drain, EndService, Finished, Message, Publish

if TYPE_CHECKING:
    from sage_flow.checkpoint.prepared import Prepared

__all__ = ["AllFinished", "Coordinator", "JobEnded", "JobStatus", "Tell"]


class JobStatus(str, Enum):
    """Where a job is in its life."""

    CREATED = "CREATED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    RESTARTING = "RESTARTING"
    STOPPED = "STOPPED"

    def __str__(self) -> str:
        return self.value

    @property
    def is_final(self) -> bool:
        """Whether the job is over."""
        return self in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.STOPPED)


@dataclass(frozen=True, slots=True)
class Tell:
    """Send `message` to the subtask at `address`."""

    address: int
    message: Message


@dataclass(frozen=True, slots=True)
class JobEnded:
    """Every subtask has ended."""

    status: JobStatus
    failure: Any = None


@dataclass(frozen=True, slots=True)
class AllFinished:
    """Every subtask has finished and prepared its output. Once that is recorded, call `on_decided`."""

    prepared: tuple[Prepared, ...]


Decision = Tell | AllFinished | JobEnded


class Coordinator:
    """Coordinates one attempt of a job. `restarts`: another follows if it fails, and whoever waits is told so."""

    def __init__(self, plan: Plan, *, restarts: bool = False) -> None:
        self._plan = plan
        self._restarts = restarts
        self._running = {subtask.address: subtask for subtask in plan.subtasks}  # have not finished
        self._alive = dict.fromkeys(self._running)  # have not ended
        self._service_of = {subtask.address: subtask.chain.service for subtask in plan.subtasks}
        self._calls = {name: dict.fromkeys(service.uses) for name, service in plan.services.items()}  # who calls whom
        self._callers: dict[int, list[int]] = {}  # address of a service's subtask -> its callers'
        self._told_to_end: set[str | None] = set()
        self._failure: Any = None
        self._ended_as: JobStatus | None = None  # it was ended from outside: cancelled, or stopped
        self._drained = False
        self._prepared: dict[int, tuple[Prepared, ...]] = {}  # by address
        self._at_least_once: dict[int, None] = {}  # addresses that publish before the end is recorded
        self._publishing: dict[int, None] | None = None  # at-least-once sinks that still do; None: it has not begun
        self._committing = plan.publishes is not None

    @property
    def alive(self) -> tuple[int, ...]:
        """The subtasks that have not ended."""
        return tuple(self._alive)

    @property
    def is_committing(self) -> bool:
        """Whether the end of the job is recorded, so that the subtasks publish."""
        return self._committing

    @property
    def is_publishing(self) -> bool:
        """Whether at-least-once sinks have begun to publish."""
        return self._publishing is not None

    def statuses(self) -> dict[int, str]:
        """Of each subtask: RUNNING, FINISHED (closed, and waiting for the others) or ENDED."""
        told = dict.fromkeys((subtask.address for subtask in self._plan.subtasks), "ENDED")
        told.update(dict.fromkeys(list(self._alive), "FINISHED"))
        told.update(dict.fromkeys(list(self._running), "RUNNING"))
        return told

    def start(self) -> Iterator[Decision]:
        """A plan whose services have no callers ends them at once; one that only publishes begins to."""
        if self._committing:
            self._running.clear()
            yield from self.on_decided()
        else:
            yield from self._go_on()

    def on_open_call(self, caller: int, callee: str) -> ServiceCycle | None:
        """A service's subtask is about to call another service for the first time; return why it must not."""
        service = self._service_of[caller]
        if service is None:
            return None
        circle = self._path(callee, service)
        if circle is not None:
            return ServiceCycle(
                f"service {service!r} must not call {callee!r}: {' -> '.join([service, *circle])} would wait for itself"
            )
        self._calls[service][callee] = None
        return None

    def on_finished(self, finished: Finished) -> Iterator[Decision]:
        """A subtask has closed and will make no more calls."""
        for replica in finished.called:
            self._callers.setdefault(replica, []).append(finished.subtask)
        self._prepared[finished.subtask] = finished.prepared
        if finished.publishes:
            self._at_least_once[finished.subtask] = None
        self._running.pop(finished.subtask, None)
        yield from self._go_on()

    def on_published(self, address: int) -> Iterator[Decision]:
        """The at-least-once sinks of a subtask have published."""
        if self._publishing is not None and address in self._publishing:
            self._publishing.pop(address)
            yield from self._decide()

    def takes_part(self, address: int) -> bool:
        """Whether a subtask has a part in checkpoints."""
        return self._service_of[address] is None

    def on_committed(self, address: int, checkpoint: int) -> None:
        """A subtask has published what it had prepared up to a checkpoint."""
        left = tuple(p for p in self._prepared.get(address, ()) if not 0 < p.checkpoint <= checkpoint)
        if address in self._prepared:
            self._prepared[address] = left

    def on_stopped(self, failure: Any) -> Iterator[Decision]:
        """The last checkpoint is complete and published; `failure`: not all of it could be published."""
        if self._failure is None and self._ended_as is None and not self._committing:
            self._ended_as, self._failure = JobStatus.STOPPED, failure
            yield from self._cancel_all("the job was stopped with a checkpoint")

    def on_decided(self) -> Iterator[Decision]:
        """The leader has recorded that the job has finished."""
        self._committing = True
        for address in self._alive:
            yield Tell(address, Commit())
        if not self._alive:
            yield JobEnded(JobStatus.FINISHED)

    def on_failed(self, address: int, failure: Any) -> Iterator[Decision]:
        """The first failure is the job's; the rest is its consequence."""
        self._running.pop(address, None)
        if self._failure is None and self._ended_as is None:
            self._failure = failure
            if self._committing:
                return
            yield from self._cancel_all(f"the job failed in {self._name(address)}", restarts=self._restarts)

    def on_cancel(self, reason: str) -> Iterator[Decision]:
        """The user wants the job to end."""
        if self._failure is None and self._ended_as is None and not self._committing:
            self._ended_as = JobStatus.CANCELLED
            yield from self._cancel_all(reason)

    def on_drain(self) -> Iterator[Decision]:
        """The user wants the sources to end, and the job behind them."""
        if self._drained or self._failure is not None or self._ended_as is not None:
            return
        self._drained = True
        for address, subtask in self._running.items():
            if subtask.chain.head.kind is kinds.SOURCE:
                yield Tell(address, Drain())

    def on_ended(self, address: int, failure: Any) -> Iterator[Decision]:
        """A subtask's last message. A failure here is one of closing, commit or abort."""
        if address in self._running and self._failure is None and self._ended_as is None:
            silent = InternalError(f"{self._name(address)} ended without having finished or failed")
            yield from self.on_failed(address, failure or pack_error(silent))
        if failure is not None and self._failure is None:
            self._failure = failure
        self._running.pop(address, None)
        self._alive.pop(address, None)
        if not self._alive:
            yield JobEnded(self._status(), self._failure)

    def on_died(self, addresses: Iterable[int], failure: Any) -> Iterator[Decision]:
        """A worker is gone, and these subtasks with it."""
        gone = [address for address in addresses if address in self._alive]
        for address in gone:
            self._alive.pop(address)
        for address in gone:
            yield from self.on_failed(address, failure)
        if gone and not self._alive:
            yield JobEnded(self._status(), self._failure)

    def _status(self) -> JobStatus:
        if self._failure is not None:
            return JobStatus.FAILED
        return JobStatus.FINISHED if self._ended_as is None else self._ended_as

    def _go_on(self) -> Iterator[Decision]:
        if self._failure is not None or self._ended_as is not None:
            return
        if not self._running:
            self._publishing = self._at_least_once
            for address in self._publishing:
                yield Tell(address, Publish())
            yield from self._decide()
        elif all(subtask.chain.service is not None for subtask in self._running.values()):
            yield from self._end_services()

    def _decide(self) -> Iterator[Decision]:
        if not self._publishing and self._failure is None and self._ended_as is None:
            yield AllFinished(tuple(one for prepared in self._prepared.values() for one in prepared))

    def _end_services(self) -> Iterator[Decision]:
        """End one service that no running one calls, and the next when it has finished.

        Which other services a closing service will call for the first time nobody knows; so those that were
        registered last end first: what a service needs is usually there before it.
        """
        running = {subtask.chain.service for subtask in self._running.values()}
        if running & self._told_to_end:
            return
        called = {callee for caller in running if caller is not None for callee in self._calls[caller]}
        service = next(name for name in reversed(self._plan.services) if name in running and name not in called)
        self._told_to_end.add(service)
        for address in self._plan.addresses(self._plan.services[service].chain):
            yield Tell(address, EndService(tuple(self._callers.get(address, ()))))

    def _cancel_all(self, reason: str, *, restarts: bool = False) -> Iterator[Decision]:
        for address in self._alive:
            yield Tell(address, Cancel(reason, restarts))

    def _path(self, start: str, goal: str) -> list[str] | None:
        """A path of opened calls from `start` to `goal`."""
        came_from: dict[str, str | None] = {start: None}
        for service in (found := [start]):
            if service == goal:
                break
            new = [callee for callee in self._calls[service] if callee not in came_from]
            came_from.update(dict.fromkeys(new, service))
            found.extend(new)
        else:
            return None
        path: list[str] = []
        step: str | None = goal
        while step is not None:
            path.append(step)
            step = came_from[step]
        return path[::-1]

    def _name(self, address: int) -> str:
        return next(subtask.name for subtask in self._plan.subtasks if subtask.address == address)
