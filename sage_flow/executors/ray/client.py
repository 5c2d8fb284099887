"""A job on Ray as its handles see it, from any process that is connected to the cluster."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sage_flow.errors import (
    ClusterError,
    InternalError,
    PipelineError,
    ServiceUnavailable,
    WorkerDied,
)
from sage_flow.executors.collected_rows import TakenRows
from sage_flow.executors.driver import DriverOptions
from sage_flow.executors.execution import Execution, JobOutcome, SubtaskInfo, no_metrics, no_statistics
from sage_flow.executors.processes import pickled_plan
from sage_flow.executors.ray.answers import ANSWER_S, ClusterSilent, answered
from sage_flow.executors.ray.cluster import connect_to_ray, this_submission
from sage_flow.executors.ray.job_services import JobServices
from sage_flow.executors.ray.logs import job_logs
from sage_flow.executors.ray.master import CONCURRENCY, JobMaster
from sage_flow.executors.ray.master_client import RETRY_S, Lease, MasterClient
from sage_flow.executors.ray.records import SMALL_OUTCOME, JobOptions, JobRecord, JobRecords, find_actor, is_led
from sage_flow.executors.ray.search_path import SearchPath
from sage_flow.executors.service_requests import check_requests_travel
from sage_flow.plan.physical import Plan
from sage_flow.plan.queues import JobQueues
from sage_flow.queues.job_queues import end_job_queues
from sage_flow.queues.ray import host_name
from sage_flow.runtime.coordinator import JobStatus
from sage_flow.runtime.failure import pack_error
from sage_flow.service import ServiceHandle

if TYPE_CHECKING:
    import ssl

    from sage_flow.executors.remote_service import ServedService

__all__ = ["RayExecution", "RayExecutor", "queues_of_job"]

_log = logging.getLogger("sage_flow")

_ROWS_S: Final = 300.0  # seconds, for rows, which may be many


@dataclass(frozen=True)
class RayExecutor:
    """Runs a job on the cluster at `address`, see `RemoteEnvironment`. `options` are completed with the driver's."""

    address: str = "auto"
    namespace: str = "sage_flow"
    runtime_env: dict[str, Any] | None = None
    options: JobOptions = field(default_factory=JobOptions)

    def start(self, plan: Plan, options: DriverOptions) -> RayExecution:
        """Store the plan and make the job's master. Raises PipelineError, ClusterError."""
        import ray

        check_requests_travel(plan.services.values())
        payload = pickled_plan(plan)
        had_connection = ray.is_initialized()
        connect_to_ray(self.address, self.runtime_env)
        records = JobRecords(self.namespace, ANSWER_S)
        base = (self.runtime_env or {}).get("working_dir")
        led = replace(self.options, driver=options, search_path=SearchPath(base), queues=plan.queues)
        record = records.add(plan.job, payload, led, this_submission())
        is_of_job = not had_connection  # the actor inherits the environment with which the connection was made
        placed = {} if self.runtime_env is None or is_of_job else {"runtime_env": self.runtime_env}
        master = ray.remote(concurrency_groups=CONCURRENCY, max_concurrency=8)(JobMaster).options(
            name=record.master,
            namespace=self.namespace,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=0,
            **placed,
        )
        answered(partial(master.remote, record.id, self.namespace), "the GCS of the cluster")
        return RayExecution(self.namespace, record, is_owner=led.is_attached, lease_s=led.lease_s, queues=plan.queues)

    def queues(self, scope: str) -> JobQueues:
        """In an actor of the job's namespace."""
        return JobQueues(scope, "ray", metadata={"namespace": self.namespace})


