"""One side of one case in a process of its own: `python -m benchmarks.child CASE SIDE SIZE` prints JSON.

SIDE is `hand`, `flow`, or `both` where a case wants them in one process.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.case import Timed
from benchmarks.cases import CASES

__all__ = ["digest", "measure", "readings"]


def main() -> None:
    name, side, size = sys.argv[1:]
    print(json.dumps(readings(name, side, int(size))))


def readings(name: str, side: str, size: int) -> dict[str, dict[str, Any]]:
    """Prepare and run; return a reading for each side that ran.

    Each runs once on a small input first: what the engine imports when a job starts is not what a record costs.
    """
    case = CASES[name]
    functions = {"hand": case.hand, "flow": case.flow}
    sides = list(functions) if side == "both" else [side]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for side in sides:
            small = Path(folder, f"small-{side}")
            small.mkdir()
            functions[side](case.prepare(case.quick_size, small))
        large = Path(folder, "large")
        large.mkdir()
        work = case.prepare(size, large)
        return {side: measure(functions[side], work) for side in sides}


def measure(function: Callable[[Any], Any], work: Any) -> dict[str, Any]:
    """Run `function(work)`; what a reading says is in `benchmarks.measure.Reading`."""
    gc.collect()
    wall, cpu = time.perf_counter(), _cpu_s()
    result = function(work)
    wall, cpu = time.perf_counter() - wall, _cpu_s() - cpu
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    reading: dict[str, Any] = {"wall_s": wall, "cpu_s": cpu, "peak_mb": peak_mb, "per_s": None, "p99_s": None}
    if isinstance(result, Timed):
        reading.update(wall_s=result.wall_s, cpu_s=result.cpu_s, per_s=result.per_s, p99_s=result.p99_s)
        result = result.result
    return {**reading, "digest": digest(result)}


def _cpu_s() -> float:
    """Of all threads, and of the processes that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def digest(result: Any) -> str:
    """Equal for equal results; of a path, what is in the file."""
    data = result.read_bytes() if isinstance(result, Path) else repr(result).encode()
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    main()
