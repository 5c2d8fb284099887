"""What is particular to RPC queues: their configuration, their server, their key."""

import threading

import pytest

from sage_flow.channels import RPCQueueDescriptor, RPCQueueServer
from sage_flow.errors import ChannelNotReachable
from sage_flow.links.loop import exchange_loop
from sage_flow.queues.hosted import HostedQueue


def test_the_configuration_is_in_the_metadata_and_the_key_is_not():
    descriptor = RPCQueueDescriptor("example.org", 7000, 5.0, 1, False, "orders", b"secret", maxsize=9)
    assert descriptor.metadata == {
        "host": "example.org",
        "port": 7000,
        "connection_timeout": 5.0,
        "retry_count": 1,
        "enable_pooling": False,
        "maxsize": 9,
    }
    assert RPCQueueDescriptor.from_dict(descriptor.to_dict()) == descriptor


def test_the_defaults():
    descriptor = RPCQueueDescriptor("example.org", 7000)
    assert descriptor.metadata == {
        "host": "example.org",
        "port": 7000,
        "connection_timeout": 30.0,
        "retry_count": 3,
        "enable_pooling": True,
        "maxsize": 0,
    }


def test_one_name_at_two_servers_is_two_channels():
    one, other = RPCQueueDescriptor("a", 1, queue_id="q"), RPCQueueDescriptor("b", 1, queue_id="q")
    assert one != other
    assert not one.same_channel(other)
    assert one == RPCQueueDescriptor("a", 1, queue_id="q", key=b"a key makes no difference")


@pytest.mark.parametrize(
    ("configuration", "text"),
    [
        ({"host": ""}, "host is ''"),
        ({"host": None}, "host is None"),
        ({"port": 0}, "port is 0"),
        ({"port": 65536}, "port is 65536"),
        ({"port": "80"}, "port is '80'"),
        ({"connection_timeout": 0}, "connection_timeout is 0"),
        ({"connection_timeout": -1.0}, "connection_timeout is -1.0"),
        ({"connection_timeout": "30"}, "connection_timeout is '30'"),
        ({"connection_timeout": float("inf")}, "connection_timeout is inf"),
        ({"retry_count": -1}, "retry_count is -1"),
        ({"retry_count": 1.5}, "retry_count is 1.5"),
        ({"key": b""}, "key is empty"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_said(configuration, text):
    with pytest.raises(ValueError, match=text):
        RPCQueueDescriptor(**{"host": "example.org", "port": 1, **configuration})


def test_a_key_is_bytes_and_not_shown():
    with pytest.raises(TypeError, match="key is a str: give bytes") as refusal:
        RPCQueueDescriptor("example.org", 1, key="secret")
    assert "secret" not in str(refusal.value)


def test_a_port_in_use_is_named():
    with RPCQueueServer("127.0.0.1", 0) as server, pytest.raises(ChannelNotReachable, match=f"{server.port}.*in use"):
        RPCQueueServer("127.0.0.1", server.port)


def test_without_a_key_only_this_machine_may_come():
    with pytest.raises(ChannelNotReachable, match="no key"):
        RPCQueueServer("0.0.0.0", 0)
    with RPCQueueServer("127.0.0.1", 0) as server:
        descriptor = RPCQueueDescriptor("127.0.0.1", server.port)
        descriptor.put("a")
        assert descriptor.get() == "a"


def test_a_server_tells_of_its_queues():
    with RPCQueueServer("127.0.0.1", 0) as server:
        RPCQueueDescriptor("127.0.0.1", server.port, queue_id="orders").put("a")
        told = server.statistics()
        assert told["queues"]["cluster", "orders"]["depth"] == 1
        assert repr(server) == f"RPCQueueServer('127.0.0.1', {server.port})"


def test_a_server_looks_at_its_queues_where_nothing_changes_meanwhile(monkeypatch):
    looking = []
    tell = HostedQueue.statistics
    monkeypatch.setattr(HostedQueue, "statistics", lambda *told: looking.append(threading.get_ident()) or tell(*told))
    with RPCQueueServer("127.0.0.1", 0) as server:
        RPCQueueDescriptor("127.0.0.1", server.port, queue_id="a").put(1)
        assert server.statistics()["queues"]["cluster", "a"]["depth"] == 1
    assert looking == [exchange_loop().thread]


def test_a_closed_server_listens_no_more():
    server = RPCQueueServer("127.0.0.1", 0)
    server.close()
    server.close()
    with pytest.raises(ChannelNotReachable):
        RPCQueueDescriptor("127.0.0.1", server.port, retry_count=0).put("a")
