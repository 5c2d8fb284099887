"""The port of one subtask in every shell: its inbox and its credits; its calls are in `calling`.

Data waits in the inbox, bounded by credits; commands are obeyed on delivery, whatever the subtask is
doing, so that a credit or a reply always reaches an activation that is blocked on it. Nothing is sent
while the condition is held: two ports never wait for each other's lock.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from sage_flow.errors import CodecError, InternalError, JobCancelled, JobRestarting, ProtocolError
from sage_flow.executors.calling import CallingPort, cannot_be_sent
from sage_flow.executors.incoming import IncomingFrames, IncomingRequests
from sage_flow.executors.positions import thread_place
from sage_flow.executors.shell import Shell
from sage_flow.plan.physical import Channel, Plan, ServicePlan, Subtask
from sage_flow.queues.job_queues import job_queue
from sage_flow.runtime.calls import Outcome
from sage_flow.runtime.credits import SendCredit
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
from sage_flow.runtime.report import PortReport
from sage_flow.runtime.statistics import CallStatistics, merged

if TYPE_CHECKING:
    from sage_flow.executors.coroutines import CoroutineRunner
    from sage_flow.queues.descriptor import BaseQueueDescriptor

__all__ = ["ON_DELIVERY", "WorkerPort"]

T = TypeVar("T")

_ASK_DRIVER_S = 60.0
_ANSWER_S = 0.001
_HOLD_S = 0.010
_HOLD_WAITS = 64
"""Records that user code has emitted are held back while answers come within `_ANSWER_S`, for at most `_HOLD_S` and so
many waits."""


class _Outgoing:
    """The sending end of a channel: frames that wait for credit."""

    __slots__ = ("consumer", "credit", "frames", "next_seq")

    def __init__(self, channel: Channel, window: int) -> None:
        self.consumer = channel.consumer
        self.credit = SendCredit(window)
        self.frames: deque[Data | Control] = deque()
        self.next_seq = 0


class WorkerPort(CallingPort):
    """Implements `runtime.port.Port`."""

    def __init__(self, plan: Plan, subtask: Subtask, shell: Shell) -> None:
        super().__init__(plan, subtask.address, shell, first_replica=subtask.index)
        self._shell = shell
        self._name = subtask.name
        self._service = subtask.chain.service
        self._inbox: deque[Message] = deque()
        self._outgoing = {
            channel.id: _Outgoing(channel, shell.window(channel.producer, channel.consumer))
            for channel in plan.channels
            if channel.producer == subtask.address
        }
        self._incoming = dict(_incoming(plan, subtask, shell))
        self._requests = IncomingRequests(self._service) if subtask.address in self._heads(plan) else None
        self._allowed: set[str] = set()  # services that this service may call
        self.given_up_at: Callable[[], float] = lambda: -math.inf
        """Until when somebody waits for what the subtask is doing."""
        self.on_taken_back: Callable[[int, int], object] = lambda caller, call: None
        """Called when a caller has given up a call that may be under way."""
        self._is_open = False
        self._thread: int | None = None
        self._queue_emitted: Callable[[], None] | None = None
        self._held_until = 0.0
        self._held_waits = 0
        self._threads: list[int] = []  # of all its activations
        self._coroutines: CoroutineRunner | None = None
        self._draining = False
        self._poked = False
        self._cancelled: Cancel | None = None
        self._fault: Exception | None = None
        self.progress_due_s: Callable[[], float] = lambda: math.inf
        self.tell_progress: Callable[[], None] = lambda: None

    # -- the shell's side -----------------------------------------------------------------------------------

    def enter_activation(self) -> None:
        """The calling thread is the subtask's own."""
        self._thread = threading.get_ident()
        self._threads.append(self._thread)

    def opened(self) -> None:
        """The subtask is open. What has waited for that in the inbox has all of its time before it."""
        with self._lock:
            self._is_open = True
            now = self.now()
            for index, message in enumerate(self._inbox):
                if isinstance(message, Request):
                    self._inbox[index] = message._replace(deadline=now + message.remaining_s)

    def enter_further_activation(self) -> None:
        """The calling thread answers requests of the subtask, too."""
        self._threads.append(threading.get_ident())

    def deliver(self, message: Message) -> None:
        """Take a message, on whatever thread it came."""
        take: Callable[[WorkerPort, Any], None] = ON_DELIVERY.get(type(message), _put_in_inbox)
        take(self, message)

    def wake(self) -> None:
        with self._lock:
            self._poked = True
            self._condition.notify_all()

    def take(self, timeout_s: float | None = None) -> list[Message]:
        """Return the messages that wait; wait for the first at most `timeout_s`, None: for ever.

        Raises JobCancelled.
        """
        deadline = None if timeout_s is None else self.now() + timeout_s
        taken: list[Message] = []

        def ready() -> bool:
            taken.extend(self._inbox)
            self._inbox.clear()
            poked, self._poked = self._poked, False
            return bool(taken) or poked

        if timeout_s == 0:
            if self._inbox or self._is_stopped:
                with self._lock:
                    self._check()
                    ready()
        else:
            self._suspend(ready, deadline)
        return taken

    def take_one(self) -> Message | None:
        """Return the message that has waited longest, or wait for one; None: woken by `wake`. Raises JobCancelled.

        A request that is taken so is one that has begun.
        """
        taken: Message | Literal[True] | None = self._suspend(self._next, None)
        return None if taken is True else taken

    def _next(self) -> Message | Literal[True] | None:
        if self._inbox:
            message = self._inbox.popleft()
            if self._requests is not None and isinstance(message, Request):
                self._requests.begun(message, self.now())
            return message
        poked, self._poked = self._poked, False
        return True if poked else None

    @property
    def is_cancelled(self) -> bool:
        """Whether the job is being cancelled."""
        return self._cancelled is not None

    @property
    def queued(self) -> int:
        """Records that have come and are not processed."""
        return sum(incoming.depth for incoming in self._incoming.values())

    def statistics(self) -> dict[str, CallStatistics]:
        made = super().statistics()
        if self._requests is None:
            return made
        with self._lock:
            return merged([made, self._requests.statistics()])

    def report(self) -> PortReport:
        """What is to be seen from here, whatever the subtask is doing."""
        calls = self.statistics()
        now = self.now()
        with self._lock:
            channels = [incoming.report(now) for incoming in self._incoming.values()]
            if self._requests is not None:
                channels.append(self._requests.report(self._address, self._medium, now))
            if self._called:
                channels.append(self._responses(now))
        return PortReport(now, tuple(channels), calls, self._story.events())

    def located(self) -> Located:
        """Where the user code of the subtask is."""
        with self._lock:
            until = max(self.given_up_at(), self._calls.last_deadline)
            if self._service is not None and not self._is_open:
                until = self._openings.limit(self._service)
        places = [place for thread in self._threads if (place := thread_place(thread)) is not None]
        if self._coroutines is not None:
            places += self._coroutines.places()
        return Located(self._address, until - self.now(), tuple(dict.fromkeys(places)))

    @staticmethod
    def _heads(plan: Plan) -> set[int]:
        """The subtasks that requests go to."""
        return {address for service in plan.services.values() for address in plan.addresses(service.chain)}

    def _medium(self, other: int) -> str:
        return self._shell.medium(other, self._address)

    def begin(self, request: Request) -> bool:
        with self._lock:
            return self._requests is None or self._requests.begun(request, self.now())

    # -- the runtime's side ---------------------------------------------------------------------------------

    def emit(self, channel: int, records: list[Any], tickets: list[Ticket] | None = None) -> None:
        self.queue(channel, records, tickets)
        self._await_sent(channel)

    def queue(self, channel: int, records: list[Any], tickets: list[Ticket] | None = None) -> None:
        out = self._outgoing[channel]
        with self._lock:
            out.frames.append(Data(channel, out.next_seq, records, tickets, len(records)))
            out.next_seq += 1
            self._waiting_frames += 1
        self._drain()

    def emit_element(self, channel: int, element: ControlElement) -> None:
        out = self._outgoing[channel]
        with self._lock:
            out.frames.append(Control(channel, out.next_seq, element))
            out.next_seq += 1
            self._waiting_frames += 1
        self._drain()
        self._await_sent(channel)

    def shares_objects(self, channel: int) -> bool:
        return self._shell.shares_objects(self._address, self._outgoing[channel].consumer)

    def consumed(self, channel: int, cost: int) -> None:
        incoming = self._incoming[channel]
        amount = incoming.processed(cost)
        if amount:
            self._shell.send(self._address, incoming.channel.producer, Credit(channel, amount))

    def reply(self, caller: int, reply: Reply) -> None:
        try:
            self._shell.send(self._address, caller, reply, bool(self._inbox))
        except CodecError as error:
            raise cannot_be_sent(f"a reply of service {self._service!r}", error) from error

    def in_activation(self) -> bool:
        return threading.get_ident() == self._thread

    def open_queue(self, queue_id: str, maxsize: int) -> BaseQueueDescriptor:
        if self._plan.queues is None:
            raise InternalError(f"the plan of {self._name} says nothing about queues")
        return job_queue(self._plan.queues, queue_id, maxsize)

    def before_long_wait(self, queue_emitted: Callable[[], None]) -> None:
        self._queue_emitted = queue_emitted

    def suspend_until(self, is_ready: Callable[[], bool]) -> None:
        # Nothing is counted while an activation waits: before a long wait all that was counted is told, once.
        if self._await(is_ready, self.now() + self.progress_due_s()) is None:
            self.tell_progress()
            self._await(is_ready, None)

    def start(self, awaitable: Awaitable[Any], timeout_s: float | None = None) -> Task:
        with self._lock:
            if self._coroutines is None:
                from sage_flow.executors.coroutines import CoroutineRunner

                self._coroutines = CoroutineRunner(self._shell, f"{self._name} event loop")
        return self._coroutines.start(awaitable, timeout_s, self.wake)

    def stop_tasks(self) -> None:
        """End the coroutines that still run, and their event loop."""
        if self._coroutines is not None:
            self._coroutines.stop()

    def _refused(self, service: ServicePlan) -> Outcome | None:
        """A service asks before its first call of another one; the answer may be that they form a circle."""
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
        """Wait inside user code, and send the records that it has emitted, since `what` may depend on them.

        A frame for each record would cost as much as the call that the record comes from. So they are held back
        while answers come within a millisecond. What bounds this is the time since the last frame and not that of
        one wait: user code may ask again and again until a record has arrived. In the simulation, where time stands
        still while there is something to do, the number of waits bounds it.
        """
        if self._queue_emitted is None or not self.in_activation():
            return self._suspend(what, deadline)
        self._held_waits += 1
        if self._held_waits < _HOLD_WAITS and (now := self.now()) < self._held_until:
            held_until = now + _ANSWER_S if deadline is None else min(deadline, now + _ANSWER_S)
            found = self._suspend(what, held_until)
            if found or held_until == deadline:
                return found
        self._queue_emitted()
        self._held_until, self._held_waits = self.now() + _HOLD_S, 0
        return self._suspend(what, deadline)

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault
        if self._cancelled is not None:
            raise (JobRestarting if self._cancelled.restarts else JobCancelled)(self._cancelled.reason)

    def _await_sent(self, channel: int) -> None:
        frames = self._outgoing[channel].frames
        if frames:
            self._story.note(self.now(), f"channel {channel}: waits for credit")
        if frames or self._is_stopped:
            self.suspend_until(lambda: not frames)

    def _may_sleep(self) -> bool:
        return self._next_to_send() is None

    def _next_to_send(self) -> _Outgoing | None:
        if self._draining:
            return None
        for out in self._outgoing.values():
            if out.frames and out.credit.may_start:
                return out
        return None

    def _drain(self) -> None:
        """Send the frames that have credit. One thread at a time does it, which keeps the order."""
        while True:
            with self._lock:
                out = self._next_to_send()
                if out is None:
                    return
                self._draining = True
                frame = out.frames[0]
            cost = 0
            try:
                cost = self._shell.send(self._address, out.consumer, frame)
            except Exception as error:
                self._fail(error)  # the channel has a gap now: nothing may follow, whoever catches this
                raise
            finally:
                with self._lock:
                    out.frames.popleft()
                    self._waiting_frames -= 1
                    out.credit.take(cost)
                    self._draining = False
                    self._condition.notify_all()


