"""All benchmarks, in the order of the tables."""

from __future__ import annotations

from benchmarks import (
    calls,
    event_time,
    files,
    latency,
    memory,
    queue_calls,
    queues,
    ray_arrays,
    ray_calls,
    ray_shuffle,
    records,
    remote_calls,
    state,
)
from benchmarks.case import Case

__all__ = ["CASES"]

CASES: dict[str, Case] = {
    case.name: case
    for module in (
        records,
        event_time,
        state,
        files,
        latency,
        calls,
        remote_calls,
        queue_calls,
        queues,
        ray_shuffle,
        ray_arrays,
        ray_calls,
        memory,
    )
    for case in module.CASES
}
