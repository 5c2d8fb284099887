"""The least that two processes need: pickled objects with their length before them, on a stream socket."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct
from typing import Any

__all__ = ["Address", "PickleSocket", "connect", "listen"]

Address = tuple[int, Any]
"""Family and address of a listening socket."""

_LENGTH = Struct("<I")
_READ = 1 << 18


class PickleSocket:
    """Sends and receives objects; receiving reads as much as is there."""

    def __init__(self, raw: socket.socket) -> None:
        if raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._raw = raw
        self._unread = bytearray()

    def send(self, *objects: Any) -> None:
        data = bytearray()
        for value in objects:
            encoded = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
            data += _LENGTH.pack(len(encoded))
            data += encoded
        self._raw.sendall(data)

    def receive(self) -> list[Any]:
        """Wait for an object; return all that are here, none if the other end has closed."""
        while not (objects := self._whole()):
            data = self._raw.recv(_READ)
            if not data:
                return []
            self._unread += data
        return objects

    def close(self) -> None:
        self._raw.close()

    def _whole(self) -> list[Any]:
        objects = []
        begin, view = 0, memoryview(self._unread)
        while begin + _LENGTH.size <= len(view):
            end = begin + _LENGTH.size + _LENGTH.unpack_from(view, begin)[0]
            if end > len(view):
                break
            objects.append(pickle.loads(view[begin + _LENGTH.size : end]))
            begin = end
        view.release()
        del self._unread[:begin]
        return objects


@contextmanager
def connect(address: Address) -> Iterator[PickleSocket]:
    family, where = address
    raw = socket.socket(family)
    raw.connect(where)
    connected = PickleSocket(raw)
    try:
        yield connected
    finally:
        connected.close()


@contextmanager
def listen(family: int, where: Any) -> Iterator[socket.socket]:
    """A socket for one peer at this address; port 0 is any that is free."""
    with socket.socket(family) as listening:
        listening.bind(where)
        listening.listen(1)
        yield listening


def echo(listening: socket.socket) -> None:
    """Send back what the one peer sends, until it goes."""
    peer = PickleSocket(listening.accept()[0])
    while objects := peer.receive():
        peer.send(*objects)
    peer.close()
