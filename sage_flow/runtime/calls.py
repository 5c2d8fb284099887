"""The open calls of one caller, and how shares become a reply.

A call of a pipeline has weight 1. Its record's k outputs carry 1/k each, and so on down the pipeline;
a filtered record returns its share with no output. When the shares that came back sum to 1 nothing of
the call is left in the pipeline, and the outputs that came are the reply. (Weight-throwing termination
detection: Huang 1989, Mattern 1989.) A class service replies once, with share 1.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_flow.errors import NoReply, ProtocolError, ServiceError, ServiceTimeout
from sage_flow.runtime.failure import PackedError, rebuild_error
from sage_flow.runtime.messages import Reply
from sage_flow.runtime.statistics import CallStatistics, Histogram

if TYPE_CHECKING:
    from fractions import Fraction

    from sage_flow.runtime.opening import Openings

__all__ = ["CallTable", "OpenCall", "Outcome"]

_ENDED_DEADLINES = 64
"""The heap keeps as many entries of calls that have ended, besides one for each call that is open."""


class Outcome(NamedTuple):
    """How a call ended: a value, an error made here, or an error packed by the responder."""

    value: Any = None
    error: BaseException | None = None
    remote_error: PackedError | None = None

    def get(self) -> Any:
        """Return the value. Raises the error."""
        if self.remote_error is not None:
            raise rebuild_error(self.remote_error)
        if self.error is not None:
            raise self.error
        return self.value


@dataclass(slots=True, eq=False)
class OpenCall:
    """One call, until its outcome is known and after that. `label` is what messages call it, "memory.retrieve".

    It takes one of the places of `pool`, which is the service's own unless its caller has places of its own.

    `began` and `deadline` are seconds of the caller's clock. The deadline moves while the service is still opening, for
    a call that helps to answer another one no further than to `limit`; `timeout_s` is the time that the call was given.
    `target` is the subtask that has the request, once it was sent.
    """

    id: int
    service: str
    pool: str
    label: str
    began: float
    deadline: float
    many: bool = False
    target: int | None = None
    received: Fraction | int = 0
    outputs: list[Any] = field(default_factory=list)
    outcome: Outcome | None = None
    callbacks: list[Callable[[], object]] = field(default_factory=list)
    timeout_s: float = 0.0
    limit: float = math.inf
    on_output: Callable[[], object] | None = None


class CallTable:
    """Numbers calls, counts those open per pool of places, and completes them.

    What completes a call returns it: its callbacks are for the caller of these methods to call, outside its lock.
    `openings`: which services are open; without it all are.
    """

    def __init__(self, openings: Openings | None = None) -> None:
        self._openings = openings
        self._calls: dict[int, OpenCall] = {}
        self._deadlines: list[tuple[float, int]] = []  # a heap; of some calls that have ended, too
        self._in_flight: dict[str, int] = {}
        self._next_id = 0
        self._closed: dict[str, _Closed] = {}  # by label

    def in_flight(self, pool: str) -> int:
        """How many calls of this pool (by default a service) are open."""
        return self._in_flight.get(pool, 0)

    def open_if_free(
        self,
        service: str,
        label: str,
        began: float,
        deadline: float,
        many: bool,
        pool: str | None,
        places: int,
    ) -> OpenCall | None:
        """Register a call, if fewer than `places` of its pool are open."""
        if self._in_flight.get(pool or service, 0) >= places:
            return None
        return self.open(service, label, began, deadline, many, pool)

    def open(
        self, service: str, label: str, began: float, deadline: float, many: bool = False, pool: str | None = None
    ) -> OpenCall:
        """Register a call, however many are open."""
        pool = pool or service
        number = self._next_id
        self._next_id += 1
        call = self._calls[number] = OpenCall(number, service, pool, label, began, deadline, many)
        call.timeout_s = deadline - began
        heapq.heappush(self._deadlines, (deadline, number))
        self._in_flight[pool] = self._in_flight.get(pool, 0) + 1
        return call

    def on_reply(self, reply: Reply, now: float) -> OpenCall | None:
        """Add one share; return the call if it has its outcome now. A late reply finds no call."""
        call = self._calls.get(reply.call_id)
        if call is None:
            return None
        if reply.error is not None:
            self.end(call, Outcome(remote_error=reply.error), now)
            return call
        call.received += reply.share
        call.outputs += reply.outputs
        if call.received > 1:
            raise ProtocolError(f"the shares of a call of {call.label} sum to {call.received}")
        if call.received < 1:
            return None
        self.end(call, _outcome(call), now)
        return call

    def get(self, call_id: int) -> OpenCall | None:
        """Return an open call by its number."""
        return self._calls.get(call_id)

    def end(self, call: OpenCall, outcome: Outcome, now: float) -> bool:
        """Give a call its outcome, unless it has one; return whether it got this one."""
        if call.outcome is not None:
            return False
        call.outcome = outcome
        del self._calls[call.id]
        if len(self._deadlines) > 2 * len(self._calls) + _ENDED_DEADLINES:
            self._forget_ended()
        left = self._in_flight.pop(call.pool) - 1
        if left:
            self._in_flight[call.pool] = left
        closed = self._closed.get(call.label)
        if closed is None:
            closed = self._closed[call.label] = _Closed()
        closed.count(outcome, now - call.began)
        return True

    def _forget_ended(self) -> None:
        """Calls that have ended leave the heap from its top, but not from behind an older call that is open.

        Half of the heap goes at least, so it costs each call a constant time.
        """
        self._deadlines = [entry for entry in self._deadlines if self._is_valid(entry)]
        heapq.heapify(self._deadlines)

    def expire(self, now: float) -> list[OpenCall]:
        """End the calls whose time has passed, but not those that may wait for their service to open; return them."""
        late = []
        openings = self._openings
        while self.next_deadline <= now:
            call = self._calls[self._deadlines[0][1]]
            if openings is not None and openings.waits_until(call) > now:
                self._move(call, openings.next_look(call, now))
                continue
            why = None if openings is None else openings.why_late(call, now)
            error = ServiceTimeout(why or f"{call.label} gave no reply within {call.timeout_s:g} s")
            self.end(call, Outcome(error=error), now)
            late.append(call)
        return late

    def on_opened(self, service: str, openings: Openings) -> None:
        """The time of the calls of this service begins."""
        for call in self._calls.values():
            if call.service == service:
                self._move(call, openings.deadline(call))

    def restart(self, call: OpenCall, openings: Openings, now: float) -> None:
        """It has waited for a place until its service was open, or nearly so: its time begins then."""
        if call.outcome is None:
            is_open = call.service in openings
            self._move(call, openings.deadline(call) if is_open else openings.next_look(call, now))

    def _move(self, call: OpenCall, deadline: float) -> None:
        call.deadline = deadline
        heapq.heappush(self._deadlines, (deadline, call.id))

    def _is_valid(self, entry: tuple[float, int]) -> bool:
        """Not that of a call that has ended, or whose deadline was moved."""
        call = self._calls.get(entry[1])
        return call is not None and call.deadline == entry[0]

    def fail_all(self, error: BaseException, now: float) -> list[OpenCall]:
        """End every open call: nobody is left who could answer; return them."""
        waiting = list(self._calls.values())
        for call in waiting:
            self.end(call, Outcome(error=error), now)
        return waiting

    @property
    def next_deadline(self) -> float:
        """When the first open call will have timed out; infinite without one."""
        heap = self._deadlines
        while heap and not self._is_valid(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    @property
    def last_deadline(self) -> float:
        """When the last open call will have timed out; infinitely long ago without one."""
        return max((call.deadline for call in self._calls.values()), default=-math.inf)

    def __len__(self) -> int:
        """How many calls are open."""
        return len(self._calls)

    @property
    def oldest(self) -> float | None:
        """When the oldest open call began."""
        return next((call.began for call in self._calls.values()), None)

    def statistics(self) -> dict[str, CallStatistics]:
        """What came of the calls so far, by label."""
        in_flight: dict[str, int] = {}
        for call in self._calls.values():
            in_flight[call.label] = in_flight.get(call.label, 0) + 1
        return dict(self._statistics(in_flight))

    def _statistics(self, in_flight: dict[str, int]) -> Iterator[tuple[str, CallStatistics]]:
        for label in {**self._closed, **in_flight}:
            closed = self._closed.get(label) or _Closed()
            yield label, CallStatistics(closed.calls, closed.errors, in_flight.get(label, 0), closed.latency.copy())


class _Closed:
    """The calls of one method that have ended."""

    __slots__ = ("calls", "errors", "latency")

    def __init__(self) -> None:
        self.calls = self.errors = 0
        self.latency = Histogram()

    def count(self, outcome: Outcome, seconds: float) -> None:
        self.calls += 1
        self.errors += outcome.error is not None or outcome.remote_error is not None
        self.latency.add(seconds)


def _outcome(call: OpenCall) -> Outcome:
    outputs = call.outputs
    if not outputs:
        return Outcome(error=NoReply(f"{call.label} gave no output for this request: it was filtered or skipped"))
    if call.many:
        return Outcome(outputs)
    if len(outputs) == 1:
        return Outcome(outputs[0])
    return Outcome(
        error=ServiceError(
            f"{call.label} gave {len(call.outputs)} outputs for one request, where one is the reply: reduce them to"
            ' one inside the service, or register it with PipelineService(..., reply="many")'
        )
    )
