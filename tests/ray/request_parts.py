"""Services and callers of the tests of requests from queues on Ray; workers import them."""

import os
import signal
import time
from pathlib import Path

from sage_flow import ServiceClient, errors
from sage_flow.channels import RayQueueDescriptor


class Answerer:
    """Answers what can only be the answer to this question; `log` is a file for what it has begun."""

    def __init__(self, log):
        self._log = Path(log)

    def process(self, question):
        return "answer to", question

    def pid(self):
        return os.getpid()

    def begin(self, question, seconds):
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{question}\n")
        time.sleep(seconds)
        return "answer to", question

    def die_once(self, question):
        """Kill the process of the service, unless that has been done."""
        first = question not in begun(self._log)
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{question}\n")
        if first:
            os.kill(os.getpid(), signal.SIGKILL)
        return "answer to", question


def begun(log):
    """What was begun, in order."""
    return Path(log).read_text(encoding="utf-8").splitlines() if Path(log).exists() else []


def wrong_answers(requests, caller, count):
    """Call as `caller`; return the questions that did not get their answer. `requests`: a descriptor, or its JSON."""
    if isinstance(requests, str):
        requests = RayQueueDescriptor.from_json(requests)
    client = ServiceClient(requests.clone(f"clone of {caller}"), timeout=60)
    questions = [(caller, number) for number in range(count)]
    futures = [client.process.remote(question) for question in questions]
    return [q for q, future in zip(questions, futures, strict=True) if future.result() != ("answer to", q)]


class Calling:
    """An actor that calls."""

    def wrong_answers(self, requests, caller, count):
        return wrong_answers(requests, caller, count)

    def call_and_stay(self, requests):
        """Call once, and have a call open."""
        self._client = ServiceClient(requests, timeout=1000)
        answer = self._client.process("before")
        self._client.begin.remote("of a caller that dies", 1)
        return answer


def outcome(future):
    """What a call comes to."""
    try:
        return future.result()
    except errors.ServiceError as error:
        return type(error)
