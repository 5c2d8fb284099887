"""A worker process that starts slowly is not dead, and one whose work is done goes without a word."""

import contextlib
import os
import threading
import time

import pytest

from sage_flow import LocalEnvironment, Service
from sage_flow.errors import ProtocolError
from sage_flow.executors import driver_process, process_worker, processes
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.ray import worker as ray_worker
from sage_flow.executors.subtasks import WorkerProcess
from sage_flow.executors.threads import LocalTransport, ThreadShell
from sage_flow.links.address import UnixAddress
from sage_flow.runtime.messages import DRIVER, Credit, PeerLost


def test_what_comes_before_its_subtask_is_made_waits_and_keeps_its_order():
    transport, seen = LocalTransport(), []
    transport.hold_early()
    for number in range(3):
        transport.deliver(7, Credit(number, 1, 1, 9))
    transport.register(7, seen.append)
    transport.deliver(7, Credit(3, 1, 1, 9))
    transport.end_early()
    transport.deliver(7, Credit(4, 1, 1, 9))
    assert [credit.channel for credit in seen] == [0, 1, 2, 3, 4]


def test_what_comes_for_a_subtask_of_another_process_is_refused_once_all_are_made():
    transport = LocalTransport()
    transport.hold_early()
    transport.register(7, lambda message: None)
    transport.deliver(8, Credit(0, 1, 1, 9))
    with pytest.raises(ProtocolError, match=r"received messages for \[8\]"):
        transport.end_early()
    with pytest.raises(KeyError):
        transport.deliver(8, Credit(0, 1, 1, 9))


class Slow:
    """Takes its time to be unpickled, as a plan does that imports much."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __reduce__(self):
        return slowly, (self.seconds,)

    def __call__(self, value):
        return value


def slowly(seconds):
    time.sleep(seconds)
    return Slow(seconds)


class Echo(Service):
    def echo(self, value):
        return value


def test_a_worker_process_that_is_slow_to_start_and_to_load_its_plan_is_not_killed(monkeypatch):
    made, limits = driver_process.Exchange, []

    def noting(*args, **options):
        limits.append(options["bind_timeout_s"])
        return made(*args, **options)

    monkeypatch.setattr(driver_process, "Exchange", noting)
    env = LocalEnvironment("slow", executor=ProcessExecutor())
    env.register_service("echo", Echo, timeout=120.0)
    env.from_collection([1, 2]).map(Slow(1.0)).collect("rows")
    with env.submit() as job:
        assert job.service("echo").echo("at once") == "at once"
        assert sorted(job.result(timeout=300).collected["rows"]) == [1, 2]
    assert limits == [None]


class Ended:
    def __init__(self, has_ended):
        self.has_ended = has_ended


@pytest.fixture
def exits(monkeypatch):
    """The codes of os._exit, which leaves by an exception."""
    codes = []

    def leave(code):
        codes.append(code)
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    return codes


class Left(BaseException):
    """A process has ended."""


@pytest.mark.parametrize(
    ("subtasks", "codes"), [([True, True], []), ([True, False], [70]), ([], [70])], ids=["ended", "running", "no plan"]
)
def test_a_process_whose_subtasks_have_ended_hears_of_the_end_of_its_driver_in_silence(exits, capfd, subtasks, codes):
    actor = ray_worker.WorkerActor("job/actor")
    process = part_of(subtasks, on_driver_lost=actor._on_driver_lost)
    with contextlib.suppress(Left):
        process.on_peer_lost(0, "it closed its connection")
    assert exits == codes
    told = capfd.readouterr().err
    assert ("lost the job master" in told) == bool(codes)


@pytest.mark.parametrize(("subtasks", "codes"), [([True], []), ([True, False], [70]), ([], [70])])
def test_a_worker_process_without_work_does_not_die_of_its_driver(exits, monkeypatch, subtasks, codes):
    told = {}
    monkeypatch.setattr(process_worker, "WorkerProcess", lambda process, **options: told.update(options))
    process_worker.process_of(processes.Bootstrap(1, "", b"", "job", 1, {}))
    process = part_of(subtasks, on_driver_lost=told["on_driver_lost"])
    with contextlib.suppress(Left):
        process.on_peer_lost(0, "it closed its connection")
    assert exits == codes
    assert told["bind_timeout_s"] is None


def part_of(subtasks, on_driver_lost):
    """The part of process 1, whose subtasks have ended or not."""
    process = WorkerProcess(
        1,
        addresses=lambda number: UnixAddress(f"/nowhere/{number}"),
        key=b"",
        job="job",
        attempt=1,
        on_driver_lost=on_driver_lost,
        connect_timeout_s=1.0,
        bind_timeout_s=None,
    )
    process._workers = [Ended(has_ended) for has_ended in subtasks]
    process.exchange.close()
    return process


def test_a_worker_tells_the_driver_which_process_it_has_lost_and_goes_on(exits, monkeypatch):
    process = part_of([False], on_driver_lost=lambda reason: os._exit(70))
    sent = []
    monkeypatch.setattr(process.exchange, "send", lambda *message: sent.append(message))
    process.on_peer_lost(2, "it closed its connection")
    assert sent == [(0, DRIVER, PeerLost(1, 2, "it closed its connection"))]
    assert exits == []


def test_a_shell_tells_which_of_its_threads_are_left_and_forgets_those_that_have_ended():
    shell, gate = ThreadShell(LocalTransport()), threading.Event()
    for _ in range(100):
        shell.spawn("short", lambda: None)
        assert shell.left(10.0, also_storing=True) == []
    shell.spawn("stores", gate.wait, stores=True)
    shell.spawn("stays", gate.wait)
    assert shell.left(0.05, also_storing=True) == ["stores", "stays"]
    assert shell.left(0.05, also_storing=False) == ["stays"]
    assert len(shell._threads) == 2
    gate.set()
    assert shell.left(10.0, also_storing=True) == []
