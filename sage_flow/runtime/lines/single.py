"""Operators that give one record for a record, or none: map, filter, sink, key_by, and the ends that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_flow.functions import Sink
from sage_flow.runtime.lines.text import ChainText, Step
from sage_flow.runtime.lines.writer import Binding, LineWriter

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["Filters", "Keys", "Maps", "Passes", "Writes"]


class Passes(LineWriter):
    """Records enter or leave the chain here; no line is needed for that."""

    def bind(self, bound: BoundOperator) -> Binding:
        return Binding(())

    def write(self, text: ChainText, step: Step) -> None:
        """Nothing."""


class Maps(LineWriter):
    """`v1 = f1(v0)`."""

    def write(self, text: ChainText, step: Step) -> None:
        text.guard(f"{step.result} = {text.call(step)}", step)
        text.value = step.result


class Filters(LineWriter):
    """`if not f1(v0): d1 += 1; continue`."""

    def write(self, text: ChainText, step: Step) -> None:
        call = text.call(step)
        if step.operator.on_error == "fail":
            text.drop(step, f"not {call}", calls=True)
            return
        text.guard(f"drop = not {call}", step)
        text.drop(step, "drop")


class Keys(LineWriter):
    """`k = f1(v0)`: a key_by inside a chain, where no record has to move."""

    def write(self, text: ChainText, step: Step) -> None:
        text.write(f"k = {text.call(step)}", step)
        text.has_key = True


class Writes(LineWriter):
    """`f1(v0)`: a function that is called for its effect, or the `write` of a Sink."""

    def bind(self, bound: BoundOperator) -> Binding:
        return Binding(tuple(f.write if isinstance(f, Sink) else f for f in bound.functions))

    def write(self, text: ChainText, step: Step) -> None:
        text.guard(text.call(step), step)
