"""The port of one subtask, in every shell: it joins the inbox, the outgoing frames and the calls of the subtask.

Messages wait in `inbox.py`, frames that have no credit in `outgoing.py`; calls are in `calling.py`, the threads that
run user code in `activations.py`. Data waits in the inbox, bounded by credits; commands are obeyed on delivery,
whatever the subtask is doing, so that a credit or a reply always reaches an activation that is blocked on it
(`ON_DELIVERY`).

One condition per port guards all of its state, and the parts share it, so every change wakes an activation that waits.
Nothing is sent while it is held, so two ports never wait for each other's lock.
"""

# Theory of operation
#
# Threads that enter a port: the subtask's own activation (`take`, `emit`, `_await`); further activations of a service
# that answers requests beside it (`take_one`, `reply`); the thread of its coroutines; and any thread that delivers a
# message (`deliver`), which may be another subtask's inside its own `emit`.
#
# `deliver` never waits for the subtask. It takes the lock for the time of one change and calls no user code, except
# that a reply may call the callbacks of its future, after the lock is free.
#
# `_cancelled`, `_fault` and `_is_stopped` are never unset. `_is_stopped` is an attribute and not a method, because it
# is read before every sleep, on fast paths without the lock: a thread that misses it is woken by the notification that
# follows.
#
# Records that wait for credit are sent by whichever thread finds both: the activation that emitted them, or one that
# waits and is woken by the credit (`OutgoingFrames.send`, one thread at a time, which keeps the order). A thread that
# delivers a credit only wakes the others.
#
# The lock order between ports: none. A port takes no other port's lock while it holds its own (see `calling`).

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from sage_flow.errors import CodecError, InternalError, JobCancelled, JobRestarting
from sage_flow.executors.activations import Activations
from sage_flow.executors.calling import cannot_be_sent
from sage_flow.executors.holding import Holding
from sage_flow.executors.inbox import Inbox
from sage_flow.executors.incoming import IncomingFrames, IncomingRequests
from sage_flow.executors.outgoing import OutgoingFrames
from sage_flow.executors.shell import Shell
from sage_flow.executors.shell_port import ShellPort
from sage_flow.plan.physical import Plan, ServicePlan, Subtask
from sage_flow.queues.job_queues import job_queue
from sage_flow.runtime.call_batches import CallBatch, CallBatches
from sage_flow.runtime.calls import Outcome
from sage_flow.runtime.credits import InputChannel, InputCredits
from sage_flow.runtime.messages import (
    DRIVER,
    Cancel,
    CancelRequest,
    Control,
    ControlElement,
    Credit,
    Data,
    Inspect,
    Inspected,
    Locate,
    Located,
    Message,
    Reply,
    Request,
    ServiceOpened,
    Ticket,
)
from sage_flow.runtime.port import Task
from sage_flow.runtime.report import ChannelReport, Flow, PortReport
from sage_flow.runtime.statistics import CallStatistics, merged
from sage_flow.runtime.work_time import Wait

if TYPE_CHECKING:
    from sage_flow.queues.descriptor import BaseQueueDescriptor

__all__ = ["ON_DELIVERY", "WorkerPort"]

T = TypeVar("T")

_ASK_DRIVER_S = 60.0


