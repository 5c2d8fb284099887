"""A service of a job for other processes, over a link."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
from async_services import Adder, Gate, Keeper

from sage_flow import LocalEnvironment, PipelineService, connect_service, errors, wait
from sage_flow.executors.outside import OutsidePort
from sage_flow.executors.remote_service import ServedService

KEY = b"opens one service of these tests"


@pytest.fixture
def job():
    lets_go = threading.Event()

    def items():
        lets_go.wait(60)
        yield from ()

    env = LocalEnvironment("serving")
    env.register_service("adder", Adder)
    env.register_service("gate", Gate, concurrency=2, max_pending=3)
    env.register_service("keeper", Keeper, parallelism=3)
    env.register_service("words", PipelineService(lambda r: r.flat_map(str.split), reply="many"))
    env.from_iterable(items).for_each(str)
    with env.submit() as started:
        yield started
        lets_go.set()


def connect(served, service, key=KEY, **options):
    return connect_service(served.host, served.port, service, key=key, **options)


def test_another_process_calls_a_service(job):
    code = """
import sys
from sage_flow import connect_service
with connect_service("127.0.0.1", int(sys.argv[1]), "adder", key=sys.argv[2].encode()) as adder:
    print(adder.add(1, more=2), adder.options(timeout=5.0).add(5))
    try:
        adder.fail(7)
    except ValueError as error:
        print(type(error).__name__, error)
