"""Records that stay pickled until somebody needs them.

What waits in an inbox is counted by its bytes on the wire. As objects small records take ten times as much, and the
garbage collector goes through them again and again while they wait. And records that cannot be made here concern
the one that needs them: not the connection, nor its other messages.
"""

from __future__ import annotations

import pickle
from typing import Any

from sage_flow.errors import CodecError

__all__ = ["Packed", "Packing", "unpack_now"]


class Packing:
    """Records on their way out; they will be `Packed` where they come to."""

    __slots__ = ("records",)

    def __init__(self, records: list[Any]) -> None:
        self.records = records


class Packed:
    """So many records, as a pickle stream and the buffers that belong to it."""

    __slots__ = ("_buffers", "_count", "_stream")

    def __init__(self, count: int, stream: bytes | memoryview, *buffers: Any) -> None:
        self._count = count
        self._stream = stream
        self._buffers = buffers

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._count} records)"

    def unpack(self) -> list[Any]:
        """The records. Raises: CodecError if one of them cannot be made."""
        try:
            records: list[Any] = pickle.loads(self._stream, buffers=self._buffers)
        except Exception as error:
            what = f"{self._count} records" if self._count > 1 else "a record"
            raise CodecError(f"{what} cannot be decoded ({type(error).__name__}: {error})") from error
        return records


class _Undecodable(Packed):
    __slots__ = ("_error",)

    def __init__(self, count: int, error: CodecError) -> None:
        super().__init__(count, b"")
        self._error = error

    def unpack(self) -> list[Any]:
        raise self._error


def unpack_now(count: int, stream: bytes | memoryview, *buffers: Any) -> list[Any] | Packed:
    """The records; if they cannot be made, what will say so to the one that needs them."""
    try:
        return Packed(count, stream, *buffers).unpack()
    except CodecError as error:
        return _Undecodable(count, error)
