"""The jobs of a cluster as commands name them: those it has records of, and submissions that have started none.

A submission is known to Ray's job server at once; its job only when its driver has written the pipeline and sent it.
A driver that dies before that leaves the submission alone, and it is by its name that it is asked for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sage_flow.errors import ClusterError, PipelineError
from sage_flow.executors.ray.answers import ANSWER_S, ClusterSilent
from sage_flow.executors.ray.records import REMEMBERED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_flow.cli.submission import JobServer, Submission
    from sage_flow.cluster import Cluster
    from sage_flow.executors.ray.records import JobRecord

__all__ = ["JoblessSubmission", "KnownJobs", "awaited_job", "server_of_cluster"]

_POLL_S: Final = 0.5
_STATUSES: Final = {"FAILED": "FAILED", "STOPPED": "CANCELLED"}
"""Of submissions that are over, as jobs have them; the others are SUBMITTED."""


@dataclass(frozen=True)
class JoblessSubmission:
    """A submission of sage_flow that has started no job, or not yet."""

    submission: Submission

    @property
    def status(self) -> str:
        """SUBMITTED until its driver has started a job, FAILED or CANCELLED if it ended before."""
        return _STATUSES.get(self.submission.status, "FAILED" if self.submission.is_over else "SUBMITTED")

    @property
    def message(self) -> str:
        """What became of it."""
        if not self.submission.is_over:
            return "its driver has started no job yet"
        found = self.submission
        return f"its driver has started no job: {found.message}; `sage-flow logs {found.id}` prints its output"

    def as_dict(self) -> dict[str, Any]:
        """As `JobRecord.as_dict`; there is no `id`."""
        found = self.submission
        return {
            "id": None,
            "name": found.name,
            "status": self.status,
            "submitted": found.started,
            "attempt": 0,
            "ended": found.ended,
            "message": self.message,
            "submission_id": found.id,
            "is_attached": True,
        }


class KnownJobs:
    """What is known at one moment. `trouble`: why the submissions are not, if they are not."""

    def __init__(self, cluster: Cluster) -> None:
        """Raises ClusterError if the cluster does not answer."""
        # First: a job may start in between. Those that are submitted run in this namespace, if it is that by default.
        submissions, self.trouble = _submissions() if cluster.namespace == "sage_flow" else ([], None)
        self.records = cluster.jobs()
        with_job = {record.submission_id for record in self.records}
        self.jobless = [JoblessSubmission(found) for found in submissions if found.id not in with_job]
        self._all: list[JobRecord | JoblessSubmission] = [*self.records, *self.jobless]
        self._all.sort(key=lambda job: -_submitted(job))

    def shown(self) -> list[dict[str, Any]]:
        """For `sage-flow list`, the latest first."""
        return [job.as_dict() for job in self._all if not isinstance(job, JoblessSubmission) or self._is_shown(job)]

    def _is_shown(self, job: JoblessSubmission) -> bool:
        """It is ours, and has not had a job that is forgotten."""
        has_all = len(self.records) < REMEMBERED or job.submission.started >= min(map(_submitted, self.records))
        return job.submission.name is not None and job.submission.status != "SUCCEEDED" and has_all

    def find(self, job: str) -> JobRecord | JoblessSubmission:
        """That of this id, or the latest of this name or submission. Raises PipelineError, listing what there is."""
        for found in self._all:
            if isinstance(found, JoblessSubmission):
                if job in (found.submission.id, found.submission.name):
                    return found
            elif job in (found.id, found.name, found.submission_id):
                return found
        names = [
            _name(found) for found in self._all if not isinstance(found, JoblessSubmission) or self._is_shown(found)
        ]
        trouble = "" if self.trouble is None else f" ({self.trouble})"
        raise PipelineError(f"no job {job!r} is known here; there are: {', '.join(names[:10]) or 'none'}{trouble}")


def awaited_job(cluster: Cluster, job: str) -> JobRecord | JoblessSubmission:
    """Find it; a submission that may still start its job gets 30 s for that. Raises PipelineError, ClusterError."""
    until = time.monotonic() + ANSWER_S
    while True:
        found = KnownJobs(cluster).find(job)
        if not isinstance(found, JoblessSubmission) or found.submission.is_over or time.monotonic() > until:
            return found
        time.sleep(_POLL_S)


def server_of_cluster() -> JobServer:
    """The job server of the cluster to which this process is connected. Raises ClusterError if there is none."""
    from sage_flow.cli.submission import JobServer
    from sage_flow.executors.ray.logs import dashboard_url

    return JobServer(dashboard_url())


def _submissions() -> tuple[Sequence[Submission], str | None]:
    """Those of sage_flow; and why they cannot be had, which a cluster without a job server is no reason for."""
    import ray

    from sage_flow.executors.ray.cluster import is_client
    from sage_flow.executors.ray.logs import has_dashboard

    if not has_dashboard():
        return [], None
    try:
        if not is_client():
            return server_of_cluster().submissions(), None
        asked = ray.remote(num_cpus=0)(_ask_server).remote()  # only processes of the cluster are sure to reach it
        try:
            found: Sequence[Submission] = ray.get(asked, timeout=2 * ANSWER_S)
        except ray.exceptions.GetTimeoutError:
            raise ClusterSilent("the process of the cluster that asks its job server", 2 * ANSWER_S) from None
        return found, None
    except ClusterError as error:
        return [], f"submissions without a job cannot be listed: {error}"


def _ask_server() -> Sequence[Submission]:
    return server_of_cluster().submissions()


def _submitted(job: JobRecord | JoblessSubmission) -> float:
    return job.submission.started if isinstance(job, JoblessSubmission) else job.submitted


def _name(job: JobRecord | JoblessSubmission) -> str:
    if not isinstance(job, JoblessSubmission):
        return job.id
    found = job.submission
    return found.id if found.name is None else f"{found.name} ({found.id})"
