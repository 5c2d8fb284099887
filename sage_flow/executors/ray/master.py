"""The job master: a detached actor that leads one job through its attempts.

One thread leads the job; other threads run the calls of clients. Ray starts a killed master again, with the same two
small arguments; it reads everything else from the records. It owns its worker actors, so they die with it, and the new
master begins a new attempt.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from functools import partial
from typing import Any, Final

import ray

from sage_flow.errors import InternalError, LeaderReplaced, PipelineError, ServiceUnavailable, WorkerDied
from sage_flow.executors.checkpoint_reports import CheckpointInfo, latest_infos
from sage_flow.executors.checkpointed_run import CheckpointedRun, open_run
from sage_flow.executors.condition import BareCondition
from sage_flow.executors.driver_checkpoints import no_checkpoints
from sage_flow.executors.execution import (
    MOST_FAILURES,
    JobOutcome,
    LocalExecution,
    SubtaskInfo,
    no_metrics,
    no_statistics,
)
from sage_flow.executors.leading import JobLead, LogStore, NextAttempt
from sage_flow.executors.log_lines import log_lines
from sage_flow.executors.ray.attempt import Attempt
from sage_flow.executors.ray.job_log import KeptHistory, RayLog, small
from sage_flow.executors.ray.led_attempt import RayLedAttempt
from sage_flow.executors.ray.records import JobOptions, JobRecords
from sage_flow.executors.ray.service_door import ServiceAddress, ServiceDoors
from sage_flow.executors.ray.staff import Staff, end_actors_of
from sage_flow.executors.subtasks import SWITCH_S
from sage_flow.executors.threads import UNWIND_S
from sage_flow.executors.wall_clock import wall_ms
from sage_flow.functions import Sink
from sage_flow.links.silence import Silence
from sage_flow.metrics.ray_metrics import RayMetrics
from sage_flow.metrics.samples import Sample, samples
from sage_flow.plan import kinds
from sage_flow.plan.physical import PLAN_VERSION, Plan
from sage_flow.queues.ray import end_queues
from sage_flow.restart import NoRestart
from sage_flow.runtime.coordinator import JobStatus
from sage_flow.runtime.failure import PackedError, add_notes, pack_error
from sage_flow.runtime.leader import Leader
from sage_flow.runtime.report import OperatorCounts
from sage_flow.runtime.sinks import prepares
from sage_flow.wire import by_value

__all__ = ["JobMaster"]

_log = logging.getLogger("sage_flow")

_LINGER_S: Final = 300.0  # seconds, for rows that are too many for the records
_REPLACED: Final = 71  # exit code of a master that was replaced because it seemed to be dead
_GOODBYE_S: Final = 1.0  # seconds, for the answers of calls that are under way
_AT_LEAST_ONCE: Final = (kinds.SINK,)

START_S: Final = 60.0
"""Seconds for which a call of a service waits for an attempt to run."""

CONCURRENCY: Final = {"waiting": 64, "calls": 64}
"""Threads for clients that wait, so that questions and cancels are always answered."""


class JobMaster:
    """Constructed with the job's id and its namespace; its public methods are for clients."""

    def __init__(self, job_id: str, namespace: str) -> None:
        sys.setswitchinterval(SWITCH_S)
        log_lines(job_id)
        self._id = job_id
        self._namespace = namespace
        self._records = JobRecords(namespace)
        record = self._records.read(job_id)
        if record is None:
            raise PipelineError(f"no job {job_id!r} is stored in namespace {namespace!r}")
        self._record = record
        self._options = JobOptions()
        self._plan: Plan | None = None
        self._attempt: Attempt | None = None
        self._earlier: list[CheckpointInfo] = []  # checkpoints of earlier attempts
        self._failures: deque[str] = deque(maxlen=MOST_FAILURES)  # of earlier attempts that this master has led
        self._doors: ServiceDoors | None = None
        self._doors_changed = threading.Condition()
        self._cancelled = self._records.requested_end(job_id, "cancel")
        self._drains = self._records.requested_end(job_id, "drain") is not None
        self._stops = self._records.requested_end(job_id, "stop") is not None
        self._lead: JobLead | None = None
        self._outcome: JobOutcome | None = None
        self._over = threading.Event()
        self._loaded = threading.Event()  # the plan is loaded, or cannot be
        self._fetched = threading.Event()
        self._is_renewed = threading.Event()  # the lease was renewed since the last look
        threading.Thread(target=self._run, name="lead", daemon=True).start()

    def __repr__(self) -> str:
        return f"{self._id}/master"

    # -- calls of clients -----------------------------------------------------------------------------------

    @ray.method(concurrency_group="waiting")  # type: ignore[untyped-decorator]
    def wait(self) -> None:
        """Return when the job is over."""
        self._over.wait()

    def outcome(self) -> bytes:
        """Return the outcome of the job, once it is over, pickled by value."""
        self._over.wait()
        return by_value.dumps(self._outcome)

    def has_arrived(self) -> None:
        """A client has the outcome; one with many rows cannot be fetched after this."""
        self._fetched.set()

    def pid(self) -> int:
        """Return the id of its process."""
        return os.getpid()

    def renew(self) -> None:
        """The program that submitted the job still lives."""
        self._is_renewed.set()

    def cancel(self, reason: str) -> None:
        """Ask the job to end."""
        self._cancelled = self._cancelled or reason
        if self._lead is not None:
            self._lead.cancel(reason)
        self._records.write_requested_end(self._id, "cancel", self._cancelled)

    def drain(self) -> None:
        """Let the sources end, also those of an attempt that has not begun."""
        self._drains = True
        if self._lead is not None:
            self._lead.drain()
        self._records.write_requested_end(self._id, "drain")

    def stop(self) -> None:
        """Make a last checkpoint and end. Raises PipelineError if the job has no checkpoints."""
        self._loaded.wait()
        if self._options.driver.checkpoints is None:
            raise PipelineError(no_checkpoints(self._record.name))
        self._stops = True
        if self._lead is not None:
            self._lead.stop()
        self._records.write_requested_end(self._id, "stop")

    def metrics(self) -> dict[str, Any]:
        """See `JobHandle.metrics`."""
        execution = self._execution()
        if execution is not None:
            told = execution.metrics()
            checkpoints = self._options.driver.checkpoints
            keep = 0 if checkpoints is None else checkpoints.keep
            return {**told, "checkpoints": latest_infos([*self._earlier, *told["checkpoints"]], keep)}
        self._loaded.wait()
        chains = () if self._plan is None else self._plan.chains
        operators = [o for chain in chains for o in chain.operators if o.kind.is_counted]
        return no_metrics({o.name: OperatorCounts() for o in operators}, self._earlier)

    def statistics(self, *, stacks: bool = False) -> dict[str, Any]:
        """See `Execution.statistics`."""
        execution = self._execution()
        told = no_statistics() if execution is None else execution.statistics(stacks=stacks)
        return {**told, "failures": list(self._failures)}

    def collected(self) -> bytes:
        """Return the rows of the current attempt so far, pickled by value."""
        execution = self._execution()
        return by_value.dumps({} if execution is None else execution.collected())

    def take_rows(self, name: str, attempt: int, number: int) -> bytes | None:
        """Return rows of a `collect` sink, pickled by value; None before the first attempt."""
        execution = self._execution()
        return None if execution is None else by_value.dumps(execution.take_rows(name, attempt, number))

    def subtasks(self) -> list[SubtaskInfo]:
        """Return every subtask of the current attempt, and where it is."""
        attempt, execution = self._attempt, self._execution()
        if attempt is None:
            return []
        statuses = {} if execution is None else execution.driver.subtask_statuses()
        return [
            SubtaskInfo(
                subtask.name,
                statuses.get(subtask.address, "CREATED"),
                member.name,
                "" if member.place is None else member.place.node,
                0 if member.place is None else member.place.pid,
            )
            for member in attempt.members()
            for subtask in member.spec.subtasks
        ]

    @ray.method(concurrency_group="calls")  # type: ignore[untyped-decorator]
    def door(self, service: str, node: str) -> ServiceAddress:
        """Return how a process on `node` reaches a service. Raises ServiceUnavailable, UnknownService."""
        return self._opened_doors(START_S).open(service, node)

    def services(self) -> Any:
        """Return the services of the job, as its plan has them."""
        self._loaded.wait()
        services = {} if self._plan is None else self._plan.services
        return {name: replace(service, requests=None) for name, service in services.items()}

    @ray.method(concurrency_group="calls")  # type: ignore[untyped-decorator]
    def call(self, call: bytes, timeout_s: float, group: int | None) -> bytes:
        """Make a call for a process that cannot reach our sockets; both are pickled. See `ServiceDoors.call`."""
        doors = self._opened_doors(timeout_s)
        return by_value.dumps(doors.call(pickle.loads(call), timeout_s, group))

    def _opened_doors(self, timeout_s: float) -> ServiceDoors:
        """Return the doors of the current attempt; wait for it to start."""
        with self._doors_changed:
            self._doors_changed.wait_for(lambda: self._doors is not None or self._over.is_set(), timeout_s)
            if self._doors is None:
                raise ServiceUnavailable(f"job {self._id!r} cannot answer calls: it is {self._record.status}")
            return self._doors

    def _samples(self) -> list[Sample]:
        return list(samples(self._record.name, self.metrics(), self.statistics(), time.time()))

    def _execution(self) -> LocalExecution | None:
        return None if self._attempt is None else self._attempt.execution

    # -- its own thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        outcome = self._records.outcome(self._id)  # of a master that was killed after the end of its job
        is_stored = outcome is not None
        if outcome is None:
            outcome = self._run_to_end()
            reason = (self._cancelled or "") if outcome.status is JobStatus.CANCELLED else ""
            is_stored = self._records.write_outcome(self._record, outcome, reason)
        self._loaded.set()
        self._end_queues()
        self._outcome = outcome
        self._over.set()
        self._set_doors(None)
        if not is_stored:
            self._fetched.wait(_LINGER_S)
        time.sleep(_GOODBYE_S)
        self._leave()

    def _run_to_end(self) -> JobOutcome:
        try:
            return self._lead_attempts()
        except LeaderReplaced as error:
            _log.warning("the master of job %s stops: %s", self._id, error)
            os._exit(_REPLACED)  # not by Ray, to which this actor is the one that has taken over
        except BaseException as error:  # whatever it is, the waiting clients must get it
            return JobOutcome(JobStatus.FAILED, pack_error(error))

    def _end_queues(self) -> None:
        """Close the queues of the job for everybody, also if an earlier master was killed while doing so."""
        try:
            queues = self._records.options(self._id).queues
            if queues is not None:
                end_queues(self._namespace, queues.scope)
        except Exception as error:  # the outcome must be reported; the host ends when it has been idle
            _log.warning("the queues of job %s may not be closed: %s", self._id, error)

    def _leave(self) -> None:
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _lead_attempts(self) -> JobOutcome:
        payload, options = self._records.plan(self._id)
        self._options = replace(options, driver=replace(options.driver, unwind_s=UNWIND_S))
        self._plan = self._load(payload)
        self._loaded.set()
        if self._options.is_attached:
            threading.Thread(target=self._watch_client, name="client's lease", daemon=True).start()
        self._announce(self._plan)
        exporter = RayMetrics(self._samples, self._options.metrics_interval_s)
        exporter.start()
        if self._record.attempt:
            end_actors_of(self._id, self._namespace, self._options.lease_s)
        staff = Staff(self._id, self._namespace, self._options, payload)
        history = KeptHistory(self._records, self._id, self._options.driver.restart)
        name, lost = f"{self._id}/{secrets.token_hex(8)}", self._failure_of_last_master()
        run: CheckpointedRun | None = None
        log: LogStore = RayLog(self._records.store, self._id)
        if self._options.driver.checkpoints is None:
            leader = Leader(name, history, lost=lost)
        else:
            run = open_run(self._options.driver.checkpoints, self._plan.job, self._id, wall_ms())
            self._plan, log = run.plan_for(self._plan), run.log
            leader = run.leader(name, history, lost)
        lead = JobLead(
            leader,
            log,
            partial(self._make_attempt, payload, run, staff),
            BareCondition(),
            history.now,
            self._note_restart,
            kept=small if run is None else lambda outcome: outcome,  # a storage holds all rows
        )
        self._lead = lead
        if self._cancelled is not None:  # mostly a request to the last master
            lead.cancel(self._cancelled)
        if self._drains:
            lead.drain()
        if self._stops:
            lead.stop()
        try:
            return lead.lead()
        finally:
            exporter.stop()
            staff.dismiss()

    def _make_attempt(
        self, payload: bytes, run: CheckpointedRun | None, staff: Staff, attempt: NextAttempt
    ) -> RayLedAttempt:
        if self._plan is None:
            raise InternalError("an attempt of a plan that is not loaded")
        self._record = replace(self._record, attempt=attempt.number)
        publishes = attempt.finished is not None
        if attempt.finished is not None:
            plan = self._plan.publishing(attempt.number, attempt.finished.prepared)
            payload = by_value.dumps(plan)
        else:
            plan = replace(self._plan, attempt=attempt.number)
            if run is not None:
                plan = run.restored(plan, attempt.restores)
        made = Attempt(self._id, plan, payload, self._options, staff, attempt.calls)
        self._earlier = self.metrics()["checkpoints"]
        self._attempt = made
        return RayLedAttempt(made, partial(self._open, made, publishes=publishes), publishes=publishes)

    def _open(self, attempt: Attempt, *, publishes: bool) -> None:
        """The attempt runs: let its services be called."""
        if attempt.execution is None:
            raise InternalError("an attempt runs that was not started")
        self._note_status(JobStatus.RUNNING)
        if not publishes:
            self._set_doors(ServiceDoors(attempt.execution, encrypts=self._options.encrypts))

    def _note_restart(self, delay_s: float, failure: PackedError) -> None:
        self._failures.append("\n".join(failure.lines()))
        self._set_doors(None)
        self._note_status(JobStatus.RESTARTING, failure.message)
        is_recorded = self._lead is not None and self._lead.is_recorded
        what = "publishes its output again" if is_recorded else "restarts"
        _log.warning("job %s %s in %g s: %s", self._id, what, delay_s, failure.text)

    def _set_doors(self, doors: ServiceDoors | None) -> None:
        with self._doors_changed:
            self._doors = doors
            self._doors_changed.notify_all()

    def _load(self, payload: bytes) -> Plan:
        self._options.search_path.follow()
        try:
            plan: Plan = pickle.loads(payload)
        except BaseException as error:  # above all a failed import
            add_notes(error, [f"raised in the master of job {self._id!r}, which cannot load the plan"])
            raise
        if plan.version != PLAN_VERSION:
            raise PipelineError(
                f"the plan is of version {plan.version}, the cluster's sage_flow runs version {PLAN_VERSION}: install"
                " the same sage_flow in both places"
            )
        return plan

    def _failure_of_last_master(self) -> PackedError | None:
        """Return the death of an earlier master as an error, None if no master had begun an attempt."""
        if not self._record.attempt:
            return None
        return pack_error(WorkerDied(f"the master of job {self._id!r} died in attempt {self._record.attempt}"))

    def _announce(self, plan: Plan) -> None:
        if isinstance(self._options.driver.restart, NoRestart):
            return
        operators = [operator for chain in plan.chains for operator in chain.operators]
        sinks = [o.name for o in operators if o.kind in _AT_LEAST_ONCE and not _is_exactly_once(o.functions[0])]
        where = "the beginning" if self._options.driver.checkpoints is None else "its last checkpoint"
        _log.info("job %s restarts by %s, each time from %s", self._id, self._options.driver.restart, where)
        if sinks:
            _log.warning(
                "job %s: these sinks are at-least-once; a restart writes duplicate rows: %s", self._id, ", ".join(sinks)
            )

    def _note_status(self, status: JobStatus, message: str = "") -> None:
        self._record = replace(self._record, status=status, message=message)
        self._records.write(self._record)

    def _watch_client(self) -> None:
        """Cancel the job when its lease was not renewed, while this process was able to hear that."""
        lease_s = self._options.lease_s
        silence = Silence(lease_s, time.monotonic())
        while not self._over.wait(silence.pause_s):
            heard = self._is_renewed.is_set()
            self._is_renewed.clear()
            if silence.is_over(time.monotonic(), heard=heard):
                self.cancel(f"its driver gave no sign of life for {lease_s:g} s")
                return


def _is_exactly_once(sink: Any) -> bool:
    """Whether a restart does not write records of this sink again."""
    return prepares(sink) and (type(sink).publishes is Sink.publishes or sink.publishes() is not None)
