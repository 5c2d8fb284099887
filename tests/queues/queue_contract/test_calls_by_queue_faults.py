"""Calls by queues when somebody dies: every request has an outcome, and is run once unless its caller allows more."""

import os
import pickle
import signal
import threading
import time

import pytest
from call_peer import (
    Answerer,
    ask_and_stay,
    begun,
    serve_there,
    serving,
    until_begun,
)
from test_queue_waiting import until

from sage_flow import ServiceClient, errors
from sage_flow.executors.processes import ProcessExecutor

some_kinds = pytest.mark.parametrize("crossing", ["multiprocessing", "rpc", "ray"], indirect=True)
one_kind = pytest.mark.parametrize("crossing", ["rpc"], indirect=True)

SOON_S = 5.0
"""So soon a caller hears that whoever had his request is gone."""


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "begun")


def host_here(requests):
    """If its first user is its host, that is this process, which no test kills."""
    requests.qsize()
    return pickle.dumps(requests)


@some_kinds
@pytest.mark.parametrize("processes", [False, True], ids=["job in one process", "job in processes"])
def test_a_request_whose_responder_was_killed_ends_soon_and_is_not_run_again(
    make_crossing, crossing, victim, log, processes
):
    requests = make_crossing()
    victim.start(serve_there, crossing, host_here(requests), log, processes)
    future = ServiceClient(requests).options(timeout=600).begin.remote("once", 600)
    until_begun(log)
    killed_at = time.monotonic()
    victim.kill()
    with pytest.raises(errors.ServiceUnavailable, match="died before it replied"):
        future.result()
    assert time.monotonic() - killed_at < SOON_S
    with serving(requests, Answerer, log):
        assert ServiceClient(requests, timeout=60).begin("next", 0) == ("answer to", "next")
    until(requests, depth=0, held=0)
    assert begun(log) == ["once", "next"]


@some_kinds
def test_a_request_whose_responder_was_killed_is_run_again_if_its_caller_says_so(make_crossing, crossing, victim, log):
    requests = make_crossing()
    victim.start(serve_there, crossing, host_here(requests), log)
    future = ServiceClient(requests).options(timeout=600, retry=True).begin.remote("again", 3)
    until_begun(log)
    victim.kill()
    with serving(requests, Answerer, log):
        assert future.result(60) == ("answer to", "again")
    assert begun(log) == ["again", "again"]


@one_kind
def test_a_request_that_kills_its_responders_is_not_run_for_ever(make_crossing, log):
    requests = make_crossing()
    requests.qsize()
    client = ServiceClient(requests).options(timeout=600, retry=True)
    future = client.die.remote()
    for _ in range(3):
        with pytest.raises(errors.WorkerDied), serving(requests, Mortal, log, executor=ProcessExecutor(1)) as job:
            job.result(60)
    with (
        serving(requests, Mortal, log, executor=ProcessExecutor(1)),
        pytest.raises(errors.ServiceUnavailable, match="3 responders died"),
    ):
        future.result(60)
    assert begun(log) == ["die"] * 3


class Mortal(Answerer):
    def die(self):
        with open(self._log, "a", encoding="utf-8") as file:
            file.write("die\n")
        os.kill(os.getpid(), signal.SIGKILL)


@some_kinds
def test_a_request_that_nobody_has_taken_is_answered_by_the_next(make_crossing, crossing, victim, log):
    requests = make_crossing()
    victim.start(serve_there, crossing, host_here(requests), log)
    client = ServiceClient(requests, timeout=600)
    taken = client.begin.remote("taken", 600)
    until_begun(log)
    waiting = [client.begin.remote(number, 0) for number in range(10)]
    until(requests, depth=10, held=1)
    victim.kill()
    with serving(requests, Answerer, log):
        assert [future.result(60) for future in waiting] == [("answer to", number) for number in range(10)]
    with pytest.raises(errors.ServiceUnavailable):
        taken.result(60)


@some_kinds
def test_the_death_of_the_service_alone_ends_its_requests_soon(make_crossing, crossing, log):
    """The door lives on: it knows at once."""
    requests = make_crossing()
    client = ServiceClient(requests)
    with serving(requests, Answerer, log, executor=ProcessExecutor(1)) as job:
        pid = client.options(timeout=60).pid()
        taken = client.options(timeout=600).begin.remote("once", 600)
        again = client.options(timeout=600, retry=True)
        until_begun(log)
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(errors.ServiceUnavailable):
            taken.result()
        assert time.monotonic() - killed_at < SOON_S
        later = again.begin.remote("later", 0)
        with pytest.raises(errors.WorkerDied):
            job.result(60)
    with serving(requests, Answerer, log):
        assert later.result(60) == ("answer to", "later")
    assert begun(log) == ["once", "later"]


def test_a_cancelled_job_ends_the_calls_it_had_and_leaves_the_others(make, log):
    requests = make()
    client = ServiceClient(requests, timeout=600)
    with serving(requests, Answerer, log) as job:
        taken = client.begin.remote("taken", 1)
        until_begun(log)
        waiting = client.begin.remote("waiting", 0)
        again = client.options(retry=True).begin.remote("again", 0)
        job.cancel()
    with pytest.raises(errors.ServiceUnavailable):
        taken.result(60)
    with serving(requests, Answerer, log):
        assert waiting.result(60) == ("answer to", "waiting")
        assert again.result(60) == ("answer to", "again")
    assert begun(log) == ["taken", "waiting", "again"]


@some_kinds
def test_a_caller_that_died_leaves_no_queue_behind(make_crossing, crossing, victim):
    requests = make_crossing()
    with serving(requests, concurrency=2):
        other = ServiceClient(requests, timeout=60)
        other.process("so that the queue for our replies is there")
        before = reply_queues(crossing, requests)
        assert victim.run(ask_and_stay, crossing, host_here(requests), 1) == ("answer to", 1)
        assert len(reply_queues(crossing, requests) - before) == (crossing.name != "multiprocessing")
        victim.kill()
        late_at = time.monotonic() + 30
        while reply_queues(crossing, requests) - before:
            assert time.monotonic() < late_at
            time.sleep(0.01)
        assert other.process("others go on") == ("answer to", "others go on")


def reply_queues(kind, requests):
    """The names of those that the host of `requests` has."""
    return {name for name in kind.hosted(requests) if name.startswith("replies_")}


def test_the_end_of_the_queue_ends_its_calls_at_once(make):
    requests = make()
    future = ServiceClient(requests, timeout=600, max_pending=1).process.remote(1)
    waiter = threading.Thread(target=future.exception)
    waiter.start()
    requests.share().close()
    waiter.join(60)
    with pytest.raises(errors.ServiceUnavailable):
        ServiceClient(requests, timeout=600).process(2)


def test_two_jobs_that_wait_for_each_other_get_a_timeout(make, kind):
    here, there = make(), make()
    with serving(here, Asks, kind, there), serving(there, Asks, kind, here):
        client = ServiceClient(here)
        with pytest.raises(errors.ServiceTimeout):
            client.options(timeout=1.0).ask(5)
        assert client.options(timeout=60).ask(0) == "asked", "and go on behind it"


class Asks:
    """Asks the other one, which asks back."""

    def __init__(self, kind, other):
        self._other = ServiceClient(kind.admit(other), timeout=60)

    def ask(self, times):
        return self._other.ask(times - 1) if times else "asked"
