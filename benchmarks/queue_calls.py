"""What a call by a queue's descriptor costs, against two hand-overs through such queues between the same two parties.

A hand-over is a `put` to a `get` that waits. By hand one goes there and one back; a call goes the same two ways, and
between them from the door of the job to its service and back.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from benchmarks.calls import Calls, Echo, call_case
from benchmarks.case import Case, Timed
from benchmarks.other_process import OtherProcess, Work
from benchmarks.ray_cluster import start_ray
from benchmarks.timing import one_by_one
from sage_flow import Environment, LocalEnvironment, RemoteEnvironment, ServiceClient
from sage_flow.channels import (
    BaseQueueDescriptor,
    PythonQueueDescriptor,
    RayQueueDescriptor,
    RPCQueueDescriptor,
    RPCQueueServer,
)

__all__ = ["CASES"]

_KEY = b"of the benchmarks only"
_HERE = "127.0.0.1"
_BAR = 2.5

Queues = tuple[BaseQueueDescriptor, BaseQueueDescriptor]
"""For what goes there, and for what comes back."""


def no_work(order: object) -> None:
    """All is done when it is asked for through the queues."""


# -- who answers ----------------------------------------------------------------------------------------------


def hand_back(there: BaseQueueDescriptor, back: BaseQueueDescriptor) -> None:
    """Hand over what comes, until that is None."""
    while (item := there.get()) is not None:
        back.put(item)


@contextmanager
def handing_back(there: BaseQueueDescriptor, back: BaseQueueDescriptor) -> Iterator[None]:
    there.qsize()  # its first user hosts it, as the job does with its queue of requests
    thread = threading.Thread(target=hand_back, args=(there, back))
    thread.start()
    try:
        yield
    finally:
        there.put(None)
        thread.join()


@contextmanager
def serving(env: Environment, requests: BaseQueueDescriptor, until_left: Callable[[], Iterator[None]]) -> Iterator[Any]:
    env.register_service("echo", Echo, requests=requests)
    env.from_iterable(until_left).for_each(no_work)
    with env.submit() as job:
        yield job


@contextmanager
def serving_here(requests: BaseQueueDescriptor) -> Iterator[None]:
    left = threading.Event()

    def until_left() -> Iterator[None]:
        left.wait()
        yield from ()

    requests.qsize()
    with serving(LocalEnvironment("served"), requests, until_left):
        try:
            yield
        finally:
            left.set()


def admitted(described: bytes) -> BaseQueueDescriptor:
    """The descriptor, ready to be used."""
    descriptor: BaseQueueDescriptor = pickle.loads(described)
    return descriptor.with_credentials(_KEY) if isinstance(descriptor, RPCQueueDescriptor) else descriptor


@contextmanager
def hands_of_process(there: bytes, back: bytes) -> Iterator[tuple[None, Work]]:
    """What runs in the other process by hand."""
    with handing_back(admitted(there), admitted(back)):
        yield None, no_work


@contextmanager
def job_of_process(requests: bytes, _: bytes) -> Iterator[tuple[None, Work]]:
    """What runs in the other process by the engine."""
    with serving_here(admitted(requests)):
        yield None, no_work


@contextmanager
def server_of_process() -> Iterator[tuple[int, Work]]:
    """Hosts the queues of both, in a process of its own; gives the port."""
    with RPCQueueServer(_HERE, 0, _KEY) as server:
        yield server.port, no_work


# -- both sides: (size) -> Timed ------------------------------------------------------------------------------


def by_hand(there: BaseQueueDescriptor, back: BaseQueueDescriptor, size: int) -> Timed:
    def call(number: int) -> int:
        there.put(number)
        handed_back: int = back.get()
        return handed_back

    return replace(one_by_one(call, size), cpu_s=None)


def by_client(requests: BaseQueueDescriptor, _: BaseQueueDescriptor, size: int) -> Timed:
    return replace(one_by_one(ServiceClient(requests, timeout=60).process, size), cpu_s=None)


def in_one_process(size: int) -> Timed:
    there, back = PythonQueueDescriptor(), PythonQueueDescriptor()
    with handing_back(there, back):
        return by_hand(there, back, size)


def calls_in_one_process(size: int) -> Timed:
    requests = PythonQueueDescriptor()
    with serving_here(requests):
        return by_client(requests, requests, size)


def with_process(make: Callable[[ExitStack], Queues], *, by_engine: bool) -> Calls:
    """The other party is another process."""

    def run(size: int) -> Timed:
        with ExitStack() as leaving:
            there, back = make(leaving)
            back.qsize()  # hosted here, as the replies of a caller are
            body = job_of_process if by_engine else hands_of_process
            leaving.enter_context(OtherProcess(body, pickle.dumps(there), pickle.dumps(back)))
            return (by_client if by_engine else by_hand)(there, back, size)

    return run


def multiprocessing_queues(_: ExitStack) -> Queues:
    return PythonQueueDescriptor(use_multiprocessing=True), PythonQueueDescriptor(use_multiprocessing=True)


def rpc_queues(leaving: ExitStack) -> Queues:
    port = leaving.enter_context(OtherProcess(server_of_process)).hello
    return RPCQueueDescriptor(_HERE, port, key=_KEY), RPCQueueDescriptor(_HERE, port, key=_KEY)


class Hands:
    """An actor that hands back."""

    def hand_back(self, there: BaseQueueDescriptor, back: BaseQueueDescriptor) -> None:
        hand_back(there, back)


def with_actor(size: int) -> Timed:
    import ray

    start_ray()
    there, back = RayQueueDescriptor(), RayQueueDescriptor()
    actor = ray.remote(num_cpus=0.1)(Hands).remote()
    ended = actor.hand_back.remote(there, back)
    timed = by_hand(there, back, size)
    there.put(None)
    ray.get(ended)
    ray.kill(actor)
    return timed


def with_job(size: int) -> Timed:
    start_ray()
    requests = RayQueueDescriptor()
    with serving(RemoteEnvironment("served"), requests, _nothing):
        return by_client(requests, requests, size)


def _nothing() -> Iterator[None]:
    """An input that waits."""
    threading.Event().wait()
    yield None


# -- the cases ------------------------------------------------------------------------------------------------


def _cases() -> Iterator[Case]:
    what = "call by the descriptor of a queue, against two hand-overs between the same parties"
    yield call_case("queue-call", f"{what}: in one process", 10_000, in_one_process, calls_in_one_process, _BAR)
    for name, place, make in (
        ("multiprocessing", "two processes", multiprocessing_queues),
        ("rpc", "two processes and a server", rpc_queues),
    ):
        hand, flow = with_process(make, by_engine=False), with_process(make, by_engine=True)
        yield replace(call_case(f"queue-call-{name}", f"{what}: {place}", 10_000, hand, flow, _BAR), rounds=5)
    yield replace(call_case("queue-call-ray", f"{what}: on Ray", 10_000, with_actor, with_job, _BAR), rounds=3)


CASES = tuple(_cases())
