"""No key is in anything that a person, a file, another process or a log is shown."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import secrets
import stat
import tempfile
import threading
import traceback
from pathlib import Path

import pytest

from sage_flow import LocalEnvironment, connect_service
from sage_flow.channels import RPCQueueDescriptor, RPCQueueServer, resolve_descriptor
from sage_flow.cli import main
from sage_flow.errors import ChannelNotReachable, SageFlowError, WorkerDied
from sage_flow.executors import running_jobs
from sage_flow.executors.processes import ProcessExecutor

KEY = b"Open-Sesame:forty-thieves-do-not"  # as long as those that the engine makes
FORMS = [KEY, repr(KEY).encode()[2:-1], KEY.hex().encode(), base64.b64encode(KEY)[:-4], KEY[::-1]]


class Told:
    """All that was shown to anybody."""

    def __init__(self):
        self.texts = []

    def add(self, *shown):
        for one in shown:
            if isinstance(one, BaseException):
                self.texts.append("".join(traceback.format_exception(one)).encode())
            else:
                self.texts.append(one if isinstance(one, bytes) else f"{one!r} {one!s}".encode())

    def error(self, kind, action, *arguments, **options):
        with pytest.raises(kind) as caught:
            action(*arguments, **options)
        self.add(caught.value)


@pytest.fixture
def told(caplog, capfd):
    """What it holds in the end, and what was logged and printed, has no key in it."""
    caplog.set_level(logging.DEBUG)
    told = Told()
    yield told
    told.add(*capfd.readouterr(), caplog.text, *[record.__dict__ for record in caplog.records])
    assert len(told.texts) > 4
    for text in told.texts:
        for form in FORMS:
            assert form not in text


@pytest.fixture
def own_directory(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield Path(directory)


@pytest.fixture
def engine_keys(monkeypatch):
    """The keys that the engine makes are KEY."""
    asked = []
    monkeypatch.setattr(secrets, "token_bytes", lambda count=None: asked.append(count) or KEY)
    return asked


def serial_forms(descriptor):
    yield from (pickle.dumps(descriptor), descriptor.to_json(), descriptor.to_dict(), descriptor)
    yield from (descriptor.clone(), descriptor.share(), descriptor.to_serializable_descriptor())


def test_keys_of_queues(told):
    with RPCQueueServer("127.0.0.1", 0, key=KEY) as server:
        descriptor = RPCQueueDescriptor("127.0.0.1", server.port, queue_id="orders", key=KEY, retry_count=0)
        told.add(server, *serial_forms(descriptor))
        descriptor.put("a")
        told.add(*serial_forms(descriptor), descriptor.statistics(), server.statistics(), descriptor.queue_instance)
        told.add(vars(descriptor.queue_instance))
        told.add(resolve_descriptor(json.loads(descriptor.to_json())))
        for wrong in (None, KEY[::-1]):
            stranger = RPCQueueDescriptor("127.0.0.1", server.port, queue_id="others", key=wrong, retry_count=0)
            told.error(ChannelNotReachable, stranger.put, "b")
            told.add(*serial_forms(stranger))
        told.add(server.statistics())
    told.error(SageFlowError, descriptor.put, "c")
    told.error(ValueError, RPCQueueServer, "127.0.0.1", 70_000, key=KEY)
    told.error(TypeError, RPCQueueDescriptor, "127.0.0.1", 1, key=KEY.decode())


class Adder:
    def add(self, n):
        return n + 1


@pytest.fixture
def job():
    lets_go = threading.Event()

    def items():
        lets_go.wait(60)
        yield from ()

    env = LocalEnvironment("adding")
    env.register_service("adder", Adder)
    env.from_iterable(items).for_each(str)
    with env.submit() as handle:
        yield handle
        lets_go.set()


def test_keys_of_services(told, job):
    with job.serve("adder", key=KEY) as served:
        told.add(served, vars(served), job.statistics())
        with connect_service(served.host, served.port, "adder", key=KEY) as adder:
            assert adder.add(1) == 2
            told.add(adder, adder.add)
            told.error(TypeError, adder.add, "no number")
        told.error(ChannelNotReachable, connect_service, served.host, served.port, "adder", key=KEY[::-1])
        told.error(ChannelNotReachable, connect_service, served.host, served.port, "other", key=KEY)
    told.add(job.metrics())


def test_keys_of_worker_processes(told, engine_keys):
    def worker_sees(n):
        return [Path(f"/proc/{os.getpid()}/{name}").read_bytes() for name in ("environ", "cmdline")]

    env = LocalEnvironment("shown", 2, executor=ProcessExecutor())
    env.from_collection(range(4)).rebalance().map(worker_sees).collect("seen")
    result = env.execute()
    assert engine_keys
    for seen in result.collected["seen"]:
        told.add(*seen)
    told.add(result)

    env = LocalEnvironment("killed", 2, executor=ProcessExecutor())
    env.from_collection(range(4)).rebalance().map(lambda n: os.kill(os.getpid(), 9)).for_each(str)
    told.error(WorkerDied, env.execute)


def test_keys_of_running_jobs(told, engine_keys, own_directory, job):
    with running_jobs.announced(job):
        found = running_jobs.find_job("adding")
        told.add(found, found.ask())
        assert main(["services", "adding"]) == main(["channels", "adding", "--json"]) == 0
        files = [file for file in own_directory.rglob("*") if file.is_file()]
        assert [stat.S_IMODE(file.stat().st_mode) for file in files if KEY.hex() in file.read_text()] == [0o600]
        assert all(stat.S_IMODE(file.parent.stat().st_mode) == 0o700 for file in files)
    assert engine_keys
