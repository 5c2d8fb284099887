"""The log of a job in Ray's key-value store, and its restart history beside it."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import TypeVar

from sage_flow.checkpoint.log import Entry, LogHistory
from sage_flow.errors import LogUnavailable
from sage_flow.executors.execution import JobOutcome
from sage_flow.executors.ray.key_values import KeyValues
from sage_flow.executors.ray.records import SMALL_OUTCOME, JobRecords, without_rows
from sage_flow.restart import FailureClock, RestartDecision, RestartHistory, RestartStrategy
from sage_flow.wire import by_value

__all__ = ["KeptHistory", "RayLog", "small"]

T = TypeVar("T")


class RayLog:
    """Each entry is a key that is created and never written again; the GCS decides which process was first."""

    def __init__(self, store: KeyValues, job_id: str) -> None:
        self._store = store
        self._prefix = f"log/{job_id}/"

    def read(self) -> LogHistory:
        stored = _reached(lambda: self._store.below(self._prefix))
        return LogHistory({int(position): pickle.loads(entry) for position, entry in stored.items()})

    def create(self, position: int, entry: Entry) -> None:
        content = by_value.dumps(entry)
        _reached(lambda: self._store.create(f"{self._prefix}{position}", content))

    def trim(self, history: LogHistory, attempt: int) -> None:
        """It has no checkpoints: those of a job with a storage have their log there."""


class KeptHistory:
    """The restart history of a job, which the next master reads if this one dies."""

    def __init__(self, records: JobRecords, job_id: str, strategy: RestartStrategy) -> None:
        self._records = records
        self._job_id = job_id
        stored = records.history(job_id)
        self._history: RestartHistory = strategy.history() if stored is None else stored[0]
        self._clock = FailureClock() if stored is None else stored[1]
        self._clock.start(time.monotonic(), time.time())

    def now(self) -> float:
        """Seconds since the job began."""
        return self._clock.now(time.monotonic())

    def on_failure(self, now: float) -> RestartDecision:
        decision = self._history.on_failure(now)
        self._clock.stop(time.monotonic(), time.time())
        self._records.write_history(self._job_id, self._history, self._clock)
        return decision


def small(outcome: JobOutcome) -> JobOutcome:
    """The outcome as the log keeps it: without rows if they are too many."""
    return outcome if len(by_value.dumps(outcome)) <= SMALL_OUTCOME else without_rows(outcome)


def _reached(action: Callable[[], T]) -> T:
    from ray.exceptions import RayError

    try:
        return action()
    except (RayError, OSError) as error:
        raise LogUnavailable(f"the GCS of the cluster does not answer: {error}") from error
