"""All benchmarks, in the order of the tables."""

from __future__ import annotations

from benchmarks import calls, files, memory, records, start
from benchmarks.case import Case

__all__ = ["CASES"]

CASES: dict[str, Case] = {
    case.name: case for case in (*records.CASES, *files.CASES, *start.CASES, *calls.CASES, *memory.CASES)
}
