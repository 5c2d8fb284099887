"""A subtask of a job that has finished: it publishes what an earlier attempt has prepared, and does nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from sage_flow.checkpoint.prepared import Prepared
from sage_flow.functions import RuntimeContext, Sink
from sage_flow.plan.graph import Operator
from sage_flow.plan.physical import Plan, Subtask
from sage_flow.runtime.failure import explain_failure
from sage_flow.runtime.operators import own_copy
from sage_flow.runtime.port import Port
from sage_flow.runtime.sinks import SinkOperator, SubtaskSinks, call_all, prepares

__all__ = ["PublishingSubtask"]


class PublishingSubtask:
    """Opens only the sinks that have prepared something; no source, no function and no service."""

    def __init__(self, plan: Plan, subtask: Subtask, prepared: Sequence[Prepared], port: Port) -> None:
        self._plan = plan
        self._port = port
        self._subtask = subtask
        self._prepared = prepared
        names = {entry.operator for entry in prepared}
        self._members = [
            SinkOperator(operator, sink)
            for operator in subtask.chain.operators
            if operator.name in names
            for sink in self._sinks_of(operator)
        ]
        self._sinks = SubtaskSinks(self._members, subtask.index, self._explain)
        self._opened: list[SinkOperator] = []

    def _sinks_of(self, operator: Operator) -> list[Sink[object]]:
        copies = {id(function): own_copy(function, operator) for function in operator.functions}
        return [copy for copy in copies.values() if prepares(copy)]

    def publish(self, prepared: Sequence[Prepared]) -> None:
        """Open the sinks, remove what was prepared and is not known, publish `prepared`. Raises what a sink raises."""
        for member in self._members:
            try:
                member.sink.open_to_publish(self._context(member.operator))
            except BaseException as error:
                self._explain(error, member.operator)
                raise
            self._opened.append(member)
        self._sinks.recover(self._prepared)
        self._sinks.commit_all(prepared)

    def close(self) -> None:
        """Close what was opened, and remove what that has begun."""
        opened, self._opened = self._opened, []
        ends = [(member.operator, step) for member in opened for step in (member.sink.close, member.sink.abort)]
        call_all(ends, self._explain)

    def _context(self, operator: Operator) -> RuntimeContext:
        return RuntimeContext(
            self._plan.job,
            operator.name,
            self._subtask.index,
            self._subtask.chain.parallelism,
            open_queue=None if self._plan.queues is None else self._port.open_queue,
            resource=self._port.resource,
            job_id=self._plan.job_id,
            attempt=self._plan.attempt,
        )

    def _explain(self, error: BaseException, operator: Operator) -> None:
        place = f"subtask {self._subtask.index + 1} of {self._subtask.chain.parallelism}"
        explain_failure(error, operator, subtask=place, job=self._plan.job, has_record=False)
