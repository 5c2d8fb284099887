"""From the bytes of a connection back to messages, however the stream was split on its way."""

from __future__ import annotations

import contextlib
import mmap
import struct
import sys
from typing import Final

from sage_flow.errors import ProtocolError
from sage_flow.wire.frames import (
    BEGIN,
    BEGIN_HEAD,
    DEFINITIONS,
    FRAGMENT,
    FRAGMENT_HEAD,
    FRAGMENT_LIMIT,
    HEADER,
    MAGIC,
    MESSAGE,
    MESSAGE_LIMIT,
    STREAMS,
    WIRE_VERSION,
)

_MESSAGE_START: Final = HEADER.pack(MAGIC, WIRE_VERSION, MESSAGE, 0)[:8]
_START: Final = HEADER.pack(MAGIC, WIRE_VERSION, 0, 0)[:4]
_HEAD: Final = struct.Struct("<4sIQ")  # the header, its first two fields as one
_MESSAGE_HEAD: Final = struct.Struct("<8sQ")  # its first three fields as one
_SIZE: Final = HEADER.size
_SCRATCH: Final = 128 << 10  # bytes; smaller frames are cut from here, many to one read
_NARROW: Final = 4 << 10  # read beside fragments: what comes here of the next one is copied
_LARGE: Final = 4 << 20  # bytes; so much memory is cheap only in huge pages, and nobody is believed such a length

_LONGEST: Final = {
    MESSAGE: FRAGMENT_LIMIT,
    DEFINITIONS: FRAGMENT_LIMIT,
    BEGIN: BEGIN_HEAD.size,
    FRAGMENT: FRAGMENT_HEAD.size + FRAGMENT_LIMIT,
}
_SHORTEST: Final = {BEGIN: BEGIN_HEAD.size, FRAGMENT: FRAGMENT_HEAD.size + 1}

Payload = tuple[int, bytearray | memoryview]
"""MESSAGE or DEFINITIONS, and its bytes, which may be written to."""


class _Body:
    """The bytes of one payload, as they come."""

    __slots__ = ("_data", "kind", "length", "used")

    def __init__(self, kind: int, length: int) -> None:
        self.kind = kind
        self.length = length
        self.used = 0
        self._data = _pages(length) if length >= _LARGE else memoryview(bytearray(length))

    def space(self, count: int) -> memoryview:
        """Where the next `count` bytes belong."""
        return self._data[self.used : self.used + count]

    def payload(self) -> Payload:
        return self.kind, self._data


def _pages(length: int) -> memoryview:
    """Memory that the system provides as it is written to, in huge pages if it has them."""
    pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it has none
            pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


