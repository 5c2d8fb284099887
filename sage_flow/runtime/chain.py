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

from sage_flow.plan.graph import Operator
from sage_flow.runtime.first_values import Look
from sage_flow.runtime.lines import writer_of
from sage_flow.runtime.lines.text import ChainText, Line, Step
from sage_flow.runtime.messages import FRAME_RECORDS
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.outputs import Output
from sage_flow.runtime.report import Counters
from sage_flow.runtime.sampling import is_sampled

__all__ = ["CompiledChain", "Culprit", "compile_chain"]


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


class CompiledChain:
    """`run(batch)` sends a batch through the operators from `start` on, into the outputs' buffers."""

    def __init__(
        self,
        function: FunctionType,
        names: dict[str, Any],
        looks: dict[str, Look],
        lines: dict[int, Line],
        source: str,
    ) -> None:
        self.run: Callable[[list[Any]], None] = function
        self.source = source
        self._function = function
        self._names = names
        self._looks = looks
        self._lines = lines
        is_sampled(function.__code__, self)
        for look in looks.values():
            look.on_done = self._bind
        self._bind()

    def _bind(self) -> None:
        """From the next batch on, call what has been looked at directly. The code stays the same."""
        function = self._function
        looks = {name: look for name, look in self._looks.items() if not look.is_done}
        values = tuple({**self._names, **looks}.values())
        self.run = FunctionType(function.__code__, function.__globals__, function.__name__, values)

    def line_at(self, number: int) -> Line | None:
        """Return what this line of its text is about."""
        return self._lines.get(number)

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
    timed_input: bool = False,
) -> CompiledChain:
    """Compile the operators from `start` on.

    Records enter with their keys before them if `keyed_input`, and with their timestamps behind them if `timed_input`.
    """
    text = ChainText()
    text.begin(keyed_input=keyed_input, timed_input=timed_input)
    if not timed_input and start < len(operators) and operators[start].operator.timed:
        # The side of a connected stream that has no timestamps: what comes of it is of the time that it is.
        text.names["now"] = operators[start].watermark
        text.before("t = now()")
        text.has_time_of_batch = True
    for index in range(start, len(operators)):
        bound = operators[index]
        writer_of(bound.operator.kind).write(text, Step(index, bound, side if index == start else 0))
    last = len(operators) - 1
    _write_outputs(text, [o for o in outputs if o.edge.tag is None and o.edge.operator == last])
    source = text.source()
    callbacks = _callbacks(range(start, len(operators)), text.counts, counters, flush)
    form = f"{' keyed' * keyed_input}{' timed' * timed_input}"
    filename = f"<sage_flow chain {name!r} from {start}.{side}{form}>"
    namespace: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), {**text.names, **callbacks}, namespace)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return CompiledChain(namespace["chain"], text.names, text.looks, text.lines, source)


def _write_outputs(text: ChainText, outputs: Sequence[Output]) -> None:
    """The lines that put what the last operator gave into the buffers of its readers."""
    for number, output in enumerate(outputs):
        text.names[f"o{number}"] = output.records.append
        key = output.edge.key
        value = f"{text.value}, t" if output.edge.timed else text.value
        if key is None or output.key is None:
            text.write(f"o{number}(({value}))" if output.edge.timed else f"o{number}({value})")
            continue
        text.name_function(f"q{number}", output.key, key)
        text.write_for_key(f"o{number}((q{number}({text.value}), {value}))", key)
    if outputs and text.may_give_many:
        names = text.counter_names
        text.names["b0"] = outputs[0].records
        text.write(f"if len(b0) >= {FRAME_RECORDS}: full({', '.join(names)}); {' = '.join(names)} = 0")


def _callbacks(
    indices: range, counts: Sequence[tuple[int, bool]], counters: Counters, flush: Callable[[], None]
) -> dict[str, Callable[..., None]]:
    """What the text calls to count, and to send what is in the buffers."""
    emitted = counters.emitted
    given = {index: position for position, (index, gives) in enumerate(counts) if gives}
    dropped = {index: position for position, (index, gives) in enumerate(counts) if not gives}

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
            flush()
        except BaseException:
            tally(0, *(-count for count in counts))  # the loop, which is left now, counts them again
            raise

    return {"tally": tally, "full": full}
