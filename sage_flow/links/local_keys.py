"""Generated keys of servers at loopback addresses, which other programs of the same user on the same machine can find.

Every account on a machine can connect to its loopback addresses, and a client that is accepted sends pickles. So a
server at such an address always has a key. A generated key is in a file of mode 0600, named after the address of the
server, in a directory of the user with mode 0700; a client without a key reads it there.

The server holds a lock on its file as long as its process lives, so that the next server finds abandoned files and
removes them. A stale file opens nothing, because the server must prove that it knows the key, too.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import ipaddress
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

from sage_flow.errors import ChannelNotReachable, ProtocolError
from sage_flow.links.address import Address, TcpAddress, check_private

__all__ = ["HiddenKey", "LocalKey", "found_key", "made_key"]

_KEY_BYTES: Final = 32
_SUFFIX: Final = ".key"


def made_key(address: Address, given: bytes) -> bytes:
    """Return the key of a server at `address`: the given one, or a new one if only this machine can connect."""
    makes = not given and isinstance(address, TcpAddress) and address.is_loopback
    return secrets.token_bytes(_KEY_BYTES) if makes else given


class HiddenKey:
    """Holds a key where no text and no pickle of its holder shows it."""

    __slots__ = ("_reveal",)

    def __init__(self, key: bytes) -> None:
        self._reveal: Callable[[], bytes] = lambda: key

    def reveal(self) -> bytes:
        """The key."""
        return self._reveal()

    def __repr__(self) -> str:
        return "HiddenKey()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a server cannot be pickled: it holds a key")


class LocalKey:
    """Stores the key that a server has made, so that the user's other programs find it, until `remove()`.

    `address` is where the server listens, with the real port. Raises: ChannelNotReachable if there is no private place.
    """

    def __init__(self, address: TcpAddress, key: bytes) -> None:
        directory = _directory(makes=True)
        _sweep(directory)
        self._process = os.getpid()
        self._path = directory / _name(_listening_ip(address), address.port)
        part = directory / f"{os.urandom(8).hex()}.part"
        try:
            self._file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            _lock(self._file)
            os.write(self._file, key.hex().encode())
            part.rename(self._path)  # whole, and locked
        except OSError as error:
            raise ChannelNotReachable(
                f"cannot store the key of a server in {directory}: {error}; pass key= to the server"
            ) from error
        atexit.register(self.remove)

    def remove(self) -> None:
        """Remove the file of the key."""
        atexit.unregister(self.remove)
        if self._file < 0 or os.getpid() != self._process:
            return
        _remove(self._path, self._file)
        os.close(self._file)
        self._file = -1


def found_key(address: Address) -> bytes:
    """Return the key that a server of our user has made for `address`; no bytes if there is none.

    Raises: ChannelNotReachable if other users can write to the directory of such keys.
    """
    if not isinstance(address, TcpAddress):
        return b""
    for ip in _loopback_ips(address):
        directory = _directory(makes=False)
        with contextlib.suppress(FileNotFoundError, ValueError):  # half a line is no key
            return bytes.fromhex((directory / _name(ip, address.port)).read_text())
    return b""


def _listening_ip(address: TcpAddress) -> str:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return str(socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM)[0][4][0])


def _loopback_ips(address: TcpAddress) -> Iterator[str]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return  # dialing it will tell why
    for *_, sockaddr in found:
        ip = str(sockaddr[0])
        if ipaddress.ip_address(ip.partition("%")[0]).is_loopback:
            yield ip


def _name(host: str, port: int) -> str:
    return f"{host}-{port}{_SUFFIX}"


def _directory(*, makes: bool) -> Path:
    """`keys` in the directory of this user. Raises: ChannelNotReachable if it is not ours alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime and Path(runtime).is_dir() else Path(tempfile.gettempdir())
    own = base / f"sage_flow-{os.geteuid()}"
    for directory in (own, own / "keys"):
        try:
            if makes:
                directory.mkdir(mode=0o700, exist_ok=True)
            check_private(str(directory))
        except FileNotFoundError:
            break  # nobody has made one
        except (OSError, ProtocolError, ChannelNotReachable) as error:
            raise ChannelNotReachable(
                f"cannot use {own}, where servers keep the keys that they generate: {error}; remove it, set"
                " XDG_RUNTIME_DIR to a directory of your own, or pass key= to the server and its clients"
            ) from error
    return own / "keys"


def _sweep(directory: Path) -> None:
    """Remove what killed servers left."""
    for path in directory.glob(f"*{_SUFFIX}"):
        try:
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # it is being removed, or it is not ours
        try:
            _lock(file)
            _remove(path, file)
        except BlockingIOError:
            pass  # its server lives
        finally:
            os.close(file)


def _lock(file: int) -> None:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(path: Path, file: int) -> None:
    """Remove the file, unless another server has put its own there."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), os.fstat(file)):
            path.unlink()
