"""Eight producers, eight consumers: nothing lost, nothing twice, and in order per producer."""

import pickle
import threading

import pytest
from queue_peer import consume, produce


def produce_and_consume(kind, descriptor, peers, count, batch):
    """Half of them here, half in other processes, if they can be there. Returns what each consumer got."""
    data = pickle.dumps(descriptor)
    names = [f"producer {number}" for number in range(8)]
    got, patience_s = [], 60 + count / 100
    here, there = (names[:4], names[4:]) if kind.reaches_other_processes else (names, [])
    consumers = threading.Thread(target=lambda: got.extend(consume(kind, data, len(here), batch)))
    producers = threading.Thread(target=produce, args=(kind, data, here, count, batch))
    if there:
        peers[0].start(produce, kind, data, there, count, batch)
        peers[1].start(consume, kind, data, len(there), batch)
    producers.start()
    consumers.start()
    producers.join()
    if there:
        peers[0].result(patience_s)
    descriptor.put_many(["end"] * 8)
    consumers.join()
    return got + (peers[1].result(patience_s) if there else [])


def check(descriptor, got, count):
    for items in got:
        last = {}
        for name, number in items:
            assert number > last.get(name, -1)
            last[name] = number
    everything = sorted(item for items in got for item in items)
    assert everything == [(f"producer {number}", n) for number in range(8) for n in range(count)]
    assert descriptor.empty()
    told = descriptor.statistics()
    assert told["puts"] == told["gets"]
    assert told["leases"] == told["waiting_getters"] == told["waiting_putters"] == told["returned"] == 0


@pytest.mark.race
@pytest.mark.parametrize(("count", "batch"), [(500, 1), (2000, 10)])
def test_eight_producers_and_eight_consumers_short(make, kind, peers, count, batch):
    descriptor = make(maxsize=200)
    check(descriptor, produce_and_consume(kind, descriptor, peers, count, batch), count)


def test_eight_producers_and_eight_consumers(make, kind, peers):
    descriptor = make(maxsize=100)
    check(descriptor, produce_and_consume(kind, descriptor, peers, 2000, 1), 2000)


@pytest.mark.soak
@pytest.mark.parametrize("batch", [1, 100])
def test_eight_producers_and_eight_consumers_long(make, kind, peers, batch):
    descriptor = make(maxsize=1000)
    check(descriptor, produce_and_consume(kind, descriptor, peers, 100_000, batch), 100_000)
