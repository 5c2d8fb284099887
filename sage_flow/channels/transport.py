"""How processes reach each other: Unix sockets on one machine, TCP between machines, TLS over it.

An address says how to listen and how to dial; a stream is a connected socket that does not block. The
mesh of a job (`UnixTransport`) has an address per process, in a directory of its own.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from sage_flow.channels.wire import Buffer
from sage_flow.errors import ChannelNotReachable, ProtocolError, SageFlowError

if TYPE_CHECKING:
    import ssl

NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)  # SIGPIPE may have its default action again
_PATH_BYTES: Final = 107  # what fits sockaddr_un on Linux
_BACKLOG: Final = 1024


class NotThereYet(Exception):
    """The peer has not bound its socket yet, or its backlog is full: dial again later."""


class Stream:
    """A connected socket that does not block. What would block raises BlockingIOError."""

    direct = True
    """Whether one thread may write while another one reads."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    def establish(self) -> None:
        """Do what has to be done before the first byte; to be called again when the socket is ready."""

    def read_into(self, space: memoryview) -> int:
        """Return the number of bytes read, 0 at the end of the stream."""
        return self.sock.recv_into(space)

    def write(self, pieces: Sequence[Buffer]) -> int:
        """Write, once, what the socket takes of these pieces; return the number of bytes."""
        if len(pieces) == 1:
            return self.sock.send(pieces[0], NO_SIGNAL)
        return self.sock.sendmsg(pieces, (), NO_SIGNAL)


class TlsStream(Stream):
    """A stream inside TLS; OpenSSL wants one thread at a time."""

    direct = False

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self._tls = sock

    def establish(self) -> None:
        with _no_waiting():
            self._tls.do_handshake()

    def read_into(self, space: memoryview) -> int:
        import ssl

        try:
            with _no_waiting():
                return self._tls.recv_into(space)
        except ssl.SSLEOFError:
            return 0

    def write(self, pieces: Sequence[Buffer]) -> int:
        with _no_waiting():
            return self._tls.send(pieces[0])


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    import ssl

    try:
        yield
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wait:
        raise BlockingIOError from wait


class Address(Protocol):
    """Where to listen, or whom to dial."""

    def listen(self) -> socket.socket:
        """Bind. Raises: SageFlowError if that is impossible, with what to do."""

    def bound(self, listener: socket.socket) -> Address:
        """Return the address as others may dial it, once it is bound."""

    def accept(self, listener: socket.socket) -> Stream:
        """Raises: BlockingIOError if nobody is there; ProtocolError if the peer is not welcome; OSError."""

    def dial(self, timeout_s: float) -> Stream:
        """Connect, and wait for it. Raises: OSError, TimeoutError."""

    def remove(self) -> None:
        """Take away what `listen` left in the file system."""


@dataclass(frozen=True)
class UnixAddress:
    """A Unix socket, for processes of our user."""

    path: str

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

    def accept(self, listener: socket.socket) -> Stream:
        return accept_unix(listener)

    def dial(self, timeout_s: float) -> Stream:
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
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class TcpAddress:
    """A host and a port; `ssl_context` of the user's puts TLS around it (`server_hostname`: whom it must name)."""

    host: str
    port: int
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    server_hostname: str | None = None

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
            listener = socket.create_server((self.host, self.port), backlog=_BACKLOG, reuse_port=False)
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

    def accept(self, listener: socket.socket) -> Stream:
        sock, _ = listener.accept()
        return self._stream(sock, server_side=True)

    def dial(self, timeout_s: float) -> Stream:
        return self._stream(socket.create_connection((self.host, self.port), timeout_s), server_side=False)

    def remove(self) -> None:
        """A port leaves nothing."""

    def _stream(self, sock: socket.socket, *, server_side: bool) -> Stream:
        try:
            _tune(sock)
            if self.ssl_context is None:
                return Stream(sock)
            sock.setblocking(False)
            name = None if server_side else self.server_hostname or self.host
            wrapped = self.ssl_context.wrap_socket(
                sock, server_side=server_side, do_handshake_on_connect=False, server_hostname=name
            )
            return TlsStream(wrapped)
        except BaseException:
            sock.close()
            raise

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class UnixTransport:
    """Process n listens on `directory`/n.sock. The directory must be ours and closed to others (0700)."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def listen(self, me: int) -> socket.socket:
        """Raises: ProtocolError if others can get at the directory; SageFlowError if its path is too long."""
        check_private(self._directory)
        return UnixAddress(self._path(me)).listen()

    def dial(self, peer: int) -> Stream:
        """Raises: NotThereYet; ProtocolError if the peer is not of our user; OSError."""
        try:
            return UnixAddress(self._path(peer)).dial(0.0)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            raise NotThereYet(str(error)) from error

    def accept(self, listener: socket.socket) -> Stream:
        """Raises: ProtocolError if the peer is not of our user; BlockingIOError if there is none; OSError."""
        return accept_unix(listener)

    def remove(self, me: int) -> None:
        """Take away what `listen` left in the file system."""
        UnixAddress(self._path(me)).remove()

    def _path(self, process: int) -> str:
        path = os.path.join(self._directory, f"{process}.sock")
        _check_path(path)
        return path


def accept_unix(listener: socket.socket) -> Stream:
    """Raises: ProtocolError if the peer is not of our user; BlockingIOError if there is none; OSError."""
    sock, _ = listener.accept()
    return _of_our_user(sock)


def _of_our_user(sock: socket.socket) -> Stream:
    try:
        _check_user(sock)
        return Stream(sock)
    except BaseException:
        sock.close()
        raise


def _check_path(path: str) -> None:
    if (size := len(os.fsencode(path))) > _PATH_BYTES:
        raise SageFlowError(
            f"{path} has {size} bytes, a Unix socket's path at most {_PATH_BYTES}: "
            "set TMPDIR to a directory with a shorter path"
        )


def check_private(directory: str) -> None:
    """Raises: ProtocolError if others than our user can get at the directory."""
    entry = os.lstat(directory)
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.geteuid() or entry.st_mode & 0o077:
        found = f"{stat.filemode(entry.st_mode)}, user {entry.st_uid}"
        raise ProtocolError(f"{directory} must be a directory of mode 0700 of ours, is {found}")


def _tune(sock: socket.socket) -> None:
    """Send at once; notice within half a minute that the other machine is gone."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 25_000)):
        if hasattr(socket, name):  # not everywhere
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _check_user(sock: socket.socket) -> None:
    # Where the system cannot tell (not Linux), the mode of the directory has to do.
    if hasattr(socket, "SO_PEERCRED"):
        credentials = struct.Struct("3i")  # pid, uid, gid
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
        if (user := credentials.unpack(raw)[1]) != os.geteuid():
            raise ProtocolError(f"a socket of user {user}, this process belongs to user {os.geteuid()}")
