"""What other processes do in the tests of calls by queues: they call, or they serve."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sage_flow import LocalEnvironment, PipelineService, ServiceClient, errors
from sage_flow.executors.processes import ProcessExecutor


class Answerer:
    """Answers what can only be the answer to this question; `log` is a file for what it has begun."""

    def __init__(self, log=None):
        self._log = log

    def process(self, question):
        return "answer to", question

    def fail(self, question):
        raise LookupError(question)

    def begin(self, question, seconds):
        """Note that it was begun, then take time."""
        note(self._log, question)
        time.sleep(seconds)
        return "answer to", question

    def pid(self):
        return os.getpid()


def note(log, text):
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def begun(log):
    """What was begun, in order."""
    path = Path(log)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def until_begun(log, count=1, seconds=60):
    late_at = time.monotonic() + seconds
    while len(begun(log)) < count:
        assert time.monotonic() < late_at, f"{begun(log)} were begun, of {count}"
        time.sleep(0.005)


def double(requests):
    return requests.rebalance().map(lambda question: ("answer to", question))


def forever():
    threading.Event().wait()
    yield from ()


@contextlib.contextmanager
def serving(requests, service=Answerer, *args, executor=None, **options):
    """A job whose service takes requests from this queue, for as long as the block takes."""
    env = LocalEnvironment("served", executor=executor)
    env.register_service("answerer", service, *args, requests=requests, **options)
    ends = threading.Event()

    def idle():
        ends.wait()
        yield from ()

    env.from_iterable(forever if executor else idle).for_each(str)
    with env.submit() as job:
        yield job
        if executor is None:
            ends.set()
            job.wait()


def handle_of(kind, form, text):
    """The handle that travelled in this form."""
    if form == "pickle":
        return kind.unpickle(text)
    if form == "dict":
        return kind.resolve(text)
    return kind.from_json(type(kind.make()), text)


def call_there(kind, form, text, label, questions, threads=1):
    """Call over the handle, or over a clone of it; returns which questions were not answered with their answer."""
    handle = handle_of(kind, form, text)
    if label is not None:
        handle = handle.clone(label)
    return wrong_answers(handle, questions, threads)


def wrong_answers(handle, questions, threads=1):
    client = ServiceClient(handle, timeout=60)

    def ask(mine):
        return [question for question in mine if client.process(question) != ("answer to", question)]

    with ThreadPoolExecutor(threads) as pool:
        return [wrong for part in pool.map(ask, (questions[n::threads] for n in range(threads))) for wrong in part]


def use_there(kind, data):
    """Be one of those who use the queue, in this process, before anybody calls."""
    return kind.unpickle(data).qsize()


def outcome_there(kind, data, method, *args, timeout=60, retry=False):
    """What a call comes to, and after how many seconds."""
    client = ServiceClient(kind.unpickle(data)).options(timeout=timeout, retry=retry)
    began = time.monotonic()
    try:
        told = getattr(client, method)(*args)
    except errors.ServiceError as error:
        told = type(error)
    return told, time.monotonic() - began


def serve_there(kind, data, log, processes=False):
    """Serve until somebody kills this process."""
    executor = ProcessExecutor() if processes else None
    with serving(kind.unpickle(data), Answerer, log, executor=executor):
        threading.Event().wait()


def ask_and_stay(kind, data, question):
    """Call once, and have a call open for ever after."""
    client = ServiceClient(kind.unpickle(data), timeout=1000)
    answered = client.process(question)
    client.begin.remote(question, 1000)
    return answered


PIPELINE = PipelineService(double, parallelism=2)
