"""A chain of operators as one generated Python function: a plain loop, one line per operator.

    def chain(batch):
        it = iter(batch)
        d1 = n2 = 0
        try:
            for v in it:
                v0 = f0(v)                        # map
                if not f1(v0): d1 += 1; continue  # filter
                for v2 in f2(v0):                 # flat_map
                    n2 += 1
                    o0(v2)
                    if len(b0) >= 1024: full(d1, n2); d1 = n2 = 0
        finally:
            tally(len(batch) - it.__length_hint__(), d1, n2)

When a function raises, the line number is the operator and a local of the frame is its record: nothing is
run a second time to find the culprit. Counts come from the length of the batch, from what filters dropped
and what flat maps gave; an operator that keeps the number of records costs nothing to count. The first values of
each function are looked at (`first_values`): until then `f0` is a `Look` at it, afterwards the same code runs with
the function itself.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType, TracebackType
from typing import Any

from sage_flow.plan.graph import Kind, Operator
from sage_flow.runtime.first_values import Look, look_at
from sage_flow.runtime.messages import FRAME_RECORDS
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.outputs import Output
from sage_flow.runtime.report import Counters
from sage_flow.state import MISSING

__all__ = ["MULTIPLIERS", "CompiledChain", "Culprit", "compile_chain"]

MULTIPLIERS = frozenset({Kind.FLAT_MAP, Kind.PROCESS, Kind.CONNECT_PROCESS, Kind.MAP_BATCHES, Kind.MAP_ASYNC})
"""Operators that give any number of records for one."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """The operator whose line raised, its index in the chain (None for the key of an output), its record
    and, on a keyed stream, the record's key. `so_far` is the state of an aggregate. `is_of_loop`: the line itself
    raised and not the function that it calls."""

    operator: Operator
    index: int | None
    record: Any
    key: Any = None
    so_far: Any = None
    is_of_loop: bool = False


@dataclass(frozen=True, slots=True)
class _Line:
    operator: Operator
    index: int | None
    variable: str


class CompiledChain:
    """`run(batch)` sends a batch through the operators from `start` on, into the outputs' buffers."""

    def __init__(
        self,
        function: FunctionType,
        names: dict[str, Any],
        looks: dict[str, Look],
        lines: dict[int, _Line],
        source: str,
    ) -> None:
        self.run: Callable[[list[Any]], None] = function
        self.source = source
        self._function = function
        self._names = names
        self._looks = looks
        self._lines = lines
        for look in looks.values():
            look.on_done = self._bind
        self._bind()

    def _bind(self) -> None:
        """From the next batch on, call what has been looked at directly. The code stays the same."""
        function = self._function
        looks = {name: look for name, look in self._looks.items() if not look.is_done}
        values = tuple({**self._names, **looks}.values())
        self.run = FunctionType(function.__code__, function.__globals__, function.__name__, values)

    def culprit(self, traceback: TracebackType | None) -> Culprit | None:
        """Return who raised, None if the traceback does not pass through this chain."""
        found = None
        while traceback is not None:
            frame = traceback.tb_frame
            if frame.f_code is self._function.__code__ and traceback.tb_lineno in self._lines:
                line = self._lines[traceback.tb_lineno]
                names = frame.f_locals
                is_of_loop = traceback.tb_next is None
                record, key, so_far = names.get(line.variable), names.get("k"), names.get("a")
                found = Culprit(line.operator, line.index, record, key, so_far, is_of_loop)
            traceback = traceback.tb_next
        return found


def compile_chain(
    name: str,
    operators: Sequence[BoundOperator],
    outputs: Sequence[Output],
    flush: Callable[[], None],
    counters: Counters,
    *,
    start: int = 0,
    side: int = 0,
    keyed_input: bool = False,
) -> CompiledChain:
    """Compile the operators from `start` on; records enter as (key, value) pairs if `keyed_input`."""
    writer = _Writer(operators, outputs, counters, flush)
    return writer.compile(f"<sage_flow chain {name!r} from {start}.{side}>", start, side, keyed_input)


