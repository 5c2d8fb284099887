"""The port: the only door of the runtime to the world. Shells implement it; tests fake it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_flow.errors import JobCancelled
from sage_flow.plan.physical import ServicePlan
from sage_flow.runtime.calls import OpenCall, Outcome
from sage_flow.runtime.messages import ControlElement, Reply, Request, Ticket
from sage_flow.runtime.opening import Openings
from sage_flow.service import Call

if TYPE_CHECKING:
    from sage_flow.queues.descriptor import BaseQueueDescriptor

__all__ = ["UNWINDING", "CallPort", "Crashed", "Port", "Task"]


class Crashed(BaseException):
    """Ends an activation as kill -9 would: nothing is closed and nobody is told."""


UNWINDING: Final = (JobCancelled, Crashed)
"""What unwinds an activation from outside. Every other BaseException is an error of the user code that raised it."""


class CallPort(Protocol):
    """The door for calls of services; that of callers outside the job is nothing more.

    `openings`: which services are open, as far as is known here.
    """

    openings: Openings

    def call(
        self, service: ServicePlan, call: Call, timeout_s: float, group: int | None, pool: str | None = None
    ) -> OpenCall:
        """Call a service; suspends for a place among `max_pending`. `group` is the key group that chooses the replica.

        The places of a `pool` are counted separately. A call that could not be made comes back with its outcome, an
        error.
        """

    def has_place(self, service: ServicePlan, pool: str | None = None) -> bool:
        """Whether `call` would not wait for a place."""

    def await_call(self, call: OpenCall, deadline: float | None = None) -> Outcome | None:
        """Suspend until a call has its outcome, and return that; None: `deadline` has passed."""

    def await_calls(self, calls: Sequence[OpenCall], count: int, deadline: float | None) -> None:
        """Suspend until `count` of the calls have their outcome, or `deadline` has passed.

        A call whose own deadline has passed has its outcome. What was queued goes out meanwhile.
        """

    def until_outcome(self, call: OpenCall) -> Generator[Any, None, None]:
        """What a coroutine awaits until a call has its outcome; if the coroutine is cancelled, so is the call."""

    def poll(self, call: OpenCall) -> Outcome | None:
        """Return the outcome of a call, None while it is open."""

    def flush(self) -> None:
        """Let requests go that may wait for others: the caller waits in a way of its own."""

    def cancel(self, call: OpenCall) -> bool:
        """End a call that is open; return whether it was. Its request is taken back if it was not started."""

    def on_outcome(self, call: OpenCall, callback: Callable[[], object]) -> None:
        """Call back, from any thread, once the call has its outcome; now if it has it."""

    def in_activation(self) -> bool:
        """Whether the calling thread is the subtask's own, not one of user code."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""


class Task(Protocol):
    """A coroutine that runs, or a call: `concurrent.futures.Future` and `ServiceFuture` are such."""

    def done(self) -> bool: ...

    def result(self) -> Any: ...


class Port(CallPort, Protocol):
    """What a shell gives a subtask. Methods that may suspend the activation say so; no other does.

    A suspended activation whose job is cancelled is unwound with `JobCancelled`.
    """

    user_lock: AbstractContextManager[Any]
    """Guards what several threads of user code may change; nothing waits while it is held."""

    def wall_ms(self) -> int:
        """The wall clock in ms since 1970; it never goes back."""

    def emit(self, channel: int, records: list[Any], tickets: list[Ticket] | None = None) -> None:
        """Send records, in order. Suspends until the channel's credit has let them all start."""

    def queue(self, channel: int, records: list[Any], tickets: list[Ticket] | None = None) -> None:
        """Like `emit`, but never suspends: what has no credit goes out while the activation waits elsewhere."""

    def emit_element(self, channel: int, element: ControlElement) -> None:
        """Send one control element behind the records sent before. Suspends like `emit`.

        A barrier and the end of input need no credit of their own. A watermark that still waits for credit is replaced
        by a newer one directly behind it.
        """

    def queue_element(self, channel: int, element: ControlElement) -> None:
        """Like `emit_element`, but never suspends, as `queue` does for records."""

    def shares_objects(self, channel: int) -> bool:
        """Whether the reader of a channel gets the records themselves, not pickles of them."""

    def consumed(self, channel: int, cost: int) -> None:
        """A frame of this cost was processed: its producer may send as much again."""

    def reply(self, caller: int, reply: Reply) -> None:
        """Send a share of a call's outcome to the subtask that made the call."""

    def begin(self, request: Request) -> bool:
        """A request that waited is looked at now: its time in the queue is over. False if it was taken back."""

    def start(self, awaitable: Awaitable[Any], timeout_s: float | None = None) -> Task:
        """Await something on the event loop of the subtask; its end wakes the subtask.

        After `timeout_s` seconds it ends in TimeoutError.
        """

    def wake(self) -> None:
        """Wake the subtask, from any thread: something that it looks at has changed."""

    def before_long_wait(self, queue_emitted: Callable[[], None]) -> None:
        """Set what is called when the activation waits inside user code and does not get its answer at once.

        `queue_emitted` queues the records that user code has emitted, since the answer may depend on them.
        """

    def suspend_until(self, is_ready: Callable[[], bool]) -> None:
        """Suspend until `is_ready()`, which is asked whenever the subtask is woken."""

    def resource(self, asker: str, name: str, factory: Callable[[], Any], close: Callable[[Any], object] | None) -> Any:
        """Return what the subtasks of this process share under this name; `asker` is the operator that asks.

        Suspends while another activation makes it. Raises: PipelineError; what the factory raises.
        """

    def open_queue(self, queue_id: str, maxsize: int) -> BaseQueueDescriptor:
        """Return the job's queue of this name. Raises: ValueError."""
