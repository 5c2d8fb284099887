"""Clients that die, connections that break, servers that go: what becomes of items."""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import time

import pytest
from call_peer import Answerer, serving, until_begun
from forwarder import Forwarder
from queue_kinds import KEY
from queue_peer import get_and_freeze, put_there
from test_queue_consuming import Taken
from test_queue_waiting import start, until

from sage_flow import ServiceClient
from sage_flow.channels import RPCQueueDescriptor, RPCQueueServer
from sage_flow.errors import ChannelNotReachable, PutInDoubt, QueueClosed, ServiceUnavailable
from sage_flow.queues.hosted import RESUME_S


def test_a_client_killed_with_items_in_transit_gives_them_back_to_the_front(make_crossing, crossing, victim):
    descriptor = make_crossing()
    descriptor.qsize()  # hosted here, not in the process that will die
    victim.run(get_and_freeze, crossing, pickle.dumps(descriptor))
    descriptor.put_many(["a", "b"])
    until(descriptor, leases=1)
    assert descriptor.qsize() == 1
    victim.kill()
    until(descriptor, leases=0)
    assert descriptor.get_many(10) == ["a", "b"]
    assert descriptor.statistics()["returned"] == 1


def test_a_client_killed_without_items_in_transit_takes_nothing_along(make_crossing, crossing, victim):
    descriptor = make_crossing()
    descriptor.qsize()
    victim.run(put_there, crossing, pickle.dumps(descriptor), ["a"])
    victim.kill()
    until(descriptor, sessions=1)
    assert descriptor.get_many(10) == ["a"]


def break_link(descriptor):
    """As if the network had, unless it just has."""
    link = descriptor.queue_instance.link
    if link is not None:
        link.close(0)


def test_a_get_goes_on_over_a_new_connection(make_crossing):
    descriptor = make_crossing()
    getter = start(descriptor.share().get)
    until(descriptor, waiting_getters=1)
    break_link(descriptor)
    until(descriptor, waiting_getters=1)
    descriptor.put("a")
    assert getter.result() == "a"
    assert descriptor.statistics()["sessions"] == 1


@pytest.mark.race
def test_nothing_is_lost_or_twice_however_often_the_connection_breaks(make_crossing):
    descriptor = make_crossing(maxsize=8)

    def put_all(handle, name):
        for number in range(150):
            handle.put((name, number))

    def get_all(handle):
        return [handle.get() for _ in range(150)]

    putters = [start(put_all, descriptor.share(), name) for name in range(4)]
    getters = [start(get_all, descriptor.share()) for _ in range(4)]
    while busy := [getter for getter in getters if getter.thread.is_alive()]:
        break_link(descriptor)
        busy[0].thread.join(0.02)
    for putter in putters:
        putter.result()
    got = [getter.result() for getter in getters]
    assert sorted(item for items in got for item in items) == [(name, n) for name in range(4) for n in range(150)]
    assert descriptor.empty()


# --- with a server of its own, over a line that breaks ----------------------------------------------------


@pytest.fixture
def server(over_sockets):
    with RPCQueueServer("127.0.0.1", 0, KEY) as server:
        yield server


@pytest.fixture
def line(server):
    line = Forwarder(server.port)
    yield line
    line.close()


def over(line, **configuration):
    """A descriptor of a queue whose messages go over the line, and one that goes past it."""
    descriptor = RPCQueueDescriptor("127.0.0.1", line.port, key=KEY, **configuration)
    return descriptor, RPCQueueDescriptor("127.0.0.1", line._target, key=KEY, queue_id=descriptor.queue_id)


def test_a_put_repeated_after_a_reconnect_counts_once(line):
    descriptor, past = over(line)
    descriptor.qsize()
    line.mute()
    putter = start(descriptor.put, "once")
    assert past.get(timeout=30) == "once"
    line.cut()
    putter.result()
    assert past.statistics()["puts"] == 1
    assert past.empty()


def test_a_large_put_repeated_after_a_reconnect_counts_once(line):
    descriptor, past = over(line)
    descriptor.qsize()
    putter = start(descriptor.put, b"x" * 1_000_000)
    putter.result()
    line.mute()
    putter = start(descriptor.put, b"y" * 1_000_000)
    until(past, producers=1, puts=1)
    line.cut()
    putter.result()
    assert [len(past.get(timeout=30)) for _ in range(2)] == [1_000_000] * 2
    assert past.statistics()["puts"] == 2
    assert past.empty()


