"""Queues of each kind, against what one would write by hand.

The consumer hosts the queue. The producer is a thread of its process, or another process. By hand a batch is one
object, a list; by the engine it is one `put_many`.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import queue
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.case import Case, Figure, Timed
from benchmarks.items import DIFFERENT, Get, Load, Put, ThreadProducer, measure, producer
from benchmarks.other_process import OtherProcess
from benchmarks.sockets import Address, PickleSocket, connect, listen
from benchmarks.timing import p99
from sage_flow.channels import (
    BaseQueueDescriptor,
    PythonQueueDescriptor,
    RayQueueDescriptor,
    RPCQueueDescriptor,
    RPCQueueServer,
)

__all__ = ["CASES"]

_HERE = "127.0.0.1"
_ROOM = 8000  # items that may wait
ACKNOWLEDGED = "a raw TCP socket, each batch acknowledged"

Queue = Callable[[Load, int, Path], Timed]
"""Moves so many items; the folder is for sockets."""


# -- by hand --------------------------------------------------------------------------------------------------


def thread_queue(load: Load, size: int, folder: Path) -> Timed:
    made: queue.Queue[Any] = queue.Queue(_ROOM // load.batch)
    return measure(ThreadProducer(made.put, load), _lists(made.get, load), load, size)


def process_queue(load: Load, size: int, folder: Path) -> Timed:
    made: Any = multiprocessing.get_context("spawn").Queue(_ROOM // load.batch)
    with OtherProcess(producer, partial(nullcontext, made.put), load) as source:
        return measure(source, _lists(made.get, load), load, size)


def unix_socket(load: Load, size: int, folder: Path) -> Timed:
    return _through_socket(socket.AF_UNIX, str(folder / "queue"), load, size)


def tcp_socket(load: Load, size: int, folder: Path) -> Timed:
    return _through_socket(socket.AF_INET, (_HERE, 0), load, size)


def tcp_stream(load: Load, size: int, folder: Path) -> Timed:
    return _through_socket(socket.AF_INET, (_HERE, 0), load, size, acknowledged=False)


def _through_socket(family: int, where: Any, load: Load, size: int, *, acknowledged: bool = True) -> Timed:
    """`acknowledged`: as `put` does, the producer waits until its batch has arrived."""
    with ExitStack() as leaving:
        listening = leaving.enter_context(listen(family, where))
        address: Address = (family, listening.getsockname())
        source = leaving.enter_context(OtherProcess(producer, partial(_sender, address, acknowledged), load))
        peer = PickleSocket(listening.accept()[0])
        leaving.callback(peer.close)

        def get() -> list[Any]:
            objects = peer.receive()
            if acknowledged:
                peer.send(*[None] * len(objects))
            return objects if load.batch == 1 else list(chain.from_iterable(objects))

        return measure(source, get, load, size)


@contextmanager
def _sender(address: Address, acknowledged: bool) -> Iterator[Put]:
    with connect(address) as peer:

        def put(one: Any) -> None:
            peer.send(one)
            peer.receive()

        yield put if acknowledged else peer.send


def ray_queue(load: Load, size: int, folder: Path) -> Timed:
    """An actor, from an actor. Ray's processes are not this one's children, so nobody knows their CPU time."""
    from ray.util.queue import Queue as RayQueue

    _start_ray()
    made = RayQueue(_ROOM // load.batch, actor_options={"num_cpus": 0})
    timed = measure(_RayProducer(made.put, load), _lists(made.get, load), load, size)
    made.shutdown()
    return replace(timed, cpu_s=None)


def _start_ray() -> None:
    """Until this process ends, as it takes long."""
    import ray

    if not ray.is_initialized():
        ray.init(  # not one that happens to be here
            "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )


class _RayProducer:
    """A producer in an actor, which ends when nobody has this any more."""

    def __init__(self, put: Put, load: Load) -> None:
        import ray

        self._get: Any = ray.get
        self._actor: Any = ray.remote(num_cpus=1)(ThreadProducer).remote(put, load)

    def begin(self, order: int) -> None:
        self._get(self._actor.begin.remote(order))

    def end(self) -> float:
        seconds: float = self._get(self._actor.end.remote())
        return seconds

    def cpu_s(self) -> float:
        return 0.0


def _lists(get: Callable[[], Any], load: Load) -> Get:
    """What gives one object at a time: an item, or a list of them."""
    return get if load.batch > 1 else lambda: [get()]


# -- by the engine --------------------------------------------------------------------------------------------


def python_descriptor(load: Load, size: int, folder: Path) -> Timed:
    descriptor = PythonQueueDescriptor(_ROOM)
    return measure(ThreadProducer(_put(descriptor, load), load), _get(descriptor, load), load, size)


def multiprocessing_descriptor(load: Load, size: int, folder: Path) -> Timed:
    return _from_process(PythonQueueDescriptor(_ROOM, use_multiprocessing=True), load, size)


def rpc_descriptor(load: Load, size: int, folder: Path) -> Timed:
    with RPCQueueServer(_HERE, 0) as server:
        return _from_process(RPCQueueDescriptor(_HERE, server.port, maxsize=_ROOM), load, size)


def ray_descriptor(load: Load, size: int, folder: Path) -> Timed:
    """Hosted by an actor, from an actor, as `ray_queue`."""
    _start_ray()
    descriptor = RayQueueDescriptor(_ROOM)
    timed = measure(_RayProducer(_put(descriptor, load), load), _get(descriptor, load), load, size)
    descriptor.close()
    return replace(timed, cpu_s=None)


def _from_process(descriptor: BaseQueueDescriptor, load: Load, size: int) -> Timed:
    descriptor.qsize()  # made here: this process is the host
    with OtherProcess(producer, partial(nullcontext, _put(descriptor, load)), load) as source:
        timed = measure(source, _get(descriptor, load), load, size)
    descriptor.close()
    return timed


def _put(descriptor: BaseQueueDescriptor, load: Load) -> Put:
    return descriptor.put if load.batch == 1 else descriptor.put_many


def _get(descriptor: BaseQueueDescriptor, load: Load) -> Get:
    return _lists(descriptor.get, load) if load.batch == 1 else partial(descriptor.get_many, load.batch)


# -- handles --------------------------------------------------------------------------------------------------


def copies(copied: Callable[[], object], size: int) -> Timed:
    """Make handles of something, one by one."""
    clock = time.perf_counter
    times = []
    began, cpu = clock(), time.process_time()
    for _ in range(size):
        before = clock()
        copied()
        times.append(clock() - before)
    cpu, wall = time.process_time() - cpu, clock() - began
    return Timed(size, statistics.median(times), size / wall, cpu / size, p99(times))


@dataclass(frozen=True)
class Handle:
    """The least that names a queue."""

    queue_id: str = "orders"
    maxsize: int = 0


def handles_by_hand(size: int) -> Timed:
    handle = Handle()
    return copies(lambda: copy.copy(handle), size)


def clones(size: int) -> Timed:
    descriptor = PythonQueueDescriptor()
    descriptor.put("bound by this")
    return copies(lambda: descriptor.clone("label"), size)


def shares(size: int) -> Timed:
    return copies(PythonQueueDescriptor().share, size)


# -- the cases ------------------------------------------------------------------------------------------------


def _items(name: str, hand: Queue, flow: Queue, against: str, load: Load, size: int, bar: float | None = None) -> Case:
    batches = f", batches of {load.batch:,}" if load.batch > 1 else ""
    return Case(
        f"queue-{name}-{load.batch}" + ("-text" if load.shape == "text" else ""),
        f"{name}, against {against}: {load.shape}{batches}",
        size,
        DIFFERENT,
        lambda size, folder: (size, folder),
        lambda work: hand(load, *work),
        lambda work: flow(load, *work),
        figure=Figure.ITEMS,
        bar=bar,
        clock="wall",
        rounds=5 if bar else 3,
    )


def _cases() -> Iterator[Case]:
    for batch, many in ((1, False), (100, True), (1000, True)):
        load = Load("dict", batch)
        flow: Queue = python_descriptor
        yield _items("python", thread_queue, flow, "queue.Queue", load, 2_000_000 if many else 200_000)
        flow, size = multiprocessing_descriptor, 300_000 if many else 20_000
        yield _items("multiprocessing", process_queue, flow, "multiprocessing.Queue", load, size)
        yield _items("multiprocessing-socket", unix_socket, flow, "a raw Unix socket", load, size)
        yield _items("rpc", tcp_socket, rpc_descriptor, ACKNOWLEDGED, load, size, 0.6 if batch == 100 else None)
        yield _items("rpc-stream", tcp_stream, rpc_descriptor, "a raw TCP socket without answers", load, size)
        text = Load("text", batch)
        yield _items("multiprocessing", process_queue, flow, "multiprocessing.Queue", text, size)
        yield _items("rpc", tcp_socket, rpc_descriptor, ACKNOWLEDGED, text, size)
        if batch < 1000:
            size = 20_000 if many else 1000
            yield _items("rpc-ray", ray_queue, rpc_descriptor, "ray.util.queue.Queue", load, size)
        size = 20_000 if many else 1000
        yield _items("ray", ray_queue, ray_descriptor, "ray.util.queue.Queue", load, size)


def _handles(name: str, what: str, flow: Callable[[int], Timed]) -> Case:
    return Case(
        name,
        f"{what}, against copy.copy of a small dataclass",
        20_000,
        100,
        lambda size, folder: size,
        handles_by_hand,
        flow,
        figure=Figure.CALLS,
        most_s=5e-6,
        clock="wall",
        same_process=True,
    )


CASES = (
    *_cases(),
    _handles("queue-clone", "clone of a descriptor that is in use", clones),
    _handles("queue-share", "share of a descriptor", shares),
)
