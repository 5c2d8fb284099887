"""A thread that reads a blocking source ahead of its subtask."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from sage_flow.functions import END, IDLE, Malformed, Source
from sage_flow.runtime.messages import FRAME_RECORDS
from sage_flow.split_source import SplitSource
from sage_flow.splits import SplitSignal

__all__ = ["Feeder"]

_AHEAD = 1000  # records
_IDLE_S = 0.005  # between two questions to a source that has nothing and did not wait for it
_NOT_YET = object()


_Batch = list[Any] | SplitSignal | Malformed
_Read = tuple[str, _Batch, Any]  # the split, a batch of it, and the position after that


class _Positions:
    """How far what was taken goes. `after` is called by the thread that reads, the rest by the subtask."""

    def __init__(self, source: Source[Any]) -> None:
        self._source = source
        self._by_split: dict[str, Any] | None = None
        if isinstance(source, SplitSource):
            self._by_split = source.snapshot()
        self._whole: Any = None
        self._has_position = type(source).snapshot is not Source.snapshot

    def after(self, batch: _Batch) -> Any:
        """The position after `batch`, which was just read."""
        if isinstance(self._source, SplitSource):
            return self._source._position_after(batch)
        return self._source.snapshot() if self._has_position else None

    def note(self, position: Any) -> None:
        """Everything up to this position was taken."""
        if self._by_split is None:
            self._whole = position
        else:
            split, at = position
            if at is not None:
                self._by_split[split] = at

    def snapshot(self) -> Any:
        """The position after what was taken."""
        return self._whole if self._by_split is None else dict(self._by_split)


class Feeder(Source[Any]):
    """Takes the place of a blocking source: `next_batch()` returns what was read already and never blocks.

    At most 1000 records (and one batch) are read ahead, or what the source may give in one second if that is less.

    Batches pass through a deque without a lock: one thread fills it and the other one empties it, and each thread
    writes its own count. The condition is for waiting only. A thread that is about to wait first sets its flag and then
    looks again, so the other thread either sees the flag or has already done what is waited for.
    """

    def __init__(self, source: Source[Any], wake: Callable[[], None], rate: float | None = None) -> None:
        """`rate`: how many records per second the source may give."""
        self._source = source
        self._most_ahead = _AHEAD if rate is None else min(_AHEAD, math.ceil(rate))
        source._is_fed = True
        self._wake = wake
        self._condition = threading.Condition()
        self._batches: deque[_Read] = deque()
        self._positions = _Positions(source)
        self._read = 0  # records, by the feeder
        self._taken = 0  # records, by the subtask
        self._feeder_waits = False
        self._subtask_waits = True
        self._end: Any = _NOT_YET
        self._stopped = False
        self._is_late: Callable[[], bool] = lambda: False

    def run(self) -> None:
        """The thread's body: read until the end, an error, or `stop`; then close what this thread has opened."""
        end: Any
        try:
            end = self._read_ahead()
        except BaseException as error:  # raised again where the batches are read
            end = error
        try:
            self._source._close_readers()
        except BaseException as error:
            end = end if isinstance(end, BaseException) else error
        self._close(end)

    def _read_ahead(self) -> Any:
        """Read until there is nothing more; return END, or a value that no source may return."""
        while not self._stopped:
            batch = self._source.next_batch()
            if isinstance(batch, (list, SplitSignal, Malformed)):
                self._hand_over(batch)
            elif batch is IDLE:
                with self._condition:
                    self._condition.wait_for(lambda: self._stopped, _IDLE_S)
            else:
                return batch  # the subtask raises the error
        return END

    def next_batch(self) -> Any:
        ended = self._end is not _NOT_YET  # read before the batches: no batch comes after the end
        if not self._batches and not ended:
            self._subtask_waits = True
            if not self._batches and self._end is _NOT_YET:
                return END if self._is_late() else IDLE
            self._subtask_waits = False
        if self._batches:
            return self._take()
        if not ended:
            return IDLE if self._end is _NOT_YET else self.next_batch()
        if isinstance(self._end, BaseException):
            raise self._end
        return self._end

    def stop(self) -> None:
        """Let the thread end once the source returns; it is a daemon, and no thread waits for it."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def drain(self, is_late: Callable[[], bool]) -> None:
        """Read nothing more: `next_batch()` returns what was read, and then END.

        The source may be in the middle of a read. What it returns before `is_late()` is returned, too.
        """
        self._is_late = is_late
        self.stop()

    def _take(self) -> _Batch:
        self.split, first, position = self._batches.popleft()
        if not isinstance(first, list):
            self._positions.note(position)
            return first
        taken = list(first)
        while self._batches:
            split, batch, after = self._batches[0]
            if split != self.split or not isinstance(batch, list) or len(taken) + len(batch) > FRAME_RECORDS:
                break
            taken.extend(batch)
            position = after
            self._batches.popleft()
        self._positions.note(position)
        self._taken += len(taken)
        if self._feeder_waits:
            with self._condition:
                self._condition.notify_all()
        return taken

    def splits_read(self) -> Iterable[str] | None:
        return self._source.splits_read()

    def snapshot(self) -> Any:
        """The position after the batches that were taken, which is behind that of the source."""
        return self._positions.snapshot()

    def _hand_over(self, batch: _Batch) -> None:
        if self._read - self._taken >= self._most_ahead:
            self._wait_for_room()
        self._batches.append((self._source.split, batch, self._positions.after(batch)))
        self._read += len(batch) if isinstance(batch, list) else 0
        if self._subtask_waits:
            self._subtask_waits = False
            self._wake()

    def _wait_for_room(self) -> None:
        with self._condition:
            self._feeder_waits = True
            while self._read - self._taken >= self._most_ahead and not self._stopped:
                self._condition.wait()
            self._feeder_waits = False

    def _close(self, end: Any) -> None:
        self._end = end
        self._wake()
