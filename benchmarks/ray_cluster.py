"""A Ray for benchmarks: of one node, in this process, until it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["ProcessClock", "start_ray", "wait_until"]


def start_ray() -> None:
    """Start it, if this process is not connected to one; it takes long, so it stays."""
    import ray

    if not ray.is_initialized():
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - both sides are as important as this process
        ray.init(  # not one that happens to be here
            "local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )


class ProcessClock:
    """CPU seconds of other processes; of one that has ended, those up to the last look."""

    def __init__(self, *pids: int) -> None:
        self._ticks = dict.fromkeys(pids, 0)
        self._began = self._seconds()

    def read(self) -> float:
        return self._seconds() - self._began

    def _seconds(self) -> float:
        for pid in self._ticks:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                self._ticks[pid] = int(after_name[11]) + int(after_name[12])
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0, pause_s: float = 0.005) -> None:
    """Poll, every `pause_s` seconds, for something that no time is taken of."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("it did not happen in time")
        time.sleep(pause_s)
