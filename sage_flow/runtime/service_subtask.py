"""One replica of a class service: requests in, replies out. Several activations may answer at once."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sage_flow.batching import batch_limits, replies_of, unbatched
from sage_flow.errors import CodecError, PipelineError, ProtocolError, ServiceError, UnknownService
from sage_flow.functions import RuntimeContext
from sage_flow.plan.arguments import arguments_of
from sage_flow.plan.physical import Plan, Subtask
from sage_flow.plan.service_methods import check_methods, public_methods
from sage_flow.runtime.answering import CallersGate, error_for_caller
from sage_flow.runtime.call_batches import CallBatch, CallBatches
from sage_flow.runtime.caller import Caller, activation_deadline
from sage_flow.runtime.failure import explain_service_failure, pack_error, shorten, shown_record
from sage_flow.runtime.messages import Message, Reply, Request
from sage_flow.runtime.port import UNWINDING, Port
from sage_flow.runtime.report import Counters, SubtaskReport
from sage_flow.runtime.user_metrics import UserMetrics
from sage_flow.service import Service

__all__ = ["ServiceSubtask"]

_MOST_ARGUMENTS: Final = 5  # of a call, in the text of an error


class ServiceSubtask:
    """Makes the object, opens it, and answers requests by calling its methods."""

    def __init__(self, plan: Plan, subtask: Subtask, port: Port) -> None:
        self.plan = plan
        self.subtask = subtask
        self.concurrency = plan.services[subtask.chain.head.name].concurrency
        self._port = port
        self._operator = subtask.chain.head
        self._counters = Counters(subtask.chain.operators)
        self._metrics = UserMetrics(self._operator.name, port.user_lock)
        self._caller = Caller(plan.services, port)
        self._callers = CallersGate()
        self.is_over = self._callers.are_all_gone
        """No request will come any more."""
        self._object: Any = None
        self._under_way: dict[tuple[int, int], float] = {}  # deadlines of the calls that are being answered
        self._taken_back: set[tuple[int, int]] = set()  # of these, perhaps of some that have just ended
        self._methods: dict[str, bool] = {}  # by name: whether it is a coroutine
        self.batches = CallBatches({})
        """Calls of batched methods that wait for others; guarded by the port."""

    def open(self) -> float:
        """Make the object, open it and warm it up; return after how many seconds its health is checked each time."""
        context = RuntimeContext(
            self.plan.job,
            self._operator.name,
            self.subtask.index,
            self.subtask.chain.parallelism,
            services=self._caller,
            open_queue=None if self.plan.queues is None else self._port.open_queue,
            resource=self._port.resource,
            job_id=self.plan.job_id,
            attempt=self.plan.attempt,
            metrics=self._metrics,
        )
        with self._explained("its constructor"):
            args, kwargs = arguments_of(self._operator)
            made = self._operator.functions[0](*args, **kwargs)
        with self._explained("open()"):
            check_methods(self._operator.name, made)
            self._methods = {n: inspect.iscoroutinefunction(getattr(made, n)) for n in public_methods(made)}
            limits = batch_limits(made, self._methods)
            self.batches = CallBatches(limits)
            if limits and limits.keys() == self._methods.keys():  # a batch is as many calls at a time as it may have
                self.concurrency = max(1, self.concurrency // min(limit.max_size for limit in limits.values()))
            check_every_s = _health_check_period_s(made)
            _life_cycle(made, "open")(context)
        self._object = made
        with self._explained("warm_up()"):
            _life_cycle(made, "warm_up")()
        return check_every_s

    def check_health(self) -> None:
        """Ask the object whether it is well. Raises what it raises, which fails the job."""
        with self._explained("check_health()"):
            _life_cycle(self._object, "check_health")()

    def close(self) -> None:
        """Close the object, if it was opened."""
        self._caller.begin_close()
        if self._object is None:
            return
        made, self._object = self._object, None
        with self._explained("close()"):
            _life_cycle(made, "close")()

    def snapshot(self) -> Any:
        """Return the object's state, None if it keeps none; only while no method runs."""
        take = getattr(self._object, "snapshot", None)
        return None if take is None else take()

    def restore(self, state: Any) -> None:
        """Give the object, which was opened, a state back. Raises PipelineError if it takes none."""
        give = getattr(self._object, "restore", None)
        if give is None:
            name = self._operator.name
            raise PipelineError(f"service {name!r} has a snapshot() but no restore(state) to take it back")
        give(state)

    def report(self, queued: int = 0) -> SubtaskReport:
        """How many calls were answered."""
        metrics = self._metrics.told()
        return self._counters.report(queued)._replace(metrics={self._operator.name: metrics} if metrics else {})

    def given_up_at(self) -> float:
        """When the first caller of a call under way gives up, or has; infinitely long ago without one."""
        under_way = dict(self._under_way)
        if self._taken_back & under_way.keys():
            return -math.inf
        return min(under_way.values(), default=-math.inf)

    def on_taken_back(self, caller: int, call: int) -> None:
        """The caller has given up, from whatever thread, which has the lock of the port."""
        self.batches.drop(caller, call)
        if (caller, call) in self._under_way:
            self._taken_back.add((caller, call))

    def on_message(self, message: Message) -> Request | None:
        """Return the request that is to be answered, if the message is one. Raises ProtocolError."""
        if isinstance(message, Request):
            return message
        if not self._callers.on_message(message):
            raise ProtocolError(f"a service cannot take a {type(message).__name__}")
        self.is_over = self.batches.is_closing = self._callers.are_all_gone
        return None

    @property
    def awaits(self) -> bool:
        """Whether some of its methods are coroutines."""
        return any(self._methods.values())

    @property
    def blocks(self) -> bool:
        """Whether some of its methods are not."""
        return not self._methods or not all(self._methods.values())

    def answer(self, request: Request, release: Callable[[], None]) -> None:
        """Call the method and reply; `release` is called when that is done, which is later for a coroutine.

        An error is the caller's; work whose time has passed is not started, and a coroutine is cancelled then.
        """
        now = self._port.now()
        if request.deadline <= now:
            release()
            return
        self._under_way[request.reply_to, request.call_id] = request.deadline
        if self._methods.get(request.method):
            self._port.start(self._answer_awaiting(request, release), request.deadline - now)
            return
        token = activation_deadline.set(request.deadline)
        try:
            self._reply(request, self._outcome(request))
        finally:
            activation_deadline.reset(token)
            self._done((request,), release)

    async def _answer_awaiting(self, request: Request, release: Callable[[], None]) -> None:
        activation_deadline.set(request.deadline)  # in this task, whose context is its own
        try:
            try:
                value = await self._method(request.method)(*request.args, **request.kwargs)
                reply = Reply(request.call_id, 1, (value,))
            except UNWINDING:
                raise
            except BaseException as error:  # also what ends a task: nobody else would tell the caller
                if request.deadline <= self._port.now() and not isinstance(error, Exception):
                    raise  # mostly it is cancelled because nobody waits any more
                reply = self._error_reply(request, error)
            self._reply(request, reply)
        finally:
            self._done((request,), release)

    def answer_batch(self, batch: CallBatch, release: Callable[[], None]) -> None:
        """Call a batched method with the values of several calls, and reply to each; see `answer`.

        The calls that the method makes have the time of the call in the batch that waits for longest.
        """
        requests = [request for request in batch.requests if _has_one_value(request)]
        for request in batch.requests:
            if not _has_one_value(request):
                self._reply(request, self._error_reply(request, _wrong_arguments(request)))
        last = max((request.deadline for request in requests), default=-math.inf)
        for request in requests:
            self._under_way[request.reply_to, request.call_id] = request.deadline
        if requests and self._methods[batch.method]:
            self._port.start(self._answer_batch_awaiting(requests, last, release), last - self._port.now())
            return
        token = activation_deadline.set(last)
        try:
            if requests:
                self._reply_to_all(requests, unbatched(self._method(batch.method))(_values(requests)))
        except UNWINDING:
            raise
        except BaseException as error:
            self._reply_error_to_all(requests, error)
        finally:
            activation_deadline.reset(token)
            self._done(requests, release)

    async def _answer_batch_awaiting(self, requests: list[Request], last: float, release: Callable[[], None]) -> None:
        activation_deadline.set(last)
        try:
            self._reply_to_all(requests, await unbatched(self._method(requests[0].method))(_values(requests)))
        except UNWINDING:
            raise
        except BaseException as error:
            if last <= self._port.now() and not isinstance(error, Exception):
                raise
            self._reply_error_to_all(requests, error)
        finally:
            self._done(requests, release)

    def _reply_to_all(self, requests: list[Request], returned: Any) -> None:
        for request, value in zip(requests, replies_of(requests[0].method, returned, len(requests)), strict=True):
            if isinstance(value, BaseException):
                self._reply(request, self._error_reply(request, value))
            else:
                self._reply(request, Reply(request.call_id, 1, (value,)))

    def _reply_error_to_all(self, requests: list[Request], error: BaseException) -> None:
        method = requests[0].method
        self._explain(error, f"method {method!r}", f"{method}(...) with a batch of {len(requests)}")
        packed = pack_error(error_for_caller(error))
        for request in requests:
            self._reply(request, Reply(request.call_id, 0, (), packed))

    def _done(self, requests: Sequence[Request], release: Callable[[], None]) -> None:
        for request in requests:
            call = request.reply_to, request.call_id
            self._under_way.pop(call, None)
            if self._taken_back:
                self._taken_back.discard(call)
        release()

    def _outcome(self, request: Request) -> Reply:
        try:
            value = self._method(request.method)(*request.args, **request.kwargs)
        except UNWINDING:
            raise
        except BaseException as error:
            return self._error_reply(request, error)
        return Reply(request.call_id, 1, (value,))

    def _error_reply(self, request: Request, error: BaseException) -> Reply:
        self._explain(error, f"method {request.method!r}", _call_text(request))
        return Reply(request.call_id, 0, (), pack_error(error_for_caller(error)))

    def _reply(self, request: Request, reply: Reply) -> None:
        try:
            self._port.reply(request.reply_to, reply)
        except CodecError as error:
            self._port.reply(request.reply_to, Reply(request.call_id, 0, (), pack_error(error)))
        self._counters.emitted[0] += 1

    def _method(self, name: str) -> Callable[..., Any]:
        if name not in self._methods:
            known = ", ".join(sorted(self._methods)) or "none"
            raise UnknownService(f"service {self._operator.name!r} has no method {name!r}; it has: {known}")
        method: Callable[..., Any] = getattr(self._object, name)
        return method

    def _explain(self, error: BaseException, what: str, call: str | None = None) -> None:
        operator = self._operator
        place = f"subtask {self.subtask.index + 1} of {self.subtask.chain.parallelism}"
        where = f"{what}, {place}, job {self.plan.job!r}, registered at {operator.location}"
        explain_service_failure(error, operator.name, where, call)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Errors of the object's life fail the job. What would end the whole program without a word becomes one."""
        try:
            yield
        except UNWINDING:
            raise
        except Exception as error:
            self._explain(error, what)
            raise
        except BaseException as error:
            did = f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"raised {shorten(error)}"
            told = ServiceError(f"service {self._operator.name!r} {did} in {what}: raise an Exception instead")
            self._explain(told, what)
            raise told.with_traceback(error.__traceback__) from error