class WorkerPort(ShellPort):
    """Implements `runtime.port.Port`."""

    def __init__(self, plan: Plan, subtask: Subtask, shell: Shell) -> None:
        super().__init__(plan, subtask.address, shell, first_replica=subtask.index)
        self._name = subtask.name
        self._service = subtask.chain.service
        costs = ((c, shell.most_cost(c.producer, c.consumer)) for c in plan.channels if c.producer == self._address)
        self._outgoing = OutgoingFrames(self._address, shell, self._condition, costs, on_gap=self._fail)
        requests = IncomingRequests(self._service) if subtask.address in _heads(plan) else None
        credits = InputCredits(_input_channels(plan, subtask, shell))
        self.inbox = Inbox(self._name, self._condition, dict(_incoming(plan, subtask, shell)), requests, credits)
        self._take_request = partial(self.inbox.take_one, self.now)
        self.activations = Activations(shell, self._name, self._lock, subtask.chain.head.name)
        self._holding = Holding()
        self._allowed: set[str] = set()  # services that this service may call
        self.given_up_at: Callable[[], float] = lambda: -math.inf
        """Returns until when a caller waits for what the subtask is doing."""
        self.on_taken_back: Callable[[int, int], object] = lambda caller, call: None
        """Called under the lock when a caller has given up a call that may be under way; it must take no lock."""
        self._cancelled: Cancel | None = None
        self._fault: Exception | None = None
        self.progress_due_s: Callable[[], float] = lambda: math.inf
        self.tell_progress: Callable[[], None] = lambda: None

    # -- the shell's side -----------------------------------------------------------------------------------

    def opened(self) -> None:
        """The subtask is open. The time limits of the requests in its inbox begin now."""
        self.inbox.open(self.now())

    def deliver(self, message: Message) -> None:
        """Take a message, on whatever thread it came."""
        take: Callable[[WorkerPort, Any], None] = ON_DELIVERY.get(type(message), _put_in_inbox)
        take(self, message)

    def wake(self) -> None:
        self.inbox.poke()

    def take(self, timeout_s: float | None = None, wait: Wait = Wait.IDLE) -> list[Message]:
        """Return the messages that wait; wait for the first at most `timeout_s`, None: for ever.

        `wait`: what it waits for, for the statistics. Raises JobCancelled.
        """
        taken: list[Message] = []  # `ready` fills it under the lock, when it ends the wait
        ready = partial(self.inbox.take_all, taken)
        if timeout_s == 0:
            if self._outgoing.waiting:  # a subtask that goes on processing may not emit again for long
                self._outgoing.send()
            if self.inbox or self._is_stopped:
                with self._lock:
                    self._check()
                    ready()
        else:
            began = self.now()
            clock = self.activations.clock()
            if clock is not None:
                clock.begin(wait, began)
            self._suspend(ready, None if timeout_s is None else began + timeout_s)
            ended = self.now()
            if clock is not None:
                clock.end(ended)
            self.inbox.waited(ended - began)
        return taken

    def take_one(self, batches: CallBatches | None = None, until: float = math.inf) -> Message | CallBatch | None:
        """Return the message that has waited longest, or wait for one. Raises JobCancelled.

        None: woken by `wake`, or it is `until`. A request that is taken out begins. With `batches`, requests of batched
        methods come together, once their batch is whole or due.
        """
        take: Callable[[], Message | CallBatch | Literal[True] | None] = self._take_request
        if batches is not None:
            take = partial(self.inbox.take_call, self.now, batches, batches.due_at)
            until = min(until, batches.due_at)
        taken: Message | CallBatch | Literal[True] | None = self._suspend(take, None if until == math.inf else until)
        return None if taken is True else taken

    @property
    def is_cancelled(self) -> bool:
        """Whether the job is being cancelled."""
        return self._cancelled is not None

    def statistics(self) -> dict[str, CallStatistics]:
        return merged([super().statistics(), *self.inbox.statistics()])

    def begin(self, request: Request) -> bool:
        return self.inbox.begin(request, self.now())

    # -- the runtime's side ---------------------------------------------------------------------------------

    def emit(self, channel: int, records: list[Any], tickets: list[Ticket] | None = None) -> None:
        self.queue(channel, records, tickets)
        self._holding.begin(self.now())  # all is sent: without this the next slice would be sent in two parts
        self._await_sent(channel)

    def queue(self, channel: int, records: list[Any], tickets: list[Ticket] | None = None) -> None:
        self._outgoing.add_records(channel, records, tickets)
        self._outgoing.send()

    def emit_element(self, channel: int, element: ControlElement) -> None:
        self.queue_element(channel, element)
        self._await_sent(channel)

    def queue_element(self, channel: int, element: ControlElement) -> None:
        self._outgoing.add_element(channel, element)
        self._outgoing.send()

    def consumed(self, channel: int, cost: int) -> None:
        for credit in self.inbox.processed(channel, cost, self.now()):
            self._shell.send(self._address, self.inbox.producer(credit.channel), credit)

    def reply(self, caller: int, reply: Reply) -> None:
        # The caller may learn later than this service that the job is cancelled. Until then it waits, so that its call
        # ends as the job does and not with an error that comes of unwinding.
        if self._is_stopped or self.activations.have_failed:
            return
        try:
            self._shell.send(self._address, caller, reply, bool(self.inbox))
        except CodecError as error:
            raise cannot_be_sent(f"a reply of service {self._service!r}", error) from error

    def in_activation(self) -> bool:
        return self.activations.is_own()

    def open_queue(self, queue_id: str, maxsize: int) -> BaseQueueDescriptor:
        if self._plan.queues is None:
            raise InternalError(f"the plan of {self._name} says nothing about queues")
        return job_queue(self._plan.queues, queue_id, maxsize)

    def before_long_wait(self, queue_emitted: Callable[[], None]) -> None:
        self._holding.queue_emitted = queue_emitted

    def suspend_until(self, is_ready: Callable[[], bool]) -> None:
        # No counts change while an activation waits: before a long wait it reports them once.
        if self._await(is_ready, self.now() + self.progress_due_s()) is None:
            self.tell_progress()
            self._await(is_ready, None)

    def start(self, awaitable: Awaitable[Any], timeout_s: float | None = None) -> Task:
        return self.activations.start(awaitable, timeout_s, self.wake)

    def _refused(self, service: ServicePlan) -> Outcome | None:
        """A service asks the driver before its first call of another one; calls that close a circle are refused."""
        if self._service is None or service.name in self._allowed:
            return None
        now = self.now()
        with self._lock:
            question = self._calls.open("", "the driver", now, now + _ASK_DRIVER_S)
        request = Request(self._address, question.id, _ASK_DRIVER_S, "open_call", (service.name,), {})
        self._shell.send(self._address, DRIVER, request)
        outcome = self.await_call(question)
        if outcome is not None and (outcome.error is not None or outcome.remote_error is not None):
            return outcome
        self._allowed.add(service.name)
        return None

    def _fail(self, error: Exception) -> None:
        self._fault, self._is_stopped = error, True

    # -- waiting and sending --------------------------------------------------------------------------------

    def _await(self, what: Callable[[], T | None], deadline: float | None) -> T | None:
        """Wait inside user code. Before, send the records that it has emitted, because `what` may depend on them."""
        clock = self.activations.clock()
        began = self.now()
        is_noted = clock is not None and clock.begin(Wait.CALLS, began)
        try:
            holding = self._holding
            if holding.queue_emitted is None or not self.activations.is_own():
                return self._suspend(what, deadline)
            if (held_until := holding.wait_until(began, deadline)) is not None:
                found = self._suspend(what, held_until)
                if found or held_until == deadline:
                    return found
            # Called without the lock: it sends, and a message may be delivered in this thread.
            holding.queue_emitted()
            holding.begin(self.now())
            return self._suspend(what, deadline)
        finally:
            if clock is not None and is_noted:
                clock.end(self.now())

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault
        if self._cancelled is not None:
            raise (JobRestarting if self._cancelled.restarts else JobCancelled)(self._cancelled.reason)

    def _await_sent(self, channel: int) -> None:
        waiting = self._outgoing.waiting_on(channel)
        if waiting:
            self._story.note(self.now(), f"channel {channel}: waits for credit")
        if waiting or self._is_stopped:
            clock = self.activations.clock()
            is_noted = clock is not None and clock.begin(Wait.CREDIT, self.now())
            self.suspend_until(lambda: not waiting)
            if clock is not None and is_noted:
                clock.end(self.now())


