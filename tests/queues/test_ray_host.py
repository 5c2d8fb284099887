"""The idle time of a host of Ray queues, without Ray."""

import threading

import pytest

from sage_flow.links.address import UnixAddress
from sage_flow.links.dialing import dial
from sage_flow.links.loop import exchange_loop
from sage_flow.queues import opcodes
from sage_flow.queues.ray_host import IdleHost

KEY = b"k" * 32
PATIENCE_S = 30


class Host(IdleHost):
    def __init__(self, idle_s):
        self.is_deserted = threading.Event()
        super().__init__(UnixAddress.unnamed(), KEY, idle_s)

    def deserted(self, use):
        assert self.is_idle_since(use)
        self.is_deserted.set()


@pytest.fixture
def host():
    host = Host(0.05)
    yield host
    host.close()


def connect(host):
    return dial(host.address, KEY, opcodes.PROTOCOL, on_message=lambda *_: None, connect_timeout_s=PATIENCE_S)


def after_two_idle_times():
    """Timers run in their order: one that was set before has run by then."""
    passed = threading.Event()
    exchange_loop().call_soon_threadsafe(lambda: exchange_loop().call_later(0.1, passed.set))
    assert passed.wait(PATIENCE_S)


def test_a_host_to_which_nobody_came_is_deserted(host):
    assert host.is_deserted.wait(PATIENCE_S)


def test_who_is_connected_keeps_it(host):
    link = connect(host)
    after_two_idle_times()
    host.is_deserted.clear()  # it may have been before we came
    after_two_idle_times()
    assert not host.is_deserted.is_set()
    link.close()
    assert host.is_deserted.wait(PATIENCE_S)


def test_a_host_that_was_used_again_is_not_idle():
    host = Host(1000)
    first = host._use
    assert host.is_idle_since(first)
    host.note_use()
    assert not host.is_idle_since(first)
    host.close()
