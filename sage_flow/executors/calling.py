"""Calls of services from one address: sends requests, takes replies, and lets callers wait for them.

Replies are taken on delivery, by the thread that brings them, so they always reach a caller that is blocked
on exactly them. While the condition is held nothing is sent, and no callback is called.
"""

# Theory of operation
#
# Threads. User code calls in its activation (the subtask's own thread, a thread of a replica, a thread outside the
# job). Replies come in the thread that delivers them: the sender's inside a process, one that reads a socket between
# them. Coroutines ask with `poll` and are woken through `on_outcome`.
#
# One condition, `_condition`, guards the table of calls, the openings of services, the statistics, and, in ports of
# subtasks, the inbox and the outgoing frames. Whatever an activation may wait for changes under its lock and ends with
# `notify_all`; waiters look again, because one of them may wait for a place and another one for an outcome.
#
# Under the lock nothing is sent, no callback is called and no user code runs. Sending delivers in the same thread when
# the receiver is in this process, and the receiver's port takes its own lock: if both sent under their locks, two
# activations that call each other would wait for each other. So methods change the table, release, then send.
#
# The order in `_suspend` matters. Frames that have credit are sent first, without the lock; then, under the lock, the
# stop, the question, and only then the wait. A wait ends at the earliest deadline of any open call, and whichever
# thread wakes ends the calls that are late, for all of them: no timer thread exists.

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Literal, TypeVar

from sage_flow.errors import CodecError, InternalError, ServiceOverloaded
from sage_flow.executors.outgoing import OutgoingFrames
from sage_flow.executors.shell import Transport
from sage_flow.keys import group_to_subtask
from sage_flow.links.story import Story
from sage_flow.plan.physical import MAX_PARALLELISM, Plan, ServicePlan
from sage_flow.runtime.caller import activation_deadline
from sage_flow.runtime.calls import CallTable, OpenCall, Outcome
from sage_flow.runtime.messages import CancelRequest, EndOfRequests, Reply, Request
from sage_flow.runtime.opening import Openings
from sage_flow.runtime.statistics import CallStatistics
from sage_flow.service import Call

__all__ = ["CallingPort", "call_back", "cannot_be_sent"]

T = TypeVar("T")

_FEW = 8  # open calls; while there are more, the requests of further ones may go together
_ENDLESS_S = 1e9  # thirty years; an operating system cannot wait for longer


