"""`ServiceClient`: calls of a service by the descriptor of the queue that it takes requests from.

All clients of a process whose request queues are in the same place share one reply queue. Each request names it; the
responder puts the reply there, and the number in the reply leads to its call.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sage_flow.errors import ChannelError, CodecError, InternalError, PipelineError, ServiceUnavailable
from sage_flow.executors.calling import cannot_be_sent
from sage_flow.executors.link_transport import LinkTransport
from sage_flow.executors.reading_port import ReadingPort
from sage_flow.plan.builder import checked_count
from sage_flow.plan.physical import Plan, ServicePlan
from sage_flow.queues.call_items import Question, answer_from, content_of, open_content
from sage_flow.queues.descriptor import BaseQueueDescriptor
from sage_flow.queues.reply_queues import make_reply_queue
from sage_flow.runtime.caller import Caller
from sage_flow.runtime.calls import OpenCall, Outcome
from sage_flow.runtime.failure import pack_error
from sage_flow.service import Call, ServiceHandle
from sage_flow.wire.codec import copy_value

if TYPE_CHECKING:
    from sage_flow.queues.consuming import HeldItem
    from sage_flow.queues.methods import LiveQueue
    from sage_flow.runtime.messages import Reply

__all__ = ["ServiceClient"]

_KEPT: Final = 16
_AT_ONCE: Final = 1000  # replies that the reply queue may deliver before this process has read the first


class ServiceClient(ServiceHandle):
    """Calls the methods of a service that was registered with `requests=descriptor`, from any process that has it.

    >>> from sage_flow.channels import PythonQueueDescriptor
    >>> answer = ServiceClient(PythonQueueDescriptor(queue_id="answer"), timeout=2.0)
    >>> answer.options(retry=True)
    ServiceClient('answer')

    Use it like a handle: `answer.process(question)` calls and waits, `answer.process.remote(question)` returns a
    ServiceFuture. Requests wait in the queue until a service takes them, or until their time has passed. Every call has
    an outcome within `timeout` seconds; it runs at most once, or at least once with `options(retry=True)`.

    Args:
        requests: the descriptor of the queue of requests, or a clone, a pickle or a JSON of it.
        timeout: seconds a call waits, unless `options` sets another time.
        max_pending: calls that may be open at once; further calls wait.

    Raises: PipelineError for invalid arguments.
    """

    def __init__(self, requests: BaseQueueDescriptor, *, timeout: float = 10.0, max_pending: int = 256) -> None:
        if not isinstance(requests, BaseQueueDescriptor):
            raise PipelineError(f"ServiceClient needs the descriptor of a queue, not {requests!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise PipelineError(f"timeout of a ServiceClient must be a number of seconds above 0, not {timeout!r}")
        name = requests.queue_id
        plan = ServicePlan(name, 0, checked_count(max_pending, "max_pending", name), timeout)
        self._port = _QueuePort(requests.share(), plan)
        super().__init__(_QueueCaller({name: plan}, self._port), name)
        self._retry = False

    def options(self, *, timeout: float | None = None, key: Any = None, retry: bool | None = None) -> ServiceClient:
        """Return a client whose calls wait at most `timeout` seconds, and go to the replica that has `key`.

        `retry`: if a responder dies while it has the request, the next responder gets it, so the request may run more
        than once. Without `retry` such a call ends in ServiceUnavailable.
        """
        if retry is not None and not isinstance(retry, bool):
            raise PipelineError(f"retry must be True or False, not {retry!r}")
        client = object.__new__(ServiceClient)
        client._port = self._port
        timeout = self._timeout if timeout is None else timeout
        ServiceHandle.__init__(client, self._caller, self._name, timeout, self._key if key is None else key)
        client._retry = self._retry if retry is None else retry
        return client

    def __reduce__(self) -> tuple[Any, ...]:
        plan = self._port.service
        made = self._port.requests, plan.timeout_s, plan.max_pending
        return _remade, (*made, self._timeout, self._key, self._retry)

    def __repr__(self) -> str:
        return f"ServiceClient({self._name!r})"


def _remade(
    requests: BaseQueueDescriptor, default_s: float, max_pending: int, timeout: float | None, key: Any, retry: bool
) -> ServiceClient:
    client = ServiceClient(requests, timeout=default_s, max_pending=max_pending)
    return client.options(timeout=timeout, key=key, retry=retry)


class _QueueCaller(Caller):
    """Calls the service directly if its door is in this process and waits for a request."""

    def __init__(self, services: Mapping[str, ServicePlan], port: _QueuePort) -> None:
        super().__init__(services, port)
        self._requests = port.requests

    def call(self, call: Call) -> Any:
        plan, timeout_s, group = self._checked(call)
        if (shortcut := self._shortcut()) is not None:
            began = time.monotonic()
            outcome: Outcome | None = shortcut.call_now(call, timeout_s, group)
            if outcome is not None:
                return outcome.get()
            timeout_s = max(timeout_s - (time.monotonic() - began), 0.0)
        return self._get(call, plan, timeout_s, group)

    def _shortcut(self) -> Any:
        try:
            return self._requests.queue_instance.shortcut()
        except ChannelError:  # a request through the queue raises the error
            return None


class _QueuePort(ReadingPort):
    """Sends requests through one queue and gets replies from the reply queue of the process."""

    def __init__(self, requests: BaseQueueDescriptor, service: ServicePlan) -> None:
        self.requests = requests
        self.service = service
        self._begin()
        _ports.add(self)

    def _begin(self) -> None:
        self._replies: _Replies | None = None
        super().__init__(
            Plan(self.service.name, (), (), {self.service.name: self.service}), 0, LinkTransport(_no_message)
        )
        self.note_open(self.service.name)  # the time in the queue is a part of the time of the call

    def after_fork(self) -> None:
        """The open calls belong to the parent process."""
        self._begin()

    def read_while(self, is_waiting: Callable[[], bool], timeout_s: float) -> None:
        if self._replies is not None:
            self._replies.read_while(is_waiting, timeout_s)

    def end(self, call: OpenCall, error: BaseException) -> None:
        """End a call that will get no reply."""
        self._end(call, Outcome(error=error))

    def _end(self, call: OpenCall, outcome: Outcome) -> bool:
        ended = super()._end(call, outcome)
        if ended and self._replies is not None:
            self._replies.interrupt()  # the thread that waits for this call may be reading
        return ended

    def cancel(self, call: OpenCall) -> bool:
        target, call.target = call.target, None  # a request in a queue cannot be cancelled
        ended = super().cancel(call)
        call.target = target
        return ended

    def _choose_replica(self, service: ServicePlan, group: int | None) -> int:
        return -1 if group is None else group  # the responder chooses

    def _send(self, made: OpenCall, call: Call) -> None:
        try:
            replies = self._replies
            if replies is None or replies.is_closed:
                replies = self._replies = _reach_replies(self.requests)
            if (requests := self.requests.queue_instance).closed:  # it was closed; its host may be there again
                self.requests.trim()
                requests = self.requests.queue_instance
            replies.send(self, requests, made, call)
        except CodecError as error:
            self.end(made, cannot_be_sent(f"the arguments of {made.label}", error))
        except ChannelError as error:
            self.end(made, ServiceUnavailable(f"{made.label} cannot be called: {error}"))


def _no_message(message: Any) -> None:
    raise InternalError(f"a caller by a queue sends no {type(message).__name__}")


class _Replies:
    """The reply queue of this process for request queues in one place."""

    def __init__(self, requests: BaseQueueDescriptor) -> None:
        self._descriptor, self._described = make_reply_queue(requests)
        self._live = self._descriptor.queue_instance
        self._live.qsize()  # the queue must exist before a responder looks for it
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[_QueuePort, OpenCall]] = {}
        self._closed: Exception | None = None
        self._consumer = self._live.consume(self._take, self._on_closed, holds=False)
        self._consumer.grant(_AT_ONCE)

    @property
    def is_closed(self) -> bool:
        return self._closed is not None

    def send(self, port: _QueuePort, requests: LiveQueue, made: OpenCall, call: Call) -> None:
        """Put the request. Raises: CodecError, ChannelError."""
        number = next(self._numbers)
        packs = not requests.owns_contents
        arguments = call.args, call.kwargs
        question = Question(
            number,
            self._described,
            made.deadline - port.now(),
            call.method,
            None if made.target == -1 else made.target,
            call.retry,
            content_of(arguments if packs else copy_value(arguments), packs=packs),
        )
        self._open[number] = port, made
        if self._closed is not None:  # since `is_closed` was checked
            self._open.pop(number, None)
            raise ServiceUnavailable(f"{made.label} cannot be called: {self._closed}")
        try:
            on_lost = partial(self._lost, number, call.retry)
            sending = requests.send(question.as_item(), partial(self._sent, number), on_lost)
        except BaseException:
            self._open.pop(number, None)
            raise
        port.on_outcome(made, partial(self._forget, number, sending.withdraw))

    def _sent(self, number: int, error: Exception | None) -> None:
        if error is not None and (found := self._open.pop(number, None)) is not None:
            port, made = found
            port.end(made, ServiceUnavailable(f"{made.label} was not sent: {error}"))

    def _lost(self, number: int, retry: bool, with_queue: bool) -> None:
        """The request was lost with its queue, or its responder has died."""
        if (retry and not with_queue) or (found := self._open.pop(number, None)) is None:
            return
        port, made = found
        why = (
            "its request queue was closed"
            if with_queue
            else "the responder that had taken this request died before it replied; the request may have been carried"
            " out (with options(retry=True) the next responder runs it again)"
        )
        port.end(made, ServiceUnavailable(f"{made.label}: {why}"))

    def _forget(self, number: int, withdraw: Callable[[], None]) -> None:
        self._open.pop(number, None)
        withdraw()

    def _take(self, items: list[HeldItem]) -> None:
        for item in items:
            answer = answer_from(item.value())
            found = None if answer is None else self._open.pop(answer.number, None)
            if answer is None or found is None:  # a duplicate, or too late
                continue
            port, made = found
            port.take_reply(_reply(made, answer.content, answer.error))
        self._consumer.grant(len(items))

    def _on_closed(self, error: Exception) -> None:
        """No reply can arrive any more: end all open calls."""
        self._closed = error
        while self._open:
            try:
                _, (port, made) = self._open.popitem()
            except KeyError:
                break
            port.end(made, ServiceUnavailable(f"{made.label} cannot get a reply: {error}"))

    def read_while(self, is_waiting: Callable[[], bool], timeout_s: float) -> None:
        self._live.read_while(is_waiting, timeout_s, self._open.__len__)

    def interrupt(self) -> None:
        self._live.interrupt()


def _reply(made: OpenCall, content: Any, error: Any) -> Reply:
    from sage_flow.runtime.messages import Reply

    if error is None:
        try:
            return Reply(made.id, 1, (open_content(content),))
        except CodecError as fault:
            error = pack_error(fault)
    return Reply(made.id, 0, (), error)


_lock = threading.Lock()
_locks: dict[Hashable, threading.Lock] = {}  # by place
_replies_of: weakref.WeakValueDictionary[Hashable, _Replies] = weakref.WeakValueDictionary()
_latest: deque[_Replies] = deque(maxlen=_KEPT)  # these are kept, also without clients
_ports: weakref.WeakSet[_QueuePort] = weakref.WeakSet()


def _reach_replies(requests: BaseQueueDescriptor) -> _Replies:
    """Return the reply queue of this process; create it if there is none, or if it was closed. Raises: ChannelError."""
    place = requests.reply_place
    found = _replies_of.get(place)
    if found is None or found.is_closed:
        with _making(place):  # which may take a while
            found = _replies_of.get(place)
            if found is None or found.is_closed:
                found = _replies_of[place] = _Replies(requests)
                _latest.append(found)
    return found


def _making(place: Hashable) -> threading.Lock:
    with _lock:
        return _locks.setdefault(place, threading.Lock())


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _locks.clear()
    _replies_of.clear()
    _latest.clear()
    for port in list(_ports):
        port.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
