"""Aggregates: a value for each key, and a step that brings a record into it.

a = s1[k]
a = a + f1(v0)
s1[k] = a
v1 = (k, a)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sage_flow.plan.graph import Operator
from sage_flow.runtime.lines.text import ChainText, Step
from sage_flow.runtime.lines.writer import Binding, LineWriter
from sage_flow.state import KeyTable, default_factory

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["Aggregates", "from_option", "from_zero"]

Initial = Callable[[Operator], Callable[[], Any]]


def from_zero(operator: Operator) -> Callable[[], Any]:
    """The value of a key before its first record is 0."""
    return lambda: 0


def from_option(operator: Operator) -> Callable[[], Any]:
    """It is the operator's option `initial`, a value or a function that makes one."""
    return default_factory(operator.options["initial"])


class Aggregates(LineWriter):
    """`step`: the text that makes the new value `a` from the one so far.

    `{v}` is the record, `{f}` the function, `{x}` what the function returns for the record, or the record itself if
    there is none. Without `initial`, `a` is MISSING for the first record of a key.
    """

    def __init__(self, step: str, initial: Initial | None = None) -> None:
        self._step = step
        self._initial = initial

    def bind(self, bound: BoundOperator) -> Binding:
        table = KeyTable(None if self._initial is None else self._initial(bound.operator))
        at_end = table.items if bound.operator.emits_at_end else tuple
        return Binding(tuple(bound.functions), at_end, table)

    def write(self, text: ChainText, step: Step) -> None:
        table = f"s{step.index}"
        extracted = text.call(step) or text.value
        text.names[table] = step.bound.table
        # Apart from the user's function, whose errors may be let through: a key that cannot be placed never is.
        text.write(f"a = {table}[k]", step)
        text.guard(self._step.format(f=f"f{step.index}", v=text.value, x=extracted), step)
        text.write(f"{table}[k] = a")
        if step.operator.emits_at_end:
            text.drop(step)
        text.write(f"{step.result} = (k, a)")
        text.value = step.result