def _has_one_value(request: Request) -> bool:
    return len(request.args) == 1 and not request.kwargs


def _wrong_arguments(request: Request) -> ServiceError:
    given = f"{len(request.args)} and keywords {sorted(request.kwargs)}"
    return ServiceError(f"batched method {request.method!r} takes one positional argument, not {given}")


def _values(requests: list[Request]) -> list[Any]:
    return [request.args[0] for request in requests]


def _call_text(request: Request) -> str:
    """A call as one would write it, at most a few arguments long."""
    given = [shown_record(value) for value in request.args]
    given += [f"{name}={shown_record(value)}" for name, value in request.kwargs.items()]
    more = [f"... {len(given) - _MOST_ARGUMENTS} more"] if len(given) > _MOST_ARGUMENTS else []
    return f"{request.method}({', '.join(given[:_MOST_ARGUMENTS] + more)})"


def _health_check_period_s(made: Any) -> float:
    """How often the health of an object is checked; infinity for one that has no check. Raises PipelineError."""
    check = getattr(type(made), "check_health", None)
    if check is None or check is Service.check_health:
        return math.inf
    period_s = getattr(made, "health_check_period_s", Service.health_check_period_s)
    if isinstance(period_s, bool) or not isinstance(period_s, (int, float)) or not period_s > 0:
        raise PipelineError(f"health_check_period_s must be a number of seconds above 0, not {period_s!r}")
    return period_s


def _life_cycle(made: Any, name: str) -> Callable[..., Any]:
    """`open` and `close` are optional for plain classes."""
    method: Callable[..., Any] = getattr(made, name, lambda *_: None)
    return method
