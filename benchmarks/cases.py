"""All benchmarks, in the order of the tables."""

from __future__ import annotations

from benchmarks import files, latency, memory, records
from benchmarks.case import Case

__all__ = ["CASES"]

CASES: dict[str, Case] = {case.name: case for case in (*records.CASES, *files.CASES, *latency.CASES, *memory.CASES)}
