"""An attempt of a job on Ray, as the lead of the job sees it."""

from __future__ import annotations

from collections.abc import Callable

from sage_flow.errors import JobCancelled, LeaderReplaced, WorkerDied
from sage_flow.executors.execution import JobOutcome
from sage_flow.executors.ray.attempt import Attempt
from sage_flow.runtime.coordinator import JobStatus
from sage_flow.runtime.failure import pack_error

__all__ = ["RayLedAttempt"]


class RayLedAttempt:
    """`on_running` is called when its actors run. `publishes`: it only publishes what an earlier one has prepared."""

    why_last = ""
    """Actors in which code of an attempt still runs are killed at its end, so another one can follow."""

    def __init__(self, attempt: Attempt, on_running: Callable[[], None], *, publishes: bool) -> None:
        self._attempt = attempt
        self._on_running = on_running
        self._publishes = publishes

    def run(self) -> JobOutcome:
        try:
            return self._attempt.run(self._on_running).outcome()
        except LeaderReplaced:
            raise
        except JobCancelled:
            return JobOutcome(JobStatus.CANCELLED)
        except WorkerDied as error:
            return JobOutcome(JobStatus.FAILED, pack_error(error))
        except Exception as error:
            if not self._publishes:
                raise
            return JobOutcome(JobStatus.FAILED, pack_error(error))  # the job has finished: another attempt publishes

    def outcome(self) -> JobOutcome:
        if self._attempt.execution is None:
            return JobOutcome(JobStatus.CREATED)
        return self._attempt.execution.outcome()

    def cancel(self, reason: str) -> None:
        self._attempt.cancel(reason)

    def drain(self) -> None:
        self._attempt.drain()

    def stop(self) -> None:
        self._attempt.stop()