def test_what_is_held_is_held_over_a_reconnect(line):
    descriptor, past = over(line)
    taken = Taken(descriptor)
    past.put_many(["a", "b", "c"])
    taken.consumer.grant(2)
    first, second = taken.next(), taken.next()
    line.cut()
    first.finish()  # perhaps there is no connection at this moment
    second.give_back(begun=True)
    until(past, held=0, depth=2)
    taken.consumer.grant(1)
    again = taken.next()
    assert (again.value(), again.begun) == ("b", 1)
    again.finish()
    until(past, held=0, depth=1)


def test_who_was_gone_for_too_long_holds_nothing_any_more(line):
    descriptor, past = over(line)
    taken = Taken(descriptor)
    past.put("a")
    taken.consumer.grant(1)
    item = taken.next()
    line.refuse()
    until(past, held=0, depth=1)
    line.admit()
    item.finish()
    other = Taken(past)
    other.consumer.grant(1)
    again = other.next()
    assert (again.value(), again.begun) == ("a", 1)


@pytest.mark.race
def test_calls_by_a_queue_are_answered_however_often_the_connection_breaks(line):
    requests, past = over(line)
    with serving(past, concurrency=4):
        client = ServiceClient(requests, timeout=60)
        futures = []
        for number in range(200):
            futures.append(client.process.remote(number))
            if number % 20 == 0:
                line.cut()
        assert [future.result() for future in futures] == [("answer to", number) for number in range(200)]


def test_a_call_whose_connection_is_gone_for_good_ends_and_the_next_one_connects_again(line, tmp_path):
    requests, past = over(line)
    log = str(tmp_path / "begun")
    with serving(past, Answerer, log):
        client = ServiceClient(requests, timeout=600)
        taken = client.begin.remote("taken", 0.5)
        until_begun(log)
        line.refuse()
        with pytest.raises(ServiceUnavailable):
            taken.result()
        with pytest.raises(ServiceUnavailable):
            client.process("not yet")
        line.admit()
        assert client.process("again") == ("answer to", "again")


def test_a_job_fails_if_its_queue_of_requests_is_lost(line):
    requests, past = over(line)
    with serving(requests) as job:
        assert ServiceClient(past, timeout=60).process(1) == ("answer to", 1)
        line.refuse()
        with pytest.raises(QueueClosed):
            job.result(60)


def test_a_delivery_that_did_not_arrive_is_sent_again(line):
    descriptor, past = over(line)
    getter = start(descriptor.get)
    until(past, waiting_getters=1)
    line.mute()
    past.put("a")
    until(past, leases=1)
    line.cut()
    assert getter.result() == "a"
    assert past.statistics()["returned"] == 0
    assert past.empty()


def test_a_delivery_to_a_get_that_gave_up_meanwhile_goes_back(line):
    descriptor, past = over(line, connection_timeout=0.3)
    getter = start(descriptor.get, True, 0.2)
    until(past, waiting_getters=1)
    line.mute()
    past.put("a")
    until(past, leases=1)
    try:
        # The host does not answer the withdrawal, so the client breaks the connection, and comes back.
        assert getter.result() == "a"
    except queue.Empty:
        assert past.get(timeout=30) == "a"
    assert past.empty()


def test_a_put_is_in_doubt_if_the_host_has_forgotten_the_session(line):
    descriptor, past = over(line, retry_count=1000)
    descriptor.qsize()
    line.mute()
    putter = start(descriptor.put, "perhaps")
    until(past, depth=1)
    line.refuse()
    until(past, sessions=1)
    line.admit()
    with pytest.raises(PutInDoubt):
        putter.result()
    assert past.get() == "perhaps"
    descriptor.put("surely")
    assert past.get() == "surely"


def test_a_get_outlives_its_session(line):
    descriptor, past = over(line, retry_count=1000)
    getter = start(descriptor.get)
    until(past, waiting_getters=1)
    line.refuse()
    until(past, sessions=1)
    line.admit()
    past.put("a")
    assert getter.result() == "a"


def test_a_line_that_stays_broken_closes_the_queue(line):
    descriptor, _ = over(line, retry_count=1)
    getter = start(descriptor.share().get)
    descriptor.put("a")
    assert getter.result() == "a"
    line.refuse()
    getter = start(descriptor.share().get)
    with pytest.raises(QueueClosed, match="the items in the queue are lost"):
        getter.result()
    with pytest.raises(QueueClosed):
        descriptor.put("b")
    assert descriptor.statistics()["closed"]


