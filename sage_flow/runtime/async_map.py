"""Records whose function has been started and has not ended: the inside of `map_async`.

At most `capacity` of them. Their results leave in the order of the records, or as they come. In a service's
pipeline each carries a share of its call, which it takes from the record that it is part of.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.functions import RuntimeContext
from sage_flow.plan.graph import Operator
from sage_flow.runtime.answering import LateShare
from sage_flow.runtime.failure import is_of_pipeline, shorten
from sage_flow.runtime.first_values import check_value
from sage_flow.runtime.held import Held
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.parts import Parts
from sage_flow.runtime.port import UNWINDING, Port, Task
from sage_flow.runtime.retrying import retried_coroutine
from sage_flow.service import ServiceFuture

__all__ = ["AsyncMap", "Pending"]


@dataclass(slots=True, eq=False)
class Pending:
    """A record under way, in a service with its share.

    Where records have timestamps: its own, and how far event time was when it came. Where they have keys, its key.
    """

    record: Any
    key: Any = None
    timestamp: int = 0
    came_at: float = -math.inf
    task: Task | None = None
    error: Exception | None = None  # of the function itself, before there was a task
    share: LateShare | None = None

    def is_done(self) -> bool:
        return self.task is None or self.task.done()

    def has_outcome(self) -> bool:
        """The same, asked under the lock of the port, which `ServiceFuture.done` takes to end a late call."""
        if isinstance(self.task, ServiceFuture):
            return self.task.has_outcome
        return self.is_done()

    def result(self) -> Any:
        """Return the result. Raises what the function raised."""
        if self.error is not None:
            raise self.error
        return None if self.task is None else self.task.result()


class AsyncMap(Held):
    """`split` gives the share of a record of a call, None if there is no call."""

    def __init__(
        self,
        bound: BoundOperator,
        port: Port,
        split: Callable[[], LateShare | None],
        explain: Callable[[BaseException, Operator, Any], None],
    ) -> None:
        self._bound = bound
        self._port = port
        self._split = split
        self._explain = explain
        options = bound.operator.options
        self._capacity: int = options["capacity"]
        self._ordered: bool = options["ordered"]
        self._timeout_s: float | None = options["timeout_s"]
        self._is_timed = bound.operator.timed
        self._is_keyed = bound.operator.keyed
        self._pending: deque[Pending] = deque()
        self._function: Callable[..., Any] = bound.functions[0]
        if (retry := options.get("retry")) is not None:
            self._function = retried_coroutine(self._awaitable, retry)

    @property
    def is_empty(self) -> bool:
        """No record is under way."""
        return not self._pending

    @property
    def given_up_at(self) -> float:
        """When the first caller of a record under way gives up, or has; infinitely long ago without one."""
        shares = [pending.share for pending in list(self._pending)]
        return min((share.deadline for share in shares if share is not None), default=-math.inf)

    @property
    def is_full(self) -> bool:
        """No further record may be taken before a result has left."""
        return len(self._pending) >= self._capacity

    def has_result(self) -> bool:
        """Whether a result can leave now."""
        if self._ordered:
            return bool(self._pending) and self._pending[0].is_done()
        return any(pending.is_done() for pending in self._pending)

    def await_result(self) -> None:
        """Suspend until a result can leave. Late calls are ended by the port while it waits."""
        waited = self._pending if not self._ordered else deque([self._pending[0]])
        self._port.suspend_until(lambda: any(pending.has_outcome() for pending in waited))

    def take(self, record: Any, *_: Any) -> Iterable[Any]:
        """Start the function for a record; return results that can leave, outside of a call.

        Suspends while there is no room; a call's record always has it, its subtask looks before.
        """
        share = self._split()
        pending = Pending(record, share=share)
        if self._is_keyed:
            pending.key = self._bound.context.key
        if self._is_timed:
            pending.timestamp, pending.came_at = self._bound.context.timestamp, self._bound.now
        if share is not None:
            self._start(pending)
            return ()
        if self.is_full:
            self.await_result()
            results = list(self.results())
            self._start(pending)
            return results
        self._start(pending)
        return self.results()

    def holds(self, now: float) -> float:
        """The watermark that was there when the oldest record under way came may pass, and no later one."""
        return self._pending[0].came_at if self._pending else now

    def results(self) -> Iterator[Any]:
        """Take out the results that can leave, with their timestamps where records have some.

        Raises what the function raised, unless `on_error` lets it pass.
        """
        for pending in self.finished():
            try:
                result = self.result_of(pending)
            except UNWINDING:
                raise
            except BaseException as error:
                self.on_failure(pending, error)
            else:
                yield (result, pending.timestamp) if self._is_timed else result

    def finished(self) -> Iterator[Pending]:
        """Take out the records whose results can leave."""
        if self._ordered:
            while self._pending and self._pending[0].is_done():
                yield self._pending.popleft()
            return
        done = [pending for pending in self._pending if pending.is_done()]
        for pending in done:
            self._pending.remove(pending)
        yield from done

    def result_of(self, pending: Pending) -> Any:
        """Return the result of a record. Raises what the function raised; PipelineError if it is a promise again."""
        return check_value(self._bound.operator, pending.result())

    def on_failure(self, pending: Pending, error: BaseException) -> None:
        """Let the record pass as `on_error` says, or raise the error; no StopIteration, which would end a loop."""
        operator = self._bound.operator
        if operator.on_error != "fail" and isinstance(error, Exception) and not is_of_pipeline(error):
            if self._is_timed:
                self._bound.context.timestamp = pending.timestamp
            self._bound.reject(pending.record, error)
            return
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            told = RuntimeError(f"the function of {operator.name!r} raised {shorten(error)}")
            self._explain(told, operator, pending.record)
            raise told from error
        self._explain(error, operator, pending.record)
        raise error

    def _start(self, pending: Pending) -> None:
        try:
            pending.task = self._task(self._function(pending.record, *self._context()))
        except Exception as error:
            pending.error = error
        self._pending.append(pending)

    def _context(self) -> tuple[RuntimeContext, ...]:
        """With a key or a timestamp, each record has its own: when a coroutine goes on, another one is the latest."""
        operator, context = self._bound.operator, self._bound.context
        if not operator.with_ctx[0]:
            return ()
        return (context.for_later() if operator.keyed or operator.timed else context,)

    def _task(self, made: Any) -> Task:
        if isinstance(made, ServiceFuture):
            made.add_done_callback(lambda _: self._port.wake())
            return made
        return self._port.start(self._checked(made), self._timeout_s)

    def _awaitable(self, *args: Any) -> Awaitable[Any]:
        return self._checked(self._bound.functions[0](*args))

    def _checked(self, made: Any) -> Awaitable[Any]:
        if isinstance(made, (Awaitable, ServiceFuture)):
            return made
        operator = self._bound.operator
        raise PipelineError(
            f"the function of {operator.name!r} ({operator.location}) must be `async def`, or return a ServiceFuture"
            f" (ctx.service(...).method.remote(...)), not a {type(made).__name__}"
        )

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """The records under way, as they came, and how far time was then: their functions are called again."""
        records = [(one.key, (one.record, one.timestamp, one.came_at)) for one in self._pending]
        return Parts(keyed={"under way": records}) if self._is_keyed else Parts(own={"under way": records})

    def restore(self, parts: Parts) -> None:
        """Start their functions, also where these are more than the capacity."""
        context, kept = self._bound.context, parts.keyed if self._is_keyed else parts.own
        # Of several subtasks: the first one says how far time may go.
        for key, (record, timestamp, came_at) in sorted(kept.get("under way", ()), key=lambda one: one[1][2]):
            pending = Pending(record, key, timestamp, came_at)
            if self._is_keyed:
                context.key = key
            if self._is_timed:
                context.timestamp = timestamp
            self._start(pending)
