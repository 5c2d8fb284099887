"""Our connection to one peer, for writing: messages of any thread, in one order."""

from __future__ import annotations

import itertools
import socket
import threading
from collections import deque
from typing import Any, Final

from sage_flow.channels.codec import Encoder
from sage_flow.channels.wire import MESSAGE, Buffer, header

_JOINED: Final = 64 << 10  # bytes; up to here one piece costs less than several
_PIECES: Final = 512  # in one write; the system's limit is 1024


class Link:
    """Encodes, queues and writes; `sock` belongs to whoever dialed it, who also closes it.

    Its locks are reentrant: pickling and the garbage collector run code of others, and that may send.
    """

    def __init__(self, peer: int) -> None:
        self.peer = peer
        self._encoder = Encoder()
        self._order = threading.RLock()  # held while a message is encoded and queued: one order for both
        self._lock = threading.RLock()  # guards what follows
        self._queue: deque[Buffer] = deque()
        self._sock: socket.socket | None = None  # once messages may be written
        self._lost = False
        self._sent_messages = self._sent_bytes = self._dropped_messages = self._dropped_bytes = 0

    def send(self, value: Any, *, copy_buffers: bool, subject: Any) -> tuple[int, bool]:
        """Encode (see `Encoder.encode`) and queue a message, and write it if it is alone.

        Returns the bytes it takes, and whether somebody has to call `write` for the rest.
        """
        with self._order:
            if self._lost:
                self._dropped_messages += 1
                return 0, False
            block = self._encoder.encode(value, copy_buffers=copy_buffers, subject=subject)
            size = sum(map(len, block))
            pieces = [header(MESSAGE, size), *block]
            return size, self._put([b"".join(pieces)] if size <= _JOINED else pieces, size)

    def _put(self, pieces: list[Buffer], size: int) -> bool:
        with self._lock:
            if self._lost:
                self._dropped_messages += 1
                self._dropped_bytes += size
                return False
            self._sent_messages += 1
            self._sent_bytes += size
            alone = not self._queue
            self._queue.extend(pieces)
            if not alone or self._sock is None:
                return False  # somebody is at it, or `open` is to come
            try:
                return not self.write()
            except OSError:
                return True  # who calls `write` then meets the same error

    def open(self, sock: socket.socket) -> None:
        """From now on messages are written to `sock`, which does not block. Call `write` for those queued."""
        with self._lock:
            if not self._lost:
                self._sock = sock

    def write(self) -> bool:
        """Write, once, what the socket takes. True if nothing is left. Raises: OSError."""
        with self._lock:
            queue = self._queue
            if not queue or self._sock is None:
                return True
            try:
                count = self._sock.sendmsg([*itertools.islice(queue, _PIECES)], (), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            while queue and count >= len(queue[0]):
                count -= len(queue.popleft())
            if count:  # in place, as a queue that looks empty invites others to write
                queue[0] = memoryview(queue[0])[count:]
            return not queue

    def abandon(self) -> None:
        """Drop, and count, what is queued and all that follows. The socket is not used any more."""
        with self._lock:
            self._lost, self._sock = True, None
            self._dropped_bytes += sum(map(len, self._queue))
            self._queue.clear()

    @property
    def idle(self) -> bool:
        """Nothing is queued."""
        return not self._queue

    def statistics(self) -> dict[str, int]:
        """Messages and bytes that were sent (queued included), queued bytes, and what was dropped."""
        with self._lock:
            return {
                "sent_messages": self._sent_messages,
                "sent_bytes": self._sent_bytes,
                "queued_bytes": sum(map(len, self._queue)),
                "dropped_messages": self._dropped_messages,
                "dropped_bytes": self._dropped_bytes,
            }
