"""Unpickles state in a process that may not have the classes of the job: what is missing is stood in for.

A stand-in has what was pickled of its object, and shows it as `Bid(auction=7, price=3)`. No code of a class that is
missing runs. If a class that is there cannot take its objects back, all classes of users are stood in for.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
from collections.abc import Iterator
from typing import Any

from sage_flow.wire import by_value

__all__ = ["Lenient"]

_ENGINE = ("sage_flow", "cloudpickle", "builtins")


class Lenient:
    """Unpickles blobs.

    `missing`: the classes and functions that were stood in for so far, as module and name.
    """

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self._stand_ins: dict[str, type] = {}

    def loads(self, blob: bytes) -> Any:
        """Return what was pickled. Raises what unpickling does, if stand-ins do not help."""
        return next(self.loads_each(blob))

    def loads_each(self, blob: bytes) -> Iterator[Any]:
        """Yield the objects of several pickles, one behind the other."""
        file = io.BytesIO(blob)
        while (start := file.tell()) < len(blob):
            try:
                found = _Unpickler(file, self, imports_all=True).load()
            except Exception:  # of a class that has changed, or of a module that cannot be imported here
                file.seek(start)
                found = _Unpickler(file, self, imports_all=False).load()
            yield found

    def stand_in(self, module: str, name: str) -> type:
        """Return the class in the place of a missing one."""
        full = f"{module}.{name}"
        self.missing.add(full)
        if full not in self._stand_ins:
            self._stand_ins[full] = _Named(name, (_StandIn,), {})
        return self._stand_ins[full]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, lenient: Lenient, *, imports_all: bool) -> None:
        super().__init__(file)
        self._lenient = lenient
        self._imports_all = imports_all

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (by_value.__name__, by_value.CLASS_NAMED):
            return self._class_named
        if (module, name) == ("cloudpickle.cloudpickle", "subimport"):
            return self._module_named
        if not self._imports_all and not _is_engine(module):
            return self._lenient.stand_in(module, name)
        try:
            return super().find_class(module, name)
        except (Exception, SystemExit):  # whatever the import of a user's module raises: it may be a program
            if _is_engine(module):
                raise
            return self._lenient.stand_in(module, name)

    def _class_named(self, module: str, name: str) -> type:
        if self._imports_all:
            try:
                return by_value.class_named(module, name)
            except LookupError:
                pass
        return self._lenient.stand_in(module, name)

    def _module_named(self, name: str) -> Any:
        """A module that a pickled function uses; those of users are not imported only to be looked at."""
        if _is_engine(name):
            return importlib.import_module(name)
        return sys.modules.get(name) or self._lenient.stand_in(name, "*")


def _is_engine(module: str) -> bool:
    top = module.partition(".")[0]
    return top in _ENGINE or top in sys.stdlib_module_names


class _Named(type):
    """The class of stand-ins; a member of an enum may be pickled as if it were one."""

    def __repr__(cls) -> str:
        return cls.__name__

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Named(f"{cls.__name__}.{name}", (_StandIn,), {})


class _StandIn(metaclass=_Named):
    """An object of a class that is missing: what it was made of, its state, its items."""

    _arguments: tuple[Any, ...]
    _fields: dict[str, Any]
    _items: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        made = super().__new__(cls)
        made._arguments, made._fields, made._items = args, dict(kwargs), []
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """What it was made of is kept by `__new__`."""

    def __setstate__(self, state: Any) -> None:
        several = state if isinstance(state, tuple) and len(state) == 2 else (state,)  # with __slots__: two dicts
        for one in several:
            if isinstance(one, dict):
                self._fields.update({str(name): value for name, value in one.items()})
            elif isinstance(one, (list, tuple)):
                self._arguments = (*self._arguments, *one)
            elif one is not None:
                self._arguments = (*self._arguments, one)

    def append(self, item: Any) -> None:
        """It was a list."""
        self._items.append(item)

    def extend(self, items: Any) -> None:
        """It was a list."""
        self._items.extend(items)

    def add(self, item: Any) -> None:
        """It was a set."""
        self._items.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._items.append((key, value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StandIn) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        shown = [repr(argument) for argument in self._arguments]
        shown += [f"{name}={value!r}" for name, value in self._fields.items()]
        shown += [repr(self._items)] if self._items else []
        return f"{type(self).__name__}({', '.join(shown)})"
