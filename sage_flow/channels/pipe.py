"""A connected socket that does not block, plain or under TLS: the same few verbs for both.

Whatever the socket cannot do now raises BlockingIOError; the owner waits until it is ready for reading,
or for writing if `wants_write` or something is still to be written, and tries again.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
from collections import deque
from typing import Final

from sage_flow.channels.wire import Buffer

_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)  # SIGPIPE may have its default action again
_PIECES: Final = 512  # in one write; the system's limit is 1024
_RECORDS: Final = 64 << 10  # bytes encrypted at a time


class Pipe:
    """A plain socket."""

    wants_write = False
    """Reading, or the handshake of TLS, has to write first."""

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


class TlsPipe(Pipe):
    """A socket under TLS."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None, *, dialed: bool):
        super().__init__(sock)
        self._tls = context.wrap_socket(
            sock,
            server_side=not dialed,
            server_hostname=server_hostname if dialed else None,
            do_handshake_on_connect=False,
        )
        self.sock = self._tls
        self._lock = threading.RLock()  # OpenSSL's state is one for both directions

    def greet(self) -> None:
        with self._lock, _Waiting(self):
            self._tls.do_handshake()

    def read(self, space: memoryview) -> int:
        with self._lock, _Waiting(self):
            return self._tls.recv_into(space)

    @property
    def unread(self) -> bool:
        with self._lock:
            return self._tls.pending() > 0

    def write(self, queue: deque[Buffer]) -> int:
        # What did not fit is tried again from the same byte on and never shorter, as OpenSSL demands: the front of
        # the queue stays what it was.
        joined, size = [], 0
        for piece in queue:
            joined.append(piece[: _RECORDS - size])
            size += len(joined[-1])
            if size == _RECORDS:
                break
        with self._lock, _Waiting(self):
            return self._tls.send(b"".join(joined))

    def end_writing(self) -> None:
        with self._lock:
            try:
                self._tls.unwrap()
            except OSError:
                pass  # it is sent, and the answer of the other end not there yet; or there is nobody to tell


class _Waiting:
    """Says what TLS waits for in the words of a plain socket."""

    def __init__(self, pipe: TlsPipe) -> None:
        self._pipe = pipe

    def __enter__(self) -> None:
        self._pipe.wants_write = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
            self._pipe.wants_write = isinstance(error, ssl.SSLWantWriteError)
            raise BlockingIOError(str(error)) from None
