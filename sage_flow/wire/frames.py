"""How messages are told apart in a stream of bytes: a fixed header, then a payload.

    magic "SGF" | wire version u8 | kind u32 | payload length u64, little-endian

The header and REFUSED (see `handshake`) never change their form, so that processes of different versions can still
tell each other so. After the handshake there are four kinds of frames,
none longer than 256 KiB and a little:

    MESSAGE       a block
    DEFINITIONS   dead u32 | definitions u32 | number u32 of each dead one | number u32 and length u64 of each
                  definition | their pickles
    BEGIN         stream u32 | kind u32 | length u64: a MESSAGE or DEFINITIONS that is too long for one frame follows
    FRAGMENT      stream u32 | its next bytes; between the fragments of one stream others may come

A *block* is a pickle stream alone, or one and the buffers that belong to it (the codec knows how):

    0 u8 | 3 unused | buffers u32 | stream length u64 | length u64 of each buffer | the stream |
    the buffers, each from a multiple of 16 bytes on
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sage_flow.errors import CodecError

Buffer = bytes | memoryview

WIRE_VERSION: Final = 14
MAGIC: Final = b"SGF"
HEADER: Final = struct.Struct("<3sBIQ")

MESSAGE: Final = 0
HELLO: Final = 1
CHALLENGE: Final = 2
PROOF: Final = 3
WELCOME: Final = 4
REFUSED: Final = 5
DEFINITIONS: Final = 6
BEGIN: Final = 7
FRAGMENT: Final = 8

MESSAGE_LIMIT: Final = 4 << 30
"""Bytes in one message at the most; more is a length that was never meant."""
FRAGMENT_LIMIT: Final = 256 << 10
"""Bytes of a message in one frame at the most."""
STREAMS: Final = 64
"""Messages whose fragments may be mixed on one connection at the most; more wait until one of them is complete."""

BEGIN_HEAD: Final = struct.Struct("<IIQ")  # stream, kind, length
FRAGMENT_HEAD: Final = struct.Struct("<I")

_BLOCK: Final = struct.Struct("<4xIQ")
_STREAM: Final = pickle.PROTO[0]  # the first byte of every pickle of protocol 2 and later; a table's is 0
_ALIGNMENT: Final = 16  # that of a bytearray's contents; numpy and Arrow want it for their elements

_COUNTS: Final = struct.Struct("<II")


def header(kind: int, length: int) -> bytes:
    """The header of a payload of `length` bytes."""
    return HEADER.pack(MAGIC, WIRE_VERSION, kind, length)


def begin(stream: int, kind: int, length: int) -> bytes:
    """The frame before the fragments of a message of `length` bytes."""
    return header(BEGIN, BEGIN_HEAD.size) + BEGIN_HEAD.pack(stream, kind, length)


def fragments(stream: int, pieces: Iterable[Buffer]) -> Iterator[list[Buffer]]:
    """Frames that carry `pieces`, each in pieces of its own; nothing is copied."""
    frame: list[Buffer] = []
    room = FRAGMENT_LIMIT
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            frame.append(rest[:room])
            room -= len(frame[-1])
            rest = rest[len(frame[-1]) :]
            if not room:
                yield [_fragment_header(stream, FRAGMENT_LIMIT), *frame]
                frame, room = [], FRAGMENT_LIMIT
    if frame:
        yield [_fragment_header(stream, FRAGMENT_LIMIT - room), *frame]


def _fragment_header(stream: int, length: int) -> bytes:
    return header(FRAGMENT, FRAGMENT_HEAD.size + length) + FRAGMENT_HEAD.pack(stream)


def is_stream(block: bytes | bytearray | memoryview) -> bool:
    """Whether the block is nothing but a pickle stream."""
    return block[0] == _STREAM


def pack_block(stream: Sequence[Buffer], buffers: Sequence[Buffer]) -> list[Buffer]:
    """A block with a table, in pieces to be written one after the other; `stream` comes in pieces, too."""
    stream_size = sum(map(len, stream))
    head = _BLOCK.pack(len(buffers), stream_size) + struct.pack(f"<{len(buffers)}Q", *map(len, buffers))
    block: list[Buffer] = [head, *stream]
    end = len(head) + stream_size
    for buffer in buffers:
        if padding := -end % _ALIGNMENT:
            block.append(bytes(padding))
        block.append(buffer)
        end += padding + len(buffer)
    return block


def unpack_block(block: memoryview) -> tuple[memoryview, list[memoryview]]:
    """The stream and the buffers, all views of `block`. Raises: CodecError if the lengths do not fit together."""
    try:
        buffer_count, stream_size = _BLOCK.unpack_from(block)
        sizes = struct.unpack_from(f"<{buffer_count}Q", block, _BLOCK.size)
    except struct.error as error:
        raise CodecError(f"{len(block)} bytes are no block: {error}") from error
    start = _BLOCK.size + 8 * buffer_count
    end = start + stream_size
    buffers = []
    for size in sizes:
        end += -end % _ALIGNMENT
        buffers.append(block[end : end + size])
        end += size
    if end != len(block):
        raise CodecError(f"a block of {end} bytes came as {len(block)}")
    return block[start : start + stream_size], buffers


def pack_definitions(definitions: Sequence[tuple[int, bytes]], dead: Sequence[int]) -> list[Buffer]:
    """The payload that makes `definitions` (number, pickle) known and `dead` numbers unknown, in pieces."""
    head = _COUNTS.pack(len(dead), len(definitions)) + struct.pack(f"<{len(dead)}I", *dead)
    table = b"".join(struct.pack("<IQ", number, len(code)) for number, code in definitions)
    return [head + table, *(code for _, code in definitions)]


def unpack_definitions(payload: memoryview) -> tuple[list[tuple[int, bytes]], tuple[int, ...]]:
    """The definitions and the dead numbers. Raises: CodecError if the lengths do not fit together."""
    try:
        dead_count, count = _COUNTS.unpack_from(payload)
        dead = struct.unpack_from(f"<{dead_count}I", payload, _COUNTS.size)
        table = struct.unpack_from("<" + "IQ" * count, payload, _COUNTS.size + 4 * dead_count)
    except struct.error as error:
        raise CodecError(f"{len(payload)} bytes are no definitions: {error}") from error
    end = _COUNTS.size + 4 * dead_count + 12 * count
    definitions = []
    for number, size in zip(table[::2], table[1::2], strict=True):
        definitions.append((number, bytes(payload[end : end + size])))
        end += size
    if end != len(payload):
        raise CodecError(f"definitions of {end} bytes came as {len(payload)}")
    return definitions, dead