class CallingPort:
    """Implements `runtime.port.CallPort`. Subclasses say how an activation suspends, and what may stop a call."""

    def __init__(self, plan: Plan, address: int, transport: Transport, first_replica: int = 0) -> None:
        self._plan = plan
        self._address = address
        self._transport = transport
        self.now = transport.now
        self._condition = transport.condition(address)
        self._lock = self._condition.lock
        self.openings = Openings(plan.services, self.now())
        """Which services are open, as far as is known here; guarded by the condition."""
        self._calls = CallTable(self.openings)
        self._replicas = {name: plan.addresses(service.chain) for name, service in plan.services.items()}
        self._story = Story()
        self._received_replies = 0
        self._called: dict[int, None] = {}  # subtasks of services that were sent a request
        self._next_replica = first_replica
        self._outgoing = OutgoingFrames(address, transport, self._condition)
        self._is_stopped = False  # an activation that waits has to end

    # -- making calls ---------------------------------------------------------------------------------------

    def call(
        self, service: ServicePlan, call: Call, timeout_s: float, group: int | None, pool: str | None = None
    ) -> OpenCall:
        """Call a service. The places of a `pool` are counted separately."""
        began = self.now()
        label = f"{service.name}.{call.method}"
        refused = self._refused(service)
        target = self._choose_replica(service, group)
        if pool is None and len(self._replicas[service.name]) > 1:
            pool = _pool_of(service.name, target)
        made = None if refused is not None else self._take_place(service, label, began, began + timeout_s, pool)
        is_opening = service.name not in self.openings
        if made is None and refused is None and is_opening:
            made = self._take_place_later(service, label, began, timeout_s, pool)
        if made is None:
            refused = refused or Outcome(
                error=ServiceOverloaded(
                    f"{label} was not sent: {service.max_pending} earlier calls (max_pending) stayed open for"
                    f" {timeout_s:g} s"
                )
            )
            with self._lock:
                made = self._calls.open(service.name, label, began, began)
                self._calls.end(made, refused, self.now())
            return made
        made.target = target
        if is_opening and (limit := activation_deadline.get()) is not None:
            made.limit = limit
        self._send(made, call)
        return made

    def has_place(self, service: ServicePlan, pool: str | None = None) -> bool:
        return self._calls.in_flight(pool or service.name) < service.max_pending

    def _take_place(
        self, service: ServicePlan, label: str, began: float, deadline: float, pool: str | None
    ) -> OpenCall | None:
        take = (service.name, label, began, deadline, service.many, pool, service.max_pending)
        with self._lock:
            if self._is_stopped:
                self._check()
            taken = self._calls.open_if_free(*take)
        return taken or self._await(partial(self._calls.open_if_free, *take), deadline)

    def _take_place_later(
        self, service: ServicePlan, label: str, began: float, timeout_s: float, pool: str | None
    ) -> OpenCall | None:
        """The earlier calls wait for the service to open, so the time limit for a place begins when it has opened."""
        wanted = (service.name, label, began, began + timeout_s, service.many, pool, service.max_pending)
        take = partial(self._calls.open_if_free, *wanted)
        outer = activation_deadline.get()
        until = self.openings.limit(service.name)
        until = until if outer is None else min(until, outer)

        def has_room() -> OpenCall | Literal[True] | None:
            return take() or (True if service.name in self.openings else None)

        taken: OpenCall | Literal[True] | None = self._await(has_room, until)
        made = self._await(take, self.now() + timeout_s) if taken is True else taken
        if made is not None:
            with self._lock:
                self._calls.restart(made, self.openings, self.now())
        return made

    def note_open(self, service: str, since_s: float = 0.0) -> None:
        """All subtasks of a service have been open for `since_s` seconds."""
        with self._lock:
            self.openings.note(service, self.now() - since_s)
            self._calls.on_opened(service, self.openings)
            self._condition.notify_all()

    def _send(self, made: OpenCall, call: Call) -> None:
        if made.target is None:
            raise InternalError(f"a call of {made.label} must have a replica before it is sent")
        self._called[made.target] = None
        left_s = made.deadline - self.now()
        request = Request(self._address, made.id, left_s, call.method, call.args, call.kwargs)
        try:
            self._transport.send(self._address, made.target, request, self._more_follow())
        except CodecError as error:
            self._end(made, Outcome(error=cannot_be_sent(f"the arguments of {made.label}", error)))

    def _more_follow(self) -> bool:
        """A caller that has made many calls without waiting mostly makes another one at once."""
        return len(self._calls) > _FEW

    def _choose_replica(self, service: ServicePlan, group: int | None) -> int:
        replicas = self._replicas[service.name]
        if len(replicas) == 1:
            return replicas[0]
        if group is not None:
            return replicas[group_to_subtask(group, len(replicas), MAX_PARALLELISM)]
        self._next_replica += 1
        first = self._next_replica % len(replicas)
        in_turn = (*replicas[first:], *replicas[:first])
        return min(in_turn, key=lambda address: self._calls.in_flight(_pool_of(service.name, address)))

    # -- what comes of them ---------------------------------------------------------------------------------

    def await_call(self, call: OpenCall, deadline: float | None = None) -> Outcome | None:
        return call.outcome or self._await(lambda: call.outcome, deadline) or self.poll(call)

    def await_calls(self, calls: Sequence[OpenCall], count: int, deadline: float | None) -> None:
        def ready() -> bool:
            return sum(call.outcome is not None for call in calls) >= count

        if not ready():
            self._await(ready, deadline)

    def until_outcome(self, call: OpenCall) -> Generator[Any, None, None]:
        from sage_flow.executors.awaiting import until_outcome  # asyncio is imported where it is used

        return until_outcome(self, call)

    def poll(self, call: OpenCall) -> Outcome | None:
        if call.outcome is None and call.deadline <= self.now():
            self._expire()
        return call.outcome

    def flush(self) -> None:
        self._transport.flush()

    def cancel(self, call: OpenCall) -> bool:
        ended = self._end(call, Outcome(error=CancelledError(f"the call of {call.label} was cancelled by its caller")))
        if ended and call.target is not None:
            self._transport.send(self._address, call.target, CancelRequest(self._address, call.id))
        return ended

    def on_outcome(self, call: OpenCall, callback: Callable[[], object]) -> None:
        with self._lock:
            if call.outcome is None:
                call.callbacks.append(callback)
                return
        callback()

    def take_reply(self, reply: Reply) -> None:
        """A share of an outcome has come."""
        now = self.now()
        with self._lock:
            self._received_replies += 1
            call = self._calls.on_reply(reply, now)
            partial_call = self._calls.get(reply.call_id) if call is None else None
            if call is not None:
                self._condition.notify_all()
                if reply.error is not None:
                    self._story.note(now, f"{call.label} raised {reply.error.type_name}")
        if call is not None and call.callbacks:
            call_back([call])
        if partial_call is not None and partial_call.on_output is not None:
            partial_call.on_output()

    def statistics(self) -> dict[str, CallStatistics]:
        """What came of the calls made here, by "service.method"."""
        with self._lock:
            return self._calls.statistics()

    def end_requests(self) -> tuple[int, ...]:
        """Tell every service's subtask that was called that no more requests come; return who they are."""
        called = tuple(self._called)
        for address in called:
            self._transport.send(self._address, address, EndOfRequests(self._address))
        return called

    def _end(self, call: OpenCall, outcome: Outcome) -> bool:
        with self._lock:
            ended = self._calls.end(call, outcome, self.now())
            self._condition.notify_all()  # its place is free
        if ended:
            call_back([call])
        return ended

    def _expire(self) -> None:
        with self._lock:
            late = self._calls.expire(self.now())
            if late:
                self._condition.notify_all()
            for call in late:
                self._story.note(self.now(), f"{call.label} timed out")
        call_back(late)

    # -- waiting --------------------------------------------------------------------------------------------

    def _await(self, what: Callable[[], T | None], deadline: float | None) -> T | None:
        """Wait inside user code."""
        return self._suspend(what, deadline)

    def _suspend(self, what: Callable[[], T | None], deadline: float | None) -> T | None:
        """Wait until `what()` is neither None nor False, and return it; None: `deadline` has passed.

        `what` is called under the condition. Calls whose time passes meanwhile are ended, whichever thread made them.
        """
        while True:
            if self._outgoing.waiting:
                self._outgoing.send()
            with self._lock:
                if self._is_stopped:
                    self._check()
                while not (found := what()) and (not self._outgoing.waiting or self._outgoing.may_sleep()):
                    now = self.now()
                    if deadline is not None and deadline <= now:
                        return None
                    wake_at = self._calls.next_deadline
                    if deadline is not None and deadline < wake_at:
                        wake_at = deadline
                    left_s = wake_at - now
                    if left_s <= 0:
                        break
                    self._condition.wait(None if left_s > _ENDLESS_S else left_s)
                    if self._is_stopped:
                        self._check()
            if found:
                return found
            self._expire()

    def _check(self) -> None:
        """Called under the lock, once `_is_stopped`. Raises what has to end the activation."""

    def _refused(self, service: ServicePlan) -> Outcome | None:
        """Return the outcome of a call that must not be made from here; None: it may be made."""
        return None


def _pool_of(service: str, replica: int) -> str:
    """The places of the calls that one of several replicas answers."""
    return f"{service} at {replica}"


def cannot_be_sent(what: str, error: CodecError) -> CodecError:
    """Return the error with `what` it was about: the arguments or the reply."""
    told = CodecError(f"{what} cannot be sent: {error}")
    told.__cause__ = error
    return told


def call_back(calls: Iterable[OpenCall]) -> None:
    """Call the callbacks of these calls, which have their outcome; no lock is held."""
    for call in calls:
        callbacks, call.callbacks = call.callbacks, []
        for callback in callbacks:
            callback()
