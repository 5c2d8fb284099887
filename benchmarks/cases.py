"""All benchmarks, in the order of the tables."""

from __future__ import annotations

from benchmarks import calls, files, memory, queues, records, remote_calls, start
from benchmarks.case import Case

__all__ = ["CASES"]

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        *records.CASES,
        *files.CASES,
        *start.CASES,
        *calls.CASES,
        *remote_calls.CASES,
        *queues.CASES,
        *memory.CASES,
    )
}