"""
    with job.serve("adder", key=KEY) as served:
        command = [sys.executable, "-c", code, str(served.port), KEY.decode()]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert told.split("\n") == ["3 6", "ValueError no 7", ""]


def test_the_services_own_thread_reads_its_requests(job, monkeypatch):
    readers, take = set(), ServedService._on_message

    def note_and_take(served, *message):
        readers.add(threading.current_thread().name)
        take(served, *message)

    monkeypatch.setattr(ServedService, "_on_message", note_and_take)
    with job.serve("adder", key=KEY) as served, connect(served, "adder") as adder:
        assert [adder.add(number) for number in range(100)] == list(range(1, 101))
    assert any("adder" in name for name in readers), readers


def test_a_call_that_comes_as_its_link_ends_is_given_up(job, monkeypatch):
    made, call = [], OutsidePort.call

    def call_and_end_the_link(port, *arguments):
        made.append(call(port, *arguments))
        [link] = served._listener.links()
        link.end("the other end is gone")  # mostly another thread does, at any time
        return made[0]

    with job.serve("gate", key=KEY) as served, connect(served, "gate", retry_count=0) as gate:
        monkeypatch.setattr(OutsidePort, "call", call_and_end_the_link)
        with pytest.raises(errors.ServiceUnavailable):
            gate.options(timeout=60).wait()
    assert isinstance(made[0].outcome.error, CancelledError)


def test_keys_futures_and_many_outputs_work_as_inside(job):
    with job.serve("keeper") as served, connect(served, "keeper", key=None) as keeper:
        counts = [keeper.options(key=word).note(word) for word in ["a", "b", "c", "d", "a", "b", "a"]]
        assert [count for count, _ in counts] == [1, 1, 1, 1, 2, 2, 3]
        assert len({replica for _, replica in counts}) > 1
        with pytest.raises(errors.ServiceError, match=r"options\(key="):
            keeper.note("a")
    with job.serve("words") as served, connect(served, "words", key=None) as words:
        done, _ = wait([words.process.remote("to be"), words.process.remote("or")])
        assert [future.result() for future in done] == [["to", "be"], ["or"]]
        with pytest.raises(errors.NoReply):
            words.process("")


def test_many_threads_and_connections_get_their_own_replies(job):
    with job.serve("adder", key=KEY) as served:
        connections = [connect(served, "adder") for _ in range(3)]

        def ask(thread):
            adder = connections[thread % 3].handle
            return [adder.add(thread * 1000 + n) for n in range(100)]

        with ThreadPoolExecutor(6) as pool:
            for thread, replies in enumerate(pool.map(ask, range(6))):
                assert replies == [thread * 1000 + n + 1 for n in range(100)]
        for connection in connections:
            connection.close()


def test_the_key_of_one_service_does_not_open_another(job):
    with job.serve("adder", key=KEY) as adder, job.serve("gate", key=b"another key"):
        for service, key in (("gate", KEY), ("adder", b"another key"), ("adder", None)):
            with pytest.raises(errors.ChannelNotReachable):
                connect(adder, service, key=key, retry_count=0)
        with connect(adder, "adder") as handle:
            assert handle.add(1) == 2
        assert adder.statistics()["refused"] == 3


def test_a_timeout_an_overload_and_a_cancel_are_those_of_the_caller(job):
    with job.serve("gate", key=KEY) as served, connect(served, "gate") as gate:
        with pytest.raises(errors.ServiceTimeout):
            gate.options(timeout=0.05).wait()
        waiting = [gate.wait.remote() for _ in range(3)]
        with pytest.raises(errors.ServiceOverloaded, match="max_pending"):
            gate.options(timeout=0.05).wait()
        for future in waiting:
            assert future.cancel()
    with job.serve("adder", key=KEY) as served, connect(served, "adder") as adder:
        assert adder.add(1) == 2


def test_what_is_wrong_is_said_before_anything_is_sent(job):
    with job.serve("adder", key=KEY) as served, connect(served, "adder") as adder:
        with pytest.raises(errors.UnknownService, match="did you mean 'add'"):
            adder.ad(1)
        with pytest.raises(errors.CodecError, match=r"arguments of adder\.add cannot be sent: .*args\[0\].*lock"):
            adder.add(threading.Lock())
        assert adder.add(1) == 2
    with pytest.raises(errors.UnknownService):
        job.serve("ader")


def test_after_the_job_a_service_is_unavailable(job):
    served = job.serve("gate", key=KEY)
    with connect(served, "gate", retry_count=0) as gate:
        open_call = gate.wait.remote()
        assert gate.options(timeout=60).open_it() == "opened"
        assert open_call.result() == "through"
        still_open = gate.options(timeout=60)
        job.cancel()
        with pytest.raises(errors.ServiceUnavailable):
            still_open.wait()
    with pytest.raises(errors.ChannelNotReachable):
        connect(served, "gate", retry_count=0)


def test_a_connection_that_was_lost_is_made_again_by_the_next_call(job):
    first = job.serve("adder", key=KEY)
    with connect(first, "adder") as adder:
        assert adder.add(1) == 2
        first.close()
        with pytest.raises(errors.ServiceUnavailable):
            until_lost(adder)
        with job.serve("adder", port=first.port, key=KEY):
            assert adder.add(2) == 3


def until_lost(handle):
    for _ in range(1000):
        handle.options(timeout=0.5).add(1)


def test_a_client_that_goes_takes_its_calls_with_it(job):
    with job.serve("gate", key=KEY) as served:
        connection = connect(served, "gate")
        waiting = connection.handle.options(timeout=60).wait.remote()
        connection.close()
        with pytest.raises(errors.ServiceUnavailable, match="closed here"):
            waiting.result()
        with pytest.raises(errors.ServiceUnavailable, match="closed here"):
            connection.handle.wait()
        with connect(served, "gate") as gate:
            assert gate.open_it() == "opened"


WRONG = {
    "host": ("", "host is ''"),
    "port": (0, "port is 0"),
    "key": (b"", "key is empty"),
    "connect_timeout_s": (-1, "connect_timeout_s is -1"),
    "retry_count": (-1, "retry_count is -1"),
}


@pytest.mark.parametrize(("name", "value", "text"), [(name, *wrong) for name, wrong in WRONG.items()])
def test_arguments_that_can_reach_nobody_are_refused_when_they_are_said(name, value, text):
    given = {"host": "127.0.0.1", "port": 1, "service": "adder", "key": KEY, name: value}
    with pytest.raises(ValueError, match=text):
        connect_service(**given)


def test_a_key_is_bytes_and_not_shown(job):
    for give in (
        lambda: job.serve("adder", key="secret"),
        lambda: connect_service("127.0.0.1", 1, "adder", key="secret"),
    ):
        with pytest.raises(TypeError, match="key is a str: give bytes") as caught:
            give()
        assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="key is empty"):
        job.serve("adder", key=b"")


def test_a_key_is_wanted_where_others_could_connect(job):
    with pytest.raises(errors.ChannelNotReachable, match="there is no key"):
        job.serve("adder", host="0.0.0.0")
    with job.serve("adder", key=KEY) as served, pytest.raises(errors.ChannelNotReachable, match="is in use"):
        job.serve("adder", port=served.port, key=KEY)
