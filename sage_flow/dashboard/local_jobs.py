"""The jobs of this user on this machine, for the page."""

from __future__ import annotations

import threading
from dataclasses import replace

from sage_flow.dashboard.looks import JobLook
from sage_flow.errors import ChannelNotReachable, PipelineError
from sage_flow.executors.running_jobs import Order, RunningJob, running_jobs

__all__ = ["LocalJobs"]

_GONE = "GONE"


class LocalJobs:
    """Finds the jobs as `sage-flow channels` does. Those that ended since the page was started stay.

    `looks` is called by one thread; the others may be called by any.
    """

    title = "jobs of this machine"

    def __init__(self) -> None:
        self._jobs: dict[str, RunningJob] = {}
        self._latest: dict[str, JobLook] = {}
        self._ends: dict[str, tuple[str, str]] = {}  # status and failure of those that are over
        self._lock = threading.Lock()

    def looks(self) -> list[JobLook]:
        """Look at all jobs, the latest first. Raises ChannelNotReachable if there is no place to find them."""
        for job in running_jobs():
            if job.path not in self._jobs:
                self._begin(job)
        for key, job in self._jobs.items():
            self._latest[key] = self._look(key, job)
        return list(reversed(self._latest.values()))

    def end(self, key: str, order: Order) -> str:
        """Drain, stop or cancel a job, and wait for its end; return its status. Raises PipelineError."""
        job = self._jobs.get(key)
        if job is None or key in self._ends:
            raise PipelineError("this job is over")
        return str(job.end(order))

    def logs(self, key: str) -> dict[str, str]:
        """A job of this machine has no logs of its own. Raises PipelineError, which says so."""
        raise PipelineError("a job of this machine prints to the terminal that it was started in; it has no other logs")

    def _begin(self, job: RunningJob) -> None:
        key = job.path
        self._jobs[key] = job
        self._latest[key] = JobLook(key, job.name, "CREATED", f"process {job.pid}")
        threading.Thread(target=self._await_end, args=(key, job), name=f"end of {job.name}", daemon=True).start()

    def _await_end(self, key: str, job: RunningJob) -> None:
        try:
            end = job.outcome()
        except ChannelNotReachable:
            end = _GONE, "its process has ended without telling what the job came to; its terminal may say more"
        with self._lock:
            self._ends[key] = end

    def _look(self, key: str, job: RunningJob) -> JobLook:
        latest = self._latest[key]
        with self._lock:
            end = self._ends.get(key)
        if end is not None:
            return latest if latest.is_over else replace(latest, status=end[0], failure=end[1], notes=())
        try:
            told = job.look()
        except ChannelNotReachable as error:  # it ends, or stands still
            return replace(latest, notes=(f"no answer now, so this is not new: {error}",))
        return replace(
            latest,
            status=told["status"],
            metrics=told["metrics"],
            statistics=told["statistics"],
            stops=told["stops"],
            notes=(),
        )
