"""The port of one subtask in every shell: its inbox, its credits, its open calls.

Data waits in the inbox, bounded by credits; commands are obeyed on delivery, whatever the subtask is
doing, so that a credit or a reply always reaches an activation that is blocked on it. Nothing is sent
while the condition is held: two ports never wait for each other's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from sage_flow.channels.frame import (
    DRIVER,
    Cancel,
    Control,
    ControlElement,
    Credit,
    Data,
    EndOfRequests,
    Message,
    Reply,
    Request,
    Ticket,
)
from sage_flow.errors import CodecError, JobCancelled, ServiceOverloaded, ServiceTimeout
from sage_flow.executors.shell import Shell
from sage_flow.plan.physical import Channel, Plan, Subtask
from sage_flow.runtime.calls import CallTable, Outcome
from sage_flow.runtime.credits import ConsumedCredit, SendCredit

__all__ = ["WorkerPort"]

_ASK_DRIVER_S = 60.0


class _Outgoing:
    """The sending end of a channel: frames that wait for credit."""

    __slots__ = ("consumer", "credit", "frames", "next_seq")

    def __init__(self, channel: Channel, window: int) -> None:
        self.consumer = channel.consumer
        self.credit = SendCredit(window)
        self.frames: deque[Data | Control] = deque()
        self.next_seq = 0


class WorkerPort:
    """Implements `runtime.port.Port`."""

    def __init__(self, plan: Plan, subtask: Subtask, shell: Shell) -> None:
        self._plan = plan
        self._address = subtask.address
        self._service = subtask.chain.service
        self._shell = shell
        self._condition = shell.condition()
        self._inbox: deque[Message] = deque()
        self._outgoing = {
            channel.id: _Outgoing(channel, shell.window(channel.producer, channel.consumer))
            for channel in plan.channels
            if channel.producer == subtask.address
        }
        self._producers = {c.id: c.producer for c in plan.channels if c.consumer == subtask.address}
        self._consumed = {
            channel: ConsumedCredit(shell.window(producer, subtask.address))
            for channel, producer in self._producers.items()
        }
        self._calls = CallTable()
        self._replicas = {name: plan.addresses(service.chain) for name, service in plan.services.items()}
        self._called: dict[int, None] = {}  # services' subtasks that got a request
        self._opened: set[str] = set()  # services that this service may call
        self._next_replica = subtask.index
        self._waiting_frames = 0  # in all channels
        self._draining = False
        self._poked = False
        self._cancelled: str | None = None
        self._fault: Exception | None = None

    # -- the shell's side -----------------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """Take a message, on whatever thread it came."""
        with self._condition:
            match message:
                case Credit(channel, amount):
                    self._outgoing[channel].credit.grant(amount)
                case Reply():
                    self._take_reply(message)
                case Cancel(reason):
                    self._cancelled = reason
                case Request():
                    self._inbox.append(message._replace(deadline=self.now() + message.remaining_s))
                case _:
                    self._inbox.append(message)
            self._condition.notify_all()

    def poke(self) -> None:
        """Wake the subtask: its source has something."""
        with self._condition:
            self._poked = True
            self._condition.notify_all()

    def take(self, timeout_s: float | None = None, limit: int | None = None) -> list[Message]:
        """Return the messages that wait, at most `limit`; wait for the first at most `timeout_s`, None: for ever.

        Raises JobCancelled.
        """
        deadline = None if timeout_s is None else self.now() + timeout_s
        taken: list[Message] = []

        def ready() -> bool:
            while self._inbox and len(taken) != limit:
                taken.append(self._inbox.popleft())
            poked, self._poked = self._poked, False
            return bool(taken) or poked

        if timeout_s == 0:
            if self._inbox or self._cancelled is not None or self._fault is not None:
                with self._condition:
                    self._check()
                    ready()
        else:
            self._suspend_until(ready, deadline)
        return taken

    @property
    def is_cancelled(self) -> bool:
        """Whether the job is being cancelled."""
        return self._cancelled is not None

    @property
    def queued(self) -> int:
        """Records in the inbox."""
        with self._condition:
            return sum(len(message.records) for message in self._inbox if isinstance(message, Data))

    def end_requests(self) -> tuple[int, ...]:
        """Tell every service's subtask that was called that no more requests come; return who they are."""
        for address in self._called:
            self._shell.send(self._address, address, EndOfRequests(self._address))
        return tuple(self._called)

    def _take_reply(self, reply: Reply) -> None:
        try:
            self._calls.on_reply(reply)
        except Exception as error:  # this is the sender's thread; the subtask that it concerns raises it
            self._fault = error

    # -- the runtime's side ---------------------------------------------------------------------------------

    def now(self) -> float:
        return self._shell.now()

    def emit(self, channel: int, records: list[Any], tickets: list[Ticket] | None = None) -> None:
        self.queue(channel, records, tickets)
        self._await_sent(channel)

    def queue(self, channel: int, records: list[Any], tickets: list[Ticket] | None = None) -> None:
        out = self._outgoing[channel]
        with self._condition:
            out.frames.append(Data(channel, out.next_seq, records, tickets, len(records)))
            out.next_seq += 1
            self._waiting_frames += 1
        self._drain()

    def emit_element(self, channel: int, element: ControlElement) -> None:
        out = self._outgoing[channel]
        with self._condition:
            out.frames.append(Control(channel, out.next_seq, element))
            out.next_seq += 1
            self._waiting_frames += 1
        self._drain()
        self._await_sent(channel)

    def consumed(self, channel: int, cost: int) -> None:
        amount = self._consumed[channel].consume(cost)
        if amount:
            self._shell.send(self._address, self._producers[channel], Credit(channel, amount))

    def reply(self, caller: int, reply: Reply) -> None:
        self._shell.send(self._address, caller, reply)

    def call(
        self, service: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float
    ) -> Outcome:
        deadline = self.now() + timeout_s
        refused = self._refused(service)
        if refused is not None:
            return refused
        label = f"{service}.{method}"
        call_id = self._open_call(service, label, deadline)
        if call_id is None:
            pending = self._plan.services[service].max_pending
            return Outcome(
                error=ServiceOverloaded(
                    f"{label} got no place within {timeout_s:g} s: {pending} earlier calls (max_pending) are still open"
                )
            )
        target = self._choose_replica(service)
        self._called[target] = None
        request = Request(self._address, call_id, deadline - self.now(), method, args, kwargs)
        return self._send_and_wait(call_id, target, request, deadline, timeout_s)

    def _send_and_wait(self, call_id: int, target: int, request: Request, deadline: float, timeout_s: float) -> Outcome:
        answered = False
        try:
            self._shell.send(self._address, target, request)
            answered = self._suspend_until(lambda: self._calls.outcome(call_id) is not None, deadline)
        except CodecError as error:
            return Outcome(error=error)
        finally:
            with self._condition:
                call = self._calls.close(call_id)
                self._condition.notify_all()  # its place is free
        if answered and call.outcome is not None:
            return call.outcome
        return Outcome(error=ServiceTimeout(f"{call.label} gave no reply within {timeout_s:g} s"))

    def _refused(self, service: str) -> Outcome | None:
        """A service asks before its first call of another one; the answer may be that they form a circle."""
        if self._service is None or service in self._opened:
            return None
        deadline = self.now() + _ASK_DRIVER_S
        with self._condition:
            call_id = self._calls.open("", "the driver", deadline)
        question = Request(self._address, call_id, _ASK_DRIVER_S, "open_call", (service,), {})
        outcome = self._send_and_wait(call_id, DRIVER, question, deadline, _ASK_DRIVER_S)
        if outcome.error is not None or outcome.remote_error is not None:
            return outcome
        self._opened.add(service)
        return None

    def _open_call(self, service: str, label: str, deadline: float) -> int | None:
        call_id: int | None = None
        limit = self._plan.services[service].max_pending

        def has_place() -> bool:
            nonlocal call_id
            if self._calls.in_flight(service) >= limit:
                return False
            call_id = self._calls.open(service, label, deadline)
            return True

        with self._condition:
            self._check()
            if has_place():
                return call_id
        self._suspend_until(has_place, deadline)
        return call_id

    def _choose_replica(self, service: str) -> int:
        replicas = self._replicas[service]
        self._next_replica += 1
        return replicas[self._next_replica % len(replicas)]

    # -- waiting and sending --------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault
        if self._cancelled is not None:
            raise JobCancelled(self._cancelled)

    def _await_sent(self, channel: int) -> None:
        frames = self._outgoing[channel].frames
        if frames or self._cancelled is not None:
            self._suspend_until(lambda: not frames, None)

    def _suspend_until(self, is_ready: Callable[[], bool], deadline: float | None) -> bool:
        """Wait for `is_ready`, asked under the condition, and send what gets credit meanwhile; False: too late."""
        while True:
            if self._waiting_frames:
                self._drain()
            with self._condition:
                self._check()
                if is_ready():
                    return True
                if self._next_to_send() is None:
                    left = None if deadline is None else deadline - self.now()
                    if left is not None and left <= 0:
                        return False
                    self._condition.wait(left)

    def _next_to_send(self) -> _Outgoing | None:
        if self._draining or not self._waiting_frames:
            return None
        for out in self._outgoing.values():
            if out.frames and out.credit.may_start:
                return out
        return None

    def _drain(self) -> None:
        """Send the frames that have credit. One thread at a time does it, which keeps the order."""
        while True:
            with self._condition:
                out = self._next_to_send()
                if out is None:
                    return
                self._draining = True
                frame = out.frames[0]
            cost = 0
            try:
                cost = self._shell.send(self._address, out.consumer, frame)
            except Exception as error:
                self._fault = error  # the channel has a gap now: nothing may follow, whoever catches this
                raise
            finally:
                with self._condition:
                    out.frames.popleft()
                    self._waiting_frames -= 1
                    out.credit.take(cost)
                    self._draining = False
                    self._condition.notify_all()
