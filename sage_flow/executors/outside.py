"""Calls of a job's services from outside the job, by any thread of the process that submitted it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sage_flow.errors import ProtocolError, ServiceUnavailable
from sage_flow.executors.calling import CallingPort, call_back
from sage_flow.executors.shell import Transport
from sage_flow.plan.physical import Plan, ServicePlan
from sage_flow.runtime.calls import OpenCall, Outcome
from sage_flow.runtime.messages import OUTSIDE, EndOfRequests, Message, Reply
from sage_flow.service import Call

if TYPE_CHECKING:
    from sage_flow.links.loop import EventLoop

__all__ = ["OutsidePort"]


class OutsidePort(CallingPort):
    """The port of callers outside the job. The driver ends it service by service, and closes it with the job.

    `read_at(addresses, loop)` is called with the addresses of a service that is called over the sockets of `loop`.
    """

    def __init__(
        self,
        plan: Plan,
        transport: Transport,
        read_at: Callable[[Iterable[int], EventLoop], None] = lambda addresses, loop: None,
    ) -> None:
        super().__init__(plan, OUTSIDE, transport)
        self._read_at = read_at
        self._ended: dict[str, str] = {}  # by service: why it cannot be called any more
        self._sending = 0
        self._at_close: list[Callable[[], None]] = []
        self._at_open: dict[str, list[Callable[[], object]]] = {}
        self._at_end: dict[str, list[Callable[[], None]]] = {}  # by service

    def loop_of(self, service: str) -> EventLoop:
        """Return the loop for the links over which this service is called."""
        from sage_flow.links.loop import service_loop  # most jobs serve nobody and need no sockets

        loop = service_loop()
        self._read_at(self._replicas[service], loop)
        return loop

    def at_close(self, action: Callable[[], None]) -> None:
        """Call `action` once the job can answer no more calls; it must not wait."""
        self._at_close.append(action)

    def note_open(self, service: str, since_s: float = 0.0) -> None:
        super().note_open(service, since_s)
        with self._lock:
            callbacks = self._at_open.pop(service, [])
        for callback in callbacks:
            callback()

    def when_open(self, service: str, callback: Callable[[], object]) -> None:
        """Call `callback` once the service is open, in any thread; at once if it is open."""
        with self._lock:
            if service not in self.openings:
                self._at_open.setdefault(service, []).append(callback)
                return
        callback()

    def at_end(self, service: str, action: Callable[[], None]) -> None:
        """Call `action` before the service refuses calls, so that no call is begun too late. It must not wait."""
        self._at_end.setdefault(service, []).append(action)

    def deliver(self, message: Message) -> None:
        """Take a reply. Raises ProtocolError for anything else."""
        if not isinstance(message, Reply):
            raise ProtocolError(f"callers outside the job cannot take a {type(message).__name__}")
        self.take_reply(message)

    def in_activation(self) -> bool:
        return False

    def end_service(self, name: str) -> tuple[int, ...]:
        """Refuse further calls of a service; tell its subtasks that were called, and return their addresses."""
        self._prepare_end(name)
        with self._lock:
            self._ended.setdefault(name, f"service {name!r} has ended with job {self._plan.job!r}")
            while self._sending:  # requests under way must be sent before `EndOfRequests`
                self._condition.wait()
        called = tuple(address for address in self._replicas[name] if address in self._called)
        for address in called:
            self._transport.send(self._address, address, EndOfRequests(self._address))
        return called

    def close(self, why: str) -> None:
        """No subtask can answer any more: end the open calls, and refuse all others."""
        for name in self._replicas:
            self._prepare_end(name)
        with self._lock:
            for name in self._replicas:
                self._ended.setdefault(name, why)
            waiting = self._calls.fail_all(ServiceUnavailable(why), self.now())
            self._condition.notify_all()
        call_back(waiting)
        while self._at_close:
            self._at_close.pop()()

    def _prepare_end(self, name: str) -> None:
        for action in self._at_end.pop(name, ()):
            action()

    def _refused(self, service: ServicePlan) -> Outcome | None:
        why = self._ended.get(service.name)
        return None if why is None else Outcome(error=ServiceUnavailable(why))

    def _send(self, made: OpenCall, call: Call) -> None:
        with self._lock:
            why = self._ended.get(made.service)
            self._sending += why is None
        if why is not None:
            made.target = None  # it was not sent, and will not be
            self._end(made, Outcome(error=ServiceUnavailable(why)))
            return
        try:
            super()._send(made, call)
        finally:
            with self._lock:
                self._sending -= 1
                self._condition.notify_all()
