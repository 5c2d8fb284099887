"""How long the contents of a queue live in this process: by name, by handles, in a `with` block."""

import gc
import logging
import weakref

import pytest

from sage_flow.channels import PythonQueueDescriptor, RPCQueueDescriptor, RPCQueueServer
from sage_flow.errors import QueueClosed
from sage_flow.queues.channel import owned_channels


def owned():
    return {known.key[-1] for known, _ in owned_channels()}


class Item:
    pass


def used(**configuration):
    """A used descriptor, and a weak reference to what is in its queue."""
    descriptor, item = PythonQueueDescriptor(**configuration), Item()
    descriptor.put(item)
    return descriptor, weakref.ref(item)


def test_a_queue_without_a_name_goes_with_its_last_handle():
    descriptor, item = used()
    other, clone = descriptor.share(), descriptor.clone("clone")
    name = descriptor.channel_id
    del descriptor, other
    gc.collect()
    assert item() is not None
    assert name in owned()
    assert clone.qsize() == 1
    del clone
    gc.collect()
    assert item() is None
    assert name not in owned()


def test_many_reply_queues_leave_nothing():
    before = owned()
    for _ in range(1000):
        replies = PythonQueueDescriptor()
        replies.put("reply")
        assert replies.get() == "reply"
    del replies
    gc.collect()
    assert owned() == before


def test_who_waits_at_a_queue_without_a_name_keeps_it():
    descriptor, _ = used()
    live = weakref.ref(descriptor.queue_instance)
    descriptor.trim()
    gc.collect()
    assert live() is not None
    assert descriptor.qsize() == 1


@pytest.mark.parametrize("how", ["a name", "a name of a clone", "a dict", "a pickle's dict after its use"])
def test_a_queue_that_somebody_can_come_to_by_name_stays_until_it_is_closed(how):
    descriptor, item = used(**({"queue_id": "a name that stays"} if how == "a name" else {}))
    told = descriptor.to_dict() if how != "a name" else {}
    if how == "a name of a clone":
        descriptor = PythonQueueDescriptor().clone("a clone that stays")
        descriptor.put(1)
        item = weakref.ref(descriptor.queue_instance)
    name = descriptor.channel_id
    del descriptor
    gc.collect()
    assert item() is not None
    assert name in owned()
    again = PythonQueueDescriptor.from_dict(told) if "a name" not in how else PythonQueueDescriptor(queue_id=name)
    assert again.qsize() == 1
    again.close()
    assert name not in owned()


def test_items_that_go_with_the_last_handle_are_told(caplog):
    descriptor, _ = used()
    label = descriptor.queue_id
    with caplog.at_level(logging.WARNING):
        del descriptor
        gc.collect()
    assert f"({label}) ended with its last descriptor; the 1 items in it were dropped" in caplog.text


def test_a_with_block_closes_the_queue_for_everybody():
    with PythonQueueDescriptor(queue_id="in a block") as descriptor:
        other = descriptor.share()
        descriptor.put(1)
        assert other.get() == 1
    assert "in a block" not in owned()
    with pytest.raises(QueueClosed):
        other.put(2)


def test_a_with_block_makes_no_queue_to_close_and_may_close_it_itself():
    with PythonQueueDescriptor() as unused:
        pass
    assert not unused.is_bound
    with PythonQueueDescriptor() as closed:
        closed.put(1)
        closed.close()


def test_a_with_block_closes_a_queue_at_a_server():
    with RPCQueueServer("127.0.0.1", 0, key=b"key") as server:
        with RPCQueueDescriptor("127.0.0.1", server.port, key=b"key", queue_id="replies") as replies:
            replies.put(1)
            assert len(server.statistics()["queues"]) == 1
        assert server.statistics()["queues"] == {}
