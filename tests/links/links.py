"""Ends of links that record what they get, and the ways they can be connected."""

import os
import queue
import shutil
import tempfile

import pytest

from sage_flow.links.address import TcpAddress, UnixAddress
from sage_flow.links.dialing import dial
from sage_flow.links.listener import Listener
from tests.links.certificates import Authority

KEY = b"a secret of thirty-two bytes ..."
PATIENCE_S = 60.0

WAYS = ["unix", "tcp", "tls", "mutual tls"]


class Way:
    """How to listen, and how to dial who listens."""

    def __init__(self, kind, directory, authority):
        self.kind = kind
        self._directory = directory
        self._mutual = {"mutual": kind == "mutual tls"}
        self._authority = authority if "tls" in kind else None

    def listen(self):
        if self.kind == "unix":
            return UnixAddress(os.path.join(self._directory, "socket"))
        return TcpAddress("127.0.0.1", 0, self._authority and self._authority.server(**self._mutual))

    def dial(self, bound):
        if self.kind == "unix":
            return bound
        return TcpAddress(bound.host, bound.port, self._authority and self._authority.client(**self._mutual))


class Events:
    """What the callbacks of an end were told."""

    def __init__(self):
        self.links, self.messages, self.ends = queue.Queue(), queue.Queue(), queue.Queue()

    def on_message(self, link, value, size):
        self.messages.put(value)

    def on_closed(self, link, reason):
        self.ends.put(reason)

    def link(self):
        return self.links.get(timeout=PATIENCE_S)

    def next(self):
        return self.messages.get(timeout=PATIENCE_S)

    def end(self):
        return self.ends.get(timeout=PATIENCE_S)


class Room:
    """Makes listeners and links, and closes them."""

    def __init__(self, way):
        self.way = way
        self.listeners, self.links = [], []

    def listener(self, *, key=KEY, name="echo", address=None, on_message=None, **options):
        events = Events()
        listener = Listener(
            address or self.way.listen(),
            key,
            name,
            on_link=events.links.put,
            on_message=on_message or events.on_message,
            on_closed=events.on_closed,
            **options,
        )
        self.listeners.append(listener)
        return listener, events

    def dial(self, listener, *, key=KEY, name="echo", address=None, on_message=None, **options):
        events = Events()
        link = dial(
            address or self.way.dial(listener.address),
            key,
            name,
            on_message=on_message or events.on_message,
            on_closed=events.on_closed,
            **options,
        )
        self.links.append(link)
        return link, events

    def pair(self, **options):
        """(link, events) of who dialed, and of who was dialed."""
        listener, there = self.listener(**options)
        link, here = self.dial(listener)
        return (link, here), (there.link(), there)

    def close(self):
        for link in self.links:
            link.close(wait=True)
        for listener in self.listeners:
            listener.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def directory():
    path = tempfile.mkdtemp(prefix="sf-", dir="/tmp")  # pytest's own are too long for a Unix socket
    yield path
    shutil.rmtree(path)


@pytest.fixture
def room(request, directory, authority):
    """On the way that the test's parameter says, else by TCP."""
    room = Room(Way(getattr(request, "param", "tcp"), directory, authority))
    yield room
    room.close()


every_way = pytest.mark.parametrize("room", WAYS, indirect=True)
