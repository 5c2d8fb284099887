"""Slices of Arrow tables on their way to another process.

Pickle 5 sends the buffers of a table as they are, and the receiver's are views of the message: nothing to add.
But it sends them whole: each of the thousand slices of a table would take the whole table along. Slices go in
Arrow's own stream format, which holds only their rows; the receiver's buffers are views here, too.
"""

from __future__ import annotations

import pickle
from typing import Any, Final

_SLICEABLE: Final = ("Table", "RecordBatch")
_WASTE: Final = 2  # a table whose buffers are so many times as large as its rows is copied, not sent as it is


def reduce_slice(kind: type, value: Any) -> Any:
    """How to pickle `value`, an instance of a class of pyarrow; NotImplemented if pickle knows best."""
    if kind.__name__ not in _SLICEABLE or value.get_total_buffer_size() <= _WASTE * value.nbytes:
        return NotImplemented
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    return _read, (kind.__name__, pickle.PickleBuffer(sink.getvalue()))


def _read(kind: str, stream: Any) -> Any:
    import pyarrow

    with pyarrow.ipc.open_stream(stream) as reader:
        return reader.read_next_batch() if kind == "RecordBatch" else reader.read_all()
