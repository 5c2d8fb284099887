"""How processes reach each other: Unix sockets on one machine, TCP between machines, TLS over it.

An address says how to listen and how to dial.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import secrets
import socket
import stat
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from sage_flow.errors import ChannelNotReachable, SageFlowError
from sage_flow.links.pipe import Pipe
from sage_flow.links.private_directory import make_private

if TYPE_CHECKING:
    import ssl

_PATH_BYTES: Final = 107  # what fits sockaddr_un on Linux
_BACKLOG: Final = 1024

SILENCE_S: Final = 30
"""A TCP connection is broken after so many seconds without a sign of life from the other machine."""
_PROBES: Final = 3


class Address(Protocol):
    """Where to listen, or whom to dial."""

    def listen(self) -> socket.socket:
        """Bind, and listen. Raises: SageFlowError if that is impossible; it says what to do."""

    def bound(self, listener: socket.socket) -> Address:
        """Return the address as others may dial it, once it is bound."""

    def accept(self, listener: socket.socket) -> Pipe:
        """Raises: BlockingIOError if nobody is there; ChannelNotReachable if the peer is not welcome; OSError."""

    def dial(self, timeout_s: float) -> Pipe:
        """Connect, and wait for it. Raises: OSError, TimeoutError."""

    def remove(self) -> None:
        """Take away what `listen` left in the file system."""


@dataclass(frozen=True)
class UnixAddress:
    """A Unix socket, for processes of our user. A path that begins with a NUL is a name without a file (Linux)."""

    path: str

    @classmethod
    def unnamed(cls) -> UnixAddress:
        """Return an unused address that leaves no file behind, however its process ends.

        Only processes of our user may connect, as with every Unix address. Where the system has no names without files
        it is a path in a private directory, which is removed when the interpreter exits.
        """
        if sys.platform == "linux":
            return cls(f"\0sage-flow-{secrets.token_hex(8)}")
        return cls(os.path.join(make_private(), "s"))

    @property
    def is_file(self) -> bool:
        """Whether it has a place in the file system."""
        return not self.path.startswith("\0")

    def check_private(self) -> None:
        """Raises: ChannelNotReachable if others than our user can get at the directory of the socket."""
        if self.is_file:
            check_private(os.path.dirname(self.path))

    def listen(self) -> socket.socket:
        _check_path(self.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.path)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener

    def bound(self, listener: socket.socket) -> UnixAddress:
        return self

    def accept(self, listener: socket.socket) -> Pipe:
        return _of_our_user(listener.accept()[0])

    def dial(self, timeout_s: float) -> Pipe:
        _check_path(self.path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(self.path)
        except BaseException:
            sock.close()
            raise
        return _of_our_user(sock)

    def remove(self) -> None:
        if self.is_file:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def __str__(self) -> str:
        return self.path.replace("\0", "@")


@dataclass(frozen=True)
class TcpAddress:
    """A host and a port. With the `ssl_context` of a user connections use TLS.

    `server_hostname`: the name that the certificate of a listener must have; by default that is `host`.
    """

    host: str
    port: int
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    server_hostname: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port!r}: give one of 1 to 65535, or 0 to listen on any that is free")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            found = {info[4][0] for info in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)}
        except OSError:
            return False
        return all(ipaddress.ip_address(str(ip).partition("%")[0]).is_loopback for ip in found)

    def listen(self) -> socket.socket:
        try:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            listener = socket.create_server((self.host, self.port), family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ChannelNotReachable(
                    f"port {self.port} of {self.host} is in use: choose another one, or 0 for any that is free"
                ) from error
            raise ChannelNotReachable(f"cannot listen on {self}: {error}") from error
        listener.setblocking(False)
        return listener

    def bound(self, listener: socket.socket) -> TcpAddress:
        return replace(self, port=listener.getsockname()[1])

    def accept(self, listener: socket.socket) -> Pipe:
        sock, _ = listener.accept()
        return self._pipe(sock, server_side=True)

    def dial(self, timeout_s: float) -> Pipe:
        return self._pipe(socket.create_connection((self.host, self.port), timeout_s), server_side=False)

    def remove(self) -> None:
        """Nothing to do: a port leaves no file."""

    def _pipe(self, sock: socket.socket, *, server_side: bool) -> Pipe:
        try:
            _tune(sock)
            if self.ssl_context is None:
                return Pipe(sock)
            from sage_flow.links.tls import TlsPipe

            sock.setblocking(False)
            name = None if server_side else self.server_hostname or self.host
            wrapped = self.ssl_context.wrap_socket(
                sock, server_side=server_side, do_handshake_on_connect=False, server_hostname=name
            )
            return TlsPipe(wrapped)
        except BaseException:
            sock.close()
            raise

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _of_our_user(sock: socket.socket) -> Pipe:
    try:
        _check_user(sock)
        return Pipe(sock)
    except BaseException:
        sock.close()
        raise


def _check_path(path: str) -> None:
    if (size := len(os.fsencode(path))) > _PATH_BYTES:
        raise SageFlowError(
            f"{path} has {size} bytes, a Unix socket's path at most {_PATH_BYTES}: "
            "set TMPDIR to a directory with a shorter path"
        )


def sockets_in(directory: str) -> Callable[[int], UnixAddress]:
    """Return the address of each process of a job on one machine: a socket in `directory`, which is private."""
    return lambda process: UnixAddress(os.path.join(directory, f"{process}.sock"))


def check_private(directory: str) -> None:
    """Raises: ChannelNotReachable if others than our user can get at the directory."""
    entry = os.lstat(directory)
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.geteuid() or entry.st_mode & 0o077:
        raise ChannelNotReachable(
            f"{directory} must be a directory of mode 0700 that belongs to user {os.geteuid()}; it is"
            f" {stat.filemode(entry.st_mode)} of user {entry.st_uid}: remove it, or set XDG_RUNTIME_DIR or TMPDIR to a"
            " directory of your own"
        )


def _tune(sock: socket.socket) -> None:
    """Send small messages without delay, and break connections whose other machine is silent."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {  # where the system has them
        "TCP_KEEPIDLE": SILENCE_S // 2,
        "TCP_KEEPINTVL": SILENCE_S // 2 // _PROBES,
        "TCP_KEEPCNT": _PROBES,
        "TCP_USER_TIMEOUT": SILENCE_S * 1000,
    }
    for name, value in options.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _check_user(sock: socket.socket) -> None:
    # Other systems than Linux do not tell who the peer is: there only the mode of the directory protects the socket.
    if hasattr(socket, "SO_PEERCRED"):
        credentials = struct.Struct("3i")  # pid, uid, gid
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
        if (user := credentials.unpack(raw)[1]) != os.geteuid():
            raise ChannelNotReachable(
                f"the process at the other end of the socket belongs to user {user}, this one to user {os.geteuid()}"
            )
