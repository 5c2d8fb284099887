"""Windows: the record is brought into the state of its window; results come when time has passed.

Of panes, by lines in the loop:

if not lo1 <= t < hi1: s1, lo1, hi1 = p1(t)
if s1 is None: l1(v0, t); d1 += 1; continue
a = s1[k]
a += 1
s1[k] = a
d1 += 1; continue

Of sessions, by lines if the key has one session and the record extends it, else by a function:

z = s1.get(k)
if z is not None and z.start < t + 1000 and t < z.end:
    a = z.value
    a += 1
    z.value = a
    if t < z.start: z.start = t
    elif t + 1000 > z.end: z.end = t + 1000
else:
    is_kept = w1(k, v0, t)
    if not is_kept: l1(v0, t)
d1 += 1; continue

Of sliding windows whose values cannot be brought together, by a function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_flow.errors import InternalError
from sage_flow.runtime.held import Held
from sage_flow.runtime.lines.aggregates import Aggregation
from sage_flow.runtime.lines.text import ChainText, Step
from sage_flow.runtime.lines.writer import Binding, LineWriter
from sage_flow.runtime.pane_windows import PaneWindows
from sage_flow.runtime.session_windows import SessionWindows
from sage_flow.runtime.whole_windows import WholeWindows
from sage_flow.windows import AlignedWindow, SessionWindow

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["Windows"]


class Windows(LineWriter):
    """The option `window` says which kind of window it is, `aggregate` what is computed for it."""

    def bind(self, bound: BoundOperator) -> Binding:
        aggregation = self.aggregation_of(bound)
        calls = () if bound.operator.options.get("process") else tuple(bound.functions)
        return Binding(calls, held=_held(bound, aggregation))

    def aggregation_of(self, bound: BoundOperator) -> Aggregation:
        """What becomes of the records of a window."""
        return Aggregation(bound)

    def write(self, text: ChainText, step: Step) -> None:
        index, held = step.index, step.bound.held
        text.names[f"l{index}"] = step.bound.too_late
        if isinstance(held, PaneWindows):
            self._write_panes(text, step, held)
        elif isinstance(held, SessionWindows) and held.extends_in_loop:
            self._write_sessions(text, step, held)
        elif isinstance(held, (SessionWindows, WholeWindows)):
            self._write_add(text, step, held)
        text.drop(step)
        text.value = step.result  # of which nothing comes here: the lines behind are never reached

    def _write_add(self, text: ChainText, step: Step, held: SessionWindows | WholeWindows) -> None:
        index = step.index
        text.names[f"w{index}"] = held.add
        text.guard(f"is_kept = w{index}(k, {text.value}, t)", step)
        text.write(f"if not is_kept: l{index}({text.value}, t)")

    def _write_sessions(self, text: ChainText, step: Step, held: SessionWindows) -> None:
        """Mostly a key has one session, and the record extends it."""
        index, gap = step.index, held.gap_ms
        text.names[f"s{index}"] = held.single
        text.write(f"z = s{index}.get(k)", step)
        with text.block(f"if z is not None and z.start < t + {gap} and t < z.end:"):
            text.write("a = z.value")
            self._write_step(text, step)
            text.write("z.value = a")
            text.write("if t < z.start: z.start = t")
            text.write(f"elif t + {gap} > z.end: z.end = t + {gap}")
        with text.block("else:"):
            self._write_add(text, step, held)

    def _write_step(self, text: ChainText, step: Step) -> None:
        """The line that makes the new value `a`."""
        aggregation = Aggregation(step.bound)
        extracted = text.value
        if aggregation.function is not None:
            text.names[f"f{step.index}"] = aggregation.function
            extracted = text.call(step) if step.bound.calls else f"f{step.index}({text.value})"
        line = aggregation.step.text
        text.guard(line.format(f=f"f{step.index}", v=text.value, x=extracted), step)

    def _write_panes(self, text: ChainText, step: Step, held: PaneWindows) -> None:
        index = step.index
        table, low, high = f"s{index}", f"lo{index}", f"hi{index}"
        text.names[f"p{index}"] = held.pane
        text.before(f"{low} = {high} = 0")
        text.write(f"if not {low} <= t < {high}: {table}, {low}, {high} = p{index}(t)")
        text.write(f"if {table} is None: l{index}({text.value}, t); d{index} += 1; continue")
        self._write_value(text, step, table)

    def _write_value(self, text: ChainText, step: Step, table: str) -> None:
        """Bring the record into the value of its key."""
        text.write(f"a = {table}[k]", step)
        self._write_step(text, step)
        text.write(f"{table}[k] = a")


def _held(bound: BoundOperator, aggregation: Aggregation) -> Held:
    options = bound.operator.options
    window, lateness_ms = options["window"], options["allowed_lateness_ms"]
    if isinstance(window, SessionWindow):
        return SessionWindows(bound, aggregation, window, lateness_ms)
    if not isinstance(window, AlignedWindow):
        raise InternalError(f"no state for windows of type {type(window).__name__}")
    if aggregation.merge is None and window.pane_ms != window.size_ms:
        return WholeWindows(bound, aggregation, window, lateness_ms)
    return PaneWindows(bound, aggregation, window, lateness_ms)
