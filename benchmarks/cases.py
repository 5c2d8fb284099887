"""All benchmarks, in the order of the tables."""

from __future__ import annotations

from benchmarks import calls, files, latency, memory, queues, records, remote_calls
from benchmarks.case import Case

__all__ = ["CASES"]

CASES: dict[str, Case] = {
    case.name: case
    for module in (records, files, latency, calls, remote_calls, queues, memory)
    for case in module.CASES
}
