"""Exports the metrics of a job on Ray through `ray.util.metrics`: Ray's own endpoint on each node shows them.

The master of the job does it for all its subtasks, every few seconds. Histograms of Ray take single values, not counts,
so a histogram is exported as three gauges, `..._bucket` with the label `le`, `..._count` and `..._sum`, which is what
`histogram_quantile` of Prometheus reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ray.util import metrics as ray_metrics

from sage_flow.metrics.samples import Buckets, Sample

__all__ = ["RayMetrics"]


class RayMetrics:
    """Calls `look` every `interval_s` seconds, in a thread, and hands on the samples that it returns."""

    def __init__(self, look: Callable[[], Iterable[Sample]], interval_s: float) -> None:
        self._look = look
        self._interval_s = interval_s
        self._known: dict[str, Any] = {}  # Ray's objects, by name
        self._counted: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, without a last look."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            self.export(self._look())

    def export(self, found: Iterable[Sample]) -> None:
        """Hand on these samples."""
        for sample in found:
            for flat in _flat(sample):
                self._export(flat)

    def _export(self, sample: Sample) -> None:
        labels = tuple(name for name, _ in sample.labels)
        if (made := self._known.get(sample.name)) is None:
            kind = ray_metrics.Counter if sample.kind == "counter" else ray_metrics.Gauge
            made = self._known[sample.name] = kind(sample.name, description=sample.help, tag_keys=labels)
        if not isinstance(sample.value, (int, float)):
            raise TypeError(f"{sample.name} has no number: {sample.value!r}")
        if sample.kind == "gauge":
            made.set(sample.value, tags=dict(sample.labels))
            return
        key = sample.name, sample.labels
        before = self._counted.get(key, 0.0)
        grown = sample.value - before if sample.value >= before else sample.value  # another attempt counts anew
        self._counted[key] = sample.value
        if grown > 0:
            made.inc(grown, tags=dict(sample.labels))


def _flat(sample: Sample) -> Iterator[Sample]:
    if not isinstance(sample.value, Buckets):
        yield sample
        return
    for bound, count in [*((f"{bound:g}", count) for bound, count in sample.value.below), ("+Inf", sample.value.all)]:
        yield Sample(f"{sample.name}_bucket", "gauge", sample.help, (*sample.labels, ("le", bound)), count)
    yield Sample(f"{sample.name}_count", "gauge", sample.help, sample.labels, sample.value.all)
    yield Sample(f"{sample.name}_sum", "gauge", sample.help, sample.labels, sample.value.total)
