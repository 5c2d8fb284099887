"""Pickling what cannot be imported: lambdas, closures, and classes of `__main__` travel by value.

That is cloudpickle's work. Since 3.1.3 it takes the file name out of the code that it pickles, which makes equal
functions equal bytes; our errors name the user's file and line wherever the code runs, so here it stays in.
"""

from __future__ import annotations

import io
from types import CodeType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from cloudpickle import Pickler

__all__ = ["dumps"]

_pickler: type[Pickler] | None = None


def dumps(value: Any) -> bytes:
    """Pickle anything; `pickle.loads` reads it, in any process that can import sage_flow. Raises what pickling does."""
    with io.BytesIO() as file:
        _pickler_class()(file, protocol=5).dump(value)
        return file.getvalue()


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

        _pickler = NamingPickler
    return _pickler


def _code_of_file(filename: str, *parts: Any) -> CodeType:
    return CodeType(*parts).replace(co_filename=filename)