class FrameReader:
    """Cuts a stream of frames into payloads, and puts together what came in fragments.

    Each payload has memory of its own, so that what is decoded from it without a copy keeps alive
    nothing but its own message. Either `feed` it, or let the socket write where the bytes belong:
    `filled(sock.recv_into(space()))`. A ProtocolError is final: the stream has no meaning after it.
    """

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._limit = limit
        self._longest = {**_LONGEST, MESSAGE: min(FRAGMENT_LIMIT, limit)}
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._scratch_used = 0
        self._streams: dict[int, _Body] = {}
        self._body: _Body | None = None  # of the frame being received, if it does not fit the scratch
        self._missing = 0  # bytes of that frame
        self._stream: int | None = None  # that frame is a fragment of this stream

    @property
    def inside_a_message(self) -> bool:
        """A message has begun and is not complete: the stream must not end here."""
        return self._body is not None or self._scratch_used > 0 or bool(self._streams)

    def space(self) -> memoryview:
        """Where the next bytes of the stream belong; never empty."""
        if self._body is not None:
            return self._body.space(self._missing)
        if self._streams:
            return self._scratch[self._scratch_used : self._scratch_used + _NARROW]
        return self._scratch[self._scratch_used :]

    def filled(self, count: int) -> list[Payload]:
        """`count` bytes were written to `space()`; returns the payloads this completes.

        Raises: ProtocolError if they are not frames of this wire version, or out of order, or too long.
        """
        payloads: list[Payload] = []
        if self._body is not None:
            self._advance(self._body, count, payloads)
            return payloads
        scratch, start, end = self._scratch, 0, self._scratch_used + count
        longest_message = self._longest[MESSAGE]
        while end - start >= _SIZE:
            head, length = _MESSAGE_HEAD.unpack_from(scratch, start)
            after = start + _SIZE + length
            if head == _MESSAGE_START and after <= end and length <= longest_message:  # mostly all there is
                payloads.append((MESSAGE, bytearray(scratch[start + _SIZE : after])))
                start = after
                continue
            head, kind, length = _HEAD.unpack_from(scratch, start)
            longest = self._longest.get(kind)
            if head != _START or longest is None or length > longest or length < _SHORTEST.get(kind, 0):
                raise ProtocolError(_complaint(*HEADER.unpack_from(scratch, start)))
            body = start + _SIZE
            if body + length <= end:
                start = body + length
                if kind in (MESSAGE, DEFINITIONS):
                    payloads.append((kind, bytearray(scratch[body:start])))
                elif kind == BEGIN:
                    self._begin(*BEGIN_HEAD.unpack_from(scratch, body))
                else:
                    self._enter(kind, scratch[body:start], length, payloads)
            elif end - body > FRAGMENT_HEAD.size and (kind == FRAGMENT or _SIZE + length > len(scratch)):
                self._enter(kind, scratch[body:end], length, payloads)
                start = end
            else:
                break
        if 0 < start < end:
            scratch[: end - start] = bytes(scratch[start:end])
        self._scratch_used = end - start
        return payloads

    def feed(self, data: bytes | bytearray | memoryview) -> list[Payload]:
        """Take the next bytes of the stream; returns the payloads they complete. Raises as `filled`."""
        rest = memoryview(data)
        payloads: list[Payload] = []
        while rest:
            space = self.space()
            count = min(len(space), len(rest))
            space[:count] = rest[:count]
            payloads += self.filled(count)
            rest = rest[count:]
        return payloads

    def _begin(self, stream: int, kind: int, length: int) -> None:
        if length > self._limit:
            raise ProtocolError(f"a message of {length} bytes, over the limit of {self._limit}")
        if stream in self._streams or len(self._streams) > STREAMS or kind not in (MESSAGE, DEFINITIONS) or not length:
            raise ProtocolError(f"stream {stream} of kind {kind} and {length} bytes beside {len(self._streams)} others")
        self._streams[stream] = _Body(kind, length)

    def _enter(self, kind: int, data: memoryview, length: int, payloads: list[Payload]) -> None:
        """A frame of `length` bytes of which `data` has come: it goes where it belongs, and so does the rest."""
        if kind == FRAGMENT:
            (stream,) = FRAGMENT_HEAD.unpack_from(data)
            data, length = data[FRAGMENT_HEAD.size :], length - FRAGMENT_HEAD.size
            known = self._streams.get(stream)
            if known is None or length > known.length - known.used:
                raise ProtocolError(f"a fragment of {length} bytes that no message of stream {stream} can have")
            body, self._stream = known, stream
        else:
            body, self._stream = _Body(kind, length), None
        self._body, self._missing = body, length
        body.space(length)[: len(data)] = data
        self._advance(body, len(data), payloads)

    def _advance(self, body: _Body, count: int, payloads: list[Payload]) -> None:
        body.used += count
        self._missing -= count
        if self._missing:
            return
        self._body = None
        if body.used == body.length:
            payloads.append(body.payload())
            if self._stream is not None:
                del self._streams[self._stream]


def _complaint(magic: bytes, version: int, kind: int, length: int) -> str:
    if magic != MAGIC:
        return f"bytes {magic!r} where a message should begin"
    if version != WIRE_VERSION:
        return f"a message of wire version {version}, this process speaks {WIRE_VERSION}"
    if kind not in _LONGEST:
        return f"a frame of kind {kind} after the handshake"
    return f"a frame of kind {kind} with {length} bytes, which it must not have"
