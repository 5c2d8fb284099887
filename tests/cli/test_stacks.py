"""`sage-flow stack`: where the threads and coroutines of a running job are."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time

import pytest

from sage_flow import LocalEnvironment
from sage_flow.cli.inspection import job_text
from sage_flow.cli.program import main
from sage_flow.cli.stacks import slow_lines


class Held:
    """A job whose user code stands still until the test ends."""

    def __init__(self):
        self.arrived = threading.Semaphore(0)
        self.free = threading.Event()
        self.loop_free = None

    def inner(self):
        self.arrived.release()
        self.free.wait(60)

    def work(self, value):
        self.inner()
        return value

    async def wait(self, value):
        self.arrived.release()
        while not self.free.is_set():
            await asyncio.sleep(0.01)
        return value


@pytest.fixture
def held(monkeypatch):
    """Its job, whose `map` and coroutine have begun."""
    held = Held()
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        env = LocalEnvironment("held")
        source = env.from_collection([1])
        source.rebalance().map(held.work, name="work", parallelism=2).for_each(str)
        source.map_async(held.wait, name="ask").for_each(str)
        with env.submit() as job:
            watch = threading.Thread(target=job.wait)
            watch.start()
            assert held.arrived.acquire(timeout=60)
            assert held.arrived.acquire(timeout=60)
            held.job = job
            try:
                yield held
            finally:
                held.free.set()
                watch.join(60)


def await_job():
    for _ in range(500):
        if main(["channels", "held"]) == 0:
            return
        time.sleep(0.01)
    raise AssertionError("the job was not announced")


def test_the_lines_of_user_code_come_first_and_those_of_the_engine_are_left_out(held, capsys):
    await_job()
    capsys.readouterr()
    assert main(["stack", "held"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    innermost = next(number for number, line in enumerate(lines) if "in inner    self.free.wait(60)" in line)
    assert "in work    self.inner()" in lines[innermost + 1]
    assert "thread 1: in user code for" in lines[innermost - 1]
    assert "in wait    await asyncio.sleep(0.01)" in out or "in sleep" in out
    assert ": a coroutine" in out
    assert "sage_flow/executors" not in out
    assert "waits for records" in out  # the other subtask of `work`


def test_as_json_it_is_what_the_handle_tells(held, capsys):
    await_job()
    capsys.readouterr()
    assert main(["stack", "held", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "held"
    assert set(told["stacks"]) == set(held.job.stacks())
    work = [thread for name, threads in told["stacks"].items() if "work" in name for thread in threads]
    assert sorted(bool(thread["frames"]) for thread in work) == [False, True]
    assert [thread["doing"] for thread in work if thread["frames"]] == ["busy"]


def test_a_subtask_that_is_long_in_one_call_is_told_without_being_asked_for(held):
    for _ in range(1000):
        if slow := slow_lines(held.job.statistics()["subtasks"]):
            break
        time.sleep(0.01)
    (line,) = slow
    assert "in user code for " in line
    assert line.endswith("in inner")
    assert "test_stacks.py:" in line
    job = {"id": "", "name": "held", "status": "RUNNING", "submitted": 0.0, "submission_id": None, "ended": None}
    told = {**job, "message": "", "subtasks": [], "operators": {}, "watermarks": {}, "slow": [line]}
    assert job_text(told).endswith(line)


def test_a_job_that_is_over_has_no_stacks():
    env = LocalEnvironment("over")
    env.from_collection([1]).for_each(str)
    with env.submit() as job:
        job.wait()
        assert not any(job.stacks().values())


def test_a_job_that_does_not_run_is_refused_by_name(monkeypatch, capsys):
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        assert main(["stack", "nobody"]) == 2
    assert "no job 'nobody' runs on this machine" in capsys.readouterr().err
