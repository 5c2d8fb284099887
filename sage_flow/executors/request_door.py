"""Doors: they take requests from queues and call the services of a job. A door runs in the process of the driver.

A door takes no more requests at once than its service can work on, so that other jobs can serve the same queue. It
holds the item of each request until the reply is in the queue of the caller. If this process dies, the queue gives the
requests to the next door, marked as begun; that door answers them with ServiceUnavailable, or runs them again if the
caller set `retry`. If only the service dies, this door does the same itself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from sage_flow.errors import CodecError, QueueClosed, ServiceError, ServiceUnavailable
from sage_flow.executors.door_replies import DoorReplies
from sage_flow.executors.service_requests import made_requests
from sage_flow.plan import kinds
from sage_flow.queues.call_items import Answer, Question, open_content, question_from
from sage_flow.runtime.caller import check_request
from sage_flow.runtime.calls import Outcome
from sage_flow.runtime.failure import pack_error
from sage_flow.service import Call

if TYPE_CHECKING:
    from sage_flow.executors.outside import OutsidePort
    from sage_flow.plan.physical import Plan, ServicePlan
    from sage_flow.queues.consuming import Consumer, HeldItem
    from sage_flow.queues.methods import LiveQueue
    from sage_flow.runtime.calls import OpenCall

__all__ = ["RequestDoor", "doors_of"]

_log = logging.getLogger("sage_flow")

_MOST_BEGUN: Final = 3
"""After so many deaths of its responders a request is not run again, because it may be the cause."""


def doors_of(plan: Plan, port: OutsidePort, on_fault: Callable[[ServicePlan, Exception], None]) -> list[RequestDoor]:
    """Return a door for each service with `requests=`. A door that cannot reach its queue calls `on_fault`."""
    services = [service for service in plan.services.values() if service.requests is not None]
    return [RequestDoor(service, _capacity(plan, service), port, partial(on_fault, service)) for service in services]


def _capacity(plan: Plan, service: ServicePlan) -> int:
    """Return how many requests the service can work on at once; for a pipeline its `max_pending`."""
    head = next(chain for chain in plan.chains if chain.id == service.chain).head
    at_once = service.parallelism * service.most_at_once if head.kind is kinds.SERVICE else service.max_pending
    return min(at_once, service.max_pending)


class RequestDoor:
    """Takes requests for one service. `open` and `stop` do not block; callbacks run in any thread.

    The thread of the door does what takes time: it connects to the queues, and it ends calls whose time has passed.
    """

    def __init__(
        self, service: ServicePlan, capacity: int, port: OutsidePort, on_fault: Callable[[Exception], None]
    ) -> None:
        self._service = replace(service, max_pending=capacity + 1)  # so that a call never waits
        self._pool = f"requests of {service.name}"
        self._capacity = capacity
        self._port = port
        self._on_fault = on_fault
        self._condition = threading.Condition()  # guards what follows
        self._tasks: deque[Callable[[], None]] = deque()  # for the thread of the door
        self._wake_at = float("inf")
        self._open: dict[int, OpenCall] = {}
        self._items = 0  # that the door holds
        self._is_stopped = False
        self._is_over = False
        self._consumer: Consumer | None = None
        self._replies = DoorReplies(self._do)
        self._thread = threading.Thread(target=self._run, name=f"requests of {service.name}", daemon=True)

    def open(self) -> None:
        """Begin to take requests."""
        self._port.at_end(self._service.name, self.stop)
        self._do(self._reach_requests)
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests. Those that were taken still get their outcome."""
        with self._condition:
            self._is_stopped = True
            consumer = self._consumer
        if consumer is not None:
            consumer.stop()

    def close(self, patience_s: float) -> None:
        """Wait until all replies are in the queues of their callers, at most `patience_s` seconds; then end."""
        self.stop()
        with self._condition:
            self._condition.wait_for(lambda: not self._items, patience_s)
            self._is_over = True
            self._condition.notify_all()

    # -- its thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._tasks and not self._is_over and (left_s := self._wake_at - self._port.now()) > 0:
                    self._condition.wait(min(left_s, threading.TIMEOUT_MAX))
                if self._is_over:
                    return
                tasks = list(self._tasks)
                self._tasks.clear()
            for task in tasks:
                task()
            self._end_late_calls()

    def _do(self, task: Callable[[], None]) -> None:
        with self._condition:
            self._tasks.append(task)
            self._condition.notify_all()

    def _reach_requests(self) -> None:
        try:
            requests = made_requests(self._service.requests, self._service.name)
            self._replies.requests = requests
            live = requests.queue_instance
            consumer = live.consume(self._on_items, partial(self._on_closed, live), holds=True)
        except Exception as error:
            self._on_fault(error)
            return
        with self._condition:
            if self._is_stopped:
                return
            self._consumer = consumer
            consumer.shortcut = self
        # Until the service is open, other responders may take the requests.
        self._port.when_open(self._service.name, lambda: consumer.grant(self._capacity))

    def _on_closed(self, live: LiveQueue, error: Exception) -> None:
        """A closed queue ends the work of this door; a lost queue fails the job."""
        if isinstance(error, QueueClosed) and not live.lost:
            _log.warning("service %r takes no more requests from its queue: %s", self._service.name, error)
        else:
            self._on_fault(error)

    def _end_late_calls(self) -> None:
        with self._condition:
            calls = list(self._open.values())
        for call in calls:
            self._port.poll(call)
        with self._condition:
            self._wake_at = min((call.deadline for call in self._open.values()), default=float("inf"))

    # -- requests -------------------------------------------------------------------------------------------

    def _on_items(self, items: list[HeldItem]) -> None:
        came = self._port.now()
        with self._condition:
            self._items += len(items)
        done = sum(self._begin(item, came) for item in items)
        if done:
            self._free(done)

    def _begin(self, item: HeldItem, came: float) -> bool:
        """Make the call; return True if no call was made, so that the slot is free again."""
        if self._is_stopped:  # if it stops after this check, the port refuses the call
            self._settle(item, give_back=True)
            return True
        name = self._service.name
        try:
            question = question_from(item.value())
        except CodecError as error:
            question, why = None, str(error)
        else:
            why = "it is not a request of a ServiceClient"
        if question is None:
            _log.warning("service %r dropped an item of its request queue: %s", name, why)
            self._settle(item)
            return True
        left_s = question.left_s - item.waited_s - (self._port.now() - came)
        if left_s <= 0:  # the caller has ended the call by itself
            self._settle(item)
            return True
        try:
            self._check_begun(question, item)
            check_request(self._service, question.method, question.group)
            args, kwargs = open_content(question.content)
        except Exception as error:
            self._answer(question, item, Answer(question.number, None, pack_error(error)))
            return True
        call = Call(name, question.method, args, kwargs)
        made = self._port.call(self._service, call, left_s, question.group, self._pool)
        with self._condition:
            self._open[made.id] = made
            if made.deadline < self._wake_at:
                self._wake_at = made.deadline
                self._condition.notify_all()
        self._port.on_outcome(made, partial(self._on_outcome, question, item, made))
        return False

    def _check_begun(self, question: Question, item: HeldItem) -> None:
        """Raises ServiceUnavailable if the request must not be run again."""
        label = f"{self._service.name}.{question.method}"
        if item.begun and not question.retry:
            raise ServiceUnavailable(
                f"{label}: the responder that had taken this request died before it replied; the request may have been"
                " carried out, so it is not run again (options(retry=True) allows that)"
            )
        if item.begun >= _MOST_BEGUN:
            raise ServiceUnavailable(
                f"{label}: {item.begun} responders died while they had this request; the request may be the cause, so"
                " it is not run again"
            )

    def _on_outcome(self, question: Question, item: HeldItem, made: OpenCall) -> None:
        with self._condition:
            self._open.pop(made.id, None)
        outcome = made.outcome
        if outcome is not None:
            self._conclude(question, item, made, outcome)
        self._free(1)

    def _conclude(self, question: Question, item: HeldItem, made: OpenCall, outcome: Outcome) -> None:
        has_died = isinstance(outcome.error, ServiceUnavailable)  # an error of the service itself is a remote_error
        if has_died and (made.target is None or question.retry):
            self._settle(item, give_back=True, begun=made.target is not None)
            return
        error = outcome.remote_error
        if outcome.error is not None:
            error = pack_error(outcome.error)
        self._answer(question, item, Answer(question.number, None, error), None if error else outcome)

    def _free(self, count: int) -> None:
        consumer = self._consumer
        if consumer is not None:
            consumer.grant(count)

    def _settle(self, item: HeldItem, *, give_back: bool = False, begun: bool = False) -> None:
        if give_back:
            item.give_back(begun=begun)
        else:
            item.finish()
        with self._condition:
            self._items -= 1
            if not self._items:
                self._condition.notify_all()

    def call_now(self, call: Call, timeout_s: float, group: int | None) -> Outcome | None:
        """Call the service for a caller of this process and wait; None: the caller must send a request instead.

        The call takes the place of an item (see `LiveQueue.shortcut`).
        """
        port = self._port
        try:
            check_request(self._service, call.method, group)
            made = port.call(self._service, call, timeout_s, group, self._pool)
            outcome = port.await_call(made)
        except ServiceError as error:
            return Outcome(error=error)
        finally:
            if (consumer := self._consumer) is not None:
                consumer.return_shortcut()
        if outcome is not None and isinstance(outcome.error, ServiceUnavailable):
            return None if made.target is None or call.retry else outcome
        return outcome

    # -- replies --------------------------------------------------------------------------------------------

    def _answer(self, question: Question, item: HeldItem, answer: Answer, outcome: Outcome | None = None) -> None:
        """Send the answer to its caller, with the value of `outcome` if there is one."""
        self._replies.send(question.replies, answer, outcome, partial(self._on_answered, question, item))

    def _on_answered(self, question: Question, item: HeldItem, error: Exception | None) -> None:
        if error is not None:
            if not isinstance(error, QueueClosed):  # that one means that the caller has ended
                _log.warning("service %r could not send a reply: %s", self._service.name, error)
            self._replies.forget(question.replies)
        self._settle(item)
