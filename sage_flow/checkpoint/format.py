"""How the content of a stored file is sealed, so that a damaged or foreign file is recognised before it is used.

A sealed file is a header, the name of its kind (ASCII), the checksum, and the payload:

    magic    8 bytes   the same in every version; it ends as PNG's does, so that a copy as text is noticed
    version  2 bytes   FORMAT_VERSION
    kind     2 bytes   the length of the name
    payload  8 bytes   the length of the payload
    checksum 16 bytes  xxh3 (128 bits) of everything else

Numbers are little-endian. A checksum finds damage; it is no protection against somebody who changes a file on purpose.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

import xxhash

from sage_flow.errors import CheckpointError

__all__ = ["FORMAT_VERSION", "PARTS", "sealed", "unsealed"]

FORMAT_VERSION = 2
"""The version of the header and of all payloads."""

PARTS = "parts"
"""The kind of the files with what subtasks keep."""

_MAGIC = b"sflow\r\n\x1a"
_HEADER = struct.Struct("<8sHHQ")
_CHECKSUM_SIZE = 16
_CURE = "bring the file back from a copy, or restore an older checkpoint by its path (`restore=`)"


def sealed(kind: str, payload: bytes) -> bytes:
    """Return the content of a file of this kind, for example "log entry"."""
    name = kind.encode("ascii")
    head = _HEADER.pack(_MAGIC, FORMAT_VERSION, len(name), len(payload)) + name
    return b"".join((head, _checksum(head, payload), payload))


def unsealed(kind: str, data: bytes, name: str) -> bytes:
    """Return what was sealed as `kind`. `name` is the file, for errors. Raises CheckpointError."""
    if not data:
        raise CheckpointError(f"{name}: is empty, so it was not written by sage_flow; {_CURE}")
    if not data.startswith(_MAGIC):
        cut = _MAGIC.startswith(data)
        what = "is cut off" if cut else f"is no file of sage_flow, or its first bytes are damaged: {data[:8]!r}"
        raise CheckpointError(f"{name}: {what}; {_CURE}")
    if len(data) < _HEADER.size:
        raise CheckpointError(f"{name}: is cut off after {len(data)} bytes; {_CURE}")
    _, version, kind_size, payload_size = _HEADER.unpack_from(data)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{name}: has format {version}, and this version of sage_flow reads format {FORMAT_VERSION}; "
            f"use the version of sage_flow that wrote it{'' if version < FORMAT_VERSION else ', or a later one'}"
        )
    start = _HEADER.size + kind_size
    size = start + _CHECKSUM_SIZE + payload_size
    if len(data) != size:
        what = "is cut off" if len(data) < size else "has bytes behind its end"
        raise CheckpointError(f"{name}: {what}: {len(data)} bytes, where its header says {size}; {_CURE}")
    view = memoryview(data)
    payload = view[start + _CHECKSUM_SIZE :]
    if view[start : start + _CHECKSUM_SIZE] != _checksum(view[:start], payload):
        raise CheckpointError(f"{name}: is damaged: its checksum is wrong; {_CURE}")
    found = bytes(view[_HEADER.size : start]).decode("ascii")
    if found != kind:
        raise CheckpointError(f"{name}: is a {found}, where a {kind} is expected; {_CURE}")
    return bytes(payload)


def _checksum(head: bytes | memoryview, payload: bytes | memoryview) -> bytes:
    checksum = xxhash.xxh3_128(head)
    checksum.update(payload)
    return bytes(checksum.digest())


def unpickled(kind: str, data: bytes, name: str) -> list[Any]:
    """Return the values of the pickles that follow each other in what was sealed as `kind`; see `unsealed`.

    Raises CheckpointError, also if this process cannot make one of the values, for example for want of its class.
    """
    content = unsealed(kind, data, name)
    file, found = io.BytesIO(content), []
    try:
        while file.tell() < len(content):
            found.append(pickle.load(file))
    except Exception as error:  # unpickling calls code of the user's classes, which may raise anything
        raise CheckpointError(f"{name}: cannot be loaded: {error}") from error
    return found
