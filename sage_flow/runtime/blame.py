"""Who raised it: adds operator, record and place to what went wrong in one subtask.

A compiled chain tells the line that raised (`CompiledChain.culprit`); everything else that runs user code names its
operator itself. How the notes are written: `failure.py`; which errors are replaced by clearer ones: `clearer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage_flow.errors import InvalidKeyError
from sage_flow.plan import kinds
from sage_flow.plan.graph import Operator
from sage_flow.plan.kinds import Gives
from sage_flow.plan.physical import Subtask
from sage_flow.runtime.chain import CompiledChain, Culprit
from sage_flow.runtime.clearer import clearer_error
from sage_flow.runtime.failure import explain_failure, explain_service_failure
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.report import Counters

__all__ = ["Blame"]


class Blame:
    """Explains the errors of one subtask. Explaining an error twice adds nothing the second time."""

    def __init__(self, job: str, subtask: Subtask, operators: Sequence[BoundOperator], counters: Counters) -> None:
        self._job = job
        self._subtask = subtask
        self._operators = operators
        self._counters = counters
        self._place = f"subtask {subtask.index + 1} of {subtask.chain.parallelism}"

    def explain(self, error: BaseException, operator: Operator) -> None:
        """Add the operator and the place: no single record is to blame."""
        explain_failure(error, operator, subtask=self._place, job=self._job, has_record=False)

    def explain_record(self, error: BaseException, operator: Operator, record: Any) -> None:
        """Add the operator, the place and the record that the operator failed on."""
        explain_failure(error, operator, subtask=self._place, job=self._job, record=record)

    def explain_held_back(self, error: BaseException, bound: BoundOperator) -> None:
        """Explain an error raised while an operator gave out at the end of input what it had held back."""
        if bound.operator.kind.takes_batches:
            self.explain_record(error, bound.operator, bound.batch)
        elif bound.held.under_way is not None:
            self.explain_record(error, bound.operator, bound.held.under_way)
        else:
            self.explain(error, bound.operator)

    def explain_service(self, error: BaseException) -> None:
        """Add the service that the error is about to leave; notes added later are about its caller."""
        explain_service_failure(error, self._subtask.chain.service or "", f"job {self._job!r}")

    def explain_chain(self, error: BaseException, chain: CompiledChain) -> Exception | None:
        """Explain what a compiled chain raised, and take back what was counted for the record that failed.

        Returns the error to raise instead, None if `error` itself is clear enough.
        """
        culprit = chain.culprit(error.__traceback__)
        clearer = clearer_error(culprit, error)
        if culprit is None:
            self.explain(clearer or error, self._operators[-1].operator)
        else:
            self._explain_culprit(clearer or error, culprit)
        return clearer

    def _explain_culprit(self, error: BaseException, culprit: Culprit) -> None:
        operator, record = culprit.operator, culprit.record
        if culprit.index is not None:
            self._uncount(culprit.index)
            bound = self._operators[culprit.index]
            if operator.kind.takes_batches:
                record = bound.batch
            elif operator.kind.pairs and bound.held.under_way is not None:
                record = bound.held.under_way
            if isinstance(error, InvalidKeyError):  # raised where the key is first used, not by the key_by that made it
                before = [bound.operator for bound in self._operators[: culprit.index]]
                operator = next((o for o in reversed(before) if o.kind is kinds.KEY_BY), operator)
        self.explain_record(error, operator, record)

    def _uncount(self, index: int) -> None:
        """The record that raised was counted as given by its operator and by those behind it."""
        for later in range(index, len(self._operators)):
            if self._operators[later].operator.kind.gives is Gives.ANY:
                break
            self._counters.emitted[later] -= 1
