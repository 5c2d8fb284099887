"""The text of a chain while it is written: lines, the names that they use, and what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage_flow.plan.graph import Operator
from sage_flow.runtime.first_values import Look, look_at
from sage_flow.runtime.key_table import MISSING

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["ChainText", "Line", "Step"]

_DEPTH = 3
"""Of the lines for a record of the batch, in indentations; `for` and what is above it have less."""
_FIRST_LINE = 5
"""The line number of the first line of the body."""


@dataclass(frozen=True, slots=True)
class Line:
    """Whose line it is: the operator, its index (None for the key of an output), the variable that holds its record."""

    operator: Operator
    index: int | None
    variable: str


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of the chain: `side` is the input that its records come from."""

    index: int
    bound: BoundOperator
    side: int = 0

    @property
    def operator(self) -> Operator:
        return self.bound.operator

    @property
    def result(self) -> str:
        """The variable for what it gives."""
        return f"v{self.index}"


class ChainText:
    """What the writers of kinds write into.

    `value` is the variable that holds the record, or what has become of it so far; `k` holds its key and, where
    records have timestamps, `t` its timestamp. What they write may leave the record (`drop`), go on with another value
    (`value = step.result`), or with each of several (`loop`).
    """

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"MISSING": MISSING}  # what the lines use, besides variables
        self.looks: dict[str, Look] = {}
        self.counts: list[tuple[int, bool]] = []  # operator index, whether the counter counts what it gave
        self.value = "v"
        self.has_key = False
        self.has_time_of_batch = False
        """All records of a batch have one timestamp."""
        self._body: list[tuple[int, str]] = []  # depth and text
        self._before: list[str] = []  # lines that run once, before the records of a batch
        self._after: list[str] = []  # and behind them, whatever was raised
        self._behind: list[tuple[int, str]] = []  # depth and text of lines behind a loop, the outermost loop first
        self._lines: dict[int, Line] = {}  # by position in the body
        self._depth = _DEPTH

    # -- for writers ----------------------------------------------------------------------------------------

    def write(self, text: str, step: Step | None = None) -> None:
        """Add a line. `step`: whose line it is, if it calls user code or may raise otherwise."""
        self._add(text, None if step is None else Line(step.operator, step.index, self.value))

    def guard(self, text: str, step: Step) -> None:
        """Add a line that calls the user's function; if it raises, the operator's `on_error` holds."""
        if step.operator.on_error == "fail":
            self.write(text, step)
            return
        index = step.index
        self._show_time_of_letters(step)
        self.names[f"e{index}"] = step.bound.reject
        if (index, False) not in self.counts:
            self._count(index, gives=False)
        self.write(f"try: {text}", step)
        # It is the operator's line, too: `reject` raises what is no fault of the record.
        self.write(f"except Exception as e: e{index}({self.value}, e); d{index} += 1; continue", step)

    def drop(self, step: Step, condition: str | None = None, *, calls: bool = False) -> None:
        """Add a line that leaves the record, if `condition` holds; `calls`: that calls the user's function."""
        self._count(step.index, gives=False)
        text = f"d{step.index} += 1; continue"
        self.write(text if condition is None else f"if {condition}: {text}", step if calls else None)

    def loop(self, items: str, step: Step, *, gives_time: bool = False) -> None:
        """Go on with each of several values; `gives_time`: each comes with a timestamp of its own."""
        self._show_time_of_letters(step)
        if gives_time and (self.may_give_many or self.has_time_of_batch):
            self.write(f"u{step.index} = t")  # the records that follow in the loop around this one have it, too
            self._behind.append((self._depth, f"t = u{step.index}"))
        self.write(f"for {step.result}{', t' if gives_time else ''} in {items}:", step)
        self._depth += 1
        self._count(step.index, gives=True)
        self.write(f"n{step.index} += 1")
        self.value = step.result

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """The lines that are written inside belong to `head`, such as `if ...:`."""
        self.write(head)
        self._depth += 1
        yield
        self._depth -= 1

    def call(self, step: Step) -> str:
        """Return the text of the call of the operator's function with the record; "" if it calls none."""
        index, bound, side = step.index, step.bound, step.side
        if side >= len(bound.calls):
            return ""
        self.name_function(f"f{index}", bound.calls[side], bound.operator)
        if not bound.operator.with_ctx[side]:
            return f"f{index}({self.value})"
        self.names[f"c{index}"] = bound.context
        if bound.operator.keyed:
            # The records of a broadcast table have no key.
            self.write(f"c{index}.key = k" if self.has_key else f"c{index}.forget_key()")
        if bound.operator.timed:
            self.write(f"c{index}.timestamp = t")
        return f"f{index}({self.value}, c{index})"

    def before(self, text: str) -> None:
        """Add a line that runs before the records of each batch: its variables live through the batch."""
        self._before.append(text)

    def after(self, text: str) -> None:
        """Add a line that runs behind the records of each batch, also if one of them has failed."""
        self._after.append(text)

    def show_time(self, step: Step) -> None:
        """Put the timestamp of the record into the context, where records have one and `call` has not done so."""
        if step.operator.timed and not any(step.operator.with_ctx):
            self.names[f"c{step.index}"] = step.bound.context
            self.write(f"c{step.index}.timestamp = t")

    def show_key(self, step: Step) -> None:
        """Put the key of the record into the context, where records have one and `call` does not do so."""
        if step.operator.keyed and self.has_key and not any(step.operator.with_ctx):
            self.names[f"c{step.index}"] = step.bound.context
            self.write(f"c{step.index}.key = k")

    def _show_time_of_letters(self, step: Step) -> None:
        """A dead letter has the timestamp of its record, which is taken from the context."""
        if step.operator.on_error == "dead_letter":
            self.show_time(step)

    # -- for the chain --------------------------------------------------------------------------------------

    def begin(self, *, keyed_input: bool, timed_input: bool = False) -> None:
        """Add the loop over the batch."""
        self.has_key = keyed_input
        record = ", ".join([*["k"] * keyed_input, "v", *["t"] * timed_input])
        self._add(f"for {record} in it:", depth=_DEPTH - 1)

    def write_for_key(self, text: str, key: Operator) -> None:
        """Add a line that calls the key function of an output."""
        self._add(text, Line(key, None, self.value))

    def name_function(self, name: str, function: Callable[..., Any], operator: Operator) -> None:
        """Name a function of the user's, whose first values are looked at."""
        self.names[name] = function
        if (look := look_at(operator, function)) is not None:
            self.looks[name] = look

    @property
    def may_give_many(self) -> bool:
        """Whether many values can come of one record."""
        return self._depth > _DEPTH

    @property
    def counter_names(self) -> list[str]:
        """The variables that count."""
        return [f"{'n' if gives else 'd'}{index}" for index, gives in self.counts]

    @property
    def lines(self) -> dict[int, Line]:
        """Whose lines they are, by line number."""
        first = _FIRST_LINE + len(self._before)
        return {position + first: line for position, line in self._lines.items()}

    def source(self) -> str:
        """Return the text of the whole function."""
        if len(self._body) == 1:
            self.write("pass")  # only a chain whose output nobody reads
        bound = "".join(f", {name}={name}" for name in self.names)
        counters = self.counter_names
        head = [
            f"def chain(batch{bound}):",
            "    it = iter(batch)",
            f"    {' = '.join([*counters, '_'])} = 0",
            *(f"    {text}" for text in self._before),
            "    try:",
        ]
        tail = [
            "    finally:",
            *(f"        {text}" for text in self._after),
            f"        tally({', '.join(['len(batch) - it.__length_hint__()', *counters])})",
        ]
        body = ["    " * depth + text for depth, text in [*self._body, *reversed(self._behind)]]
        return "\n".join(head + body + tail) + "\n"

    def _add(self, text: str, line: Line | None = None, *, depth: int | None = None) -> None:
        if line is not None:
            self._lines[len(self._body)] = line
        self._body.append((self._depth if depth is None else depth, text))

    def _count(self, index: int, *, gives: bool) -> None:
        if (index, gives) not in self.counts:
            self.counts.append((index, gives))
