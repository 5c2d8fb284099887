"""Exports the metrics of a job of this process on a port of this machine, in the format of Prometheus."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from sage_flow.errors import ClusterError, PipelineError
from sage_flow.metrics.samples import Buckets, Sample, samples

if TYPE_CHECKING:
    from sage_flow.job import JobHandle

__all__ = ["exported", "families", "registry_of"]

_HERE = "127.0.0.1"
_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


@contextlib.contextmanager
def exported(job: JobHandle, port: int) -> Iterator[int]:
    """Export the job's metrics while the block runs; yield the port, which is free if `port` is 0.

    Raises PipelineError if there is no such port, or it is in use.
    """
    if not 0 <= port <= 65535:
        raise PipelineError(f"there is no port {port}: a port is a number from 0 to 65535")
    registry = registry_of(job)
    try:
        server, thread = start_http_server(port, _HERE, registry)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is in use" if error.errno == errno.EADDRINUSE else "may not be used by this user"
        raise PipelineError(
            f"port {port} {why}, so metrics cannot be exported there: choose another one, or 0 for any free one"
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def registry_of(job: JobHandle) -> CollectorRegistry:
    """Return what prometheus_client reads the job's metrics from."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_JobCollector(job))
    return registry


class _JobCollector:
    """Asks the job whenever somebody asks for its metrics."""

    def __init__(self, job: JobHandle) -> None:
        self._job = job

    def collect(self) -> Iterable[Any]:
        try:
            metrics, statistics = self._job.metrics(), self._job.statistics()
        except ClusterError:  # no answer now: a gap says so
            return []
        return families(samples(self._job.name, metrics, statistics, time.time()))


def families(found: Iterable[Sample]) -> list[Any]:
    """The samples in the classes of prometheus_client."""
    made: dict[str, Any] = {}
    for sample in found:
        names = [name for name, _ in sample.labels]
        values = [value for _, value in sample.labels]
        if sample.name not in made:
            made[sample.name] = _FAMILIES[sample.kind](sample.name, sample.help, labels=names)
        if isinstance(sample.value, Buckets):
            below = [(f"{bound:g}", count) for bound, count in sample.value.below]
            made[sample.name].add_metric(values, [*below, ("+Inf", sample.value.all)], sample.value.total)
        else:
            made[sample.name].add_metric(values, sample.value)
    return list(made.values())
