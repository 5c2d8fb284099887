"""One subtask of a chain: frames and requests in, records and replies out.

The worker hands it what arrived (`on_message`) and asks it to go on (`advance`), one slice of records at a
time; between slices it sends what the chain gave, and the worker looks for commands. User code runs inside
`advance` and may be suspended there, in `emit` or in a call.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from sage_flow.errors import CodecError, InternalError, InvalidKeyError, PipelineError, ProtocolError
from sage_flow.functions import END, IDLE, RuntimeContext, Sink, Source
from sage_flow.plan import kinds
from sage_flow.plan.graph import DEAD_LETTERS, Operator
from sage_flow.plan.kinds import Gives
from sage_flow.plan.physical import DRIVER_CHAIN, REPLY, Plan
from sage_flow.plan.physical import Subtask as SubtaskPlan
from sage_flow.runtime.answering import Answering, CallersGate, LateShare
from sage_flow.runtime.async_map import AsyncMap, Pending
from sage_flow.runtime.barrier import AbandonAndHold, Hold, TakeSnapshot
from sage_flow.runtime.caller import Caller
from sage_flow.runtime.chain import CompiledChain, Culprit, compile_chain
from sage_flow.runtime.clearer import clearer_error
from sage_flow.runtime.failure import explain_failure, explain_service_failure
from sage_flow.runtime.gate import AllInputsEnded, InputGate
from sage_flow.runtime.messages import (
    FRAME_RECORDS,
    Barrier,
    Control,
    Data,
    Drain,
    EndOfInput,
    Idle,
    Message,
    Request,
    Ticket,
    Watermark,
)
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.outputs import ChannelOutput, Output, ReplyOutput
from sage_flow.runtime.pace import Pace
from sage_flow.runtime.port import UNWINDING, Crashed, Port
from sage_flow.runtime.record_watch import RecordWatch
from sage_flow.runtime.report import Counters, SubtaskReport
from sage_flow.runtime.sharing import SideRecords, separate
from sage_flow.runtime.watermark import Advance, BecomeIdle

__all__ = ["ChainSubtask", "Done", "GoOn", "Step", "WaitForMessage", "WaitForSource"]


@dataclass(frozen=True, slots=True)
class GoOn:
    """There is more to do at once."""


@dataclass(frozen=True, slots=True)
class WaitForMessage:
    """Nothing to do until a message comes."""


@dataclass(frozen=True, slots=True)
class WaitForSource:
    """The source was idle: ask it again a little later, or when a message comes."""


@dataclass(frozen=True, slots=True)
class Done:
    """All input is processed and the ends of input are sent."""


Step = GoOn | WaitForMessage | WaitForSource | Done


class ChainSubtask:
    """A copy of a chain: `source -> ...`, `... -> sink`, a step in between, or a part of a service's pipeline."""

    def __init__(self, plan: Plan, subtask: SubtaskPlan, port: Port) -> None:
        self.plan = plan
        self.subtask = subtask
        self._port = port
        self._counters = Counters(subtask.chain.operators)
        self._caller = Caller(plan.services, port)
        port.before_long_wait(self._queue_emitted)
        self._operators = [self._bind(index, operator) for index, operator in enumerate(subtask.chain.operators)]
        self._async_maps = dict(self._make_async_maps())  # by the operator's index
        self._keys: list[BoundOperator] = []  # of outputs
        self._outputs = [self._make_output(edge_id) for edge_id in range(len(plan.edges)) if self._is_mine(edge_id)]
        separate(self._outputs)
        self._watch = self._watch_records()
        self._copying = [output for output in self._outputs if output.sends_copies]
        self._by_tag = self._outputs_by_tag()
        self._sides = dict(self._make_sides())  # by the operator's index
        inputs = [channel for channel in plan.channels if channel.consumer == subtask.address]
        self._gate = InputGate(channel.id for channel in inputs)
        self._input_edges = {channel.id: channel.edge for channel in inputs}
        self._entries: dict[tuple[int, int, bool], CompiledChain] = {}
        self._held: dict[int, deque[Data | Control]] = {}
        self._ready: deque[Message] = deque()
        self._slices: Slices | None = None
        self._pace = Pace()
        self._opened: list[BoundOperator] = []
        self._ended = False
        self._drains = False
        to_callers = [o for o in self._outputs if o.edge.target != DRIVER_CHAIN]
        self._answering = Answering(port, to_callers, self._explain_service)
        self._callers = CallersGate()
        self.source = self._find_source()

    # -- set-up ---------------------------------------------------------------------------------------------

    def _bind(self, index: int, operator: Operator) -> BoundOperator:
        context = RuntimeContext(
            self.plan.job,
            operator.name,
            self.subtask.index,
            self.subtask.chain.parallelism,
            keyed=operator.keyed,
            services=self._caller,
            side_output=partial(self._side_output, index, operator.name),
            open_queue=None if self.plan.queues is None else self._port.open_queue,
            job_id=self.plan.job_id,
            attempt=self.plan.attempt,
        )
        return BoundOperator(operator, index, context, self._counters)

    def _make_async_maps(self) -> Iterator[tuple[int, AsyncMap]]:
        for index, bound in enumerate(self._operators):
            if bound.operator.kind.awaits:
                made = AsyncMap(bound, self._port, self._split_share, self._explain_record)
                bound.calls = (made.take,)
                yield index, made

    def _is_mine(self, edge_id: int) -> bool:
        return self.plan.edges[edge_id].source == self.subtask.chain.id

    def _make_output(self, edge_id: int) -> Output:
        edge = self.plan.edges[edge_id]
        if edge.target == REPLY:
            return ReplyOutput(edge, self._port)
        me = self.subtask.address
        channels = [c.id for c in self.plan.channels if c.edge.id == edge.id and c.producer == me]
        key = None
        if edge.key is not None:
            bound = self._bind(edge.operator, edge.key)
            self._keys.append(bound)
            key = bound.calls[0]
        return ChannelOutput(edge, channels, self._port, self.subtask.index, self.plan.max_parallelism, key)

    def _outputs_by_tag(self) -> dict[tuple[int, str], list[Output]]:
        found: dict[tuple[int, str], list[Output]] = {}
        for output in self._outputs:
            if output.edge.tag is not None:
                found.setdefault((output.edge.operator, output.edge.tag), []).append(output)
        return found

    def _watch_records(self) -> RecordWatch | None:
        shared = self.plan.shared_records
        if shared is None:
            return None
        watch = RecordWatch(self.plan, shared)
        watch.install(self._operators, self._outputs)
        return watch

    def _make_sides(self) -> Iterator[tuple[int, SideRecords]]:
        for index in {index for index, _ in self._by_tag}:
            bound = self._operators[index]
            gives_any = bound.operator.kind.iterates and not bound.operator.kind.takes_batches
            sides = SideRecords(is_alone=gives_any)
            if gives_any:
                bound.calls = tuple(map(sides.watching, bound.calls))
            yield index, sides

    def _find_source(self) -> Source[Any] | None:
        head = self._operators[0]
        if head.operator.kind is not kinds.SOURCE:
            return None
        source: Source[Any] = head.functions[0]
        return source

    def open(self) -> None:
        """Open the functions, from the last to the first: whoever receives is ready before who sends.

        Called by the thread that will call `advance`.
        """
        for bound in reversed([*self._operators, *self._keys]):
            try:
                bound.open()
            except UNWINDING:
                raise
            except BaseException as error:
                self._explain(error, bound.operator)
                raise
            self._opened.append(bound)

    def close(self) -> None:
        """Close what was opened, all of it; raises the first error."""
        self._caller.begin_close()
        opened, self._opened = self._opened[::-1], []
        self._call_all([(bound, bound.close) for bound in opened])

    def commit(self) -> None:
        """Publish what the sinks wrote."""
        self._call_all([(bound, sink.commit) for bound, sink in self._sinks()])

    def abort(self) -> None:
        """Remove what the sinks wrote."""
        self._call_all([(bound, sink.abort) for bound, sink in self._sinks()])

    def _sinks(self) -> list[tuple[BoundOperator, Sink[Any]]]:
        found = [(bound, function) for bound in self._operators for function in bound.functions]
        return [(bound, function) for bound, function in found if isinstance(function, Sink)]

    def _call_all(self, actions: list[tuple[BoundOperator, Callable[[], None]]]) -> None:
        """Call each, whatever the others raise; raise the first error."""
        first: BaseException | None = None
        for bound, action in actions:
            try:
                action()
            except Crashed:
                raise
            except BaseException as error:  # also SystemExit: the others are still to be closed
                self._explain(error, bound.operator)
                first = first or error
        if first is not None:
            raise first

    def report(self, queued: int = 0) -> SubtaskReport:
        """How far this subtask is."""
        return self._counters.report(queued)

    def given_up_at(self) -> float:
        """When the caller of a record under way gives up, or has; infinitely long ago if nobody waits for one."""
        return max(self._answering.given_up_at, *(made.given_up_at for made in self._async_maps.values()), -math.inf)

    # -- what arrives ---------------------------------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        """Take a message; records wait for `advance`. Raises ProtocolError."""
        if isinstance(message, (Data, Control)):
            is_last = isinstance(message, Control) and isinstance(message.element, EndOfInput)
            self._gate.check_sequence(message.channel, message.seq, is_last=is_last)
        if isinstance(message, Drain) and self.source is not None:
            self._drains = True  # the source is not asked any more
        else:
            self._ready.append(message)

    def advance(self) -> Step:
        """Do the next piece of work. May suspend."""
        if self._async_maps and self._give_out():
            return GoOn()
        if self._slices is not None:
            self._next_slice(self._slices)
        elif self._ready:
            self._handle(self._ready.popleft())
        elif self._ended:
            return Done()
        elif self.source is not None:
            return self._read_source(self.source)
        elif self._callers.are_all_gone and not self._gate.open_channels:
            self._finish()
        else:
            return WaitForMessage()
        return GoOn()

    def _handle(self, message: Message) -> None:
        match message:
            case Data() | Control() if message.channel in self._held:
                self._held[message.channel].append(message)
            case Data():
                self._gate.on_record(message.channel)
                entry = self._entry_for(message.channel)
                records = self._unpacked(message)
                if self._watch is not None:
                    self._watch.received(records, self._input_edges[message.channel])
                self._slices = Slices(entry, records, message.tickets, message.channel, message.cost)
            case Control():
                self._on_element(message)
            case Request():
                self._on_request(message)
            case _:
                if not self._callers.on_message(message):
                    raise ProtocolError(f"a chain cannot take a {type(message).__name__}")

    def _on_element(self, control: Control) -> None:
        for decision in self._gate.on_element(control.channel, control.element):
            match decision:
                case Advance(timestamp):
                    self._broadcast(Watermark(timestamp))
                case BecomeIdle():
                    self._broadcast(Idle())
                case Hold(channel):
                    self._held[channel] = deque()
                case AbandonAndHold(_, released, channel):
                    self._release(released)
                    self._held[channel] = deque()
                case TakeSnapshot(checkpoint, released):
                    self._broadcast(Barrier(checkpoint))
                    self._release(released)
                case AllInputsEnded():
                    self._finish()

    def _release(self, channels: Iterable[int]) -> None:
        """What was held comes before what is already waiting, in the order of each channel."""
        freed = [frame for channel in channels for frame in self._held.pop(channel, ())]
        self._ready.extendleft(reversed(freed))

    def _broadcast(self, element: Watermark | Idle | Barrier | EndOfInput) -> None:
        for output in self._outputs:
            output.send_element(element)

    # -- records --------------------------------------------------------------------------------------------

    def _read_source(self, source: Source[Any]) -> Step:
        try:
            batch = END if self._drains else source.next_batch()
        except UNWINDING:
            raise
        except BaseException as error:
            self._explain(error, self._operators[0].operator)
            raise
        if batch is IDLE:
            return WaitForSource()
        if batch is END:
            self._finish()
        elif isinstance(batch, list):
            if self._watch is not None:
                self._watch.hands_over(batch, self._operators[0].functions[0], self._operators[0].operator.name)
            self._slices = Slices(self._entry(0, 0, keyed=False), batch)
        else:
            operator = self._operators[0].operator
            raise PipelineError(
                f"next_batch() of {operator.name!r} ({operator.location}) must return a list, IDLE or END,"
                f" not a {type(batch).__name__}"
            )
        return GoOn()

    def _unpacked(self, data: Data) -> list[Any]:
        try:
            return data.unpacked()
        except CodecError as error:
            self._explain(error, self._operators[0].operator)
            raise

    def _next_slice(self, slices: Slices) -> None:
        records = slices.next(self._pace.size if slices.tickets is None or not self._async_maps else 1)
        began = self._port.now()
        if slices.tickets is None:
            self._run(slices.entry, records)
        else:
            for record, ticket in zip(records, slices.next_tickets(), strict=True):
                self._answer(slices.entry, record, ticket)
        self._pace.took(len(records), self._port.now() - began)
        self._flush()
        if slices.is_over:
            self._slices = None
            if slices.channel is not None:
                self._port.consumed(slices.channel, slices.cost)

    def _on_request(self, request: Request) -> None:
        ticket = self._answering.ticket_for(request) if self._port.begin(request) else None
        if ticket is not None:
            self._answer(self._entry(0, 0, keyed=False), request.args[0], ticket)

    def _answer(self, entry: CompiledChain, record: Any, ticket: Ticket) -> None:
        """Run one record of a service's pipeline; an error belongs to the caller."""
        with self._answering.record(ticket):
            self._run(entry, [record])
        self._flush()  # what the body sends to the driver carries no share
        for made in self._async_maps.values():
            if made.is_full:
                self._port.suspend_until(made.has_result)

    # -- results of map_async ---------------------------------------------------------------------------------

    def _split_share(self) -> LateShare | None:
        return self._answering.split() if self._answering.is_active else None

    def _give_out(self) -> bool:
        """Send on the results that are there; return whether there were any."""
        ready = [(index, made) for index, made in self._async_maps.items() if made.has_result()]
        for index, made in ready:
            self._give_out_of(index, made)
        return bool(ready)

    def _give_out_of(self, index: int, made: AsyncMap) -> None:
        entry = self._entry(index + 1, 0, keyed=False)
        if self.subtask.chain.service is None:
            results = list(made.results())
            self._counters.emitted[index] += len(results)
            self._run(entry, results)
            self._flush()
            return
        for pending in made.finished():
            self._answer_late(index, made, entry, pending)

    def _answer_late(self, index: int, made: AsyncMap, entry: CompiledChain, pending: Pending) -> None:
        """Go on with a record of a call; an error belongs to the caller."""
        if pending.share is None:
            raise InternalError("a record of a service without its share")
        with self._answering.record(pending.share.ticket(self._port.now())):
            try:
                result = made.result_of(pending)
            except UNWINDING:
                raise
            except BaseException as error:
                made.on_failure(pending, error)
            else:
                self._counters.emitted[index] += 1
                self._run(entry, [result])
        self._flush()

    def _run(self, entry: CompiledChain, records: list[Any]) -> None:
        try:
            entry.run(records)
        except UNWINDING:
            raise
        except BaseException as error:  # also KeyboardInterrupt and its like: user code raised it
            culprit = entry.culprit(error.__traceback__)
            clearer = clearer_error(culprit, error)
            self._blame(culprit, clearer or error)
            if clearer is not None:
                raise clearer from error
            raise

    def _blame(self, culprit: Culprit | None, error: BaseException) -> None:
        if culprit is None:
            self._explain(error, self._operators[-1].operator)
            return
        operator, record = culprit.operator, culprit.record
        if culprit.index is not None:
            self._uncount(culprit.index)
            if operator.kind.takes_batches:
                record = self._operators[culprit.index].batch
            if isinstance(error, InvalidKeyError):  # it shows where the key is first used; who made it is to blame
                before = [bound.operator for bound in self._operators[: culprit.index]]
                operator = next((o for o in reversed(before) if o.kind is kinds.KEY_BY), operator)
        explain_failure(error, operator, subtask=self._place(), job=self.plan.job, record=record)

    def _uncount(self, index: int) -> None:
        """The record that raised was counted as given by its operator and by those behind it."""
        for later in range(index, len(self._operators)):
            if self._operators[later].operator.kind.gives is Gives.ANY:
                break
            self._counters.emitted[later] -= 1

    def _explain(self, error: BaseException, operator: Operator) -> None:
        explain_failure(error, operator, subtask=self._place(), job=self.plan.job, has_record=False)

    def _explain_record(self, error: BaseException, operator: Operator, record: Any) -> None:
        explain_failure(error, operator, subtask=self._place(), job=self.plan.job, record=record)

    def _explain_service(self, error: BaseException) -> None:
        """It leaves the service: what follows is about its caller."""
        explain_service_failure(error, self.subtask.chain.service or "", f"job {self.plan.job!r}")

    def _place(self) -> str:
        return f"subtask {self.subtask.index + 1} of {self.subtask.chain.parallelism}"

    def _entry_for(self, channel: int) -> CompiledChain:
        edge = self._input_edges[channel]
        return self._entry(0, edge.side, keyed=edge.key is not None)

    def _entry(self, start: int, side: int, *, keyed: bool) -> CompiledChain:
        entry = self._entries.get((start, side, keyed))
        if entry is None:
            entry = self._entries[start, side, keyed] = compile_chain(
                self.subtask.chain.name,
                self._operators,
                self._outputs,
                self._flush_full,
                self._counters,
                start=start,
                side=side,
                keyed_input=keyed,
            )
        return entry

    # -- sending --------------------------------------------------------------------------------------------

    def _side_output(self, index: int, name: str, tag: str, value: Any) -> None:
        outputs = self._by_tag.get((index, tag))
        if outputs is None:
            raise PipelineError(
                f"nothing reads side output {tag!r} of {name!r}: read it with .side_output({tag!r})"
                + (" (dead letters are read with .dead_letters())" if tag == DEAD_LETTERS else "")
            )
        self._sides[index].put(outputs, value, is_last=tag == DEAD_LETTERS)
        if len(outputs[0].records) >= FRAME_RECORDS:
            self._flush_full()

    def _flush(self, *, may_suspend: bool = True) -> None:
        for output in self._copying:
            self._blaming(self._operators[output.edge.operator].operator, output.make_own)
        for output in self._outputs:
            if output.records:
                sender = output.edge.key or self._operators[output.edge.operator].operator
                self._blaming(sender, partial(output.flush, may_suspend=may_suspend))

    def _blaming(self, operator: Operator, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._explain(error, operator)
            raise

    def _flush_full(self) -> None:
        """A buffer is full in the middle of a record."""
        self._give_sides()
        if self._answering.is_active:
            self._answering.flush_half()
        self._flush()  # inside an answer only what carries no share is left: rows for the driver

    def _queue_emitted(self) -> None:
        """What was emitted before a call must not wait for its reply; shares of a request do, its count is open."""
        if not self._answering.is_active:
            self._give_sides()
            self._flush(may_suspend=False)

    def _give_sides(self) -> None:
        for sides in self._sides.values():
            sides.give()

    def _finish(self) -> None:
        """End of input: give out what was held back, then tell the outputs."""
        for index, bound in enumerate(self._operators):
            made = self._async_maps.get(index)
            while made is not None and not made.is_empty:
                self._port.suspend_until(made.has_result)
                self._give_out_of(index, made)
            for batch in self._held_back(bound):
                self._counters.emitted[index] += len(batch)
                self._run(self._entry(index + 1, 0, keyed=False), batch)
                self._flush()
        self._flush()
        self._broadcast(EndOfInput())
        self._ended = True

    def _held_back(self, bound: BoundOperator) -> Iterator[list[Any]]:
        try:
            records = iter(bound.at_end())
            while batch := list(islice(records, FRAME_RECORDS)):
                yield batch
        except UNWINDING:
            raise
        except BaseException as error:
            if bound.operator.kind.takes_batches:
                self._explain_record(error, bound.operator, bound.batch)
            else:
                self._explain(error, bound.operator)
            raise


class Slices:
    """A frame or a source's batch, processed in slices."""

    __slots__ = ("_records", "_start", "_stop", "channel", "cost", "entry", "tickets")

    def __init__(
        self,
        entry: CompiledChain,
        records: list[Any],
        tickets: list[Ticket] | None = None,
        channel: int | None = None,
        cost: int = 0,
    ) -> None:
        self.entry = entry
        self.tickets = tickets
        self.channel = channel
        self.cost = cost
        self._records = records
        self._start = self._stop = 0

    def next(self, size: int) -> list[Any]:
        """Return the next records, at most `size`."""
        self._start, self._stop = self._stop, min(self._stop + size, len(self._records))
        if self._start == 0 and self.is_over:
            return self._records
        return self._records[self._start : self._stop]

    def next_tickets(self) -> list[Ticket]:
        """Return the tickets of the records that `next` returned."""
        if self.tickets is None:
            raise InternalError("records without tickets")
        return self.tickets[self._start : self._stop]

    @property
    def is_over(self) -> bool:
        return self._stop >= len(self._records)
