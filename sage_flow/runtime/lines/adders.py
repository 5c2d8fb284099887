"""The `add` of an aggregate that the engine knows, as one function without further calls in it.

`aggregate(n=Count(), best=Max(f), words=ToList())` becomes

def add(state, v):
    [s0, s1, s2] = state
    n0 = s0 + 1
    x = f1(v); n1 = s1 if s1 and not (x > s1[0] or s1[0] != s1[0]) else (x,)
    n2 = f2(s2, v)
    return [n0, n1, n2]

which does what `Several.add` does, and takes a fraction of its time. An aggregate of the user's, or a subclass of a
known one, is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage_flow.aggregates import NAN, Aggregate, Count, CountDistinct, Max, Mean, Min, Several, Sum

__all__ = ["adder_of"]

Add = Callable[[Any, Any], Any]

_STEPS: dict[type[Aggregate[Any, Any, Any]], str] = {
    Count: "{n} = {s} + 1",
    Sum: "{n} = {s} + {x}",
    Mean: "total, count = {s}; {n} = (total + {x}, count + 1)",
    Min: "x = {x}; {n} = {s} if {s} and not (x < {s}[0] or {s}[0] != {s}[0]) else (x,)",
    Max: "x = {x}; {n} = {s} if {s} and not (x > {s}[0] or {s}[0] != {s}[0]) else (x,)",
    CountDistinct: "x = {x}; hash(x); {s}.add(x if x == x else NAN); {n} = {s}",
}
"""By their exact types. `{s}` is the state, `{n}` the new one, `{x}` the value of the record."""


def adder_of(aggregate: Aggregate[Any, Any, Any]) -> Add:
    """Return a function that does what the `add` of the aggregate does."""
    names: dict[str, Any] = {"NAN": NAN}
    if type(aggregate) is Several:
        numbers = range(len(aggregate.parts))
        states, results = (", ".join(f"{letter}{number}" for number in numbers) for letter in "sn")
        steps = [_step(names, number, part) for number, part in enumerate(aggregate.parts)]
        lines = [f"[{states}] = state", *steps, f"return [{results}]"]
    elif type(aggregate) in _STEPS:
        lines = ["s0 = state", _step(names, 0, aggregate), "return n0"]
    else:
        return aggregate.add
    source = "def add(state, v):\n" + "".join(f"    {line}\n" for line in lines)
    namespace: dict[str, Any] = {}
    exec(compile(source, "<sage_flow aggregate>", "exec"), names, namespace)
    made: Add = namespace["add"]
    return made


def _step(names: dict[str, Any], number: int, part: Aggregate[Any, Any, Any]) -> str:
    state, new, function = f"s{number}", f"n{number}", f"f{number}"
    text = _STEPS.get(type(part))
    if text is None:
        names[function] = part.add
        return f"{new} = {function}({state}, v)"
    names[function] = getattr(part, "function", None)
    return text.format(s=state, n=new, x="v" if names[function] is None else f"{function}(v)")
