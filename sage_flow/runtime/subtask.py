"""One subtask of a chain: frames and requests in, records and replies out.

The worker hands it what arrived (`on_message`) and asks it to go on (`advance`), one slice of records at a time;
between slices it sends what the chain gave, and the worker looks for commands. User code runs inside `advance` and may
be suspended there, in `emit` or in a call.

Here is only the step loop. `inputs.py` says what is next, `runner.py` runs records and sends what comes of them,
`call_records.py` does so where a record stands for a call, `lifecycle.py` opens, closes, commits and aborts, and
`blame.py` explains errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

from sage_flow.errors import CodecError, PipelineError, ProtocolError
from sage_flow.functions import END, IDLE, Malformed, Source
from sage_flow.plan import kinds
from sage_flow.plan.physical import Plan
from sage_flow.plan.physical import Subtask as SubtaskPlan
from sage_flow.runtime.barrier import TakeSnapshot
from sage_flow.runtime.call_records import CallRecords
from sage_flow.runtime.caller import Caller
from sage_flow.runtime.cut import Cutter
from sage_flow.runtime.gate import AllInputsEnded
from sage_flow.runtime.inputs import Inputs, Slices
from sage_flow.runtime.lifecycle import Lifecycle
from sage_flow.runtime.messages import (
    AbortCheckpoint,
    Barrier,
    BeginCheckpoint,
    CheckpointComplete,
    Control,
    Data,
    Drain,
    EndOfInput,
    Message,
    Request,
)
from sage_flow.runtime.parts import Parts
from sage_flow.runtime.port import UNWINDING, Port
from sage_flow.runtime.rate_limit import rate_of
from sage_flow.runtime.report import SubtaskReport
from sage_flow.runtime.rests import Rests, keep_rests, kept_rests
from sage_flow.runtime.runner import Runner
from sage_flow.runtime.sinks import SubtaskSinks
from sage_flow.runtime.watermark import Advance, BecomeIdle
from sage_flow.split_source import SplitSource
from sage_flow.splits import FINISHED, SplitSignal

__all__ = ["READS", "ChainSubtask", "Done", "GoOn", "Step", "WaitForMessage", "WaitForSource"]

_OVER = object()


@dataclass(frozen=True, slots=True)
class GoOn:
    """There is more to do at once."""


@dataclass(frozen=True, slots=True)
class WaitForMessage:
    """Nothing to do until a message comes, or the clock of the port is at `until`."""

    until: float = math.inf


@dataclass(frozen=True, slots=True)
class WaitForSource:
    """The source was idle: ask it again a little later, or when a message comes; at `until` at the latest."""

    until: float = math.inf


@dataclass(frozen=True, slots=True)
class Done:
    """All input is processed and the ends of input are sent."""


Step = GoOn | WaitForMessage | WaitForSource | Done


class ChainSubtask:
    """A copy of a chain: `source -> ...`, `... -> sink`, a step in between, or a part of a service's pipeline.

    All methods are called by one thread, the subtask's; `report` and `given_up_at` may be called by any.
    """

    def __init__(self, plan: Plan, subtask: SubtaskPlan, port: Port, cutter: Cutter | None = None) -> None:
        """`cutter`: of a job with checkpoints."""
        caller = Caller(plan.services, port)
        self._port = port
        self.runner = Runner(plan, subtask, port, caller)
        self._time = self.runner.time
        self._calls = CallRecords(self.runner, port, in_service=subtask.chain.service is not None)
        self._inputs = Inputs(channel for channel in plan.channels if channel.consumer == subtask.address)
        self.waits_for = self._calls.waits_for
        runner, follows = self.runner, plan.attempt > 1 and plan.restores is None
        self._lifecycle = Lifecycle(runner.operators, runner.keys, caller, runner.blame, subtask.index, follows=follows)
        self._head = self.runner.operators[0]
        self._is_drained = False  # the source is not asked any more
        self._is_finishing = False  # the input has ended, the operators give what they hold back
        self._has_ended = False
        self._work: Iterator[None] | None = None  # what goes on step by step before anything else is taken
        self._cutter = Cutter() if cutter is None else cutter
        self._rests = Rests(rate_of(subtask.chain))
        self.source: Source[Any] | None = self._head.functions[0] if self._head.operator.kind is kinds.SOURCE else None
        """The worker may put another in its place, which reads it in a thread."""

    # -- life -----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the functions; called by the thread that will call `advance`."""
        self._lifecycle.open()
        self._expect_splits()

    def _expect_splits(self) -> None:
        if self.source is not None and (splits := self.source.splits_read()) is not None:
            self._time.expect(splits, are_begun=not self.source.bounded)

    def close(self) -> None:
        """Close what was opened, all of it; raises the first error."""
        self._lifecycle.close()

    @property
    def sinks(self) -> SubtaskSinks:
        """What the sinks do at the end of the job."""
        return self._lifecycle.sinks

    def report(self, queued: int = 0) -> SubtaskReport:
        """How far this subtask is."""
        told = self.runner.counters.report(queued)
        return told._replace(watermarks=self._time.watermarks(), metrics=self.runner.user_metrics())

    def given_up_at(self) -> float:
        """When the caller of a record under way gives up, or has; infinitely long ago if nobody waits for one."""
        return self._calls.given_up_at

    # -- snapshots ------------------------------------------------------------------------------------------

    @property
    def can_be_cut(self) -> bool:
        """Whether a snapshot may be taken now: between two slices, and not amid what has become due.

        At the end of input also between two batches of it, unless one key or one call has given half of what it gives.
        """
        if self._inputs.slices is not None:
            return False
        return self._work is None or (self._is_finishing and not any(b.held.is_amid for b in self.runner.operators))

    def parts(self) -> dict[str, Parts]:
        """Return what each operator keeps, by its name, where `can_be_cut`. To be pickled before the next step."""
        parts = {bound.operator.name: bound.parts(self.source) for bound in self.runner.operators}
        self._inputs.keep(parts[self._head.operator.name])
        if self.source is not None:
            slices = self._inputs.slices
            under_way = [] if slices is None else [(slices.split, slices.rest)]
            keep_rests(parts[self._head.operator.name], self.source, [*under_way, *self._rests])
        return parts

    def restore(self, parts: Mapping[str, Parts]) -> None:
        """Take over a share of what the former subtasks have kept, for each operator; called once, after `open`."""
        for index, bound in enumerate(self.runner.operators):
            if bound.operator.name in parts:
                bound.restore(parts[bound.operator.name])
            if index == 0:
                self._expect_splits()  # of a source, those that are left
        if (of_head := parts.get(self._head.operator.name)) is not None:
            self._inputs.restore(of_head)
            if self.source is not None:
                for rest in kept_rests(of_head, self.source):
                    self._rests.add(*rest)
        self._work = self._time.resume()

    def splits_done(self) -> tuple[str, ...]:
        """The splits that a source has read to their ends; called at its own end."""
        if self.source is None or not isinstance(self._head.functions[0], SplitSource):
            return ()
        return tuple(split for split, position in self.source.snapshot().items() if position is FINISHED)

    def _cut(self, checkpoint: int) -> None:
        prepared = self.sinks.prepare(checkpoint)
        self._cutter.cut(checkpoint, prepared, self.parts)
        self.runner.broadcast(Barrier(checkpoint), may_suspend=False)

    # -- the step loop --------------------------------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        """Take a message; records wait for `advance`. Raises ProtocolError."""
        match message:
            case Drain() if self.source is not None:
                self._is_drained = True
                if isinstance(self._head.functions[0], SplitSource):
                    self._rests.drop_for_rate()
            case BeginCheckpoint():
                self._cutter.on_begin(message, is_source=self.source is not None)
            case AbortCheckpoint(checkpoint):
                self._cutter.on_abort(message)
                self._inputs.on_abort(checkpoint)
            case CheckpointComplete(checkpoint):
                self._cutter.writer.on_complete(checkpoint)
            case _:
                self._inputs.add(message)

    def advance(self) -> Step:
        """Do the next piece of work. May suspend."""
        step = self._next_step()
        if self._cutter.writer.has_work:
            self._cutter.writer.work()
            return GoOn()
        return step

    def _next_step(self) -> Step:
        if (due := self._cutter.due) is not None and self._work is None and not self._is_finishing:
            self._cut(due)
        elif self._work is not None:
            self._go_on(self._work)  # before results of `map_async`, which move time: it would move inside itself
        elif self._calls.have_async_maps and self._calls.give_out():
            return GoOn()
        elif (slices := self._inputs.slices) is not None and not self._cutter.has_stopped:
            self._next_slice(slices)
        elif (message := self._inputs.next()) is not None:
            self._handle(message)
        elif self._has_ended:
            return Done()
        elif self.source is not None:
            return self._read(self.source)
        elif self._calls.are_over and self._inputs.have_ended:
            self._go_on(self._finish())
        else:
            return self._wait(WaitForMessage)
        return GoOn()

    def _go_on(self, work: Iterator[None]) -> None:
        """Do the next step of some work, the rest of it in the next calls of `advance`."""
        self._work = None if next(work, _OVER) is _OVER else work

    def _wait(self, step: type[WaitForMessage | WaitForSource], until: float = math.inf) -> Step:
        """Nothing can be done: say how far event time is, before the subtask waits, for something or `until`."""
        if (look_at := self._time.look_at) <= self._port.now():
            self._go_on(self._time.look_at_clock())
            return GoOn()
        self._time.send()
        return step(min(look_at, until))

    def _handle(self, message: Message) -> None:
        match message:
            case Data():
                self._begin_frame(message)
            case Control():
                self._go_on(self._on_element(message))
            case Request():
                self._calls.on_request(message)
            case _:
                if not self._calls.on_message(message):
                    raise ProtocolError(f"a chain cannot take a {type(message).__name__}")

    def _begin_frame(self, data: Data) -> None:
        self._inputs.on_records(data.channel)
        edge = self._inputs.edge(data.channel)
        entry = self.runner.entry(0, edge.side, keyed=edge.key is not None, timed=edge.timed)
        self._time.on_frame()
        try:
            records = data.unpacked()
        except CodecError as error:
            self.runner.blame.explain(error, self._head.operator)
            raise
        if self.runner.watch is not None:
            self.runner.watch.received(records, edge)
        self._inputs.slices = Slices(entry, records, data.tickets, data.channel, data.cost)

    def _on_element(self, control: Control) -> Iterator[None]:
        if isinstance(control.element, Barrier):
            self._cutter.on_barrier(control.element.checkpoint)
        for decision in self._inputs.on_element(control):
            match decision:
                case Advance(timestamp):
                    yield from self._time.advance(0, timestamp)
                    self._time.send_in_time()
                case BecomeIdle():
                    self._time.on_inputs_idle()
                case TakeSnapshot(checkpoint):
                    self._cut(checkpoint)
                case AllInputsEnded():
                    yield from self._finish()

    def _read(self, source: Source[Any]) -> Step:
        operator = self._head.operator
        if self._cutter.has_stopped:
            return self._wait(WaitForMessage)
        if self._rests:
            if (rest := self._rests.take(self._port.now())) is None:
                return self._wait(WaitForMessage, self._rests.next_at)
            self._begin_batch(*rest)
            return GoOn()
        try:
            batch = END if self._is_drained else source.next_batch()
        except UNWINDING:
            raise
        except BaseException as error:
            self.runner.blame.explain(error, operator)
            raise
        if batch is IDLE:
            return self._wait(WaitForSource)
        if batch is END:
            self._go_on(self._finish())
        elif isinstance(batch, SplitSignal):
            self._go_on(self._time.on_signal(batch))
        elif isinstance(batch, Malformed):
            self._reject(batch)
        elif isinstance(batch, list) and self._rests.are_limited:
            self._rests.add(source.split, batch)
        elif isinstance(batch, list):
            self._begin_batch(source.split, batch)
        else:
            raise PipelineError(
                f"next_batch() of {operator.name!r} ({operator.location}) must return a list, IDLE or END,"
                f" not a {type(batch).__name__}"
            )
        return GoOn()

    def _begin_batch(self, split: str, batch: list[Any]) -> None:
        self._time.begin_batch(split)
        if self.runner.watch is not None:
            self.runner.watch.hands_over(batch, self._head.functions[0], self._head.operator.name)
        self._inputs.slices = Slices(self.runner.entry(), batch, split=split)

    def _reject(self, malformed: Malformed) -> None:
        """The source has met something that is no record."""
        error, operator = malformed.error, self._head.operator
        if operator.on_error == "fail":
            self.runner.blame.explain_record(error, operator, malformed.record)
            raise error
        self._head.reject(malformed.record, error)
        self.runner.flush()

    def _next_slice(self, slices: Slices) -> None:
        pace = self._inputs.pace
        # A record of a call that starts a coroutine may fill the map_async behind it: results go out in between.
        one_by_one = self._time.every_record or (slices.tickets is not None and self._calls.have_async_maps)
        records = slices.next(1 if one_by_one else pace.size)
        began = self._port.now()
        if slices.tickets is None:
            self.runner.run(slices.entry, records)
        else:
            for record, ticket in zip(records, slices.next_tickets(), strict=True):
                self._calls.answer(slices.entry, record, ticket)
        processed = self._port.now()
        self.runner.flush()
        pace.took(len(records), processed - began, self._port.now() - processed)
        if slices.is_over:
            self._inputs.slices = None
            if slices.channel is not None:
                self._port.consumed(slices.channel, slices.cost)
        if self._time.follows_records:
            self._go_on(self._time.after_slice())

    def _finish(self) -> Iterator[None]:
        """End of input: each operator gives out what it holds back, in the order of the chain; then the outputs end."""
        self._is_finishing = True
        self._time.send()  # what is due now is so because time has passed, and not because the input has ended
        for index in range(len(self.runner.operators)):
            self._calls.end(index)
            yield from self.runner.end(index)
        self.runner.flush()
        self._time.send()  # what held time back has left: readers know how far it was, and what is due only at the end
        self.runner.broadcast(EndOfInput())
        self._has_ended = True


READS: Final[CodeType] = ChainSubtask._read.__code__
"""The code in which a source gives records; for `sampling`."""