def _incoming(plan: Plan, subtask: Subtask, shell: Shell) -> Iterator[tuple[int, IncomingFrames]]:
    names = {other.address: other.name for other in plan.subtasks}
    for channel in plan.channels:
        if channel.consumer == subtask.address:
            ends = (channel.producer, channel.consumer)
            name = f"{names[channel.producer]} => {subtask.name}"
            yield channel.id, IncomingFrames(channel, name, shell.medium(*ends), shell.window(*ends))


# -- what is obeyed on delivery -----------------------------------------------------------------------------


def _put_in_inbox(port: WorkerPort, message: Message) -> None:
    with port._lock:
        port._inbox.append(message)
        port._condition.notify_all()


def _on_data(port: WorkerPort, data: Data) -> None:
    with port._lock:
        port._incoming[data.channel].arrived(data, port.now())
        port._inbox.append(data)
        port._condition.notify_all()


def _on_credit(port: WorkerPort, credit: Credit) -> None:
    with port._lock:
        port._outgoing[credit.channel].credit.grant(credit.amount)
        port._condition.notify_all()


def _on_request(port: WorkerPort, request: Request) -> None:
    with port._lock:
        if port._requests is None:
            raise ProtocolError(f"a request has come to {port._name}, which answers none")
        now = port.now()
        port._requests.arrived(request, now)
        port._inbox.append(Request(*request[:-1], now + request.remaining_s))
        port._condition.notify_all()


