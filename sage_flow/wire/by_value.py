"""Pickling what cannot be imported: lambdas, closures, and classes of `__main__` travel by value.

That is cloudpickle's work, with two of its ways changed:

* Since 3.1.3 it takes the file name out of the code that it pickles, which makes equal functions equal bytes; our
  errors name the user's file and line wherever the code runs, so here it stays in.
* A class that comes back to the process that wrote it is found there, and cloudpickle sets its methods anew, which then
  see copies of their module's variables: running a job would change the program. Here such a class is left alone.

State that outlives its process is pickled by `dumps_state`: a class that cannot be imported is only named there, and is
found among those that the plan has brought. By value it would come back as another class than that of the plan.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

if TYPE_CHECKING:
    from cloudpickle import Pickler

__all__ = ["CLASS_NAMED", "class_named", "dumps", "dumps_state"]

CLASS_NAMED = "_class_named"
"""Pickles of state call a function of this name, in this module."""

_pickler: type[Pickler] | None = None
_state_pickler: type[Pickler] | None = None
_written_here: WeakSet[type] = WeakSet()
_unpickled: WeakSet[type] = WeakSet()
_in_state: WeakSet[type] = WeakSet()


def dumps(value: Any) -> bytes:
    """Pickle anything; `pickle.loads` reads it, in any process that can import sage_flow. Raises what pickling does."""
    with io.BytesIO() as file:
        _pickler_class()(file, protocol=5).dump(value)
        return file.getvalue()


def dumps_state(value: Any) -> bytes:
    """Pickle what a later process of the job reads by `pickle.loads`. Raises what pickling does.

    Loading raises LookupError for a class that the job does not have any more.
    """
    with io.BytesIO() as file:
        _state_pickler_class()(file, protocol=5).dump(value)
        return file.getvalue()


def _state_pickler_class() -> type[Pickler]:
    global _state_pickler
    if _state_pickler is None:

        class StatePickler(_pickler_class()):  # type: ignore[misc]
            def reducer_override(self, obj: Any) -> Any:
                reduced = super().reducer_override(obj)
                if not isinstance(obj, type) or not isinstance(reduced, tuple) or len(reduced) < 6:
                    return reduced
                _in_state.add(obj)
                return _class_named, (obj.__module__, obj.__qualname__)

        _state_pickler = StatePickler
    return _state_pickler


def _class_named(module: str, name: str) -> type:
    return class_named(module, name)


def class_named(module: str, name: str) -> type:
    """Return the class of this name that the plan has brought, or that the program has. Raises LookupError."""
    for known in (_unpickled, _in_state, _written_here):
        for found in known:
            if found.__module__ == module and found.__qualname__ == name:
                return found
    here: Any = sys.modules.get(module)
    for part in name.split("."):
        here = getattr(here, part, None)
    if isinstance(here, type):
        return here
    raise LookupError(
        f"the class {name} of module {module} is in the state of the job, and the job does not have it any more; define"
        " it at the top level of a module that the job imports"
    )


def _pickler_class() -> type[Pickler]:
    global _pickler
    if _pickler is None:  # made once; importing cloudpickle takes longer than many local jobs need
        from collections import ChainMap

        from cloudpickle import Pickler

        theirs = Pickler.dispatch_table[CodeType]

        def reduce_code(code: CodeType) -> tuple[Any, ...]:
            _, parts = theirs(code)
            return _code_of_file, (code.co_filename, *parts)

        class NamingPickler(Pickler):  # type: ignore[misc]
            dispatch_table: ClassVar = ChainMap({CodeType: reduce_code}, Pickler.dispatch_table)

            def reducer_override(self, obj: Any) -> Any:
                reduced = super().reducer_override(obj)
                if not isinstance(obj, type) or not isinstance(reduced, tuple) or len(reduced) < 6:
                    return reduced  # no class, or one that is found by its name
                if obj not in _unpickled:
                    _written_here.add(obj)
                make, arguments, content, _, _, fill = reduced
                return make, arguments, (fill, content), None, None, _fill_class

        _pickler = NamingPickler
    return _pickler


def _code_of_file(filename: str, *parts: Any) -> CodeType:
    return CodeType(*parts).replace(co_filename=filename)


def _fill_class(made: type, state: tuple[Callable[[type, Any], object], Any]) -> None:
    if made in _written_here:
        return
    _unpickled.add(made)
    fill, content = state
    fill(made, content)
