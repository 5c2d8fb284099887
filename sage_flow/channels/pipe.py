"""A connected socket that does not block: the verbs that plain ones and those under TLS (`tls`) share.

Whatever the socket cannot do now raises BlockingIOError; the owner waits until it is ready for reading,
or for writing if `wants_write` or something is still to be written, and tries again.
"""

from __future__ import annotations

import itertools
import socket
from collections import deque
from typing import Final

from sage_flow.channels.wire import Buffer

_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)  # SIGPIPE may have its default action again
_PIECES: Final = 512  # in one write; the system's limit is 1024


class Pipe:
    """A plain socket. One thread may write while another one reads."""

    wants_write = False
    """Reading, or what comes before the first byte, has to write first."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
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

    def end_writing(self) -> None:
        """Tell the other end that nothing follows."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone; there is nobody to tell
