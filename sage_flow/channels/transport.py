"""How the processes of one machine reach each other: Unix sockets in a directory of their own.

The seam for other transports: `Exchange` needs `listen`, `dial`, `accept` and `remove` of it, and
sockets that do not block.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from typing import Final

from sage_flow.errors import ProtocolError, SageFlowError

_PATH_BYTES: Final = 107  # what fits sockaddr_un on Linux
_BACKLOG: Final = 1024


class NotThereYet(Exception):
    """The peer has not bound its socket yet, or its backlog is full: dial again later."""


class UnixTransport:
    """Process n listens on `directory`/n.sock. The directory must be ours and closed to others (0700)."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def listen(self, me: int) -> socket.socket:
        """Raises: ProtocolError if others can get at the directory; SageFlowError if its path is too long."""
        entry = os.lstat(self._directory)
        if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.geteuid() or entry.st_mode & 0o077:
            found = f"{stat.filemode(entry.st_mode)}, user {entry.st_uid}"
            raise ProtocolError(f"{self._directory} must be a directory of mode 0700 of ours, is {found}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self._path(me))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener

    def dial(self, peer: int) -> socket.socket:
        """Raises: NotThereYet; ProtocolError if the peer is not of our user; OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(self._path(peer))
            _check_user(sock)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            sock.close()
            raise NotThereYet(str(error)) from error
        except BaseException:
            sock.close()
            raise
        return sock

    def accept(self, listener: socket.socket) -> socket.socket:
        """Raises: ProtocolError if the peer is not of our user; BlockingIOError if there is none; OSError."""
        sock, _ = listener.accept()
        try:
            sock.setblocking(False)
            _check_user(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def remove(self, me: int) -> None:
        """Take away what `listen` left in the file system."""
        try:
            os.unlink(self._path(me))
        except FileNotFoundError:
            pass

    def _path(self, process: int) -> str:
        path = os.path.join(self._directory, f"{process}.sock")
        if (size := len(os.fsencode(path))) > _PATH_BYTES:
            raise SageFlowError(
                f"{path} has {size} bytes, a Unix socket's path at most {_PATH_BYTES}: "
                "set TMPDIR to a directory with a shorter path"
            )
        return path


def _check_user(sock: socket.socket) -> None:
    # Where the system cannot tell (not Linux), the mode of the directory has to do.
    if hasattr(socket, "SO_PEERCRED"):
        credentials = struct.Struct("3i")  # pid, uid, gid
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
        if (user := credentials.unpack(raw)[1]) != os.geteuid():
            raise ProtocolError(f"a socket of user {user}, this process belongs to user {os.geteuid()}")
