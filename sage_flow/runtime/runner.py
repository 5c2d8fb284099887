"""Runs records through the operators of one subtask, and sends what they give.

The bottom of a subtask: the operators bound to their contexts, the outputs, and the compiled chains between them. It
knows nothing of inputs, of calls or of the life cycle; `call_records.py`, `inputs.py` and `subtask.py` build on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from sage_flow.functions import RuntimeContext
from sage_flow.plan import kinds
from sage_flow.plan.graph import LATE_RECORDS, Operator
from sage_flow.plan.physical import DRIVER_CHAIN, REPLY, Edge, Plan, Subtask
from sage_flow.runtime.answering import Answering
from sage_flow.runtime.blame import Blame
from sage_flow.runtime.caller import Caller
from sage_flow.runtime.chain import CompiledChain, compile_chain
from sage_flow.runtime.event_time import EventTime
from sage_flow.runtime.messages import FRAME_RECORDS, ControlElement
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.outputs import ChannelOutput, Output, ReplyOutput
from sage_flow.runtime.port import UNWINDING, Port
from sage_flow.runtime.record_watch import RecordWatch
from sage_flow.runtime.report import Counters
from sage_flow.runtime.retrying import retried
from sage_flow.runtime.sharing import separate
from sage_flow.runtime.side_outputs import SideOutputs
from sage_flow.runtime.user_metrics import MetricValue, UserMetrics
from sage_flow.timestamps import MAX_TIMESTAMP

__all__ = ["Runner"]


class Runner:
    """The operators and outputs of one subtask.

    `keys` are the key functions of its outputs. `answering` divides the share of a call among its outputs; a subtask
    that is no part of a service's pipeline never uses it. `watch` is set with `check_shared_records`.
    """

    def __init__(self, plan: Plan, subtask: Subtask, port: Port, caller: Caller) -> None:
        self._plan = plan
        self._subtask = subtask
        self._port = port
        self._caller = caller
        self.counters = Counters(subtask.chain.operators)
        self.operators = [self._bind(index, operator) for index, operator in enumerate(subtask.chain.operators)]
        self.blame = Blame(plan.job, subtask, self.operators, self.counters)
        self.keys: list[BoundOperator] = []
        self.outputs = [self._make_output(edge) for edge in plan.edges if edge.source == subtask.chain.id]
        separate(self.outputs)
        self.watch = self._watch_records()
        self._copying = [output for output in self.outputs if output.sends_copies]
        self._sides = SideOutputs(self.operators, self.outputs, self._flush_full)
        to_callers = [output for output in self.outputs if output.edge.target != DRIVER_CHAIN]
        self.answering = Answering(port, to_callers, self.blame.explain_service)
        self._entries: dict[tuple[int, int, bool, bool], CompiledChain] = {}
        self.time = EventTime(self.operators, self.outputs, self.give, self.blame.explain_held_back, port.now)
        for index, bound in enumerate(self.operators):
            bound.reads_late = self._sides.reads(index, LATE_RECORDS)
        port.before_long_wait(self._queue_emitted)

    # -- set-up ---------------------------------------------------------------------------------------------

    def _bind(self, index: int, operator: Operator) -> BoundOperator:
        context = RuntimeContext(
            self._plan.job,
            operator.name,
            self._subtask.index,
            self._subtask.chain.parallelism,
            keyed=operator.keyed,
            services=self._caller,
            side_output=partial(self._put_aside, index, operator.name),
            open_queue=None if self._plan.queues is None else self._port.open_queue,
            resource=self._port.resource,
            job_id=self._plan.job_id,
            attempt=self._plan.attempt,
            metrics=UserMetrics(operator.name, self._port.user_lock),
        )
        bound = BoundOperator(operator, index, context, self.counters, self._port.now, self._port.wall_ms)
        retry = operator.options.get("retry")
        if retry is not None and operator.kind is kinds.SINK:
            bound.calls = tuple(retried(call, retry, self._sleep) for call in bound.calls)
        return bound

    def _sleep(self, seconds: float) -> None:
        """Suspend for so long, between two attempts of a sink."""
        self._port.await_calls((), 1, self._port.now() + seconds)

    def user_metrics(self) -> dict[str, dict[str, MetricValue]]:
        """The metrics of user code, by operator."""
        told = {bound.operator.name: bound.context.metrics.told() for bound in [*self.operators, *self.keys]}
        return {operator: metrics for operator, metrics in told.items() if metrics}

    def _put_aside(self, index: int, name: str, tag: str, value: Any) -> None:
        bound = self.operators[index]
        timestamp = bound.timestamp() if bound.operator.timed else None
        self._sides.put(index, name, tag, value, timestamp)  # which are made after the contexts

    def _make_output(self, edge: Edge) -> Output:
        if edge.target == REPLY:
            return ReplyOutput(edge, self._port)
        me = self._subtask.address
        channels = [c.id for c in self._plan.channels if c.edge.id == edge.id and c.producer == me]
        key = None
        if edge.key is not None:
            bound = self._bind(edge.operator, edge.key)
            self.keys.append(bound)
            key = bound.calls[0]
        return ChannelOutput(edge, channels, self._port, self._subtask.index, self._plan.max_parallelism, key)

    def _watch_records(self) -> RecordWatch | None:
        shared = self._plan.shared_records
        if shared is None:
            return None
        watch = RecordWatch(self._plan, shared)
        watch.install(self.operators, self.outputs)
        return watch

    def entry(self, start: int = 0, side: int = 0, *, keyed: bool = False, timed: bool = False) -> CompiledChain:
        """Return the chain from an operator on, compiled at first use: `side` is that of its first operator's inputs.

        `keyed`: records enter it with their keys before them. `timed`: with their timestamps behind them.
        """
        entry = self._entries.get((start, side, keyed, timed))
        if entry is None:
            entry = self._entries[start, side, keyed, timed] = compile_chain(
                self._subtask.chain.name,
                self.operators,
                self.outputs,
                self._flush_full,
                self.counters,
                start=start,
                side=side,
                keyed_input=keyed,
                timed_input=timed,
            )
        return entry

    # -- records --------------------------------------------------------------------------------------------

    def run(self, entry: CompiledChain, records: list[Any]) -> None:
        """Run records through a compiled chain, into the buffers of the outputs. May suspend."""
        try:
            entry.run(records)
        except UNWINDING:
            raise
        except BaseException as error:  # also KeyboardInterrupt and its like: user code raised it
            clearer = self.blame.explain_chain(error, entry)
            if clearer is not None:
                raise clearer from error
            raise

    def give(self, index: int, batch: list[Any]) -> None:
        """Run what an operator has given through the operators behind it, and send what comes of it. May suspend.

        Records of an operator with timestamps are pairs with them.
        """
        self.counters.emitted[index] += len(batch)
        timed = self._takes_time(index + 1)
        if self.operators[index].operator.timed and not timed:
            batch = [value for value, _ in batch]
        self.run(self.entry(index + 1, timed=timed), batch)
        self.flush()

    def _takes_time(self, start: int) -> bool:
        """Whether the chain from this operator on is entered with timestamps."""
        if start < len(self.operators):
            return self.operators[start].operator.timed
        return any(output.edge.timed for output in self.outputs if output.edge.tag is None)

    def end(self, index: int) -> Iterator[None]:
        """End of input of one operator: what it held back goes through the operators behind it, batch by batch.

        May suspend. Yields after each batch.
        """
        bound = self.operators[index]
        reached = bound.now
        try:
            yield from self.time.end(index)
            kept = bound.at_end()
            records = iter(((value, MAX_TIMESTAMP) for value in kept) if bound.operator.timed else kept)
            while batch := list(islice(records, FRAME_RECORDS)):
                self.give(index, batch)
                yield
            yield from self.time.pass_end(index, reached)
        except UNWINDING:
            raise
        except BaseException as error:
            self.blame.explain_held_back(error, bound)
            raise

    # -- sending --------------------------------------------------------------------------------------------

    def flush(self, *, may_suspend: bool = True) -> None:
        """Send what is buffered. Suspends while there is no credit, or leaves it queued in the port."""
        for output in self._copying:
            self._blaming(self.operators[output.edge.operator].operator, output.make_own)
        for output in self.outputs:
            if output.records:
                sender = output.edge.key or self.operators[output.edge.operator].operator
                self._blaming(sender, partial(output.flush, may_suspend=may_suspend))

    def broadcast(self, element: ControlElement, *, may_suspend: bool = True) -> None:
        """Send a control element on every channel of every output; see `Output.send_element`."""
        for output in self.outputs:
            output.send_element(element, may_suspend=may_suspend)

    def _blaming(self, operator: Operator, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.blame.explain(error, operator)
            raise

    def _flush_full(self) -> None:
        """A buffer is full in the middle of a record."""
        self._sides.give()
        if self.answering.is_active:
            self.answering.flush_half()
        self.flush()  # inside an answer only what carries no share is left: rows for the driver

    def _queue_emitted(self) -> None:
        """Queue what was emitted before a call, which must not wait for the reply of that call.

        The outputs of a request wait: as long as their number is open, so are their shares.
        """
        if not self.answering.is_active:
            self._sides.give()
            self.flush(may_suspend=False)
