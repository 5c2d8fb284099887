"""The jobs of a Ray cluster, from any process that can connect to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_flow.job import JobHandle

if TYPE_CHECKING:
    from sage_flow.executors.ray.records import JobRecord

__all__ = ["Cluster", "connect"]


class Cluster:
    """A connection to the jobs of one namespace; made by `connect`."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        """The namespace of its jobs."""
        return self._namespace

    def jobs(self) -> list[JobRecord]:
        """The running and ended jobs, the latest first. Raises ClusterError if the cluster does not answer."""
        from sage_flow.executors.ray.answers import ANSWER_S
        from sage_flow.executors.ray.records import JobRecords

        return JobRecords(self._namespace, ANSWER_S).all()

    def job(self, job: str) -> JobHandle:
        """A handle of the job with this id, or of the latest of this name. It leaves the job alone when it goes.

        Raises PipelineError, listing the jobs there are; ClusterError if the cluster does not answer.
        """
        from sage_flow.executors.ray.answers import ANSWER_S
        from sage_flow.executors.ray.client import RayExecution
        from sage_flow.executors.ray.records import JobRecords

        return JobHandle(RayExecution(self._namespace, JobRecords(self._namespace, ANSWER_S).find(job)), is_owner=False)


def connect(address: str = "auto", *, namespace: str = "sage_flow") -> Cluster:
    """Connect this process to a Ray cluster, if it is not; `address` as in `RemoteEnvironment`.

    Raises ClusterError if nobody answers.
    """
    from sage_flow.executors.ray.cluster import connect_to_ray

    connect_to_ray(address)
    return Cluster(namespace)
