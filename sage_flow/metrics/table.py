"""The metrics that every job exports. Both exporters, and the table in docs/metrics.md, are made of these rows."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

__all__ = [
    "LABELS",
    "LATENCY_BOUNDS",
    "METRICS",
    "PREFIX",
    "USER_BOUNDS",
    "USER_PREFIX",
    "Kind",
    "Metric",
    "as_markdown",
]

Kind = Literal["counter", "gauge", "histogram"]

PREFIX: Final = "sage_flow_"
USER_PREFIX: Final = "sage_flow_user_"

LATENCY_BOUNDS: Final = tuple(2.0**power for power in range(-17, 8))
"""The upper bounds of the buckets of calls: from 8 us to 128 s, each twice the one before."""
USER_BOUNDS: Final = tuple(2.0**power for power in range(-10, 31))
"""Those of the histograms of user code: from a thousandth to a thousand millions."""


class Metric(NamedTuple):
    """A metric, without its prefix. `unit` is what one of it is; `of` says whose labels it has, see `LABELS`."""

    name: str
    kind: Kind
    unit: str
    of: str
    help: str


LABELS: Final[dict[str, tuple[str, ...]]] = {
    "job": ("job_name",),
    "operator": ("job_name", "operator", "subtask"),
    "subtask": ("job_name", "subtask"),
    "service": ("job_name", "service", "method"),
    "user": ("job_name", "operator", "subtask"),
}

_ROWS: Final[tuple[Metric, ...]] = (
    Metric("job_attempt", "gauge", "attempts", "job", "the number of the attempt that runs, from 1"),
    Metric("restarts", "counter", "restarts", "job", "how often the job has started again after a failure"),
    Metric("checkpoints_kept", "gauge", "checkpoints", "job", "the latest checkpoints that are complete, at most 100"),
    Metric("checkpoints_failed", "gauge", "checkpoints", "job", "those of the latest checkpoints that failed"),
    Metric("checkpoint_latest", "gauge", "number", "job", "the number of the last complete checkpoint"),
    Metric("checkpoint_duration_seconds", "gauge", "seconds", "job", "how long the last complete checkpoint took"),
    Metric("checkpoint_size_bytes", "gauge", "bytes", "job", "the size of the last complete checkpoint"),
    Metric("records", "counter", "records", "operator", "records that the operator emitted; a sink: received"),
    Metric("skipped_records", "counter", "records", "operator", 'records that failed under on_error="skip"'),
    Metric("dead_letters", "counter", "records", "operator", 'records that failed under on_error="dead_letter"'),
    Metric("late_records", "counter", "records", "operator", "records that came after their windows were over"),
    Metric("watermark_seconds", "gauge", "seconds", "operator", "event time, in seconds since 1970"),
    Metric("watermark_lag_seconds", "gauge", "seconds", "operator", "how far event time is behind the clock"),
    Metric("input_records", "counter", "records", "subtask", "records that have come from other subtasks"),
    Metric("input_bytes", "counter", "bytes", "subtask", "their size, where they are encoded: not within a process"),
    Metric("output_records", "counter", "records", "subtask", "records sent to other subtasks"),
    Metric("output_bytes", "counter", "bytes", "subtask", "their size, where they are encoded"),
    Metric("queued_records", "gauge", "records", "subtask", "records, or requests, that have come and wait"),
    Metric("queued_seconds", "gauge", "seconds", "subtask", "how long the first of them has waited"),
    Metric("busy_seconds", "counter", "seconds", "subtask", "time in which it worked, or user code waited by itself"),
    Metric("idle_seconds", "counter", "seconds", "subtask", "time without anything to do"),
    Metric("credit_wait_seconds", "counter", "seconds", "subtask", "time in which it waited for slower readers"),
    Metric("call_wait_seconds", "counter", "seconds", "subtask", "time in which it waited for services and coroutines"),
    Metric("calls", "counter", "calls", "service", "calls that have ended"),
    Metric("call_errors", "counter", "calls", "service", "calls that ended in an error"),
    Metric("calls_in_flight", "gauge", "calls", "service", "calls that are open"),
    Metric("call_batches", "counter", "batches", "service", "batches of a `@batched` method that have begun"),
    Metric("batched_calls", "counter", "calls", "service", "the calls in these batches"),
    Metric("call_latency_seconds", "histogram", "seconds", "service", "from the call to its outcome"),
    Metric("call_queue_seconds", "histogram", "seconds", "service", "from the arrival of a request to its start"),
)

METRICS: Final = {row.name: row for row in _ROWS}
"""By name."""


def as_markdown() -> str:
    """The table of the docs. Prometheus puts `_total` behind the names of counters."""
    lines = ["| metric | kind | unit | labels | |", "|---|---|---|---|---|"]
    for row in METRICS.values():
        name = f"{PREFIX}{row.name}{'_total' if row.kind == 'counter' else ''}"
        labels = ", ".join(LABELS[row.of])
        lines.append(f"| `{name}` | {row.kind} | {row.unit} | {labels} | {row.help} |")
    return "\n".join(lines)
