"""How a service's subtask answers: shares of a call on the way through a pipeline, methods of an object."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

from sage_flow.errors import InternalError, ServiceError
from sage_flow.runtime.caller import activation_deadline
from sage_flow.runtime.failure import add_notes, pack_error, shorten
from sage_flow.runtime.messages import EndOfRequests, EndService, Message, Reply, Request, Ticket
from sage_flow.runtime.outputs import Output
from sage_flow.runtime.port import UNWINDING, Port

__all__ = ["Answering", "CallersGate", "LateShare", "error_for_caller"]


def error_for_caller(error: BaseException) -> BaseException:
    """What the caller of a service gets for `error`: what would end the caller or one of its loops is not the caller's.

    That is every BaseException that is no Exception, and StopIteration, which ends a loop or a generator silently.
    """
    if isinstance(error, SystemExit):
        what = f"the service called sys.exit({error.code!r}), which ends neither it nor its caller: raise an exception"
    elif isinstance(error, (StopIteration, StopAsyncIteration)):
        what = f"the service raised {shorten(error)}, which would end a loop of its caller: raise another exception"
    elif not isinstance(error, Exception):
        what = f"the service raised {shorten(error)}, which ends neither it nor its caller: raise an Exception"
    else:
        return error
    told = ServiceError(what)
    told.__cause__ = error
    add_notes(told, getattr(error, "__notes__", ()))
    return told.with_traceback(error.__traceback__)


class CallersGate:
    """When no request can come any more: the driver named all callers, and each said it was the last."""

    def __init__(self) -> None:
        self._expected: frozenset[int] | None = None
        self._gone: set[int] = set()

    def on_message(self, message: Message) -> bool:
        """Return whether the message was for the gate."""
        match message:
            case EndOfRequests(caller):
                self._gone.add(caller)
            case EndService(callers):
                self._expected = frozenset(callers)
            case _:
                return False
        return True

    @property
    def are_all_gone(self) -> bool:
        return self._expected is not None and self._expected <= self._gone


class LateShare:
    """The share of a part of a record whose result comes later; `deadline` is when nobody waits for it any more."""

    def __init__(self, ticket: Ticket, deadline: float) -> None:
        self.deadline = deadline
        self._ticket = ticket

    def add(self, share: Fraction) -> None:
        """Nothing else came of the record: what was left of it counts here, and needs no reply of its own."""
        self._ticket = self._ticket._replace(share=self._ticket.share + share)

    def ticket(self, now: float) -> Ticket:
        """Return it as it is now."""
        return self._ticket._replace(remaining_s=self.deadline - now)


class Answering:
    """The share that the record under way stands for, and its division among what comes of it.

    `outputs` are those whose records stay in the service's pipeline or are its replies. `explain` adds to an error
    whose it is, before it leaves the service.
    """

    def __init__(
        self, port: Port, outputs: Sequence[Output], explain: Callable[[BaseException], None] = lambda error: None
    ) -> None:
        self._port = port
        self._outputs = outputs
        self._explain = explain
        self._copying = [output for output in outputs if output.sends_copies]
        self._ticket: Ticket | None = None
        self._late: LateShare | None = None  # the latest that was split off the record under way
        self._deadline = 0.0

    @property
    def given_up_at(self) -> float:
        """When the caller gives up whose record is under way; infinitely long ago without one."""
        return -math.inf if self._ticket is None else self._deadline

    @property
    def is_active(self) -> bool:
        """Whether the record under way carries a share of a call."""
        return self._ticket is not None

    def ticket_for(self, request: Request) -> Ticket | None:
        """Return the whole of the call, None if its time has passed and nobody waits for it.

        A request of the wrong form is answered here, with an error.
        """
        remaining_s = request.deadline - self._port.now()
        if remaining_s <= 0:
            return None
        if len(request.args) == 1 and not request.kwargs:
            return Ticket(request.reply_to, request.call_id, Fraction(1), remaining_s)
        error = ServiceError(
            f"a PipelineService takes one positional argument, the record, not {len(request.args)} and"
            f" keywords {sorted(request.kwargs)}"
        )
        self._port.reply(request.reply_to, Reply(request.call_id, 0, (), pack_error(error)))
        return None

    @contextmanager
    def record(self, ticket: Ticket) -> Iterator[None]:
        """Process one record of a call inside; then its share goes on with its outputs, or back.

        What is raised is the call's outcome and ends here, also SystemExit and its like.
        """
        self._ticket = ticket
        self._late = None
        self._deadline = self._port.now() + ticket.remaining_s
        token = activation_deadline.set(self._deadline)
        try:
            yield
            self._divide(ticket._replace(share=self._ticket.share))
        except UNWINDING:
            raise
        except BaseException as error:
            for output in self._outputs:
                output.records.clear()
            self._explain(error)
            self._port.reply(ticket.reply_to, Reply(ticket.call_id, 0, (), pack_error(error_for_caller(error))))
        finally:
            activation_deadline.reset(token)
            self._ticket = None

    def flush_half(self) -> None:
        """Send what is buffered before the number of outputs is known: it takes half of what is left."""
        if self._ticket is None or not any(output.records for output in self._outputs):
            return
        half = self._ticket._replace(share=self._ticket.share / 2)
        self._divide(half)
        self._ticket = half

    def split(self) -> LateShare:
        """Take half of what is left, for a part of the record that comes later."""
        if self._ticket is None:
            raise InternalError("no record of a call is under way")
        self._ticket = self._ticket._replace(share=self._ticket.share / 2)
        self._late = LateShare(self._ticket, self._deadline)
        return self._late

    def _divide(self, ticket: Ticket) -> None:
        total = sum(output.copies() for output in self._outputs)
        if total == 0 and self._late is not None:
            self._late.add(ticket.share)
        elif total == 0:
            self._port.reply(ticket.reply_to, Reply(ticket.call_id, ticket.share, ()))
        if total == 0:
            return
        for output in self._copying:
            output.make_own()
        part = ticket._replace(share=ticket.share / total, remaining_s=self._deadline - self._port.now())
        for output in self._outputs:
            output.flush(part)
