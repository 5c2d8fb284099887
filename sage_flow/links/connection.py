"""The two directions of a connection: one encodes, queues and writes, the other reads and decodes.

A message is written at once, by the thread that sends it. When the peer falls behind with reading, messages are queued
instead, and the exchange thread writes them together: batches grow under load, disappear without it, and no thread
waits for a batch to fill.

Neither direction blocks. Their owner (`link`) waits for sockets, and decides what an error means.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final

from sage_flow.errors import LinkClosed
from sage_flow.links.pipe import Pipe
from sage_flow.wire.codec import Decoder, Encoder
from sage_flow.wire.frames import DEFINITIONS, MESSAGE_LIMIT, Buffer
from sage_flow.wire.lanes import Lanes
from sage_flow.wire.reader import FrameReader

_FEW: Final = 4  # pieces; a shorter queue is filled up before a write, because the socket may take more
_ASK: Final = 8  # messages; at every eighth the system is asked whether the peer keeps up, so that lone ones cost less
_BEHIND: Final = 16 << 10  # bytes that the peer has not read; for fewer it does not pay to wake the exchange thread
_HELD: Final = 32  # messages on hold; they are written before there are more, so that the peer has something to do
_READS: Final = 16  # reads in a row, before other connections have their turn


class ConnectionLost(Exception):
    """A connection cannot be used any more; the text says why."""


class ClosedByPeer(ConnectionLost):
    """The peer has closed the connection, between two messages."""

    def __init__(self) -> None:
        super().__init__("it closed its connection")


class Outbound:
    """Encodes, queues and writes the messages of any thread; those of one lane keep their order.

    `open` and `abandon` are for the exchange thread, the rest for any thread. The locks are reentrant because pickling
    and the garbage collector run code that may send, too.
    """

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._encoder = Encoder(limit)
        self._order = threading.RLock()  # held while a message is encoded and queued, so that both have one order
        self._lock = threading.RLock()  # guards what follows, and writing
        self._queue: deque[Buffer] = deque()  # pieces, in the order in which they are written
        self._lanes = Lanes()
        self._pipe: Pipe | None = None
        self._end: str | None = None
        self._messages = self._bytes = self._dropped_bytes = 0
        self._alone = 0  # messages that found the queue empty
        self._holds = False  # all that is queued is on hold

    def send(
        self, value: Any, lane: Hashable, *, copy_buffers: bool, subject: Any, on_hold: bool = False
    ) -> tuple[int, bool]:
        """Queue a message. Write all that is queued, unless this message is on hold and few are queued.

        Returns the bytes of the message, and whether the caller has to arrange another call of `write`.
        Raises: CodecError, LinkClosed.
        """
        with self._order:
            if self._end is not None:
                raise LinkClosed(self._end)
            block = self._encoder.encode(value, copy_buffers=copy_buffers, subject=subject)
            size = len(block[0]) if len(block) == 1 else sum(map(len, block))
            with self._lock:
                if self._end is not None:
                    raise LinkClosed(self._end)
                self._messages += 1
                self._bytes += size
                alone = not self._queue
                lanes = self._lanes
                if self._encoder.has_news and (news := self._encoder.news(lanes.oldest)):
                    self._queue += lanes.definitions(news)
                self._queue += lanes.place(lane, self._encoder.messages, block, size)
                if alone and (on_hold or self._gather()):
                    self._holds = on_hold
                    return size, True
                if (on_hold and len(self._queue) < _HELD) or not (alone or self._holds):
                    return size, False  # another call of `write` is arranged already
                try:
                    return size, not self.write()
                except OSError:
                    return size, True  # the exchange thread gets the same error, and reports it

    def _gather(self) -> bool:
        """Whether to leave the message to the exchange thread, which then writes it together with later ones."""
        self._alone += 1
        return self._alone % _ASK == 0 and self._pipe is not None and self._pipe.unread_by_peer() > _BEHIND

    def write(self) -> bool:
        """Write once, as much as the socket takes. True if nothing is left that could be written. Raises: OSError."""
        with self._lock:
            if self._pipe is None:
                return True
            queue = self._queue
            self._holds = False
            if self._lanes.waiting and len(queue) < _FEW:
                queue += self._lanes.next()
            if not queue:
                return True
            try:
                count = self._pipe.write(queue)
            except BlockingIOError:
                return False
            while queue and count >= len(queue[0]):
                count -= len(queue.popleft())
            if count:  # in place: if the queue looked empty, another thread would write
                queue[0] = memoryview(queue[0])[count:]
            return not queue and not self._lanes.waiting

    def open(self, pipe: Pipe) -> None:
        """From now on messages may be written, to `pipe`."""
        with self._lock:
            if self._end is None:
                self._pipe = pipe

    def abandon(self, reason: str) -> None:
        """Drop, and count, what is queued; refuse all that follows. The pipe is not used any more."""
        with self._lock:
            self._end, self._pipe = reason, None
            self._dropped_bytes += self._waiting()
            self._queue.clear()
            self._lanes = Lanes()

    def refuse(self, reason: str) -> None:
        """Refuse all that follows; what is queued will still be written."""
        with self._lock:
            self._end = self._end or reason

    @property
    def holds(self) -> bool:
        """All that is queued is on hold."""
        return self._holds

    @property
    def idle(self) -> bool:
        """Nothing is queued."""
        with self._lock:
            return not self._waiting()

    def statistics(self) -> dict[str, int]:
        """Messages and bytes that were sent (queued included), queued bytes, and dropped ones."""
        with self._lock:
            return {
                "sent_messages": self._messages,
                "sent_bytes": self._bytes,
                "queued_bytes": self._waiting(),
                "dropped_bytes": self._dropped_bytes,
            }

    def _waiting(self) -> int:
        return sum(map(len, self._queue)) + self._lanes.bytes


class Inbound:
    """Reads and decodes."""

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._reader = FrameReader(limit)
        self._decoder = Decoder()
        self.messages = self.bytes = 0

    def read(self, pipe: Pipe, deliver: Callable[[Any, int], object]) -> None:
        """Read what is there, at most `_READS` times; call `deliver(value, bytes)` for each complete message.

        Raises: BlockingIOError if nothing is there; ConnectionLost, ProtocolError, CodecError, OSError; what
        `deliver` raises.
        """
        for _ in range(_READS):
            space = self._reader.space()
            count = pipe.read(space)
            if not count:
                raise (
                    ConnectionLost("it closed its connection in the middle of a message")
                    if self._reader.inside_a_message
                    else ClosedByPeer()
                )
            for kind, payload in self._reader.filled(count):
                if kind == DEFINITIONS:
                    self._decoder.learn(payload)
                    continue
                value, size = self._decoder.decode(payload), len(payload)
                self.messages += 1
                self.bytes += size
                deliver(value, size)
            if count < len(space):
                break