def _on_cancel_request(port: WorkerPort, taken: CancelRequest) -> None:
    with port._lock:
        if port._requests is not None:
            port._requests.dropped(*taken)
        for message in port._inbox:
            if isinstance(message, Request) and (message.reply_to, message.call_id) == taken:
                port._inbox.remove(message)
                break
        else:
            port.on_taken_back(*taken)
        port._condition.notify_all()


def _on_reply(port: WorkerPort, reply: Reply) -> None:
    try:
        port.take_reply(reply)
    except Exception as error:  # this is the sender's thread; the subtask that it concerns raises it
        port._fail(error)
        port.wake()


def _on_cancel(port: WorkerPort, cancel: Cancel) -> None:
    with port._lock:
        port._cancelled, port._is_stopped = cancel, True
        port._story.note(port.now(), f"cancelled: {cancel.reason}")
        port._condition.notify_all()


def _on_inspect(port: WorkerPort, inspect: Inspect) -> None:
    port._shell.send(port._address, DRIVER, Inspected(port._address, inspect.number, port.report()))


def _on_locate(port: WorkerPort, _: Locate) -> None:
    port._shell.send(port._address, DRIVER, port.located())


def _on_service_opened(port: WorkerPort, opened: ServiceOpened) -> None:
    port.note_open(opened.service)


ON_DELIVERY: Final[dict[type[Any], Callable[[WorkerPort, Any], None]]] = {
    Data: _on_data,
    Credit: _on_credit,
    Request: _on_request,
    CancelRequest: _on_cancel_request,
    Reply: _on_reply,
    Cancel: _on_cancel,
    Inspect: _on_inspect,
    Locate: _on_locate,
    ServiceOpened: _on_service_opened,
}
"""What a port does with a message in the thread that brings it. All others wait in the inbox for the subtask."""
