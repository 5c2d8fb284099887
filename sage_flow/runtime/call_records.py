"""Records that stand for calls: requests in a service's pipeline, and results of `map_async` that come later.

An error of a record of a service's pipeline belongs to its caller and ends here; any other fails the subtask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from sage_flow.errors import InternalError
from sage_flow.runtime.answering import CallersGate, LateShare
from sage_flow.runtime.async_map import AsyncMap, Pending
from sage_flow.runtime.chain import CompiledChain
from sage_flow.runtime.messages import Message, Request, Ticket
from sage_flow.runtime.port import UNWINDING, Port
from sage_flow.runtime.runner import Runner
from sage_flow.runtime.work_time import Wait

__all__ = ["CallRecords"]


class CallRecords:
    """Runs records with a ticket one by one, and sends on the results of `map_async`."""

    def __init__(self, runner: Runner, port: Port, *, in_service: bool) -> None:
        self._runner = runner
        self._port = port
        self._answering = runner.answering
        self._in_service = in_service
        self._callers = CallersGate()
        self._async_maps = dict(self._make_async_maps())  # by the operator's index

    def _make_async_maps(self) -> Iterator[tuple[int, AsyncMap]]:
        for index, bound in enumerate(self._runner.operators):
            if bound.operator.kind.awaits:
                made = AsyncMap(bound, self._port, self._split_share, self._runner.blame.explain_record)
                bound.calls = (made.take,)  # before the first chain is compiled
                bound.held = made
                yield index, made

    def _split_share(self) -> LateShare | None:
        return self._answering.split() if self._answering.is_active else None

    @property
    def have_async_maps(self) -> bool:
        """Whether results can come later than their records."""
        return bool(self._async_maps)

    def waits_for(self) -> Wait:
        """What a wait for messages that begins now is for: mostly records, but perhaps results of `map_async`."""
        return Wait.CALLS if any(not made.is_empty for made in self._async_maps.values()) else Wait.IDLE

    @property
    def given_up_at(self) -> float:
        """When the caller of a record under way gives up, or has; infinitely long ago if nobody waits for one."""
        return max(self._answering.given_up_at, *(made.given_up_at for made in self._async_maps.values()), -math.inf)

    # -- records of a service's pipeline --------------------------------------------------------------------

    @property
    def are_over(self) -> bool:
        """No request will come any more."""
        return self._callers.are_all_gone

    def on_message(self, message: Message) -> bool:
        """Return whether the message was about the callers of this service."""
        return self._callers.on_message(message)

    def on_request(self, request: Request) -> None:
        """Process a request, unless it was taken back or its time has passed. May suspend."""
        ticket = self._answering.ticket_for(request) if self._port.begin(request) else None
        if ticket is not None:
            self.answer(self._runner.entry(), request.args[0], ticket)

    def answer(self, entry: CompiledChain, record: Any, ticket: Ticket) -> None:
        """Run one record of a service's pipeline. May suspend."""
        with self._answering.record(ticket):
            self._runner.run(entry, [record])
        self._runner.flush()  # what the body sends to the driver carries no share
        for made in self._async_maps.values():
            if made.is_full:
                made.await_result()

    # -- results of map_async -------------------------------------------------------------------------------

    def give_out(self) -> bool:
        """Send on the results that are there; return whether there were any. May suspend."""
        ready = [(index, made) for index, made in self._async_maps.items() if made.has_result()]
        for index, made in ready:
            self._give_out_of(index, made)
        return bool(ready)

    def end(self, index: int) -> None:
        """Wait for all results of one operator and send them on; nothing, if it is no `map_async`. May suspend."""
        made = self._async_maps.get(index)
        while made is not None and not made.is_empty:
            made.await_result()
            self._give_out_of(index, made)

    def _give_out_of(self, index: int, made: AsyncMap) -> None:
        if not self._in_service:
            self._runner.give(index, list(made.results()))
            for _ in self._runner.time.release(index):
                pass
            return
        entry = self._runner.entry(index + 1)
        for pending in made.finished():
            self._answer_late(index, made, entry, pending)

    def _answer_late(self, index: int, made: AsyncMap, entry: CompiledChain, pending: Pending) -> None:
        """Go on with a record of a call."""
        if pending.share is None:
            raise InternalError("a record of a service's pipeline must carry a share of its call")
        with self._answering.record(pending.share.ticket(self._port.now())):
            try:
                result = made.result_of(pending)
            except UNWINDING:
                raise
            except BaseException as error:
                made.on_failure(pending, error)
            else:
                self._runner.counters.emitted[index] += 1
                self._runner.run(entry, [result])
        self._runner.flush()
