"""How to see what a channel is doing."""

import time

from test_queue_waiting import start, until

COMMON = {
    "kind",
    "host",
    "queue_id",
    "channel_id",
    "scope",
    "depth",
    "bytes",
    "maxsize",
    "closed",
    "producers",
    "waiting_getters",
    "waiting_putters",
    "leases",
    "held",
    "sessions",
    "oldest_s",
    "puts",
    "gets",
    "puts_per_s",
    "gets_per_s",
    "dropped",
    "returned",
    "story",
}


def test_all_kinds_tell_the_same(make, kind):
    descriptor = make(maxsize=10)
    before = time.monotonic()
    descriptor.put_many(["a" * 100, "b", "c"])
    descriptor.get()
    told = descriptor.statistics()
    assert told.keys() - {"client"} == COMMON
    assert (told["kind"], told["queue_id"], told["scope"]) == (kind.queue_type, descriptor.queue_id, "cluster")
    assert (told["depth"], told["puts"], told["gets"], told["maxsize"]) == (2, 3, 1, 10)
    assert (told["producers"], told["sessions"]) == (1, 1)
    assert 0 <= told["oldest_s"] <= time.monotonic() - before
    assert told["puts_per_s"] > 0
    assert told["story"][0][1] == "created"
    assert told["bytes"] is None or 0 < told["bytes"] < 300


def test_who_waits_is_counted(make):
    descriptor = make(maxsize=1)
    getter = start(descriptor.share().get)
    until(descriptor, waiting_getters=1)
    descriptor.put("a")
    assert getter.result() == "a"
    descriptor.put("b")
    putter = start(descriptor.share().put, "c")
    until(descriptor, waiting_putters=1)
    descriptor.get()
    putter.result()
    until(descriptor, waiting_getters=0, waiting_putters=0, depth=1)


def test_an_empty_queue_has_no_oldest_item(make):
    descriptor = make()
    descriptor.put("a")
    descriptor.get()
    told = descriptor.statistics()
    assert told["oldest_s"] is None
    assert not told["bytes"]


def test_a_client_tells_of_its_link(make_crossing):
    descriptor = make_crossing()
    descriptor.put("a")
    client = descriptor.statistics()["client"]
    assert client["open_requests"] <= 1, "its own"
    assert client["link"]["sent_messages"] > 0
    assert [event for _, event in client["story"]] == ["attached"]


def test_a_closed_queue_still_tells_its_story(kind):
    descriptor = kind.make()
    descriptor.put("a")
    descriptor.close()
    told = descriptor.statistics()
    assert told["closed"]
    story = told["client"]["story"] if "client" in told else told["story"]
    assert "closed" in story[-1][1]
