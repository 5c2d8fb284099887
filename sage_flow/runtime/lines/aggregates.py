"""Aggregates: a value for each key, and a step that brings a record into it.

a = s1[k]
a = a + f1(v0)
s1[k] = a
v1 = (k, a)
"""

from __future__ import annotations

import operator as operators
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sage_flow.aggregates import Aggregate
from sage_flow.errors import InternalError
from sage_flow.plan.graph import Operator
from sage_flow.runtime.key_table import MISSING, KeyTable
from sage_flow.runtime.lines.adders import adder_of
from sage_flow.runtime.lines.text import ChainText, Step
from sage_flow.runtime.lines.writer import Binding, LineWriter
from sage_flow.state import default_factory

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = [
    "AGGREGATE_STEPS",
    "AggregateObjects",
    "AggregateStep",
    "Aggregates",
    "Aggregation",
    "from_option",
    "from_zero",
    "of_aggregate",
]

Initial = Callable[[Operator], Callable[[], Any]]


def from_zero(operator: Operator) -> Callable[[], Any]:
    """The value of a key before its first record is 0."""
    return lambda: 0


def from_option(operator: Operator) -> Callable[[], Any]:
    """It is the operator's option `initial`, a value or a function that makes one."""
    return default_factory(operator.options["initial"])


@dataclass(frozen=True, slots=True)
class AggregateStep:
    """How a kind of aggregate brings a record into the value of its key, and two values together.

    `text` makes the new value `a` from the one so far. `{v}` is the record, `{f}` the function, `{x}` what the function
    returns for the record, or the record itself if there is none. Without `initial`, `a` is MISSING for the first
    record of a key. `merge(function)` makes a function of two values; without it two values cannot be brought together.
    """

    text: str
    initial: Initial | None = None
    merge: Callable[[Any], Callable[[Any, Any], Any]] | None = None


AGGREGATE_STEPS: dict[str, AggregateStep] = {
    "count": AggregateStep("a += 1", from_zero, lambda _: operators.add),
    "sum": AggregateStep("a = a + {x}", from_zero, lambda _: operators.add),
    "fold": AggregateStep("a = {f}(a, {v})", from_option),
    "reduce": AggregateStep("a = {v} if a is MISSING else {f}(a, {v})", merge=lambda function: function),
    "min": AggregateStep("b = {x}; a = b if a is MISSING or b < a else a", merge=lambda _: _least),
    "max": AggregateStep("b = {x}; a = b if a is MISSING or b > a else a", merge=lambda _: _greatest),
}
"""By the names of their kinds."""


def _least(left: Any, right: Any) -> Any:
    return right if right < left else left


def _greatest(left: Any, right: Any) -> Any:
    return right if right > left else left


def of_aggregate(aggregate: Any) -> AggregateStep:
    """The step of an `Aggregate`, whose `add` is in the place of the function."""
    return AggregateStep("a = {f}(a, {v})", lambda _: aggregate.create, lambda _: aggregate.merge)


class Aggregation:
    """An aggregate that an operator computes for something else than all records of a key, such as for its windows.

    `chosen` says which, or the operator's option `aggregate`: a name in `AGGREGATE_STEPS`, or an `Aggregate`. `merge`
    brings two values together and changes neither; None if that cannot be done. `result` makes what users see of a
    value.
    """

    def __init__(self, bound: BoundOperator, chosen: Aggregate[Any, Any, Any] | str | None = None) -> None:
        options = bound.operator.options
        chosen = options["aggregate"] if chosen is None else chosen
        self.function: Any = bound.functions[0] if bound.functions else None
        self.result: Callable[[Any], Any] | None = None
        self.is_mutable = isinstance(chosen, Aggregate)
        if isinstance(chosen, Aggregate):
            self.step = of_aggregate(chosen)
            self.function, self.result = adder_of(chosen), chosen.result
        else:
            self.step = AGGREGATE_STEPS[chosen]
        self.initial = None if self.step.initial is None else self.step.initial(bound.operator)
        self.merge = options.get("merge") or (self.step.merge and self.step.merge(self.function))
        self._names = {"MISSING": MISSING, "f": self.function}

    def new_table(self) -> KeyTable:
        """Return an empty table of values by key."""
        return KeyTable(self.initial)

    def adder(self) -> Callable[[Any, Any], Any]:
        """Return `add(value so far, record)`; MISSING, or what `initial` makes, for the first."""
        extracted = "v" if self.function is None else "f(v)"
        body = self.step.text.format(f="f", v="v", x=extracted)
        namespace: dict[str, Any] = {}
        exec(f"def add(a, v):\n    {body}\n    return a\n", self._names, namespace)
        made: Callable[[Any, Any], Any] = namespace["add"]
        return made

    def first(self) -> Any:
        """Return the value before the first record."""
        return MISSING if self.initial is None else self.initial()

    def merged(self, values: list[Any]) -> Any:
        """Return several values as one, in their order, and change none of them."""
        if self.merge is None:
            raise InternalError("an aggregate without a merge function must not be split")
        total = self.first() if self.is_mutable else values[0]
        for value in values if self.is_mutable else values[1:]:
            total = self.merge(total, value)
        return total


class Aggregates(LineWriter):
    """Aggregates over all records of a key."""

    def bind(self, bound: BoundOperator) -> Binding:
        initial = self._step(bound.operator).initial
        table = KeyTable(None if initial is None else initial(bound.operator))
        at_end = partial(_taken_out, table) if bound.operator.emits_at_end else tuple
        return Binding(tuple(bound.functions), at_end, table)

    def write(self, text: ChainText, step: Step) -> None:
        table = f"s{step.index}"
        extracted = text.call(step) or text.value
        text.names[table] = step.bound.table
        # Apart from the user's function, whose errors may be let through: a key that cannot be placed never is.
        text.write(f"a = {table}[k]", step)
        line = self._step(step.operator).text
        text.guard(line.format(f=f"f{step.index}", v=text.value, x=extracted), step)
        text.write(f"{table}[k] = a")
        if step.operator.emits_at_end:
            text.drop(step)
        text.write(f"{step.result} = (k, a)")
        text.value = step.result

    def _step(self, operator: Operator) -> AggregateStep:
        return AGGREGATE_STEPS[operator.kind.name]


def _taken_out(table: KeyTable) -> Iterator[tuple[Any, Any]]:
    """Yield the entries; each is in the table no more when it is given."""
    for key in table.keys_now():
        entry = table.find(key)
        table.drop(key)
        yield key, entry


class AggregateObjects(LineWriter):
    """An `Aggregate`, the operator's option `aggregate`: what leaves is the `result` of the state of the key."""

    def bind(self, bound: BoundOperator) -> Binding:
        aggregate: Aggregate[Any, Any, Any] = bound.operator.options["aggregate"]
        table = KeyTable(aggregate.create)

        def at_end() -> Iterator[Any]:
            for key, state in _taken_out(table):
                yield key, aggregate.result(state)

        return Binding((), at_end if bound.operator.emits_at_end else tuple, table)

    def write(self, text: ChainText, step: Step) -> None:
        index, aggregate = step.index, step.operator.options["aggregate"]
        text.names |= {f"s{index}": step.bound.table, f"f{index}": adder_of(aggregate), f"r{index}": aggregate.result}
        text.write(f"a = s{index}[k]", step)
        text.guard(f"a = f{index}(a, {text.value})", step)
        text.write(f"s{index}[k] = a")
        if step.operator.emits_at_end:
            text.drop(step)
        text.guard(f"{step.result} = (k, r{index}(a))", step)
        text.value = step.result
