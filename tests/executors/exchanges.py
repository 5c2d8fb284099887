"""Exchanges that record what they get, and the way to open some that can reach each other."""

import queue
import shutil
import tempfile
import threading

import pytest

from sage_flow.executors.exchange import Exchange
from sage_flow.links.address import sockets_in

KEY = b"k" * 32
PATIENCE_S = 60.0


@pytest.fixture
def directory():
    path = tempfile.mkdtemp(prefix="sf-", dir="/tmp")  # pytest's own are too long for a Unix socket
    yield path
    shutil.rmtree(path)


class End:
    """An exchange that records what it gets."""

    def __init__(self, me, directory, *, key=KEY, job="job", attempt=1, on_message=None, **options):
        self.messages = queue.Queue()
        self.losses = queue.Queue()
        self.exchange = Exchange(
            me,
            sockets_in(directory),
            key,
            job=job,
            attempt=attempt,
            on_message=on_message or (lambda target, message: self.messages.put((target, message))),
            on_peer_lost=lambda peer, reason: self.losses.put((peer, reason)),
            **options,
        )
        self.send = self.exchange.send

    def next(self):
        return self.messages.get(timeout=PATIENCE_S)

    def loss(self):
        return self.losses.get(timeout=PATIENCE_S)


@pytest.fixture
def open_end(directory):
    ends = []

    def open_end(me, *, start=True, **options):
        ends.append(End(me, directory, **options))
        if start:
            ends[-1].exchange.start()
        return ends[-1]

    yield open_end
    for end in ends:
        end.exchange.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("exchange-")]


class FailsToLoad:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self):
        return int, ("not a number",)
