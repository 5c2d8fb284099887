"""How processes reach each other: by a Unix socket on one machine, by TCP, plain or under TLS, anywhere.

A `Transport` is one address. Who listens there calls `listen` and `accept`, who wants to get there `dial`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import stat
import struct
import sys
from typing import Any, Final, Protocol

from sage_flow.channels.pipe import Pipe, TlsPipe
from sage_flow.errors import LinkError, LinkUnreachable, ProtocolError, SageFlowError

_PATH_BYTES: Final = 107  # what fits sockaddr_un on Linux
_BACKLOG: Final = 1024

SILENCE_S: Final = 30
"""After so many seconds without a sign of life from the other machine a TCP connection is broken."""
_PROBES: Final = 3


class Transport(Protocol):
    """One address, and how to listen there and to get there."""

    def listen(self, *, has_key: bool) -> socket.socket:
        """Bind and listen; the socket does not block. Raises: LinkError if that cannot be done."""

    def accept(self, listener: socket.socket) -> Pipe:
        """Raises: BlockingIOError if nobody is there; ProtocolError if it must not be let in; OSError."""

    def dial(self, timeout_s: float) -> Pipe:
        """Connect, within `timeout_s` (0: at once). Raises: LinkUnreachable; ProtocolError as `accept`; OSError."""

    def remove(self) -> None:
        """Take away what `listen` left."""

    def address(self, listener: socket.socket) -> Any:
        """Where others can dial what `listen` returned."""


class UnixTransport:
    """A Unix socket at `path`, for processes of one user.

    Its directory must be ours and closed to others (0700), and the user of who dials or listens is checked.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"UnixTransport({self._path!r})"

    def __str__(self) -> str:
        return self._path

    def listen(self, *, has_key: bool = True) -> socket.socket:
        """Bind and listen; with or without a key, as nobody else gets there.

        Raises: ProtocolError if others can get at the directory; SageFlowError if the path is too long; LinkError
        if it is taken.
        """
        self._check_length()
        self._check_directory()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self._path)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise LinkError(f"cannot listen at {self._path}: {error.strerror or error}") from error
        return listener

    def dial(self, timeout_s: float) -> Pipe:
        """Connect. Raises: LinkUnreachable; ProtocolError if who listens is not of our user."""
        self._check_length()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(self._path)
            _check_user(sock)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError, TimeoutError) as error:
            sock.close()
            raise LinkUnreachable(f"nobody listens at {self._path}: {error.strerror or error}") from error
        except BaseException:
            sock.close()
            raise
        return Pipe(sock)

    def accept(self, listener: socket.socket) -> Pipe:
        """Raises: ProtocolError if the peer is not of our user; BlockingIOError if there is none; OSError."""
        sock, _ = listener.accept()
        try:
            _check_user(sock)
        except BaseException:
            sock.close()
            raise
        return Pipe(sock)

    def remove(self) -> None:
        """Remove the path."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def address(self, listener: socket.socket) -> str:
        """The path."""
        return self._path

    def _check_directory(self) -> None:
        directory = os.path.dirname(self._path) or "."
        entry = os.lstat(directory)
        if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.geteuid() or entry.st_mode & 0o077:
            found = f"{stat.filemode(entry.st_mode)}, user {entry.st_uid}"
            raise ProtocolError(f"{directory} must be a directory of mode 0700 of ours, is {found}")

    def _check_length(self) -> None:
        if (size := len(os.fsencode(self._path))) > _PATH_BYTES:
            raise SageFlowError(
                f"{self._path} has {size} bytes, a Unix socket's path at most {_PATH_BYTES}: "
                "set TMPDIR to a directory with a shorter path"
            )


def _check_user(sock: socket.socket) -> None:
    # Where the system cannot tell (not Linux), the mode of the directory has to do.
    if hasattr(socket, "SO_PEERCRED"):
        credentials = struct.Struct("3i")  # pid, uid, gid
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
        if (user := credentials.unpack(raw)[1]) != os.geteuid():
            raise ProtocolError(f"a socket of user {user}, this process belongs to user {os.geteuid()}")


class TcpTransport:
    """TCP to or at `host`:`port`; port 0 to listen at a free one.

    `ssl_context`: of the kind for a server to listen, for a client to dial; `server_hostname`: whose certificate
    a client expects, if that is not `host`. A context that asks for the other end's certificate makes TLS mutual.
    """

    def __init__(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None = None, server_hostname: str | None = None
    ) -> None:
        self._host = host
        self._port = port
        self._context = ssl_context
        self._server_hostname = server_hostname

    def __repr__(self) -> str:
        return f"TcpTransport({self._host!r}, {self._port}{', TLS' if self._context else ''})"

    def __str__(self) -> str:
        return f"{self._host}:{self._port}"

    def listen(self, *, has_key: bool) -> socket.socket:
        """Bind and listen.

        Raises: LinkError if the address is not ours, the port is taken or the host is not loopback and there is no key.
        """
        try:
            found = socket.getaddrinfo(self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise LinkError(f"cannot listen at {self}: {error.strerror or error}") from error
        family, _, _, _, address = found[0]
        if not has_key and not ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback:
            raise LinkError(
                f"{self} can be reached from other machines, and there is no key: give one, or listen at 127.0.0.1"
            )
        if self._context is not None and self._context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise LinkError(f"cannot listen at {self}: its SSLContext is one for clients")
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if sys.platform != "win32":  # there it would allow others to take the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            cure = "; port 0 chooses a free one" if self._port else ""
            raise LinkError(f"cannot listen at {self}: {error.strerror or error}{cure}") from error
        return listener

    def dial(self, timeout_s: float) -> Pipe:
        """Connect to the first address of the host that answers. Raises: LinkUnreachable; OSError."""
        try:
            sock = socket.create_connection((self._host, self._port), timeout_s)
        except OSError as error:
            raise LinkUnreachable(f"nobody listens at {self}: {error.strerror or error}") from error
        return self._pipe(sock, dialed=True)

    def accept(self, listener: socket.socket) -> Pipe:
        """Raises: BlockingIOError if nobody is there; OSError."""
        return self._pipe(listener.accept()[0], dialed=False)

    def remove(self) -> None:
        """Nothing is left."""

    def address(self, listener: socket.socket) -> tuple[str, int]:
        """Host as given and the real port."""
        return self._host, listener.getsockname()[1]

    def _pipe(self, sock: socket.socket, *, dialed: bool) -> Pipe:
        try:
            _tune(sock)
            if self._context is None:
                return Pipe(sock)
            return TlsPipe(sock, self._context, self._server_hostname or self._host, dialed=dialed)
        except BaseException:
            sock.close()
            raise


def _tune(sock: socket.socket) -> None:
    """No delay for small messages, and an end for connections whose other machine is silent."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {  # where the system has them
        "TCP_KEEPIDLE": SILENCE_S // 2,
        "TCP_KEEPINTVL": SILENCE_S // 2 // _PROBES,
        "TCP_KEEPCNT": _PROBES,
        "TCP_USER_TIMEOUT": SILENCE_S * 1000,
    }
    for option, value in options.items():
        if (number := getattr(socket, option, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)
