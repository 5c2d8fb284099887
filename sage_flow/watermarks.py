"""Watermarks: how far the event time of a split has come. A generator for each split tells it.

The watermark T of a split says: no record with a timestamp below T is expected any more. So a window gives its result
when T reaches its `end`, and records that come after that are late for it. (Flink counts by T - 1, the last timestamp
that is not expected.) The watermark of a subtask is the smallest of its splits and inputs, and never goes back
(`runtime/watermark.py`).
"""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any, Generic, TypeVar

from sage_flow.timestamps import checked_duration, duration_text

__all__ = ["BoundedOutOfOrderness", "WatermarkGenerator"]

T = TypeVar("T")


class WatermarkGenerator(Generic[T]):
    """Tells the watermark of one split, for `assign_timestamps(watermarks=)`, which makes one for each.

    Both methods that tell it may return None: the watermark stays. One that goes back is ignored. So a subclass writes
    `on_record` or `on_tick`, or both.

    A source that marks the end of each of its batches:

    >>> class AfterEachBatch(WatermarkGenerator[dict]):
    ...     def on_record(self, value, timestamp):
    ...         return timestamp + 1 if value["last"] else None
    >>> AfterEachBatch().on_record({"last": True}, 5_000)
    5001
    """

    def on_record(self, value: T, timestamp: int) -> int | None:
        """Called for each record. The watermark that it returns takes effect after the record.

        A watermark of `timestamp` still expects records with the same timestamp; `timestamp + 1` does not.
        """
        return None

    def on_tick(self, wall_ms: int) -> int | None:
        """Called from time to time, also without records. `wall_ms`: the wall clock, in ms since 1970."""
        return None

    def snapshot(self) -> Any:
        """Return what `restore` needs, for a checkpoint: a copy of all attributes, unless a subclass knows better."""
        return copy.deepcopy(vars(self))

    def restore(self, state: Any) -> None:
        """Take what `snapshot` has returned. Called on a new generator, before its first record."""
        vars(self).update(state)


class BoundedOutOfOrderness(WatermarkGenerator[Any]):
    """The watermark is the largest timestamp so far, minus `max_out_of_order`: a record is late by no more than that.

    `assign_timestamps(max_out_of_order=)` does the same.

    >>> generator = BoundedOutOfOrderness(timedelta(seconds=1))
    >>> generator.on_record("a", 5_000), generator.on_record("b", 4_500), generator.on_record("c", 5_100)
    (4000, None, 4100)

    Raises:
        PipelineError: `max_out_of_order` is no `timedelta`, is not of whole milliseconds or negative.
    """

    def __init__(self, max_out_of_order: timedelta) -> None:
        self._bound_ms = checked_duration(max_out_of_order, "max_out_of_order", positive=False)
        self._largest: int | None = None

    def __repr__(self) -> str:
        return f"BoundedOutOfOrderness({duration_text(self._bound_ms)})"

    def on_record(self, value: Any, timestamp: int) -> int | None:
        """The new watermark, if the timestamp is the largest so far."""
        if self._largest is not None and timestamp <= self._largest:
            return None
        self._largest = timestamp
        return timestamp - self._bound_ms

    def snapshot(self) -> int | None:
        """The largest timestamp so far. The bound is the pipeline's, which may have changed."""
        return self._largest

    def restore(self, state: int | None) -> None:
        """Take the largest timestamp so far."""
        self._largest = state
