"""A connected socket under TLS, as a context of the user configures it."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

from sage_flow.links.pipe import Pipe
from sage_flow.wire.frames import Buffer

_RECORDS: Final = 64 << 10  # bytes encrypted at a time


class TlsError(OSError):
    """TLS has failed, mostly because one end refuses the certificate of the other."""


class TlsPipe(Pipe):
    """A socket under TLS."""

    is_plain = False

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self._tls = sock
        self._lock = threading.RLock()  # OpenSSL has one state for both directions

    def greet(self) -> None:
        with self._turn():
            self._tls.do_handshake()

    def read(self, space: memoryview) -> int:
        with self._turn():
            try:
                return self._tls.recv_into(space)
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return 0

    @property
    def unread(self) -> bool:
        with self._lock:
            return self._tls.pending() > 0

    def write(self, queue: deque[Buffer]) -> int:
        # OpenSSL demands that a write that did not fit is repeated with the same bytes, or with more behind them. So it
        # is, because the front of the queue does not change in between.
        pieces: list[Buffer] = []
        room = _RECORDS
        for piece in queue:
            pieces.append(piece[:room])
            room -= len(pieces[-1])
            if not room:
                break
        with self._turn():
            return self._tls.send(b"".join(pieces))

    def end_writing(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._tls.unwrap()  # tells the peer; its answer is rarely there yet, which is an OSError

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold the lock, and turn what TLS waits for into the errors of a plain socket."""
        with self._lock:
            self.wants_write = False
            try:
                yield
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wait:
                self.wants_write = isinstance(wait, ssl.SSLWantWriteError)
                raise BlockingIOError(str(wait)) from None
            except ssl.SSLError as error:
                raise TlsError(f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}") from error
