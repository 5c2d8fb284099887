"""What both ends of a connection do with messages: write them in one order, read and decode them.

In the mesh of a job a process has two connections with a peer: one it only writes to, one it only reads.

Neither blocks. Whoever owns them (`exchange`) waits for sockets, and decides what an error means.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, get_args

from sage_flow.channels.codec import Decoder, Encoder
from sage_flow.channels.frame import Data, Message
from sage_flow.channels.handshake import Accepted, Acceptor, Dialer, Refused, Send
from sage_flow.channels.transport import Stream
from sage_flow.channels.wire import MESSAGE, Buffer, FrameReader, header
from sage_flow.errors import InternalError, ProtocolError

_KINDS: Final = get_args(Message)  # a message crosses as (target, index in here, its fields): no class by name
_KIND_OF: Final = {kind: index for index, kind in enumerate(_KINDS)}
_DATA: Final = _KIND_OF[Data]
_COST: Final = Data._fields.index("cost")

_JOINED: Final = 64 << 10  # bytes; up to here one piece costs less than several
_PIECES: Final = 512  # in one write; the system's limit is 1024


class Lost(Exception):
    """A connection is of no use any more; says why."""


class Closed(Lost):
    """Its other end was closed, between two messages."""

    def __init__(self) -> None:
        super().__init__("it closed its connection")


class Writer:
    """Encodes, queues and writes the messages of any thread, in one order.

    `send` is for any thread, the rest for the exchange thread. The locks are reentrant because pickling and
    the garbage collector run code of others, and that may send.
    """

    def __init__(self) -> None:
        self.stream: Stream | None = None  # once connected
        self._encoder = Encoder()
        self._order = threading.RLock()  # held while a message is encoded and queued: one order for both
        self._lock = threading.RLock()  # guards what follows, and writing
        self._queue: deque[Buffer] = deque()
        self._open = self._lost = False
        self._sent_messages = self._sent_bytes = self._dropped_messages = self._dropped_bytes = 0

    def send(self, value: Any, *, copy_buffers: bool, subject: Any = None) -> tuple[int, bool]:
        """Queue a message, and write it if it is alone. `copy_buffers` and `subject` as `Encoder.encode` has them.

        Returns the bytes it takes (0: dropped), and whether somebody has to call `write` for the rest.
        Raises: CodecError.
        """
        with self._order:
            if self._lost:
                self._dropped_messages += 1
                return 0, False
            block = self._encoder.encode(value, copy_buffers=copy_buffers, subject=subject)
            size = sum(map(len, block))
            pieces: list[Buffer] = [header(MESSAGE, size), *block]
            if size <= _JOINED:
                pieces = [b"".join(pieces)]
            with self._lock:
                if self._lost:
                    self._dropped_messages += 1
                    self._dropped_bytes += size
                    return 0, False
                self._sent_messages += 1
                self._sent_bytes += size
                alone = not self._queue
                self._queue += pieces
                if self.stream is not None and not self.stream.direct:
                    return size, alone
                try:
                    return size, alone and not self.write()
                except OSError:
                    return size, True  # the exchange thread meets the same error, and reports it

    def write(self) -> bool:
        """Write, once, what the socket takes. True if nothing is left to do now. Raises: OSError."""
        with self._lock:
            queue, stream = self._queue, self.stream
            if not queue or stream is None or not self._open:
                return True
            try:
                count = stream.write([*itertools.islice(queue, _PIECES)])
            except BlockingIOError:
                return False
            while queue and count >= len(queue[0]):
                count -= len(queue.popleft())
            if count:  # in place: a queue that looks empty invites others to write
                queue[0] = memoryview(queue[0])[count:]
            return not queue

    def open(self) -> None:
        """The handshake is over: messages may be written."""
        with self._lock:
            self._open = not self._lost

    def abandon(self) -> None:
        """Drop, and count, what is queued and all that follows. The socket is not used any more."""
        with self._lock:
            self._lost, self._open = True, False
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


class Outlet(Writer):
    """To `peer`, in the mesh of a job."""

    def __init__(self, peer: int) -> None:
        super().__init__()
        self.peer = peer
        self.handshake: Dialer | None = None  # while it is under way

    def send_message(self, target: int, message: Message) -> tuple[int, bool]:
        """Queue a message for an address in the peer; see `send`."""
        kind = _KIND_OF.get(type(message))
        if kind is None:
            raise ProtocolError(f"a {type(message).__qualname__} is not a message")
        # Records do not change once they are emitted; arguments of calls may.
        return self.send((target, kind, *message), copy_buffers=kind != _DATA, subject=message)

    def negotiate(self) -> bool:
        """Read, and answer, the next bytes of the handshake. True once messages may be written.

        Raises: Lost, also if anything comes after the handshake; OSError.
        """
        if self.stream is None:
            raise InternalError(f"the connection to process {self.peer} has not been dialed")
        if self.handshake is None:
            receive(self.stream, 1)
            raise Lost("it wrote on a connection that it may only read")
        if negotiate(self.stream, self.handshake) is None:
            return False
        self.handshake = None
        self.open()
        return True


class Inlet:
    """From a peer, which dialed it: the handshake, then messages."""

    def __init__(self, stream: Stream, handshake: Acceptor) -> None:
        self.stream = stream
        self.peer: int | None = None  # known after the handshake
        self._handshake = handshake
        self._reader = Reader()
        self.messages = self.bytes = 0

    def negotiate(self) -> int | None:
        """Read, and answer, the next bytes of the handshake. Returns the peer once it is accepted.

        Raises: Lost, OSError.
        """
        return negotiate(self.stream, self._handshake)

    def read(self, on_message: Callable[[int, Message], None]) -> None:
        """Deliver the messages that one read completes. The cost of a `Data` becomes its encoded bytes.

        Raises: BlockingIOError if nothing is there; Lost, ProtocolError, CodecError, OSError.
        """
        for value, size in self._reader.read(self.stream):
            target, kind, *fields = value
            if kind == _DATA:
                fields[_COST] = size
            self.messages += 1
            self.bytes += size
            try:
                on_message(target, _KINDS[kind](*fields))
            except Exception as error:
                what = f"its {_KINDS[kind].__name__} for {target} could not be delivered"
                raise Lost(f"{what}: {''.join(traceback.format_exception(error))}") from error


class Reader:
    """Reads and decodes messages."""

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._decoder = Decoder()

    def read(self, stream: Stream) -> Iterator[tuple[Any, int]]:
        """The messages that one read completes, and the bytes each took.

        Raises: BlockingIOError if nothing is there; Lost, ProtocolError, CodecError, OSError.
        """
        count = stream.read_into(self._frames.space())
        if not count:
            raise Lost("it closed inside a message") if self._frames.inside_a_frame else Closed()
        for payload in self._frames.filled(count):
            yield self._decoder.decode(payload), len(payload)


def send_at_once(stream: Stream, data: bytes) -> None:
    """Write a message of a handshake; it always fits, as nothing else is in the socket's buffer."""
    with contextlib.suppress(OSError):  # the other end is closed; the next read tells, perhaps with the reason
        stream.write([data])


def receive(stream: Stream, most: int) -> bytes:
    """Raises: Closed, OSError."""
    space = bytearray(most)
    if not (count := stream.read_into(memoryview(space))):
        raise Closed
    return bytes(space[:count])


def negotiate(stream: Stream, handshake: Dialer | Acceptor) -> int | None:
    """Read, and answer, the next bytes of a handshake; return the peer's number once it is over.

    Raises: Lost, OSError.
    """
    accepted: int | None = None
    for decision in handshake.receive(receive(stream, handshake.wanted)):
        match decision:
            case Send(data):
                send_at_once(stream, data)
            case Accepted(peer):
                accepted = peer
            case Refused(reason):
                raise Lost(reason)
    return accepted
