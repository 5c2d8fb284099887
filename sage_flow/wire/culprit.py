"""Which part of a value is it that cannot be pickled?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from reprlib import repr as shortened
from types import CellType, FunctionType, MethodType
from typing import Any


def find_culprit(
    value: Any,
    pickle_value: Callable[[Any], object],
    pickle_definition: Callable[[Any], object],
    depth: int = 6,
) -> tuple[str, Any]:
    """The innermost part of `value` that cannot be pickled, and the path to it ("" if it is `value` itself).

    Looks into containers, attributes and closures, `depth` levels down. Parts of a class or function are
    tried with `pickle_definition`, all others with `pickle_value`; these raise if they fail.
    """
    path, seen = "", {id(value)}
    try:
        for _ in range(depth):
            is_definition = isinstance(value, (type, FunctionType))
            try_part = pickle_definition if is_definition else pickle_value
            for step, part in _parts(value):  # noqa: B007, both are used after the loop
                if id(part) not in seen and _fails(try_part, part):
                    break
            else:
                break
            path, value = path + step, part
            seen.add(id(part))
    except Exception:
        pass  # a property or an iterator of the user's raised: the search ends here
    return path.lstrip("."), value


def _fails(function: Callable[[Any], object], value: Any) -> bool:
    try:
        function(value)
    except Exception:
        return True
    return False


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickling `value` goes on to, and how one would write the way there."""
    attributes = [name for name in getattr(value, "__dict__", ()) if not name.startswith("__")]
    if isinstance(value, dict):
        yield from ((f"[{shortened(key)}]", part) for key, part in value.items())
        yield from ((f" key {shortened(key)}", key) for key in value)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        attributes += value._fields
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, partial):
        attributes += ["func", "args", "keywords"]
    elif isinstance(value, MethodType):
        attributes = ["__self__"]
    elif isinstance(value, FunctionType):
        yield from _parts_of_function(value)
    elif not isinstance(value, type):
        attributes += [name for kind in type(value).__mro__ for name in kind.__dict__.get("__slots__", ())]
    yield from ((f".{name}", getattr(value, name)) for name in attributes if hasattr(value, name))


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        if cell != CellType():  # assigned
            yield f" closure {name!r}", cell.cell_contents
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f" global {name!r}", function.__globals__[name]
