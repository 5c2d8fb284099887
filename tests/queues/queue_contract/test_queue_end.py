"""close(): for everybody, for good, and not silently."""

import logging
import pickle
import queue

import pytest
from queue_peer import Failed, get_there, put_there
from test_queue_waiting import start, until

from sage_flow.errors import ChannelConflict, QueueClosed


def test_close_wakes_who_waits_with_queue_closed(kind):
    descriptor = kind.make(maxsize=1)
    getters = [start(descriptor.share().get) for _ in range(3)]
    until(descriptor, waiting_getters=3)
    descriptor.share().close()
    for getter in getters:
        with pytest.raises(QueueClosed):
            getter.result()
    full = kind.make(maxsize=1)
    full.put("a")
    putter = start(full.share().put, "b")
    until(full, waiting_putters=1)
    full.close()
    with pytest.raises(QueueClosed):
        putter.result()


def test_a_closed_channel_stays_closed_for_every_handle(kind):
    descriptor = kind.make()
    never_used = descriptor.share().clone("label")
    data = pickle.dumps(descriptor)
    descriptor.put("a")
    descriptor.close()
    assert "closed" in repr(descriptor)
    later = kind.unpickle(data)
    for handle in (descriptor, never_used, later, kind.make(queue_id=descriptor.queue_id)):
        for use in (handle.get_nowait, lambda handle=handle: handle.put("b"), handle.get, handle.qsize, handle.empty):
            with pytest.raises(QueueClosed, match=r"closed"):
                use()
    trimmed = descriptor.share()
    trimmed.trim()
    with pytest.raises(QueueClosed):
        trimmed.get()


def test_close_twice_is_close_once(kind):
    descriptor = kind.make()
    descriptor.put("a")
    descriptor.close()
    descriptor.close()
    descriptor.share().close()
    with pytest.raises(QueueClosed):
        descriptor.put("b")


def test_what_is_dropped_is_counted_and_logged(kind, caplog):
    if not kind.hosted_here:
        pytest.skip("logged where it is hosted: see test_ray_queue.py")
    descriptor = kind.make()
    descriptor.put_many("abc")
    with caplog.at_level(logging.WARNING, "sage_flow.channels"):
        descriptor.close()
    (record,) = caplog.records
    assert "closed; the 3 items in it were dropped" in record.getMessage()
    assert descriptor.channel_id in record.getMessage()


def test_an_empty_queue_is_closed_without_a_word(kind, caplog):
    descriptor = kind.make()
    descriptor.put("a")
    descriptor.get()
    descriptor.close()
    assert caplog.records == []


def test_who_closes_elsewhere_closes_here(crossing, peers):
    descriptor = crossing.make()
    data = pickle.dumps(descriptor)
    peers[0].start(get_there, crossing, data, 1)
    until(descriptor, waiting_getters=1)
    descriptor.close()
    with pytest.raises(Failed) as failure:
        peers[0].result()
    assert failure.value.kind is QueueClosed
    with pytest.raises(Failed) as failure:
        peers[1].run(put_there, crossing, data, ["late"])
    assert failure.value.kind is QueueClosed


def test_another_maxsize_is_a_conflict(make, kind):
    descriptor = make(maxsize=3)
    descriptor.put("a")
    with pytest.raises(ChannelConflict, match="maxsize"):
        kind.make(maxsize=4, queue_id=descriptor.queue_id).put("b")
    with pytest.raises(queue.Empty):
        descriptor.get_many(1) and descriptor.get_nowait()


def test_another_maxsize_elsewhere_is_a_conflict(make_crossing, crossing, peers):
    descriptor = make_crossing(maxsize=3)
    descriptor.put("a")
    described = descriptor.to_dict()
    described["metadata"]["maxsize"] = 4
    with pytest.raises(Failed) as failure:
        peers[0].run(put_there, crossing, pickle.dumps(crossing.resolve(described)), ["b"])
    assert failure.value.kind is ChannelConflict
