"""What a job has told of itself, as samples of the metrics in the table; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sage_flow.metrics.table import LABELS, LATENCY_BOUNDS, METRICS, PREFIX, USER_BOUNDS, USER_PREFIX, Kind
from sage_flow.runtime.statistics import Histogram
from sage_flow.timestamps import MAX_TIMESTAMP, MIN_TIMESTAMP

__all__ = ["Buckets", "Sample", "buckets_of", "samples"]


class Buckets(NamedTuple):
    """A histogram as Prometheus has it: for each bound how many values are not above it, how many there are in
    `all`, and about what they are in `total`.

    That is the sum of the middles of the engine's own buckets, so it is exact to 7 %.
    """

    below: tuple[tuple[float, int], ...]
    all: int
    total: float


class Sample(NamedTuple):
    """A value of a metric, whose name has its prefix. `labels` are in the order of `LABELS`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, str], ...]
    value: float | Buckets


def buckets_of(histogram: Histogram, bounds: Sequence[float]) -> Buckets:
    """Count a histogram's values by these bounds, which are powers of two."""
    below = tuple((bound, histogram.count_below(bound)) for bound in bounds)
    return Buckets(below, histogram.count, histogram.sum)


def samples(job: str, metrics: Mapping[str, Any], statistics: Mapping[str, Any], now_s: float) -> Iterator[Sample]:
    """Yield all samples of a job: what `JobHandle.metrics()` and `JobHandle.statistics()` return, at `now_s`.

    `job` is what the label says; `now_s` are seconds since 1970.
    """
    yield from _of_job(job, metrics, statistics)
    for subtask in statistics["subtasks"]:
        yield from _of_operators(job, subtask, now_s)
        yield from _of_subtask(job, subtask)
    for service, methods in metrics["calls"].items():
        for method, told in methods.items():
            of = (job, service, method)
            yield _sample("calls", of, told.calls)
            yield _sample("call_errors", of, told.errors)
            yield _sample("calls_in_flight", of, told.in_flight)
            if told.batches:
                yield _sample("call_batches", of, told.batches)
                yield _sample("batched_calls", of, told.batched_calls)
            yield _sample("call_latency_seconds", of, buckets_of(told.latency, LATENCY_BOUNDS))
            yield _sample("call_queue_seconds", of, buckets_of(told.queue, LATENCY_BOUNDS))
    for one in metrics["user"]:
        value = buckets_of(one.value, USER_BOUNDS) if isinstance(one.value, Histogram) else one.value
        labels = tuple(zip(LABELS["user"], (job, one.operator, one.subtask), strict=True))
        yield Sample(USER_PREFIX + one.name, one.kind, one.help or f"of user code: {one.name}", labels, value)


def _of_job(job: str, metrics: Mapping[str, Any], statistics: Mapping[str, Any]) -> Iterator[Sample]:
    attempt = statistics["attempt"]
    yield _sample("job_attempt", (job,), attempt)
    yield _sample("restarts", (job,), max(0, attempt - 1))
    complete = [info for info in metrics["checkpoints"] if info.failed is None]
    yield _sample("checkpoints_kept", (job,), len(complete))
    yield _sample("checkpoints_failed", (job,), len(metrics["checkpoints"]) - len(complete))
    if complete:
        last = complete[-1]
        yield _sample("checkpoint_latest", (job,), last.checkpoint)
        yield _sample("checkpoint_duration_seconds", (job,), last.took_s)
        yield _sample("checkpoint_size_bytes", (job,), last.size)


def _of_operators(job: str, subtask: Mapping[str, Any], now_s: float) -> Iterator[Sample]:
    for operator, counts in subtask["operators"].items():
        of = (job, operator, subtask["name"])
        yield _sample("records", of, counts["emitted"])
        yield _sample("skipped_records", of, counts["skipped"])
        yield _sample("dead_letters", of, counts["dead_letters"])
        yield _sample("late_records", of, counts["late"])
    for operator, watermark in subtask["watermarks"].items():
        if MIN_TIMESTAMP < watermark < MAX_TIMESTAMP:
            of = (job, operator, subtask["name"])
            yield _sample("watermark_seconds", of, watermark / 1000)
            yield _sample("watermark_lag_seconds", of, now_s - watermark / 1000)


def _of_subtask(job: str, subtask: Mapping[str, Any]) -> Iterator[Sample]:
    of, flow, work = (job, subtask["name"]), subtask["flow"], subtask["work"]
    if flow is None or work is None:  # it has ended, or did not answer
        return
    yield _sample("input_records", of, flow["records_in"])
    yield _sample("output_records", of, flow["records_out"])
    if flow["bytes_in"] is not None:
        yield _sample("input_bytes", of, flow["bytes_in"])
    if flow["bytes_out"] is not None:
        yield _sample("output_bytes", of, flow["bytes_out"])
    yield _sample("queued_records", of, subtask["queued"])
    yield _sample("queued_seconds", of, subtask["oldest_s"] or 0.0)
    yield _sample("busy_seconds", of, work["busy_s"])
    yield _sample("idle_seconds", of, work["idle_s"])
    yield _sample("credit_wait_seconds", of, work["credit_s"])
    yield _sample("call_wait_seconds", of, work["calls_s"])


def _sample(name: str, of: tuple[str, ...], value: float | Buckets) -> Sample:
    row = METRICS[name]
    return Sample(PREFIX + name, row.kind, row.help, tuple(zip(LABELS[row.of], of, strict=True)), value)
