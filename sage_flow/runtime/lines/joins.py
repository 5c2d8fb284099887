"""Joins: a row is brought to those of its key that the other side has given; which meet is said by the kind of join.

for v0, t in j0(k, v, t):
    n0 += 1

Of windows, where the side goes into the table behind the row:

if not lo0 <= t < hi0: s0, lo0, hi0 = p0(t)
if s0 is None: l0(v, t); d0 += 1; continue
a = s0.get(k)
if a is None: a = s0[k]
if not a: s0[k] = v, 1
elif len(a) < 16: s0[k] = a + (v, 1)
elif type(a) is tuple: s0[k] = [*a, v, 1]
else: a += v, 1
d0 += 1; continue
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_flow.errors import InternalError
from sage_flow.runtime.joins.arrival import ArrivalJoin
from sage_flow.runtime.joins.asof import AsofJoin
from sage_flow.runtime.joins.interval import IntervalJoin
from sage_flow.runtime.joins.keyed import KeyedJoin
from sage_flow.runtime.joins.windows import MOST_IN_TUPLE, Sides
from sage_flow.runtime.lines.aggregates import Aggregation
from sage_flow.runtime.lines.text import ChainText, Step
from sage_flow.runtime.lines.windows import Windows
from sage_flow.runtime.lines.writer import Binding, LineWriter
from sage_flow.runtime.session_windows import SessionWindows
from sage_flow.runtime.whole_windows import WholeWindows

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["AsofJoins", "IntervalJoins", "KeyedJoins", "WindowJoins"]

Join = KeyedJoin | ArrivalJoin | IntervalJoin | AsofJoin


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
        if ttl_ms is None:
            return KeyedJoin(bound)
        if not bound.operator.timed:
            return ArrivalJoin(bound, ttl_ms)
        return IntervalJoin(bound, ttl_ms, ttl_ms, is_of_intervals=False)


class IntervalJoins(_Joins):
    """`join_interval`."""

    def state(self, bound: BoundOperator) -> Join:
        options = bound.operator.options
        return IntervalJoin(bound, options["before_ms"], options["after_ms"], is_of_intervals=True)


class AsofJoins(_Joins):
    """`join_asof`."""

    def state(self, bound: BoundOperator) -> Join:
        return AsofJoin(bound, bound.operator.options["tolerance_ms"])


class WindowJoins(Windows):
    """`join_window`: as windows of one stream, whose value is the rows of both sides."""

    def aggregation_of(self, bound: BoundOperator) -> Aggregation:
        return Aggregation(bound, Sides())

    def _write_add(self, text: ChainText, step: Step, held: SessionWindows | WholeWindows) -> None:
        index = step.index
        text.names[f"w{index}"] = held.add
        text.write(f"is_kept = w{index}(k, ({text.value}, {step.side}), t)", step)
        text.write(f"if not is_kept: l{index}({text.value}, t)")

    def _write_value(self, text: ChainText, step: Step, table: str) -> None:
        rows = f"{text.value}, {step.side}"
        text.write(f"a = {table}.get(k)", step)
        text.write(f"if a is None: a = {table}[k]", step)  # of a layer; else it checks the key, and is an empty list
        text.write(f"if not a: {table}[k] = {rows}")
        text.write(f"elif len(a) < {MOST_IN_TUPLE}: {table}[k] = a + ({rows})")
        text.write(f"elif type(a) is tuple: {table}[k] = [*a, {rows}]")
        text.write(f"else: a += {rows}")

    def _write_step(self, text: ChainText, step: Step) -> None:
        text.write(f"a += {text.value}, {step.side}")
