"""A connected socket that does not block: the verbs that plain ones and those under TLS (`tls`) share.

Whatever the socket cannot do now raises BlockingIOError; the owner waits until it is ready for reading,
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
_BUFFER: Final = 2 << 20  # bytes of a Unix socket: a large message changes threads every time it is full


class Pipe:
    """A plain socket. One thread may write while another one reads."""

    is_plain = True
    """What there is to read shows in the socket, and another thread may read it."""
    wants_write = False
    """Reading, or what comes before the first byte, has to write first."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:  # the system itself sees to those of TCP
            with contextlib.suppress(OSError):  # it has a limit, which some take for an error
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.sock = sock

    def greet(self) -> None:
        """Go on with what comes before the first byte. Raises: BlockingIOError, OSError."""

    def read(self, space: memoryview) -> int:
        """Read into `space` what is there; 0 at the end. Raises: BlockingIOError, OSError."""
        return self.sock.recv_into(space)

    @property
    def unread(self) -> bool:
        """There are bytes to read although the socket may not say so."""
        return False

    def write(self, queue: deque[Buffer]) -> int:
        """Write from the front of `queue` what fits, and return its bytes. Raises: BlockingIOError, OSError."""
        if len(queue) == 1:
            return self.sock.send(queue[0], _NO_SIGNAL)
        return self.sock.sendmsg([*itertools.islice(queue, _PIECES)], (), _NO_SIGNAL)

    def interrupt(self) -> None:
        """Wake who waits for the socket: there will be nothing any more."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def unread_by_peer(self) -> int:
        """Bytes of the system's memory that hold what the other end has not taken; 0 where the system cannot tell.

        A Unix socket knows what its peer has read, TCP only what the other machine has got.
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
