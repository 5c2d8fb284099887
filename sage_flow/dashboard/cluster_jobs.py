"""The jobs of a Ray cluster, for the page."""

from __future__ import annotations

from dataclasses import replace

from sage_flow.cluster import Cluster, connect
from sage_flow.dashboard.looks import JobLook
from sage_flow.errors import ClusterError
from sage_flow.executors.ray.records import JobRecord
from sage_flow.executors.running_jobs import Order, failure_of
from sage_flow.job import JobHandle

__all__ = ["ClusterJobs"]

_OUTCOME_S = 5.0
_SHOWN = 50


class ClusterJobs:
    """The latest jobs of one namespace. `looks` is called by one thread; the others may be called by any."""

    def __init__(self, address: str, namespace: str) -> None:
        """Connect. Raises ClusterError."""
        self._cluster: Cluster = connect(address, namespace=namespace)
        self.title = f"jobs of the cluster at {address}"
        self._handles: dict[str, JobHandle] = {}
        self._latest: dict[str, JobLook] = {}

    def looks(self) -> list[JobLook]:
        """Look at all jobs, the latest first. Raises ClusterError if the cluster does not answer."""
        records = self._cluster.jobs()[:_SHOWN]
        self._latest = {record.id: self._look(record) for record in records}
        return list(self._latest.values())

    def end(self, key: str, order: Order) -> str:
        """Drain, stop or cancel a job; return its status now. Raises PipelineError, ClusterError."""
        handle = self._handle(key)
        if order == "cancel":
            return str(handle.cancel("cancelled on the page", wait=False))
        return str((handle.drain if order == "drain" else handle.stop)(wait=False))

    def logs(self, key: str) -> dict[str, str]:
        """What the processes of a job have printed. Raises PipelineError, ClusterError."""
        return self._handle(key).logs()

    def _handle(self, key: str) -> JobHandle:
        if key not in self._handles:
            self._handles[key] = self._cluster.job(key)
        return self._handles[key]

    def _look(self, record: JobRecord) -> JobLook:
        latest = self._latest.get(record.id) or JobLook(record.id, record.name, str(record.status), record.id)
        if latest.is_over and latest.metrics["operators"]:
            return latest
        handle = self._handle(record.id)
        if record.status.is_final:
            if not handle.wait(_OUTCOME_S).is_final:
                raise ClusterError(f"the outcome of job {record.id!r} did not come")
            counts = handle.metrics()["operators"]
            metrics = {**latest.metrics, "operators": counts}
            failure = failure_of(handle)
            return replace(latest, status=str(record.status), metrics=metrics, failure=failure or record.message)
        return replace(
            latest,
            status=str(record.status),
            metrics=handle.metrics(),
            statistics=handle.statistics(),
            stops=True,
            nodes={one.name: f"{one.node[:8]} process {one.pid}" for one in handle.subtasks() if one.node},
        )
