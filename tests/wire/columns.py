"""Values that are mostly columns of memory - numpy's and Arrow's - as parameters of tests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

ROWS = 100_000


@dataclass
class Columns:
    """How to make one, whether two are equal, and where their bytes are: (address, size) of each large buffer."""

    library: str
    make: Callable[[Any], Any]
    equal: Callable[[Any, Any], bool]
    buffers: Callable[[Any], list]


def _array(make):
    def equal(one, other):
        return one.dtype == other.dtype and (one == other).all()

    return Columns("numpy", make, equal, lambda array: [(array.__array_interface__["data"][0], array.nbytes)])


def _arrow(make):
    return Columns("pyarrow", make, lambda one, other: one.equals(other), lambda value: list(_arrow_buffers(value)))


def _arrow_buffers(value):
    if hasattr(value, "itercolumns"):
        parts = value.itercolumns()
    elif hasattr(value, "chunks"):
        parts = value.chunks
    else:
        yield from ((buffer.address, buffer.size) for buffer in value.buffers() if buffer and buffer.size >= 4096)
        return
    for part in parts:
        yield from _arrow_buffers(part)


def _table(pa):
    return pa.table({"price": pa.array(range(ROWS)), "carrier": [f"carrier {row}" for row in range(ROWS)]})


KINDS = {
    "numpy array": _array(lambda np: np.arange(ROWS, dtype="f8")),
    "numpy columns": _array(lambda np: np.asfortranarray(np.arange(ROWS).reshape(100, -1))),
    "numpy records": _array(lambda np: np.zeros(ROWS, dtype=[("id", "i4"), ("price", "f8")])),
    "arrow table": _arrow(_table),
    "arrow batch": _arrow(lambda pa: _table(pa).to_batches()[0]),
    "arrow chunks": _arrow(lambda pa: pa.concat_tables([_table(pa)] * 3)),
    "arrow array": _arrow(lambda pa: pa.array(range(ROWS))),
    "arrow slice": _arrow(lambda pa: _table(pa).slice(7, ROWS // 10)),
    "arrow slice of a batch": _arrow(lambda pa: _table(pa).to_batches()[0].slice(7, ROWS // 10)),
    "arrow dictionary": _arrow(
        lambda pa: pa.table({"carrier": pa.array(["US", "AA"] * ROWS).dictionary_encode()}).slice(1, 10_000)
    ),
}

every_kind = pytest.mark.parametrize("kind", KINDS)


def column_kind(name):
    """(the kind, one of it); skips the test if its library is missing."""
    kind = KINDS[name]
    library = pytest.importorskip(kind.library, reason=f"{kind.library} is not installed")
    return kind, kind.make(library)
