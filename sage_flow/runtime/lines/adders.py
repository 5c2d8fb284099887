"""The `add` of an aggregate that the engine knows, as one function without further calls in it.

`aggregate(n=Count(), best=Max(f), words=ToList())` becomes

def add(state, v):
    [s0, s1, s2] = state
    n0 = s0 + 1
    x1 = f1(v); n1 = s1 if s1 and not (x1 > s1[0] or s1[0] != s1[0]) else (x1,)
    x2 = f2(v)
    s2.append(x2); n2 = s2
    return [n0, n1, n2]

which does what `Several.add` does, and takes a fraction of its time. An aggregate of the user's, or a subclass of a
known one, is called.

States are changed in place last, when nothing can raise any more: a record that fails, and is skipped, is in none of
them. Only of several aggregates that are called the first ones may have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage_flow.aggregates import NAN, Aggregate, Count, CountDistinct, Max, Mean, Min, Several, Sum, ToList

__all__ = ["adder_of"]

Add = Callable[[Any, Any], Any]

_STEPS: dict[type[Aggregate[Any, Any, Any]], tuple[str, str]] = {
    Count: ("{n} = {s} + 1", ""),
    Sum: ("{n} = {s} + {v}", ""),
    Mean: ("total, count = {s}; {n} = (total + {v}, count + 1)", ""),
    Min: ("{x} = {v}; {n} = {s} if {s} and not ({x} < {s}[0] or {s}[0] != {s}[0]) else ({x},)", ""),
    Max: ("{x} = {v}; {n} = {s} if {s} and not ({x} > {s}[0] or {s}[0] != {s}[0]) else ({x},)", ""),
    CountDistinct: ("{x} = {v}; hash({x})", "{s}.add({x} if {x} == {x} else NAN); {n} = {s}"),
    ToList: ("{x} = {v}", "{s}.append({x}); {n} = {s}"),
}
"""By their exact types: what may raise, and what changes the state in place.

`{s}` is the state, `{n}` the new one, `{v}` the value of the record.
"""


def adder_of(aggregate: Aggregate[Any, Any, Any]) -> Add:
    """Return a function that does what the `add` of the aggregate does."""
    names: dict[str, Any] = {"NAN": NAN}
    if type(aggregate) is Several:
        numbers = range(len(aggregate.parts))
        old, new = (f"[{', '.join(f'{letter}{number}' for number in numbers)}]" for letter in "sn")
        steps = [_steps(names, number, part) for number, part in enumerate(aggregate.parts)]
    elif type(aggregate) in _STEPS:
        old, new, steps = "s0", "n0", [_steps(names, 0, aggregate)]
    else:
        return aggregate.add
    lines = [line for phase in zip(*steps, strict=True) for line in phase if line]
    source = "".join(
        ["def add(state, v):\n", *(f"    {line}\n" for line in (f"{old} = state", *lines, f"return {new}"))]
    )
    namespace: dict[str, Any] = {}
    exec(compile(source, "<sage_flow aggregate>", "exec"), names, namespace)
    made: Add = namespace["add"]
    return made


def _steps(names: dict[str, Any], number: int, part: Aggregate[Any, Any, Any]) -> tuple[str, str, str]:
    """The lines of one aggregate: those that change nothing, the call of one that is not known, and the change."""
    state, new, function = f"s{number}", f"n{number}", f"f{number}"
    if type(part) not in _STEPS:
        names[function] = part.add
        return "", f"{new} = {function}({state}, v)", ""
    names[function] = getattr(part, "function", None)
    value = "v" if names[function] is None else f"{function}(v)"
    first, last = (text.format(s=state, n=new, x=f"x{number}", v=value) for text in _STEPS[type(part)])
    return first, "", last
