"""The state of `map_batches`: records that wait until they are enough for a batch.

A batch leaves when it is full, at the end of input or, with `max_wait`, so long after its first record has come.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.first_values import check_outputs, looked_items
from sage_flow.runtime.held import Held
from sage_flow.runtime.parts import Parts

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["Batch", "TimedBatch", "WaitingBatch"]

_PENDING = "pending"


class Batch(Held):
    """The records that wait. `bound.batch` are those that the function was called with last."""

    def __init__(self, bound: BoundOperator) -> None:
        self._bound = bound
        self._size: int = bound.operator.options["batch_size"]
        self._keyed = bound.operator.keyed
        self._pending: list[Any] = []
        self._times: list[int] = []  # of the records, where they have some
        self._keys: list[Any] = []  # of the records of a keyed stream

    def add(self, value: Any, *_: Any) -> Iterable[Any]:
        """Take a record; give what the function gives, if they are enough now."""
        if self._keyed:
            self._keys.append(self._bound.context.key)
        self._pending.append(value)
        return () if len(self._pending) < self._size else self._leave()

    def due(self, now: float) -> Iterable[list[Any]]:
        """At the end of input, what has not been enough for a batch."""
        if self._pending and now == math.inf:
            yield list(self._leave())

    def _leave(self) -> Iterable[Any]:
        """Call the function with all that waits: in one batch, unless a restore has brought more than that."""
        pending, times, size = self._pending, self._times, self._size
        self._pending, self._times, self._keys = [], [], []
        if len(pending) <= size:
            return self._call(pending, times)
        starts = range(0, len(pending), size)
        return chain.from_iterable(self._call(pending[at : at + size], times[at : at + size]) for at in starts)

    def _call(self, values: list[Any], times: list[int]) -> Iterable[Any]:
        bound = self._bound
        bound.batch = values
        bound.context.forget_key()  # that of its last record is not the batch's
        return self._outputs(values) if bound.operator.on_error == "fail" else self._guarded(values, times)

    def _outputs(self, batch: list[Any]) -> Iterable[Any]:
        bound, operator = self._bound, self._bound.operator
        context = (bound.context,) if operator.with_ctx[0] else ()
        values = batch[:] if operator.on_error != "fail" else batch  # the function may change the list
        outputs = bound.functions[0](values, *context)
        return looked_items(operator, check_outputs(operator, outputs))

    def _guarded(self, batch: list[Any], times: list[int]) -> Iterator[Any]:
        """It is not run again, and each of its records has failed."""
        try:
            yield from self._outputs(batch)
        except Exception as error:
            for value, timestamp in zip_longest(batch, times):
                if timestamp is not None:
                    self._bound.context.timestamp = timestamp
                self._bound.reject(value, error)

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """The records that wait, with their timestamps; by key, so that they stay in the order of their key."""
        records = list(zip_longest(self._pending, self._times))
        if self._keyed:
            return Parts(keyed={_PENDING: list(zip(self._keys, records, strict=True))})
        return Parts(own={_PENDING: records})

    def restore(self, parts: Parts) -> None:
        """They wait again."""
        kept = parts.keyed.get(_PENDING, [])
        records = [record for _, record in kept] if self._keyed else parts.own.get(_PENDING, [])
        self._keys = [key for key, _ in kept]
        self._pending = [value for value, _ in records]
        self._times = [timestamp for _, timestamp in records if timestamp is not None]


class WaitingBatch(Batch):
    """With `max_wait`: it leaves so long after its first record has come, at the latest."""

    goes_by_clock = True

    def __init__(self, bound: BoundOperator) -> None:
        super().__init__(bound)
        self._max_wait_s: float | None = bound.operator.options["max_wait_s"]
        self._leaves_at = math.inf

    @property
    def is_urgent(self) -> bool:  # type: ignore[override]
        """Its first record has waited for long enough."""
        return self._leaves_at < math.inf and self._leaves_at <= self._bound.clock()

    @property
    def look_at(self) -> float:
        """When its first record has waited for long enough."""
        return self._leaves_at

    def add(self, value: Any, *_: Any) -> Iterable[Any]:
        """Take a record; give what the function gives, if they are enough now."""
        if not self._pending:
            self._begin_to_wait()
        outputs = super().add(value)
        if not self._pending:
            self._leaves_at = math.inf
        return outputs

    def _begin_to_wait(self) -> None:
        if self._max_wait_s is not None:
            self._leaves_at = self._bound.clock() + self._max_wait_s

    def due(self, now: float) -> Iterable[list[Any]]:
        """What has waited for long enough; at the end of input, what has not been enough for a batch."""
        if self._pending and (now == math.inf or self.is_urgent):
            self._leaves_at = math.inf
            yield list(self._leave())

    def restore(self, parts: Parts) -> None:
        """They wait again, from now on."""
        super().restore(parts)
        if self._pending:
            self._begin_to_wait()


class TimedBatch(WaitingBatch):
    """Where records have timestamps, with `max_wait` or without.

    Outputs have those of the records if there are as many, else the largest. The watermark does not pass the records
    that wait.
    """

    def __init__(self, bound: BoundOperator) -> None:
        super().__init__(bound)
        self.goes_by_clock = self._max_wait_s is not None

    def add(self, value: Any, *_: Any) -> Iterable[tuple[Any, int]]:
        """Take a record; give what the function gives with timestamps, if they are enough now."""
        self._times.append(self._bound.context.timestamp)
        outputs = super().add(value)
        return () if self._pending else list(outputs)

    def holds(self, now: float) -> float:
        """A record that waits is not behind the watermark when it leaves."""
        return min([now, *self._times])

    def _call(self, values: list[Any], times: list[int]) -> Iterable[tuple[Any, int]]:
        given = list(super()._call(values, times))
        if len(given) != len(times):
            times = [max(times)] * len(given)
        return zip(given, times, strict=True)
