"""`assign_timestamps`: the time of a record, and the largest one so far, from which the watermark follows.

u = f1(v0)
t = u if type(u) is int and LOW <= u <= HIGH else i1(u)
if t > m1: m1 = t

`assign_arrival_times`: the records of a batch arrive together. Before them:

t1 = w1()

and for each of them:

t = t1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_flow.errors import InternalError
from sage_flow.runtime.assigned_time import ArrivalTime, AssignedTime
from sage_flow.runtime.lines.text import ChainText, Step
from sage_flow.runtime.lines.writer import Binding, LineWriter
from sage_flow.timestamps import MAX_TIMESTAMP, MIN_TIMESTAMP, checked_timestamp

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["ArrivalTimes", "Timestamps"]


class Timestamps(LineWriter):
    """The function is called for each record, and what it returns is checked each time."""

    def bind(self, bound: BoundOperator) -> Binding:
        return Binding(tuple(bound.functions), held=AssignedTime(bound.operator, bound.clock, bound.wall_ms))

    def write(self, text: ChainText, step: Step) -> None:
        index, time = step.index, step.bound.held
        if not isinstance(time, AssignedTime):
            raise InternalError(f"the operator {step.operator.name!r} has no clock")
        text.names |= {f"time{index}": time, f"i{index}": checked_timestamp}
        text.names |= {"LOW": MIN_TIMESTAMP, "HIGH": MAX_TIMESTAMP}
        text.guard(f"u = {text.call(step)}", step)
        text.guard(f"t = u if type(u) is int and LOW <= u <= HIGH else i{index}(u)", step)
        if step.operator.options["watermarks"] is not None:
            text.names[f"g{index}"] = time.on_record
            text.write(f"g{index}({text.value}, t)", step)
        text.before(f"m{index} = time{index}.largest")
        text.write(f"if t > m{index}: m{index} = t")
        text.after(f"time{index}.largest = m{index}")


class ArrivalTimes(LineWriter):
    """There is no function: the wall clock is asked once for the records of a batch."""

    def bind(self, bound: BoundOperator) -> Binding:
        return Binding((), held=ArrivalTime(bound.operator, bound.clock, bound.wall_ms))

    def write(self, text: ChainText, step: Step) -> None:
        index, time = step.index, step.bound.held
        if not isinstance(time, ArrivalTime):
            raise InternalError(f"the operator {step.operator.name!r} has no clock")
        text.names[f"w{index}"] = time.arrival
        text.before(f"t{index} = w{index}()")
        text.write(f"t = t{index}")
