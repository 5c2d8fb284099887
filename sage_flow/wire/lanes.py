"""Which bytes of a connection come next, so that a large message holds up only its own lane.

A message that fits one frame is written at once, unless its lane still has a larger one under way. Larger
ones leave in fragments, a fragment of each lane in turn; and small messages do not starve them: after
256 KiB of small ones there is a fragment.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Final

from sage_flow.wire.frames import (
    DEFINITIONS,
    FRAGMENT_LIMIT,
    HEADER,
    MAGIC,
    MESSAGE,
    STREAMS,
    WIRE_VERSION,
    Buffer,
    begin,
    fragments,
    header,
)

_JOINED: Final = 64 << 10  # bytes; up to here one piece costs less than several


def whole(kind: int, payload: Sequence[Buffer], size: int) -> list[Buffer]:
    """The one frame of a payload of `size` bytes, which fits."""
    pieces = [header(kind, size), *payload]
    return [b"".join(pieces)] if size <= _JOINED else pieces


def split(stream: int, kind: int, payload: Sequence[Buffer], size: int) -> Iterator[list[Buffer]]:
    """The frames of a payload that does not fit one."""
    frames = fragments(stream, payload)
    yield [begin(stream, kind, size), *next(frames)]
    yield from frames


class _Waiting:
    """A message that has not been written, or not all of it."""

    __slots__ = ("frames", "left", "number", "payload")

    def __init__(self, number: int, payload: Sequence[Buffer], size: int) -> None:
        self.number = number
        self.payload = payload
        self.left = size
        self.frames: Iterator[list[Buffer]] | None = None  # once the first of several is written


class Lanes:
    """The messages that wait for others; `number` counts the messages of the connection."""

    def __init__(self) -> None:
        self.waiting: dict[Hashable, deque[_Waiting]] = {}
        """What waits, by lane."""
        self._turns: deque[Hashable] = deque()  # lanes whose messages may be under way; the next one first
        self._later: deque[Hashable] = deque()  # they enter when one of those is done
        self._unfinished: dict[int, None] = {}  # numbers, oldest first
        self._streams = itertools.count(1)
        self._passed = 0  # bytes of small messages since the last fragment
        self.bytes = 0
        """Bytes that wait here."""

    @property
    def oldest(self) -> int | None:
        """The number of the oldest message of which not everything was returned by `next`."""
        return next(iter(self._unfinished)) if self._unfinished else None

    def place(self, lane: Hashable, number: int, payload: Sequence[Buffer], size: int) -> list[Buffer]:
        """A new message. Returns what is to be written now, nothing if it has to wait."""
        if not self.waiting and size <= _JOINED:
            return [b"".join((HEADER.pack(MAGIC, WIRE_VERSION, MESSAGE, size), *payload))]
        waiting = self.waiting.get(lane)
        if waiting is None:
            if size <= FRAGMENT_LIMIT:
                return whole(MESSAGE, payload, size) + self._share_of_the_others(size)
            waiting = self.waiting[lane] = deque()
            (self._turns if len(self._turns) < STREAMS else self._later).append(lane)
        waiting.append(_Waiting(number, payload, size))
        self._unfinished[number] = None
        self.bytes += size
        return []

    def definitions(self, payload: Sequence[Buffer]) -> list[Buffer]:
        """What later messages rely on, to be written now whatever it takes: nothing may overtake it."""
        size = sum(map(len, payload))
        if size <= FRAGMENT_LIMIT:
            return whole(DEFINITIONS, payload, size)
        return [piece for frame in split(self._new_stream(), DEFINITIONS, payload, size) for piece in frame]

    def next(self) -> list[Buffer]:
        """What the lane whose turn it is writes: a fragment, or small messages that waited behind one."""
        if not self._turns:
            return []
        self._passed = 0
        lane = self._turns.popleft()
        waiting = self.waiting[lane]
        first = waiting[0]
        is_small = first.frames is None and first.left <= FRAGMENT_LIMIT
        pieces = self._small_ones(waiting) if is_small else self._fragment(waiting)
        if waiting:
            self._turns.append(lane)
        else:
            del self.waiting[lane]
            if self._later:
                self._turns.append(self._later.popleft())
        return pieces

    def _share_of_the_others(self, size: int) -> list[Buffer]:
        self._passed += size
        return self.next() if self._passed > FRAGMENT_LIMIT else []

    def _fragment(self, waiting: deque[_Waiting]) -> list[Buffer]:
        message = waiting[0]
        if message.frames is None:
            message.frames = split(self._new_stream(), MESSAGE, message.payload, message.left)
        frame = next(message.frames)
        self._written(message, min(message.left, FRAGMENT_LIMIT))
        if not message.left:
            waiting.popleft()
        return frame

    def _small_ones(self, waiting: deque[_Waiting]) -> list[Buffer]:
        pieces: list[Buffer] = []
        room = FRAGMENT_LIMIT
        while waiting and waiting[0].left <= room:
            message = waiting.popleft()
            room -= message.left
            pieces += whole(MESSAGE, message.payload, message.left)
            self._written(message, message.left)
        return pieces

    def _written(self, message: _Waiting, size: int) -> None:
        self.bytes -= size
        message.left -= size
        if not message.left:
            del self._unfinished[message.number]

    def _new_stream(self) -> int:
        return next(self._streams) % (1 << 32)
