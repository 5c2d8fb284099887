"""Other processes for the contract suite: they do what they are told, function by function, until they are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from queue import Empty

from sage_flow.links.link import Link
from sage_flow.links.loop import exchange_loop
from sage_flow.queues.ray import host_of

_spawn = multiprocessing.get_context("spawn")


def _serve(pipe):
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            pipe.send((True, function(*arguments)))
        except BaseException as error:
            pipe.send((False, (type(error), str(error), traceback.format_exc())))


class Failed(Exception):
    """What a function raised in a peer: `kind` is its type."""

    def __init__(self, kind, text, trace):
        super().__init__(trace)
        self.kind, self.text = kind, text


class Peer:
    """A process. `run` a function there, or `start` it and ask for its `result` later."""

    def __init__(self):
        self._pipe, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, function, *arguments):
        self._pipe.send((function, arguments))

    def result(self, timeout=60):
        if not self._pipe.poll(timeout):
            raise TimeoutError(f"peer {self.process.pid} has not answered in {timeout} s")
        fine, told = self._pipe.recv()
        if not fine:
            raise Failed(*told)
        return told

    def run(self, function, *arguments):
        self.start(function, *arguments)
        return self.result()

    def kill(self):
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self._pipe.close()


# What peers are told to do. A handle arrives pickled.


def put_there(kind, data, items, label=None):
    """Put over the handle, or over a clone of it."""
    handle = kind.unpickle(data)
    if label is not None:
        handle = handle.clone(label)
    for item in items:
        handle.put(item)
    return handle.channel_id


def get_there(kind, data, count, label=None):
    handle = kind.unpickle(data)
    if label is not None:
        handle = handle.clone(label)
    return [handle.get(timeout=30) for _ in range(count)]


def types_there(kind, data, count):
    """How many types they have, and the name of one."""
    types = {type(item) for item in get_there(kind, data, count)}
    return len(types), types.pop().__name__


def facts_there(kind, data):
    """What a handle says of itself in another process, before it is used."""
    handle = kind.unpickle(data)
    return handle.is_initialized(), handle.is_bound, hash(handle) == hash(kind.unpickle(data)), str(handle), handle


def clone_there(kind, described, label):
    """The dict of a clone, made of a dict."""
    return kind.resolve(described).clone(label).to_dict()


def clone_to_json(kind, described, label):
    return kind.resolve(described).clone(label).to_json()


def put_over_json(kind, descriptor_class, text, items):
    kind.from_json(descriptor_class, text).put_many(items)


def stranger_there(kind, label):
    """Somebody who happens to call his own queue so. Returns what he finds in it."""
    stranger = kind.make(queue_id=label)
    stranger.put("the stranger's")
    found = stranger.get_many(10)
    stranger.close()
    return found


def get_and_freeze(kind, data):
    """Ask for an item; the exchange thread of this process stops before one can arrive, and no other one reads."""
    Link.read_while = lambda *arguments: None
    handle = kind.unpickle(data)
    handle.qsize()  # the session is there
    getter = threading.Thread(target=handle.get, daemon=True)
    getter.start()
    while handle.statistics()["waiting_getters"] == 0:
        time.sleep(0.001)
    frozen = threading.Event()
    exchange_loop().call_soon_threadsafe(lambda: (frozen.set(), time.sleep(1000)))
    frozen.wait()


def produce(kind, data, producers, count, batch=1):
    """`producers` threads put (name, 0), (name, 1) ... each."""
    handle = kind.unpickle(data)
    threads = [threading.Thread(target=_produce, args=(handle.share(), name, count, batch)) for name in producers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _produce(handle, name, count, batch):
    for first in range(0, count, batch):
        items = [(name, number) for number in range(first, min(first + batch, count))]
        if batch == 1:
            handle.put(items[0])
        else:
            handle.put_many(items)


def consume(kind, data, consumers, batch=1):
    """`consumers` threads get until they find "end"; returns what each got."""
    handle = kind.unpickle(data)
    got = [[] for _ in range(consumers)]
    threads = [threading.Thread(target=_consume, args=(handle.share(), mine, batch)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def _consume(handle, mine, batch):
    while True:
        items = [handle.get()] if batch == 1 else handle.get_many(batch)
        ends = items.count("end")
        mine += [item for item in items if item != "end"]
        if ends:
            handle.put_many(["end"] * (ends - 1))  # those of others
            return


def snatch(kind, data, seconds):
    """Get with hardly any patience until nothing comes for so long; returns the items and how often it was empty."""
    handle, got, empties = kind.unpickle(data), [], 0
    last = time.monotonic()
    while time.monotonic() - last < seconds:
        try:
            got.append(handle.get(timeout=0.0005))
            last = time.monotonic()
        except Empty:
            empties += 1
    return got, empties


def host_there(namespace):
    """Make the host of Ray queues on this node; returns the node."""
    import ray

    return ray.get(host_of(namespace, "cluster").statistics.remote())["node"]
