"""The original fault as it was: callers reach a service by clones of the descriptor of its queue.

Some clones are made, and used, before the service's job first uses the queue, some while it does, some after; some call
from inside a service's pipeline. A seed draws the kind of the queue and who does what. Each call has to bring the
answer to its own question.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from asks import WrongOutcome

from sage_flow import LocalEnvironment, PipelineService, ServiceClient
from sage_flow.channels import PythonQueueDescriptor, RPCQueueDescriptor, RPCQueueServer, resolve_descriptor

__all__ = ["run_descriptors"]

_PATIENCE_S = 120.0
_KEY = b"the key of the long run"


class Answerer:
    """What it says can only be the answer to this question."""

    def process(self, question):
        return "answer to", question


class AskInside:
    """The body of the bridge: a call by a clone, from inside a service's pipeline."""

    def __init__(self, requests):
        self._answer = ServiceClient(requests, timeout=_PATIENCE_S)

    def __call__(self, question):
        return "through the bridge", self._answer.process(question)


def run_descriptors(seed):
    """Run the job of a seed; return how many calls were made. Raises WrongOutcome."""
    draw = random.Random(seed)
    server = RPCQueueServer("127.0.0.1", 0, _KEY) if draw.random() < 0.3 else None
    with server or nullcontext():
        queues = [_queue(draw, server) for _ in range(2)]
        return _run(draw, *queues)


def _queue(draw, server):
    if server is not None:
        return RPCQueueDescriptor("127.0.0.1", server.port, key=_KEY)
    return PythonQueueDescriptor(use_multiprocessing=draw.random() < 0.4)


def _run(draw, requests, bridge):
    env = LocalEnvironment("regression")
    env.register_service("answer", Answerer, requests=requests, concurrency=draw.choice([1, 4]))
    inside = AskInside(_handle(draw, requests))
    body = PipelineService(lambda stream: stream.map(inside), parallelism=draw.choice([1, 3]))
    env.register_service("bridge", body, requests=bridge, timeout=_PATIENCE_S)
    ends, count = threading.Event(), draw.randrange(10, 40)

    def questions():
        yield from (("of the job", number) for number in range(count))
        ends.wait(_PATIENCE_S)

    env.from_iterable(questions).map(lambda q, ctx: (q, ctx.call_service("bridge", q))).collect("answers")
    before = [_futures(draw, requests, bridge, ("before", caller)) for caller in range(draw.randrange(4))]
    with ThreadPoolExecutor(8) as pool:
        during = [pool.submit(_ask, draw.random(), requests, bridge, ("during", n)) for n in range(draw.randrange(4))]
        with env.submit() as job:
            after = [pool.submit(_ask, draw.random(), requests, bridge, ("after", n)) for n in range(draw.randrange(4))]
            done = sum(_check(*futures) for futures in before)
            done += sum(asked.result(_PATIENCE_S) for asked in during + after)
            ends.set()
            answers = job.result(_PATIENCE_S).collected["answers"]
    for question, told in answers:
        _compare(question, told, ("through the bridge", ("answer to", question)))
    if len(answers) != count:
        raise WrongOutcome(f"{len(answers)} answers to {count} questions of the job")
    return done + 2 * count


def _handle(draw, descriptor):
    """Any handle of the same channel."""
    form = draw.randrange(4)
    if form == 0:
        return descriptor.clone(f"clone {draw.random()}")
    if form == 1:
        return descriptor.share()
    found = resolve_descriptor(descriptor.to_dict())
    if isinstance(found, RPCQueueDescriptor):
        found = found.with_credentials(_KEY)
    return found if form == 2 else found.clone()


def _futures(draw, requests, bridge, caller):
    """Calls that are made at once, and the answers that they have to bring."""
    direct, through = (ServiceClient(_handle(draw, queue), timeout=_PATIENCE_S) for queue in (requests, bridge))
    futures, expected = [], []
    for number in range(draw.randrange(5, 30)):
        question = (*caller, number)
        is_through = draw.random() < 0.5
        futures.append((through if is_through else direct).process.remote(question))
        answer = "answer to", question
        expected.append(("through the bridge", answer) if is_through else answer)
    return futures, expected


def _ask(seed, requests, bridge, caller):
    return _check(*_futures(random.Random(seed), requests, bridge, caller))


def _check(futures, expected):
    for future, answer in zip(futures, expected, strict=True):
        _compare(answer, future.result(_PATIENCE_S), answer)
    return len(futures)


def _compare(question, told, expected):
    if told != expected:
        raise WrongOutcome(f"{question!r} got {told!r} instead of {expected!r}")