def queues_of_job(namespace: str, record: JobRecord) -> list[dict[str, Any]]:
    """Return the statistics of each queue of a job, as `queues_here` does for a process. Raises ClusterError."""
    import ray

    queues = JobRecords(namespace, ANSWER_S).options(record.id).queues
    host = None if queues is None else find_actor(namespace, host_name(queues.scope))
    if host is None:  # no process has used a queue yet
        return []
    try:
        told = ray.get(host.statistics.remote(), timeout=ANSWER_S)
    except ray.exceptions.GetTimeoutError:
        raise ClusterSilent(f"the host of the queues of job {record.id!r}", ANSWER_S) from None
    except ray.exceptions.RayActorError:  # the job has just ended
        return []
    where = f"process {told['process']} of node {told['node'][:8]}"
    return [
        {"kind": "ray", "host": where, "scope": scope, "channel_id": name, **queue}
        for (scope, name), queue in told["queues"].items()
    ]


class RayExecution(Execution):
    """A job on a cluster. `is_owner`: while this process lives it renews the job's lease, every third of `lease_s`.

    `queues`: those of the job, which this process may have used.
    """

    def __init__(
        self,
        namespace: str,
        record: JobRecord,
        *,
        is_owner: bool = False,
        lease_s: float = 10.0,
        queues: JobQueues | None = None,
    ) -> None:
        self._namespace = namespace
        self._record = record
        self._records = JobRecords(namespace, ANSWER_S)
        self._outcome: JobOutcome | None = None
        self._forgotten: dict[str, tuple[int, int]] = {}  # attempt, and number of the first row left, by sink
        self._has_cancelled = False
        self._queues = queues
        self._lock = threading.Lock()
        self._waiting: Any = None
        self._master = MasterClient(namespace, record)
        self._services = JobServices(record, self._master, self._command)
        self._lease = Lease(self._master.find, lease_s / 3) if is_owner else None

    @property
    def id(self) -> str:
        return self._record.id

    @property
    def name(self) -> str:
        return self._record.name

    @property
    def record(self) -> JobRecord:
        """What is known of the job now."""
        self._record = self._records.read(self.id) or self._record
        return self._record

    @property
    def status(self) -> JobStatus:
        return self._outcome.status if self._outcome is not None else self.record.status

    @property
    def is_over(self) -> bool:
        return self._outcome is not None

    @property
    def stuck(self) -> list[str]:
        return [] if self._outcome is None else self._outcome.stuck

    def wait(self, timeout_s: float | None = None) -> bool:
        import ray

        until = None if timeout_s is None else time.monotonic() + timeout_s
        while self._outcome is None:
            left_s = None if until is None else max(0.0, until - time.monotonic())
            reference = self._wait_reference()
            if reference is not None:
                done, _ = ray.wait([reference], timeout=left_s)
                if not done:
                    return False
            self._fetch(reference)
        return True

    def _wait_reference(self) -> Any:
        """Return the call that returns when the job is over; all threads that wait here share it."""
        with self._lock:
            if self._waiting is None and (master := self._master.find()) is not None:
                self._waiting = master.wait.remote()
            return self._waiting

    def _fetch(self, reference: Any) -> None:
        """Get the outcome: the master has reported the end of the job, or is gone."""
        import ray

        try:
            if reference is not None:
                ray.get(reference)
                content = self._master.ask(lambda master: master.outcome.remote(), None)
                if len(content) > SMALL_OUTCOME:  # the master stays until it is told; a small outcome is in the records
                    with contextlib.suppress(ray.exceptions.RayActorError, ClusterError):
                        self._master.ask(lambda master: master.has_arrived.remote())
                self._end(pickle.loads(content))
                return
        except (ray.exceptions.RayActorError, ClusterError):
            pass  # the outcome may be in the records, or the master may come back
        with self._lock:
            self._waiting = None
        stored = self._records.outcome(self.id)
        if stored is not None:
            self._end(stored)
        elif not is_led(self._namespace, self.record):
            error = WorkerDied(f"job {self.id!r} has no master any more, and it did not say what the job came to")
            self._end(JobOutcome(JobStatus.FAILED, pack_error(error)))
        else:
            time.sleep(RETRY_S)

    def _end(self, outcome: JobOutcome) -> None:
        if self._outcome is None:
            if outcome.status is JobStatus.CANCELLED and self._lease is not None and not self._has_cancelled:
                self._tell_why()
            end_job_queues(self._queues)
            self._outcome = outcome
        if self._lease is not None:
            self._lease.end()
        self._services.close()

    def _tell_why(self) -> None:
        """Log why the job was cancelled, as this process has not done it: mostly its lease had ended."""
        with contextlib.suppress(ClusterError):
            _log.warning("job %s was cancelled: %s", self.id, self.record.message or "the reason is not known")

    def cancel(self, reason: str) -> None:
        self._has_cancelled = True
        self._command(lambda master: master.cancel.remote(reason))

    def drain(self) -> None:
        self._command(lambda master: master.drain.remote())

    def stop(self) -> None:
        self._command(lambda master: master.stop.remote())

    def outcome(self) -> JobOutcome:
        if self._outcome is None:
            raise InternalError(f"the outcome of job {self.id!r} must not be asked for before wait() returned True")
        return self._outcome

    def metrics(self) -> dict[str, Any]:
        told: dict[str, Any] | None = self._command(lambda master: master.metrics.remote())
        if told is not None:
            return told
        counts = {} if self._outcome is None else self._outcome.counts
        return no_metrics(counts)

    def statistics(self, *, stacks: bool = False) -> dict[str, Any]:
        told: dict[str, Any] | None = self._command(lambda master: master.statistics.remote(stacks=stacks))
        return told or no_statistics()

    def collected(self) -> dict[str, list[Any]]:
        if self._outcome is not None:
            return self._outcome.collected
        told: bytes | None = self._command(lambda master: master.collected.remote(), _ROWS_S)
        return {} if told is None else pickle.loads(told)

    def take_rows(self, name: str, attempt: int, number: int) -> TakenRows:
        if self._outcome is None:
            told: bytes | None = self._command(lambda master: master.take_rows.remote(name, attempt, number), _ROWS_S)
            if told is not None:
                taken: TakenRows = pickle.loads(told)
                self._forgotten[name] = taken.attempt, taken.first
                return taken
        if self._outcome is None:
            return TakenRows(attempt, [])  # before the first attempt, or while the job ends
        if name not in self._outcome.collected:
            raise PipelineError(f"no collect sink has the name {name!r}, or its rows were fetched by another handle")
        known_attempt, forgotten = self._forgotten.get(name, (attempt, 0))
        given = number - forgotten if attempt == known_attempt else 0
        rows = self._outcome.collected[name]
        del rows[:given]
        self._forgotten[name] = attempt, number
        return TakenRows(attempt, list(rows), number)

    def subtasks(self) -> list[SubtaskInfo]:
        return self._command(lambda master: master.subtasks.remote()) or []

    def logs(self) -> dict[str, str]:
        return job_logs(self.id, self._namespace)

    # -- services -------------------------------------------------------------------------------------------

    def service(self, service: str | type) -> ServiceHandle:
        plans = self._command(lambda master: master.services.remote())
        if plans is None:
            raise ServiceUnavailable(f"job {self.id!r} is over: {self.status}")
        return self._services.handle(plans, service)

    def serve(
        self, service: str, host: str, port: int, key: bytes | None, ssl_context: ssl.SSLContext | None
    ) -> ServedService:
        raise PipelineError(
            "a job on Ray serves its services to every process of the cluster by itself: use"
            " connect(address).job(id).service(name)"
        )

    def _command(self, question: Callable[[Any], Any], limit_s: float | None = ANSWER_S) -> Any:
        """Return the master's answer; None if the job is over. Raises ClusterSilent if it does not answer in time."""
        if self._outcome is not None:
            return None
        try:
            return self._master.ask(question, limit_s)
        except ClusterSilent:
            raise
        except ClusterError:
            return None
