"""A connected socket that does not block: the operations that plain sockets and those under TLS (`tls`) share.

An operation that would have to wait raises BlockingIOError. The owner then waits until the socket is ready for reading,
or for writing if `wants_write` or something is still to be written, and tries again.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import sys
from collections import deque
from typing import Final

from sage_flow.wire.frames import Buffer

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ  # the same number as SIOCOUTQ, which Python does not name

_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)  # SIGPIPE may have its default action again
_INT: Final = struct.Struct("i")
_PIECES: Final = 512  # in one write; the system's limit is 1024
_BUFFER: Final = 2 << 20  # bytes of a Unix socket's buffer: each time it is full, both ends have to be woken


class Pipe:
    """A plain socket. One thread may write while another one reads."""

    is_plain = True
    """A selector sees all that can be read, and another thread may read it."""
    wants_write = False
    """Reading, or `greet`, has to write first."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:  # of TCP, the system itself adjusts the buffers
            with contextlib.suppress(OSError):  # some systems report an error if it is above their limit
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.sock = sock

    def greet(self) -> None:
        """Continue what comes before the first byte, such as the handshake of TLS. Raises: BlockingIOError, OSError."""

    def read(self, space: memoryview) -> int:
        """Read into `space` what is there; 0 at the end. Raises: BlockingIOError, OSError."""
        return self.sock.recv_into(space)

    @property
    def unread(self) -> bool:
        """There are bytes to read that a selector may not see."""
        return False

    def write(self, queue: deque[Buffer]) -> int:
        """Write from the front of `queue` what fits, and return its bytes. Raises: BlockingIOError, OSError."""
        if len(queue) == 1:
            return self.sock.send(queue[0], _NO_SIGNAL)
        return self.sock.sendmsg([*itertools.islice(queue, _PIECES)], (), _NO_SIGNAL)

    def interrupt(self) -> None:
        """Wake the thread that waits for the socket: nothing will come any more."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def unread_by_peer(self) -> int:
        """Return the bytes of system memory that hold what the peer has not taken; 0 where the system cannot tell.

        Of a Unix socket that is what the peer has not read; of TCP what the other machine has not received.
        """
        if sys.platform != "linux":
            return 0
        unread: int = _INT.unpack(ioctl(self.sock.fileno(), TIOCOUTQ, bytes(_INT.size)))[0]
        return unread

    def end_writing(self) -> None:
        """Tell the other end that nothing follows."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone; there is nobody to tell