def _heads(plan: Plan) -> set[int]:
    """Return the subtasks that requests are sent to."""
    return {address for service in plan.services.values() for address in plan.addresses(service.chain)}


def _incoming(plan: Plan, subtask: Subtask, shell: Shell) -> Iterator[tuple[int, IncomingFrames]]:
    names = {other.address: other.name for other in plan.subtasks}
    for channel in plan.channels:
        if channel.consumer == subtask.address:
            ends = (channel.producer, channel.consumer)
            name = f"{names[channel.producer]} => {subtask.name}"
            yield channel.id, IncomingFrames(channel, name, shell.medium(*ends))


def _input_channels(plan: Plan, subtask: Subtask, shell: Shell) -> Iterator[InputChannel]:
    for channel in plan.channels:
        if channel.consumer == subtask.address:
            yield InputChannel(channel.id, channel.edge.id, shell.most_cost(channel.producer, channel.consumer))


# -- what is obeyed on delivery -----------------------------------------------------------------------------


def _put_in_inbox(port: WorkerPort, message: Message) -> None:
    port.inbox.put(message)


def _on_data(port: WorkerPort, data: Data) -> None:
    port.inbox.put_data(data, port.now())


def _on_control(port: WorkerPort, control: Control) -> None:
    port.inbox.put_control(control)


