"""Joins: a row is brought to those of its key that the other side has given; which meet is said by the kind of join.

for v0, t in j0(k, v, t):
    n0 += 1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_flow.errors import InternalError
from sage_flow.runtime.joins.interval import IntervalJoin
from sage_flow.runtime.joins.keyed import KeyedJoin
from sage_flow.runtime.lines.text import ChainText, Step
from sage_flow.runtime.lines.writer import Binding, LineWriter

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["KeyedJoins"]

Join = KeyedJoin | IntervalJoin


class _Joins(LineWriter):
    """A method of what is held for each side."""

    def bind(self, bound: BoundOperator) -> Binding:
        held = self.state(bound)
        return Binding((), held.at_end, held.table, held)

    def state(self, bound: BoundOperator) -> Join:
        """What is held for an operator in one subtask."""
        raise NotImplementedError

    def write(self, text: ChainText, step: Step) -> None:
        index, held, is_timed = step.index, step.bound.held, step.operator.timed
        if not isinstance(held, Join):
            raise InternalError(f"the operator {step.operator.name!r} has no rows")
        text.names[f"j{index}"] = held.left if step.side == 0 else held.right
        time = ", t" if is_timed else ""
        text.loop(f"j{index}(k, {text.value}{time})", step, gives_time=is_timed)


class KeyedJoins(_Joins):
    """`join`: all rows of a key meet, or with `ttl` those that are close in time."""

    def state(self, bound: BoundOperator) -> Join:
        ttl_ms = bound.operator.options["ttl_ms"]
        return KeyedJoin(bound) if ttl_ms is None else IntervalJoin(bound, ttl_ms, ttl_ms, is_of_intervals=False)
