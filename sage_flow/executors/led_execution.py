"""A job that is led in this process, attempt by attempt. Its handle sees the attempt that runs."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sage_flow.errors import InternalError, PipelineError, ServiceUnavailable
from sage_flow.executors.checkpoint_reports import CheckpointInfo, latest_infos
from sage_flow.executors.checkpointed_run import CheckpointedRun, open_run
from sage_flow.executors.collected_rows import TakenRows
from sage_flow.executors.condition import BareCondition
from sage_flow.executors.driver import DriverOptions
from sage_flow.executors.driver_checkpoints import DriverCalls, no_checkpoints
from sage_flow.executors.execution import (
    MOST_FAILURES,
    Execution,
    JobOutcome,
    LocalExecution,
    SubtaskInfo,
    no_metrics,
    no_statistics,
)
from sage_flow.executors.leading import JobLead, LogStore, MemoryLog, NextAttempt
from sage_flow.executors.shell import Condition
from sage_flow.executors.wall_clock import wall_ms
from sage_flow.plan.physical import Plan
from sage_flow.queues.job_queues import end_job_queues
from sage_flow.restart import RestartHistory
from sage_flow.runtime.coordinator import JobStatus
from sage_flow.runtime.failure import PackedError
from sage_flow.runtime.leader import Leader
from sage_flow.runtime.port import Crashed
from sage_flow.service import ServiceHandle

if TYPE_CHECKING:
    import ssl

    from sage_flow.executors.remote_service import ServedService

__all__ = ["LedExecution", "LocalAttempt", "start_led"]

_log = logging.getLogger("sage_flow")

_STILL_RUNS: Final = "code of the failed attempt still runs in this process"


class LocalAttempt:
    """One attempt whose driver is in this process. `clean_up` is called after its end.

    `ends_stuck`: `clean_up` also ends user code that has not returned. `left` waits a while for the ends of all threads
    of the attempt, and returns those that still run.
    """

    def __init__(
        self,
        execution: LocalExecution,
        clean_up: Callable[[], None] = lambda: None,
        *,
        ends_stuck: bool = False,
        left: Callable[[], list[str]] = list,
    ) -> None:
        self.execution = execution
        self._clean_up = clean_up
        self._ends_stuck = ends_stuck
        self._left = left

    def run(self) -> JobOutcome:
        self.execution.lead(self._clean_up)
        return self.execution.outcome()

    def outcome(self) -> JobOutcome:
        return self.execution.outcome()

    def cancel(self, reason: str) -> None:
        self.execution.cancel(reason)

    def drain(self) -> None:
        self.execution.drain()

    def stop(self) -> None:
        self.execution.stop()

    @property
    def why_last(self) -> str:
        if self._ends_stuck:
            return ""
        if self.execution.stuck:
            return _STILL_RUNS
        left = self._left()
        return f"{_STILL_RUNS}: {', '.join(left)}" if left else ""


def start_led(
    plan: Plan,
    options: DriverOptions,
    start: Callable[[Plan, DriverOptions, DriverCalls], LocalAttempt],
    on_over: Callable[[], None] = lambda: None,
) -> LedExecution:
    """Start the first attempt, and a thread that leads the job to its end. Raises what `start` raises.

    `on_over` is called when the job is over.
    """

    def end() -> None:
        on_over()
        end_job_queues(plan.queues)

    job = LedExecution(plan, options, start, BareCondition(), time.monotonic, end, wall_ms)
    job.begin()
    threading.Thread(target=job.lead, name=f"driver of {plan.job}", daemon=True).start()
    return job


class LedExecution(Execution):
    """A job of this process.

    `start(plan, options, calls)` starts an attempt. `on_over` is called before `wait` returns. `wall_ms`: see `Shell`.
    """

    def __init__(
        self,
        plan: Plan,
        options: DriverOptions,
        start: Callable[[Plan, DriverOptions, DriverCalls], LocalAttempt],
        condition: Condition,
        now: Callable[[], float],
        on_over: Callable[[], None] = lambda: None,
        wall_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        run: CheckpointedRun | None = None
        if options.checkpoints is not None:
            run = open_run(options.checkpoints, plan.job, plan.job_id, wall_ms())
            plan = run.plan_for(plan)
        self.plan = self._job = plan
        self._run = run
        self._options = options
        self._start = start
        self._on_over = on_over
        history, log = options.restart.history(), MemoryLog() if run is None else run.log
        self._new_lead = partial(_new_lead, run, history, log, self._make, condition, now, self._note_restart)
        self._lead = self._new_lead(None)
        self._current: LocalExecution | None = None
        self._earlier: list[CheckpointInfo] = []  # of earlier attempts
        self._failures: deque[str] = deque(maxlen=MOST_FAILURES)  # of earlier attempts
        self._is_restarting = False
        self._outcome: JobOutcome | None = None
        self.crash: BaseException | None = None
        self._over = threading.Event()

    # -- leading --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the first attempt; `lead` runs it."""
        self._lead.begin()

    def take_over(self, lost: PackedError) -> None:
        """Forget everything but the log, as if the process that led the job had died and another one led it now.

        `lead`, called by a new activation, then continues by the log.
        """
        self._lead = self._new_lead(lost)

    def lead(self) -> None:
        """Lead the job to its end; the body of an activation.

        Who led it before `take_over` may still do so, taken for dead: how that ends does not matter to the job.
        """
        lead = self._lead
        try:
            outcome = lead.lead()
        except Crashed:
            raise
        except BaseException as error:  # an engine fault must reach the threads that wait
            if lead is self._lead:
                self.end(error)
        else:
            if lead is self._lead:
                self._outcome = outcome
                self.end()

    def end(self, crash: BaseException | None = None) -> None:
        """The job is over. `crash`: because the engine itself has failed; `outcome` raises it."""
        self.crash = self.crash or crash
        try:
            self._on_over()
        finally:
            self._over.set()

    def _make(self, attempt: NextAttempt) -> LocalAttempt:
        if attempt.finished is not None:
            plan = self._job.publishing(attempt.number, attempt.finished.prepared)
        else:
            plan = replace(self._job, attempt=attempt.number)
            if self._run is not None:
                plan = self._run.restored(plan, attempt.restores)
        made = self._start(plan, self._options, attempt.calls)
        self._is_restarting = False
        if attempt.finished is None:
            self._earlier, self._current = self.metrics()["checkpoints"], made.execution
        return made

    def _note_restart(self, delay_s: float, failure: PackedError) -> None:
        self._failures.append("\n".join(failure.lines()))
        self._is_restarting = True
        what = "publishes its output again" if self._lead.is_recorded else "restarts"
        _log.warning("job %s %s in %g s: %s", self.name, what, delay_s, failure.text)

    # -- what a handle sees ---------------------------------------------------------------------------------

    @property
    def current(self) -> LocalExecution:
        """The attempt that runs, or ran last. Raises ServiceUnavailable if there is none.

        A run that has finished needs none, nor does one that has only its output to publish.
        """
        if self._current is None:
            raise ServiceUnavailable(f"job {self.name!r} does not run: its records were processed earlier")
        return self._current

    @property
    def name(self) -> str:
        return self._job.job

    @property
    def status(self) -> JobStatus:
        if self._over.is_set():
            return JobStatus.FAILED if self._outcome is None else self._outcome.status
        if self._is_restarting:
            return JobStatus.RESTARTING
        status = JobStatus.RUNNING if self._current is None else self._current.status
        return JobStatus.RUNNING if status.is_final else status

    @property
    def is_announced(self) -> bool:  # type: ignore[override]
        return self._current is not None and self._current.is_announced

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        return self._over.wait(timeout_s)

    def cancel(self, reason: str) -> None:
        self._lead.cancel(reason)

    def drain(self) -> None:
        self._lead.drain()

    def stop(self) -> None:
        if self._run is None:
            raise PipelineError(no_checkpoints(self.name))
        self._lead.stop()

    @property
    def stuck(self) -> list[str]:
        return [] if self._current is None else self._current.stuck

    def outcome(self) -> JobOutcome:
        if self.crash is not None:
            raise self.crash
        if self._outcome is None:
            raise InternalError("the job is not over")
        return self._outcome

    def metrics(self) -> dict[str, Any]:
        if self._current is None:
            counts = {} if self._outcome is None else self._outcome.counts
            return no_metrics(counts)
        told = self._current.metrics()
        keep = 0 if self._options.checkpoints is None else self._options.checkpoints.keep
        return {**told, "checkpoints": latest_infos([*self._earlier, *told["checkpoints"]], keep)}

    def statistics(self, *, stacks: bool = False) -> dict[str, Any]:
        told = no_statistics() if self._current is None else self._current.statistics(stacks=stacks)
        return {**told, "failures": list(self._failures)}

    def collected(self) -> dict[str, list[Any]]:
        if self._current is None:
            return {} if self._outcome is None else self._outcome.collected
        return self._current.collected()

    def take_rows(self, name: str, attempt: int, number: int) -> TakenRows:
        if self._current is None:
            if self._outcome is not None and name not in self._outcome.collected:
                raise PipelineError(f"no collect sink has the name {name!r}")
            return TakenRows(attempt, self.collected().get(name, [])[number:], number)
        return self._current.take_rows(name, attempt, number)

    def subtasks(self) -> list[SubtaskInfo]:
        return [] if self._current is None else self._current.subtasks()

    def service(self, service: str | type) -> ServiceHandle:
        return self.current.service(service)

    def serve(
        self, service: str, host: str, port: int, key: bytes | None, ssl_context: ssl.SSLContext | None
    ) -> ServedService:
        return self.current.serve(service, host, port, key, ssl_context)


def _new_lead(
    run: CheckpointedRun | None,
    history: RestartHistory,
    log: LogStore,
    make: Callable[[NextAttempt], LocalAttempt],
    condition: Condition,
    now: Callable[[], float],
    on_restart: Callable[[float, PackedError], None],
    lost: PackedError | None,
) -> JobLead:
    """A new leader. `lost`: the death of the one before."""
    name = secrets.token_hex(8)
    leader = Leader(name, history, lost=lost) if run is None else run.leader(name, history, lost)
    return JobLead(leader, log, make, condition, now, on_restart)
