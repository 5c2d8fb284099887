"""The lease of a host of Ray queues, without Ray."""

import threading

import pytest

from sage_flow.links.link import dial, exchange_loop
from sage_flow.links.transport import UnixAddress
from sage_flow.queues import opcodes as wire
from sage_flow.queues.ray_host import LeasedHost

KEY = b"k" * 32
PATIENCE_S = 30


class Host(LeasedHost):
    def __init__(self, lease_s):
        self.is_deserted = threading.Event()
        super().__init__(UnixAddress.unnamed(), KEY, lease_s)

    def deserted(self, lease):
        assert self.is_over(lease)
        self.is_deserted.set()


@pytest.fixture
def host():
    host = Host(0.05)
    yield host
    host.close()


def connect(host):
    return dial(host.address, KEY, wire.PROTOCOL, on_message=lambda *_: None, connect_timeout_s=PATIENCE_S)


def after_two_leases():
    """Timers run in their order: one that was set before has run by then."""
    passed = threading.Event()
    exchange_loop().order(lambda: exchange_loop().after(0.1, passed.set))
    assert passed.wait(PATIENCE_S)


def test_a_host_to_which_nobody_came_is_deserted(host):
    assert host.is_deserted.wait(PATIENCE_S)


def test_who_is_connected_keeps_it(host):
    link = connect(host)
    after_two_leases()
    host.is_deserted.clear()  # it may have been before we came
    after_two_leases()
    assert not host.is_deserted.is_set()
    link.close()
    assert host.is_deserted.wait(PATIENCE_S)


def test_a_lease_that_was_renewed_is_not_over():
    host = Host(1000)
    first = host._lease
    assert host.is_over(first)
    host.renew_lease()
    assert not host.is_over(first)
    host.close()
