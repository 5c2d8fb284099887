"""What a process holds is bounded: by maxsize and by the channels in use, by nothing else."""

import gc
import pickle
import queue

import pytest
from queue_kinds import KEY
from test_queue_waiting import until

from sage_flow.channels import PythonQueueDescriptor, RPCQueueDescriptor, RPCQueueServer
from sage_flow.errors import QueueClosed
from sage_flow.queues import channel
from sage_flow.queues.host import QueueHost


def test_descriptors_leave_nothing(make, kind):
    descriptor = make()
    descriptor.put("a")
    for _ in range(10):
        kind.unpickle(pickle.dumps(descriptor.share().clone("label")))
        kind.make().clone()
    gc.collect()
    before = len(channel._channels)
    for _ in range(200):
        kind.unpickle(pickle.dumps(descriptor.share().clone("label")))
        kind.make().clone()
    gc.collect()
    assert len(channel._channels) == before


def test_a_queue_inside_the_process_is_kept_without_handles_until_it_is_closed():
    descriptor = PythonQueueDescriptor()
    descriptor.put("kept")
    data = pickle.dumps(descriptor)
    del descriptor
    gc.collect()
    handle = pickle.loads(data)
    assert handle.get() == "kept"
    owned = len(channel._owned)
    handle.close()
    assert len(channel._owned) == owned - 1


def test_closed_channels_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(channel, "_CLOSED", 10)
    monkeypatch.setattr(channel, "_closed", {})
    for number in range(50):
        descriptor = PythonQueueDescriptor(queue_id=f"closed-{number}")
        descriptor.put("a")
        descriptor.close()
    assert len(channel._closed) == 10
    with pytest.raises(queue.Empty):  # forgotten, so it may be made again
        PythonQueueDescriptor(queue_id="closed-0").get_nowait()
    with pytest.raises(QueueClosed):
        PythonQueueDescriptor(queue_id="closed-49").get_nowait()


@pytest.fixture
def server(over_sockets):
    with RPCQueueServer("127.0.0.1", 0, KEY) as server:
        yield server


def host_of(server) -> QueueHost:
    return server._host


def test_timeouts_and_puts_leave_nothing(server):
    descriptor = RPCQueueDescriptor("127.0.0.1", server.port, key=KEY, maxsize=1)
    for _ in range(300):
        with pytest.raises(queue.Empty):
            descriptor.get(timeout=0)
        descriptor.put("a")
        with pytest.raises(queue.Full):
            descriptor.put("b", timeout=0)
        descriptor.get()
    assert descriptor.empty()  # the last acknowledgement has come there before this question
    assert descriptor.queue_instance._session.open == {}
    (hosted,) = host_of(server)._queues.values()
    (session,) = hosted.sessions.values()
    assert len(session.accepted) <= 1
    assert session.in_transit == session.room == {}
    assert not hosted._putters
    assert not hosted._getters


def test_sessions_that_ended_leave_nothing(server):
    kept = RPCQueueDescriptor("127.0.0.1", server.port, key=KEY)
    kept.put("a")
    for _ in range(50):
        RPCQueueDescriptor("127.0.0.1", server.port, key=KEY, queue_id=kept.queue_id, enable_pooling=False).qsize()
    gc.collect()
    until(kept, sessions=1)
    assert len(host_of(server)._subscriptions) == 1


def test_a_connection_that_nobody_uses_is_closed(server):
    descriptor = RPCQueueDescriptor("127.0.0.1", server.port, key=KEY)
    descriptor.put("a")
    other = RPCQueueDescriptor("127.0.0.1", server.port, key=KEY, queue_id="other", enable_pooling=False)
    other.put("b")
    assert server.statistics()["links"] == 2
    del descriptor
    gc.collect()
    while server.statistics()["links"] > 1:
        other.qsize()
    assert other.get() == "b"


def test_closed_queues_leave_nothing_but_their_names(server, monkeypatch):
    monkeypatch.setattr("sage_flow.queues.host._CLOSED", 10)
    for _ in range(50):
        descriptor = RPCQueueDescriptor("127.0.0.1", server.port, key=KEY)
        descriptor.put("a")
        descriptor.close()
    host = host_of(server)
    assert host._queues == {}
    assert len(host._closed) == 10


def test_a_full_queue_holds_no_more_than_maxsize(make):
    descriptor = make(maxsize=5)
    for number in range(5):
        descriptor.put(number)
    for _ in range(100):
        with pytest.raises(queue.Full):
            descriptor.put("more", timeout=0)
    assert descriptor.qsize() == 5
