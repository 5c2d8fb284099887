"""Operators that remember something of each key and give records, or values of some records, as these come.

`deduplicate`:

a = s1[k]
if a is not MISSING: d1 += 1; continue
s1[k] = True

with `ttl`:

is_first = w1(k, t)
if not is_first: d1 += 1; continue

`count_window`:

v1 = w1(k, v0)
if v1 is MISSING: d1 += 1; continue
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_flow.runtime.count_windows import CountWindows
from sage_flow.runtime.key_table import KeyTable
from sage_flow.runtime.lines.aggregates import Aggregation
from sage_flow.runtime.lines.text import ChainText, Step
from sage_flow.runtime.lines.writer import Binding, LineWriter
from sage_flow.runtime.seen_keys import SeenKeys

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["CountWindowed", "Deduplicates"]


class Deduplicates(LineWriter):
    """The first record of each key passes; with the option `ttl_ms` the first one for so long."""

    def bind(self, bound: BoundOperator) -> Binding:
        ttl_ms = bound.operator.options["ttl_ms"]
        if ttl_ms is None:
            return Binding((), table=KeyTable())
        seen = SeenKeys(bound, ttl_ms)
        return Binding((), table=seen.table, held=seen)

    def write(self, text: ChainText, step: Step) -> None:
        if isinstance(step.bound.held, SeenKeys):
            text.names[f"w{step.index}"] = step.bound.held.passes
            time = ", t" if step.operator.timed else ""
            text.write(f"is_first = w{step.index}(k{time})", step)
            text.drop(step, "not is_first")
            return
        table = f"s{step.index}"
        text.names[table] = step.bound.table
        text.write(f"a = {table}[k]", step)
        text.drop(step, "a is not MISSING")
        text.write(f"{table}[k] = True")


class CountWindowed(LineWriter):
    """A function says what comes of a record: nothing, or the value of the window that it has filled."""

    def bind(self, bound: BoundOperator) -> Binding:
        windows = CountWindows(Aggregation(bound), bound.operator.options["size"])
        return Binding((windows.add,), windows.at_end, windows.table)

    def write(self, text: ChainText, step: Step) -> None:
        (add,) = step.bound.calls
        text.names[f"w{step.index}"] = add
        text.guard(f"{step.result} = w{step.index}(k, {text.value})", step)
        text.drop(step, f"{step.result} is MISSING")
        text.value = step.result
