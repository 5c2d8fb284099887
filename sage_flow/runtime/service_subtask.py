"""One replica of a class service: requests in, replies out. Several activations may answer at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage_flow.channels.frame import Message, Reply, Request
from sage_flow.errors import CodecError, JobCancelled, ProtocolError, UnknownService
from sage_flow.functions import RuntimeContext
from sage_flow.plan.physical import Plan, Subtask
from sage_flow.plan.planner import public_methods
from sage_flow.runtime.answering import CallersGate
from sage_flow.runtime.caller import ActivationDeadline, Caller
from sage_flow.runtime.failure import explain_failure, pack_error
from sage_flow.runtime.port import Port
from sage_flow.runtime.report import Counters, SubtaskReport

__all__ = ["ServiceSubtask"]


class ServiceSubtask:
    """Makes the object, opens it, and answers requests by calling its methods."""

    def __init__(self, plan: Plan, subtask: Subtask, port: Port) -> None:
        self.plan = plan
        self.subtask = subtask
        self.concurrency = plan.services[subtask.chain.head.name].concurrency
        self._port = port
        self._operator = subtask.chain.head
        self._counters = Counters(subtask.chain.operators)
        self._caller = Caller(plan.services, port, before_call=lambda: None)
        self._callers = CallersGate()
        self._object: Any = None
        self._methods: frozenset[str] = frozenset()

    def open(self) -> None:
        """Make the object and open it."""
        context = RuntimeContext(
            self.plan.job,
            self._operator.name,
            self.subtask.index,
            self.subtask.chain.parallelism,
            services=self._caller,
        )
        try:
            made = self._operator.functions[0](*self._operator.options["args"], **self._operator.options["kwargs"])
            self._methods = public_methods(made)
            _life_cycle(made, "open")(context)
        except Exception as error:
            self._explain(error)
            raise
        self._object = made

    def close(self) -> None:
        """Close the object, if it was opened."""
        if self._object is None:
            return
        made, self._object = self._object, None
        try:
            _life_cycle(made, "close")()
        except Exception as error:
            self._explain(error)
            raise

    def commit(self) -> None:
        """A service publishes nothing."""

    def abort(self) -> None:
        """A service publishes nothing."""

    def report(self, queued: int = 0) -> SubtaskReport:
        """How many calls were answered."""
        return self._counters.report(queued)

    def on_message(self, message: Message) -> Request | None:
        """Return the request that is to be answered, if the message is one. Raises ProtocolError."""
        if isinstance(message, Request):
            return message
        if not self._callers.on_message(message):
            raise ProtocolError(f"a service cannot take a {type(message).__name__}")
        return None

    @property
    def is_over(self) -> bool:
        """No request will come any more."""
        return self._callers.are_all_gone

    def answer(self, request: Request) -> None:
        """Call the method and reply. An error is the caller's; work whose time has passed is not started."""
        if request.deadline <= self._port.now():
            return
        with ActivationDeadline(request.deadline):
            reply = self._outcome(request)
        try:
            self._port.reply(request.reply_to, reply)
        except CodecError as error:
            self._port.reply(request.reply_to, Reply(request.call_id, 0, (), pack_error(error)))
        self._counters.emitted[0] += 1

    def _outcome(self, request: Request) -> Reply:
        try:
            value = self._method(request.method)(*request.args, **request.kwargs)
        except JobCancelled:
            raise
        except Exception as error:
            self._explain(error)
            return Reply(request.call_id, 0, (), pack_error(error))
        return Reply(request.call_id, 1, (value,))

    def _method(self, name: str) -> Callable[..., Any]:
        if name not in self._methods:
            known = ", ".join(sorted(self._methods)) or "none"
            raise UnknownService(f"service {self._operator.name!r} has no method {name!r}; it has: {known}")
        method: Callable[..., Any] = getattr(self._object, name)
        return method

    def _explain(self, error: Exception) -> None:
        place = f"subtask {self.subtask.index + 1} of {self.subtask.chain.parallelism}"
        explain_failure(error, self._operator, subtask=place, job=self.plan.job, has_record=False)


def _life_cycle(made: Any, name: str) -> Callable[..., Any]:
    """`open` and `close` are optional for plain classes."""
    method: Callable[..., Any] = getattr(made, name, lambda *_: None)
    return method
