"""How messages are told apart in a stream of bytes: a fixed header, then the payload.

    magic "SGF" | wire version u8 | kind u32 | payload length u64, little-endian

The header and the handshake's messages (see `handshake`) never change their form, so that processes
of different versions can still tell each other so.

The payload of a message is a *block*: a pickle stream alone, or one and what belongs to it (the codec knows how):

    0 u8 | 7 unused | stream length u64 | buffers u32 | dead u32 | length u64 of each buffer |
    number u32 of each dead definition | the stream | the buffers, each from a multiple of 16 bytes on
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import Final

from sage_flow.errors import CodecError, ProtocolError

Buffer = bytes | memoryview

WIRE_VERSION: Final = 1
MAGIC: Final = b"SGF"
HEADER: Final = struct.Struct("<3sBIQ")

MESSAGE: Final = 0
"""A payload for the codec; the only kind after the handshake."""
HELLO: Final = 1
CHALLENGE: Final = 2
PROOF: Final = 3
WELCOME: Final = 4
REFUSED: Final = 5

MESSAGE_LIMIT: Final = 4 << 30
"""Bytes in one payload at the most; more is a length that was never meant."""

_PREFIX: Final = HEADER.pack(MAGIC, WIRE_VERSION, MESSAGE, 0)[:8]
_PREFIX_AND_LENGTH: Final = struct.Struct("<8sQ")  # the header, as a message has it
_HEADER_SIZE: Final = HEADER.size
_BLOCK: Final = struct.Struct("<8xQII")
_STREAM: Final = pickle.PROTO[0]  # the first byte of every pickle of protocol 2 and later; a table's is 0
_ALIGNMENT: Final = 16  # that of a bytearray's contents; numpy and Arrow want it for their elements
_SCRATCH: Final = 128 << 10  # bytes; smaller frames are cut from here, many to one read


def header(kind: int, length: int) -> bytes:
    """The header of a payload of `length` bytes."""
    return HEADER.pack(MAGIC, WIRE_VERSION, kind, length)


def is_stream(block: bytes | bytearray | memoryview) -> bool:
    """Whether the block is nothing but a pickle stream."""
    return block[0] == _STREAM


def pack_block(stream: Sequence[Buffer], buffers: Sequence[Buffer], dead: Sequence[int]) -> list[Buffer]:
    """A block with a table, in pieces to be written one after the other; `stream` comes in pieces, too."""
    stream_size = sum(map(len, stream))
    head = _BLOCK.pack(stream_size, len(buffers), len(dead))
    head += struct.pack(f"<{len(buffers)}Q{len(dead)}I", *map(len, buffers), *dead)
    block: list[Buffer] = [head, *stream]
    end = len(head) + stream_size
    for buffer in buffers:
        if padding := -end % _ALIGNMENT:
            block.append(bytes(padding))
        block.append(buffer)
        end += padding + len(buffer)
    return block


def unpack_block(block: memoryview) -> tuple[memoryview, list[memoryview], tuple[int, ...]]:
    """The stream, the buffers (both views of `block`) and the numbers of dead definitions.

    Raises: CodecError if the lengths do not fit together.
    """
    try:
        stream_size, buffer_count, dead_count = _BLOCK.unpack_from(block)
        sizes = struct.unpack_from(f"<{buffer_count}Q{dead_count}I", block, _BLOCK.size)
    except struct.error as error:
        raise CodecError(f"{len(block)} bytes are no block: {error}") from error
    start = _BLOCK.size + 8 * buffer_count + 4 * dead_count
    end = start + stream_size
    buffers = []
    for size in sizes[:buffer_count]:
        end += -end % _ALIGNMENT
        buffers.append(block[end : end + size])
        end += size
    if end != len(block):
        raise CodecError(f"a block of {end} bytes came as {len(block)}")
    return block[start : start + stream_size], buffers, sizes[buffer_count:]


class FrameReader:
    """Cuts a stream of `MESSAGE` frames into payloads, however the stream was split on its way.

    Each payload is a bytearray of its own, so that what is decoded from it without a copy keeps alive
    nothing but its own message. Either `feed` it, or let the socket write where the bytes belong:
    `filled(sock.recv_into(space()))`. A ProtocolError is final: the stream has no meaning after it.
    """

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._limit = limit
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._scratch_used = 0
        self._large: bytearray | None = None  # the payload being received, if it does not fit the scratch
        self._large_used = 0

    @property
    def inside_a_frame(self) -> bool:
        """A frame has begun and is not complete: the stream must not end here."""
        return self._large is not None or self._scratch_used > 0

    def space(self) -> memoryview:
        """Where the next bytes of the stream belong; never empty."""
        if self._large is not None:
            return memoryview(self._large)[self._large_used :]
        return self._scratch[self._scratch_used :]

    def filled(self, count: int) -> list[bytearray]:
        """`count` bytes were written to `space()`; returns the payloads this completes.

        Raises: ProtocolError if they are not frames of this wire version, or one is over the limit.
        """
        if self._large is not None:
            self._large_used += count
            if self._large_used < len(self._large):
                return []
            payload, self._large = self._large, None
            return [payload]
        payloads: list[bytearray] = []
        scratch, start, end = self._scratch, 0, self._scratch_used + count
        while end - start >= _HEADER_SIZE:
            prefix, length = _PREFIX_AND_LENGTH.unpack_from(scratch, start)
            if prefix != _PREFIX or length > self._limit:
                raise ProtocolError(self._complaint(*HEADER.unpack_from(scratch, start)))
            body = start + _HEADER_SIZE
            if body + length > end:
                if _HEADER_SIZE + length > len(scratch):
                    self._large, self._large_used = bytearray(length), end - body
                    self._large[: end - body] = scratch[body:end]
                    start = end
                break
            start = body + length
            payloads.append(bytearray(scratch[body:start]))
        if 0 < start < end:
            scratch[: end - start] = bytes(scratch[start:end])
        self._scratch_used = end - start
        return payloads

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytearray]:
        """Take the next bytes of the stream; returns the payloads they complete. Raises as `filled`."""
        rest = memoryview(data)
        payloads: list[bytearray] = []
        while rest:
            space = self.space()
            count = min(len(space), len(rest))
            space[:count] = rest[:count]
            payloads += self.filled(count)
            rest = rest[count:]
        return payloads

    def _complaint(self, magic: bytes, version: int, kind: int, length: int) -> str:
        if magic != MAGIC:
            return f"bytes {magic!r} where a message should begin"
        if version != WIRE_VERSION:
            return f"a message of wire version {version}, this process speaks {WIRE_VERSION}"
        if length > self._limit:
            return f"a message of {length} bytes, over the limit of {self._limit}"
        return f"a frame of kind {kind} after the handshake"
