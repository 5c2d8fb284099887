"""Items as a host of queues keeps them: the putter pickles them, the getter unpickles them, the host never does.

A *payload* is the pickle of a list of neighbouring items, as (stream, *out-of-band buffers). Neighbours share a payload
as long as it stays small, because one pickle of ten items costs much less than ten pickles. A get of one of them
receives the whole payload, and takes its own item. A payload depends on no connection: classes and functions that
cannot be imported elsewhere are inside it by value, and cloudpickle makes one class of all copies from one process.
"""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import FunctionType
from typing import Any, Final

from sage_flow.errors import CodecError
from sage_flow.wire import by_value
from sage_flow.wire.arrow import reduce_slice
from sage_flow.wire.codec import cannot_pickle, importable

Payload = tuple[Any, ...]

_RUN_ITEMS: Final = 128
_RUN_BYTES: Final = 64 << 10
_OUT_OF_BAND: Final = 4096  # bytes; a smaller buffer costs less inside the stream

_codes: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()  # of definitions, as first pickled


class _Sink:
    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def write(self, chunk: bytes) -> None:
        self.chunks.append(chunk)


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if (kind is FunctionType or issubclass(kind, type)) and not importable(obj):
            if (code := _codes.get(obj)) is None:
                code = _codes[obj] = by_value.dumps(obj)
            return pickle.loads, (code,)
        if kind.__module__ == "pyarrow.lib":
            return reduce_slice(kind, obj)
        return NotImplemented


def _take_buffer(buffers: list[pickle.PickleBuffer], buffer: pickle.PickleBuffer) -> bool:
    if buffer.raw().nbytes < _OUT_OF_BAND:
        return True
    buffers.append(buffer)
    return False


def encode_runs(items: Sequence[Any]) -> Iterator[tuple[Payload, int, int]]:
    """Payloads of all of `items` in order, each with its number of items and its bytes.

    Large buffers (arrays) are not copied. Raises: CodecError that names what cannot be pickled.
    """
    start, step = 0, _RUN_ITEMS
    while start < len(items):
        part = items[start : start + step]
        payload = _encode(part)
        size = sum(_bytes(piece) for piece in payload)
        if size > _RUN_BYTES and len(part) > 1:
            step = 1
            continue
        yield payload, len(part), size
        start += len(part)
        step = min(2 * len(part), _RUN_ITEMS) if 2 * size <= _RUN_BYTES else len(part)


def _encode(items: Sequence[Any]) -> Payload:
    buffers: list[pickle.PickleBuffer] = []
    sink = _Sink()
    try:
        _Pickler(sink, 5, buffer_callback=partial(_take_buffer, buffers)).dump([*items])
    except Exception as error:
        subject = items[0] if len(items) == 1 else [*items]
        raise cannot_pickle(subject, error) from error
    stream = sink.chunks[0] if len(sink.chunks) == 1 else b"".join(sink.chunks)
    return (stream if len(stream) < _OUT_OF_BAND else pickle.PickleBuffer(stream), *buffers)


def pack(value: Any) -> Payload:
    """Return one value as a payload that shares no memory with it. Raises: CodecError."""
    return tuple(piece if isinstance(piece, bytes) else piece.raw().tobytes() for piece in _encode([value]))


def unpack(payload: Payload) -> Any:
    """Return the value that was packed. Raises: CodecError."""
    return decode_runs([(payload, 0, 1)])[0]


def _bytes(piece: Any) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.raw().nbytes


def relayed(payload: Payload) -> Payload:
    """Return a payload that can be sent on without a copy. What a putter in this process may still change is copied."""
    return tuple(piece if isinstance(piece, bytes) else pickle.PickleBuffer(_ours(piece)) for piece in payload)


def _ours(piece: Any) -> Any:
    return bytearray(piece) if isinstance(piece, pickle.PickleBuffer) else piece


def decode_runs(runs: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return the items from start to stop of each (payload, start, stop, ...). Raises: CodecError."""
    items: list[Any] = []
    for (stream, *buffers), start, stop, *_ in runs:
        try:
            run = pickle.loads(stream, buffers=buffers)
        except Exception as error:
            raise CodecError(f"an item cannot be unpickled here ({type(error).__name__}: {error})") from error
        items += run if stop - start == len(run) else run[start:stop]
    return items