def test_a_server_that_is_closed_tells_its_clients():
    server = RPCQueueServer("127.0.0.1", 0, KEY)
    descriptor = RPCQueueDescriptor("127.0.0.1", server.port, key=KEY)
    getter = start(descriptor.share().get)
    until(descriptor, waiting_getters=1)
    server.close()
    with pytest.raises(QueueClosed, match="its server was closed"):
        getter.result()
    with pytest.raises(QueueClosed):
        descriptor.get()


def test_a_server_started_anew_does_not_pretend_to_be_the_old_one(line):
    descriptor, _ = over(line)
    descriptor.put("gone with its server")
    line.refuse()
    with RPCQueueServer("127.0.0.1", 0, KEY) as second:
        line._target = second.port
        line.admit()
        with pytest.raises(QueueClosed, match="restarted, and the items in the queue are lost"):
            descriptor.get(timeout=30)
        assert second.statistics()["queues"] == {}
        descriptor.trim()
        descriptor.put("a new life")
        assert descriptor.get() == "a new life"


def test_a_host_that_was_killed_has_lost_what_it_held(kinds, victim):
    kind = kinds["multiprocessing"]
    descriptor = kind.make()
    victim.run(put_there, kind, pickle.dumps(descriptor), ["lost"])
    assert descriptor.qsize() == 1
    getter = start(descriptor.share().get_many, 5)
    assert getter.result() == ["lost"]
    getter = start(descriptor.share().get)
    until(descriptor, waiting_getters=1)
    victim.kill()
    with pytest.raises(QueueClosed, match="its host is gone"):
        getter.result()
    with pytest.raises(QueueClosed):
        kind.unpickle(pickle.dumps(descriptor)).put("nobody serves it again")


# --- never connected --------------------------------------------------------------------------------------


def test_nobody_listens(line):
    descriptor, _ = over(line, retry_count=2)
    line.refuse()
    with pytest.raises(ChannelNotReachable, match="3 tries"):
        descriptor.put("a")
    assert line.accepted == 3
    line.admit()
    descriptor.put("a")
    assert descriptor.get() == "a"


def test_a_wrong_key_or_none_is_refused(server):
    for key in (b"wrong", None):
        descriptor = RPCQueueDescriptor("127.0.0.1", server.port, key=key, retry_count=0)
        with pytest.raises(ChannelNotReachable, match="key") as failure:
            descriptor.put("a")
        assert "with_credentials" in str(failure.value)
        assert KEY.decode() not in str(failure.value)
    assert server.statistics()["queues"] == {}


# --- connections ------------------------------------------------------------------------------------------


def test_descriptors_of_one_server_share_a_connection(server):
    pooled = [RPCQueueDescriptor("127.0.0.1", server.port, key=KEY) for _ in range(5)]
    alone = [RPCQueueDescriptor("127.0.0.1", server.port, key=KEY, enable_pooling=False) for _ in range(2)]
    for descriptor in pooled + alone:
        descriptor.put("a")
    assert server.statistics()["links"] == 3
    break_link(pooled[0])
    assert [descriptor.get() for descriptor in pooled + alone] == ["a"] * 7


SERVER = """
import sys
from sage_flow.channels import RPCQueueServer

server = RPCQueueServer("127.0.0.1", 0, key=b"stands still")
print(server.port, flush=True)
sys.stdin.read()
"""


@pytest.mark.race
def test_a_server_that_stood_still_lets_those_come_back_who_waited_at_its_door():
    key = b"stands still"
    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        server = stack.enter_context(subprocess.Popen([sys.executable, "-c", SERVER], **pipes))
        stack.callback(server.kill)
        line = Forwarder(int(server.stdout.readline()))
        stack.callback(line.close)
        there = RPCQueueDescriptor("127.0.0.1", line._target, queue_id="q", maxsize=1, key=key)
        here = RPCQueueDescriptor("127.0.0.1", line.port, 30.0, 1000, queue_id="q", maxsize=1, key=key)
        there.put("a")
        putter = start(here.put, "b")
        until(there, waiting_putters=1)
        while True:  # until its connection is lost and the server stopped long before it forgets the session
            began = time.monotonic()
            line.refuse()
            until(there, waiting_putters=0)
            os.kill(server.pid, signal.SIGSTOP)
            if time.monotonic() - began < RESUME_S / 2:
                break
            os.kill(server.pid, signal.SIGCONT)
            line.admit()
            until(there, waiting_putters=1)
        before = line.accepted
        line.admit()
        putter.thread.join(RESUME_S + 1)
        assert line.accepted > before
        os.kill(server.pid, signal.SIGCONT)
        assert there.get(timeout=60) == "a"
        putter.result()  # it is known, and what it has said counts
        assert there.get(timeout=60) == "b"
