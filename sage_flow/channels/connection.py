"""The two kinds of connection a process has with a peer: one it only writes to, one it only reads.

Neither blocks. Whoever owns them (`exchange`) waits for sockets, and decides what an error means.
"""

from __future__ import annotations

import itertools
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Final, get_args

from sage_flow.channels.codec import Decoder, Encoder
from sage_flow.channels.frame import Data, Message
from sage_flow.channels.handshake import Accepted, Acceptor, Dialer, Refused, Send
from sage_flow.channels.wire import MESSAGE, Buffer, FrameReader, header
from sage_flow.errors import InternalError, ProtocolError

_KINDS: Final = get_args(Message)  # a message crosses as (target, index in here, its fields): no class by name
_KIND_OF: Final = {kind: index for index, kind in enumerate(_KINDS)}
_DATA: Final = _KIND_OF[Data]
_COST: Final = Data._fields.index("cost")

_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)  # SIGPIPE may have its default action again
_JOINED: Final = 64 << 10  # bytes; up to here one piece costs less than several
_PIECES: Final = 512  # in one write; the system's limit is 1024


class Lost(Exception):
    """A connection is of no use any more; says why."""


class Closed(Lost):
    """Its other end was closed, between two messages."""

    def __init__(self) -> None:
        super().__init__("it closed its connection")


class Outlet:
    """To `peer`: encodes, queues and writes the messages of any thread, in one order.

    `send` is for any thread, the rest for the exchange thread. The locks are reentrant because pickling and
    the garbage collector run code of others, and that may send.
    """

    def __init__(self, peer: int) -> None:
        self.peer = peer
        self.sock: socket.socket | None = None  # once dialed
        self.handshake: Dialer | None = None  # while it is under way
        self._encoder = Encoder()
        self._order = threading.RLock()  # held while a message is encoded and queued: one order for both
        self._lock = threading.RLock()  # guards what follows, and writing
        self._queue: deque[Buffer] = deque()
        self._open = self._lost = False
        self._sent_messages = self._sent_bytes = self._dropped_messages = self._dropped_bytes = 0

    def send(self, target: int, message: Message) -> tuple[int, bool]:
        """Queue a message, and write it if it is alone.

        Returns the bytes it takes (0: dropped), and whether somebody has to call `write` for the rest.
        Raises: CodecError.
        """
        kind = _KIND_OF.get(type(message))
        if kind is None:
            raise ProtocolError(f"a {type(message).__qualname__} is not a message")
        with self._order:
            if self._lost:
                self._dropped_messages += 1
                return 0, False
            value = (target, kind, *message)
            # Records do not change once they are emitted; arguments of calls may.
            block = self._encoder.encode(value, copy_buffers=kind != _DATA, subject=message)
            size = sum(map(len, block))
            pieces: list[Buffer] = [header(MESSAGE, size), *block]
            if size <= _JOINED:
                pieces = [b"".join(pieces)]
            with self._lock:
                if self._lost:
                    self._dropped_messages += 1
                    self._dropped_bytes += size
                    return size, False
                self._sent_messages += 1
                self._sent_bytes += size
                alone = not self._queue
                self._queue += pieces
                try:
                    return size, alone and not self.write()
                except OSError:
                    return size, True  # the exchange thread meets the same error, and reports it

    def write(self) -> bool:
        """Write, once, what the socket takes. True if nothing is left to do now. Raises: OSError."""
        with self._lock:
            queue, sock = self._queue, self.sock
            if not queue or sock is None or not self._open:
                return True
            try:
                if len(queue) == 1:
                    count = sock.send(queue[0], _NO_SIGNAL)
                else:
                    count = sock.sendmsg([*itertools.islice(queue, _PIECES)], (), _NO_SIGNAL)
            except BlockingIOError:
                return False
            while queue and count >= len(queue[0]):
                count -= len(queue.popleft())
            if count:  # in place: a queue that looks empty invites others to write
                queue[0] = memoryview(queue[0])[count:]
            return not queue

    def negotiate(self) -> bool:
        """Read, and answer, the next bytes of the handshake. True once messages may be written.

        Raises: Lost, also if anything comes after the handshake; OSError.
        """
        if self.sock is None:
            raise InternalError(f"the connection to process {self.peer} has not been dialed")
        if self.handshake is None:
            _receive(self.sock)
            raise Lost("it wrote on a connection that it may only read")
        if _negotiate(self.sock, self.handshake) is None:
            return False
        self.handshake = None
        with self._lock:
            self._open = not self._lost
        return True

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


class Inlet:
    """From a peer, which dialed it: the handshake, then messages."""

    def __init__(self, sock: socket.socket, handshake: Acceptor) -> None:
        self.sock = sock
        self.peer: int | None = None  # known after the handshake
        self._handshake = handshake
        self._reader = FrameReader()
        self._decoder = Decoder()
        self.messages = self.bytes = 0

    def negotiate(self) -> int | None:
        """Read, and answer, the next bytes of the handshake. Returns the peer once it is accepted.

        Raises: Lost, OSError.
        """
        return _negotiate(self.sock, self._handshake)

    def read(self, on_message: Callable[[int, Message], None]) -> None:
        """Deliver the messages that one read completes. The cost of a `Data` becomes its encoded bytes.

        Raises: BlockingIOError if nothing is there; Lost, ProtocolError, CodecError, OSError.
        """
        count = self.sock.recv_into(self._reader.space())
        if not count:
            raise Lost("it closed inside a message") if self._reader.inside_a_frame else Closed()
        for payload in self._reader.filled(count):
            target, kind, *fields = self._decoder.decode(payload)
            size = len(payload)
            if kind == _DATA:
                fields[_COST] = size
            self.messages += 1
            self.bytes += size
            try:
                on_message(target, _KINDS[kind](*fields))
            except Exception as error:
                what = f"its {_KINDS[kind].__name__} for {target} could not be delivered"
                raise Lost(f"{what}: {''.join(traceback.format_exception(error))}") from error


def send_at_once(sock: socket.socket, data: bytes) -> None:
    """Write a message of a handshake; it always fits, as nothing else is in the socket's buffer."""
    try:
        sock.send(data, _NO_SIGNAL)
    except OSError:
        pass  # the other end is closed; the next read tells, perhaps with the reason


def _receive(sock: socket.socket) -> bytes:
    """Raises: Closed, OSError."""
    if not (data := sock.recv(4096)):
        raise Closed
    return data


def _negotiate(sock: socket.socket, handshake: Dialer | Acceptor) -> int | None:
    accepted: int | None = None
    for decision in handshake.receive(_receive(sock)):
        match decision:
            case Send(data):
                send_at_once(sock, data)
            case Accepted(peer):
                accepted = peer
            case Refused(reason):
                raise Lost(reason)
    return accepted