def _on_credit(port: WorkerPort, credit: Credit) -> None:
    port._outgoing.grant(credit)


def _on_request(port: WorkerPort, request: Request) -> None:
    port.inbox.put_request(request, port.now())


def _on_cancel_request(port: WorkerPort, taken: CancelRequest) -> None:
    port.inbox.take_back(taken, port.on_taken_back)


def _on_reply(port: WorkerPort, reply: Reply) -> None:
    try:
        port.take_reply(reply)
    except Exception as error:  # this is the thread of the sender, so the subtask raises it
        port._fail(error)
        port.wake()


def _on_cancel(port: WorkerPort, cancel: Cancel) -> None:
    with port._lock:
        port._cancelled, port._is_stopped = cancel, True
        port._story.note(port.now(), f"cancelled: {cancel.reason}")
        port._condition.notify_all()


def _on_inspect(port: WorkerPort, inspect: Inspect) -> None:
    """Report the state of this port, whatever the subtask is doing."""
    calls = port.statistics()
    now = port.now()
    with port._lock:
        channels = port.inbox.report(port._address, lambda other: port._shell.medium(other, port._address), now)
        if port._called:
            channels.append(_responses(port, now))
    threads = port.activations.reports(now, all_of_them=inspect.stacks)
    flow = Flow(*port.inbox.received, *port._outgoing.totals())
    work, sampled = port.activations.times(), port.activations.sampled()
    report = PortReport(now, tuple(channels), calls, port._story.events(), work, flow, threads, sampled)
    port._shell.send(port._address, DRIVER, Inspected(port._address, inspect.number, report))


def _responses(port: WorkerPort, now: float) -> ChannelReport:
    """Report the channel on which replies come; called under the lock."""
    oldest = port._calls.oldest
    return ChannelReport(
        "responses",
        "responses",
        " and ".join(sorted({port._shell.medium(replica, port._address) for replica in port._called})),
        port._address,
        tuple(port._called),
        len(port._calls),
        None if oldest is None else now - oldest,
        port._received_replies,
    )


def _on_locate(port: WorkerPort, _: Locate) -> None:
    """Report where the user code of the subtask is, and for how long a caller waits for it."""
    with port._lock:
        until = max(port.given_up_at(), port._calls.last_deadline)
        if port._service is not None and not port.inbox.is_open:
            until = port.openings.limit(port._service)
    told = Located(port._address, until - port.now(), port.activations.places())
    port._shell.send(port._address, DRIVER, told)


def _on_service_opened(port: WorkerPort, opened: ServiceOpened) -> None:
    port.note_open(opened.service)


ON_DELIVERY: Final[dict[type[Any], Callable[[WorkerPort, Any], None]]] = {
    Data: _on_data,
    Control: _on_control,
    Credit: _on_credit,
    Request: _on_request,
    CancelRequest: _on_cancel_request,
    Reply: _on_reply,
    Cancel: _on_cancel,
    Inspect: _on_inspect,
    Locate: _on_locate,
    ServiceOpened: _on_service_opened,
}
"""The handlers of messages that a port obeys on delivery. All other messages wait in the inbox for the subtask."""
