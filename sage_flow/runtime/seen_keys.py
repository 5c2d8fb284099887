"""The state of `deduplicate(ttl=)`: when a record of each key has last passed.

A record is dropped if its timestamp is at most `ttl` after that of the record of its key that has last passed; also if
it is earlier, as it then comes out of order. A key is forgotten when the time has passed that span.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.expiries import Expiries
from sage_flow.runtime.held import Held
from sage_flow.runtime.key_table import MISSING, KeyTable, TableEntries
from sage_flow.runtime.parts import Parts

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["SeenKeys"]


class SeenKeys(Held):
    """Of one operator in one subtask. `passes` is what the compiled chain calls.

    Without timestamps the wall clock says the time of a record.
    """

    def __init__(self, bound: BoundOperator, ttl_ms: int) -> None:
        self._bound = bound
        self._ttl_ms = ttl_ms
        self.goes_by_clock = not bound.operator.timed
        self.table = KeyTable()  # timestamps
        self._expiries = Expiries(ttl_ms)

    def passes(self, key: Any, timestamp: int | None = None) -> bool:
        """Whether a record is the first one of its key, or the first in `ttl`."""
        time = self._bound.wall_ms() if timestamp is None else timestamp
        last = self.table[key]
        if last is MISSING:
            self._expiries.add(time + self._ttl_ms, key)
        elif time <= last + self._ttl_ms and last + self._ttl_ms >= self._bound.now:
            return False  # a key that time has passed is forgotten, whenever its bucket is looked at
        self.table[key] = time
        return True

    @property
    def is_urgent(self) -> bool:  # type: ignore[override]
        """By the wall clock, keys are to be forgotten."""
        return self.goes_by_clock and self._expiries.next < self._bound.wall_ms()

    def due(self, now: float) -> Iterable[list[Any]]:
        """Nothing leaves; keys are forgotten."""
        now = self._bound.wall_ms() if self.goes_by_clock else now
        for key in self._expiries.pop(now):
            until = self.table[key] + self._ttl_ms
            if until < now:
                self.table.drop(key)
            else:
                self._expiries.add(until, key)
        return ()

    def parts(self) -> Parts:
        """The time of the last record of each key."""
        return Parts(keyed={"seen": TableEntries(self.table)})

    def restore(self, parts: Parts) -> None:
        """These keys were seen."""
        self.table.fill(parts.keyed.get("seen", ()))
        for key, time in self.table.entries():
            self._expiries.add(time + self._ttl_ms, key)