class _Writer:
    def __init__(
        self,
        operators: Sequence[BoundOperator],
        outputs: Sequence[Output],
        counters: Counters,
        flush: Callable[[], None],
    ) -> None:
        self._operators = operators
        self._outputs = outputs
        self._counters = counters
        self._flush = flush
        self._body: list[tuple[int, str]] = []  # depth and text
        self._lines: dict[int, _Line] = {}  # by position in the body, later by line number
        self._names: dict[str, Any] = {"MISSING": MISSING}
        self._looks: dict[str, Look] = {}
        self._counts: list[tuple[int, bool]] = []  # operator index, whether the counter counts what it gave
        self._depth = 3
        self._value = "v"

    def compile(self, filename: str, start: int, side: int, keyed_input: bool) -> CompiledChain:
        self._write("for k, v in it:" if keyed_input else "for v in it:", depth=2)
        for index in range(start, len(self._operators)):
            self._write_operator(index, self._operators[index], side if index == start else 0)
        self._write_outputs()
        if len(self._body) == 1:
            self._write("pass")  # only a chain whose output nobody reads
        source = self._source()
        namespace: dict[str, Any] = {}
        exec(compile(source, filename, "exec"), {**self._names, **self._callbacks(start)}, namespace)
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        first = 5  # line number of the first line of the body
        lines = {position + first: line for position, line in self._lines.items()}
        return CompiledChain(namespace["chain"], self._names, self._looks, lines, source)

    def _write(self, text: str, *, depth: int | None = None, line: _Line | None = None) -> None:
        if line is not None:
            self._lines[len(self._body)] = line
        self._body.append((self._depth if depth is None else depth, text))

    def _source(self) -> str:
        bound = "".join(f", {name}={name}" for name in self._names)
        counters = self._counter_names()
        head = [
            f"def chain(batch{bound}):",
            "    it = iter(batch)",
            f"    {' = '.join([*counters, '_'])} = 0",
            "    try:",
        ]
        tail = [
            "    finally:",
            f"        tally({', '.join(['len(batch) - it.__length_hint__()', *counters])})",
        ]
        body = ["    " * depth + text for depth, text in self._body]
        return "\n".join(head + body + tail) + "\n"

    def _counter_names(self) -> list[str]:
        return [f"{'n' if gives else 'd'}{index}" for index, gives in self._counts]

    # -- one operator ---------------------------------------------------------------------------------------

    def _write_operator(self, index: int, bound: BoundOperator, side: int) -> None:
        operator = bound.operator
        line = _Line(operator, index, self._value)
        call = self._call(index, bound, side)
        match operator.kind:
            case Kind.KEY_BY:
                self._write(f"k = {call}", line=line)
            case Kind.FILTER:
                self._write_filter(call, index, bound, line)
            case kind if kind in MULTIPLIERS:
                self._write(f"for v{index} in {call}:", line=line)
                self._depth += 1
                self._count(index, gives=True)
                self._write(f"n{index} += 1")
                self._value = f"v{index}"
            case Kind.SINK:
                self._write_guarded(call, index, bound, line)
            case Kind.COLLECT | Kind.REQUESTS | Kind.SOURCE:
                pass
            case Kind.MAP | Kind.CONNECT_MAP:
                self._write_guarded(f"v{index} = {call}", index, bound, line)
                self._value = f"v{index}"
            case _:
                self._write_aggregate(index, bound, line)

    def _write_filter(self, call: str, index: int, bound: BoundOperator, line: _Line) -> None:
        self._count(index, gives=False)
        if bound.operator.on_error == "fail":
            self._write(f"if not {call}: d{index} += 1; continue", line=line)
            return
        self._write_guarded(f"drop = not {call}", index, bound, line)
        self._write(f"if drop: d{index} += 1; continue")

    def _call(self, index: int, bound: BoundOperator, side: int) -> str:
        if side >= len(bound.calls):
            return ""  # an operator without a function of its own
        self._name_function(f"f{index}", bound.calls[side], bound.operator)
        if not bound.operator.with_ctx[side]:
            return f"f{index}({self._value})"
        self._names[f"c{index}"] = bound.context
        if bound.operator.keyed:
            self._write(f"c{index}.key = k")
        return f"f{index}({self._value}, c{index})"

    def _name_function(self, name: str, function: Callable[..., Any], operator: Operator) -> None:
        self._names[name] = function
        if (look := look_at(operator, function)) is not None:
            self._looks[name] = look

    def _write_aggregate(self, index: int, bound: BoundOperator, line: _Line) -> None:
        self._names[f"s{index}"] = bound.table
        extracted = f"f{index}({self._value})" if bound.calls else self._value
        # Apart from the user's function, whose errors may be let through: a key that cannot be placed never is.
        self._write(f"a = s{index}[k]", line=line)
        match bound.operator.kind:
            case Kind.COUNT:
                step = "a += 1"
            case Kind.SUM:
                step = f"a = a + {extracted}"
            case Kind.FOLD:
                step = f"a = f{index}(a, {self._value})"
            case Kind.REDUCE:
                step = f"a = {self._value} if a is MISSING else f{index}(a, {self._value})"
            case kind:
                better = "<" if kind is Kind.MIN else ">"
                step = f"b = {extracted}; a = b if a is MISSING or b {better} a else a"
        self._write_guarded(step, index, bound, line)
        self._write(f"s{index}[k] = a")
        if bound.operator.emits_at_end:
            self._count(index, gives=False)
            self._write(f"d{index} += 1; continue")
        self._write(f"v{index} = (k, a)")
        self._value = f"v{index}"

    def _write_guarded(self, text: str, index: int, bound: BoundOperator, line: _Line) -> None:
        if bound.operator.on_error == "fail":
            self._write(text, line=line)
            return
        self._names[f"e{index}"] = bound.reject
        if (index, False) not in self._counts:
            self._count(index, gives=False)
        self._write(f"try: {text}", line=line)
        # It is the operator's line, too: `reject` raises what is no fault of the record.
        self._write(f"except Exception as e: e{index}({line.variable}, e); d{index} += 1; continue", line=line)

    def _count(self, index: int, *, gives: bool) -> None:
        if (index, gives) not in self._counts:
            self._counts.append((index, gives))

    # -- outputs --------------------------------------------------------------------------------------------

    def _write_outputs(self) -> None:
        last = len(self._operators) - 1
        main = [o for o in self._outputs if o.edge.tag is None and o.edge.operator == last]
        for number, output in enumerate(main):
            self._names[f"o{number}"] = output.records.append
            key = output.edge.key
            if key is None or output.key is None:
                self._write(f"o{number}({self._value})")
                continue
            self._name_function(f"q{number}", output.key, key)
            line = _Line(key, None, self._value)
            self._write(f"o{number}((q{number}({self._value}), {self._value}))", line=line)
        if main and self._depth > 3:
            names = self._counter_names()
            self._names["b0"] = main[0].records
            self._write(f"if len(b0) >= {FRAME_RECORDS}: full({', '.join(names)}); {' = '.join(names)} = 0")

    # -- counting -------------------------------------------------------------------------------------------

    def _callbacks(self, start: int) -> dict[str, Callable[..., None]]:
        emitted = self._counters.emitted
        given = {index: position for position, (index, gives) in enumerate(self._counts) if gives}
        dropped = {index: position for position, (index, gives) in enumerate(self._counts) if not gives}
        indices = range(start, len(self._operators))

        def tally(records: int, *counts: int) -> None:
            for index in indices:
                if index in given:
                    records = counts[given[index]]
                elif index in dropped:
                    records -= counts[dropped[index]]
                emitted[index] += records

        def full(*counts: int) -> None:
            tally(0, *counts)
            try:
                self._flush()
            except BaseException:
                tally(0, *(-count for count in counts))  # the loop, which is left now, counts them again
                raise

        return {"tally": tally, "full": full}
