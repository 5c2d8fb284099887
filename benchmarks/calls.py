"""Calls of services: one at a time, many in flight, beside a busy neighbour, through several services, over a link."""

from __future__ import annotations

import pickle
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.case import Case, Figure, Timed
from sage_flow import LocalEnvironment, PipelineService, RuntimeContext, Service, connect_service, wait

__all__ = ["CASES"]

_WARM_UP = 500


class Echo:
    """The service: gives back what it gets."""

    def echo(self, number: int) -> int:
        return number


def timed_calls(call: Callable[[int], int], size: int) -> Timed:
    """Call `size` times after a warm-up, and take the time of each."""
    for number in range(_WARM_UP):
        call(number)
    clock = time.perf_counter
    times: list[float] = []
    total = 0
    began = clock()
    for number in range(size):
        before = clock()
        total += call(number)
        times.append(clock() - before)
    elapsed = clock() - began
    times.sort()
    return Timed(total, statistics.median(times), size / elapsed, times[int(size * 0.99)])


def run_inside(env: LocalEnvironment, measure: Callable[[int, RuntimeContext], Timed], size: int) -> Timed:
    """Let an operator of the job measure."""
    env.from_collection([size]).map(measure, with_ctx=True).collect("timed")
    timed: Timed = env.execute(progress=False).collected["timed"][0]
    return timed


# -- one at a time --------------------------------------------------------------------------------------------


class Handover:
    """A number there and back between two threads, over one bare Condition. `answer` is what the other thread does."""

    def __init__(self, answer: Callable[[int], int] = lambda number: number) -> None:
        self._answer = answer
        self._condition = threading.Condition(threading.Lock())
        self._asked: int | None = None
        self._answered: int | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def call(self, number: int) -> int:
        with self._condition:
            self._asked, self._answered = number, None
            self._condition.notify_all()
            while self._answered is None:
                self._condition.wait()
            return self._answered

    def stop(self) -> None:
        with self._condition:
            self._asked = -1
            self._condition.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._condition:
                while self._asked is None:
                    self._condition.wait()
                asked, self._asked = self._asked, None
            if asked < 0:
                return
            answered = self._answer(asked)
            with self._condition:
                self._answered = answered
                self._condition.notify_all()


@contextmanager
def handovers(depth: int) -> Iterator[Handover]:
    """As many threads behind each other: the first asks the second, and so on."""
    chain = [Handover()]
    for _ in range(depth - 1):
        chain.append(Handover(chain[-1].call))
    try:
        yield chain[-1]
    finally:
        for handover in reversed(chain):
            handover.stop()


def nested_by_hand(size: int, depth: int) -> Timed:
    with handovers(depth) as handover:
        return timed_calls(handover.call, size)


class Passing(Service):
    """Asks the next service, and gives back its reply."""

    def __init__(self, following: str) -> None:
        self._following = following

    def open(self, ctx: RuntimeContext) -> None:
        self._handle = ctx.service(self._following)

    def echo(self, number: int) -> int:
        reply: int = self._handle.echo(number)
        return reply


def nested(size: int, depth: int) -> Timed:
    env = LocalEnvironment("nested")
    env.register_service("level-1", Echo)
    for level in range(2, depth + 1):
        env.register_service(f"level-{level}", Passing, f"level-{level - 1}")
    return run_inside(env, lambda size, ctx: timed_calls(ctx.service(f"level-{depth}").echo, size), size)


def through_a_pipeline(size: int) -> Timed:
    env = LocalEnvironment("pipeline")
    env.register_service("echo", PipelineService(lambda requests: requests.map(lambda number: number)))
    return run_inside(env, lambda size, ctx: timed_calls(ctx.service("echo").process, size), size)


# -- beside a busy neighbour ----------------------------------------------------------------------------------


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """A thread that computes all the time, as an operator of another subtask might."""
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(200))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def busy_by_hand(size: int) -> Timed:
    with busy_neighbour():
        return nested_by_hand(size, 1)


def busy(size: int) -> Timed:
    with busy_neighbour():
        return nested(size, 1)


# -- many in flight -------------------------------------------------------------------------------------------


class Responder:
    """A thread that answers what it finds in a list, for one caller that has many questions under way."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._asked: deque[int] = deque()
        self._answers: dict[int, int] = {}
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def ask_all(self, numbers: range) -> int:
        with self._condition:
            self._answers.clear()
            self._asked.extend(numbers)
            self._condition.notify_all()
            while len(self._answers) < len(numbers):
                self._condition.wait()
            return sum(self._answers.values())

    def stop(self) -> None:
        with self._condition:
            self._asked.append(-1)
            self._condition.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._condition:
                while not self._asked:
                    self._condition.wait()
                number = self._asked.popleft()
                if number < 0:
                    return
                self._answers[number] = number
                if not self._asked:
                    self._condition.notify_all()


def timed_rounds(ask_all: Callable[[range], int], size: int, at_once: int) -> Timed:
    """Ask in rounds of so many at once; the time is that of a round, shared among its calls."""
    rounds = [range(start, start + at_once) for start in range(0, size, at_once)]
    for numbers in rounds[:2]:
        ask_all(numbers)
    times = []
    total = 0
    began = time.perf_counter()
    for numbers in rounds:
        before = time.perf_counter()
        total += ask_all(numbers)
        times.append((time.perf_counter() - before) / at_once)
    elapsed = time.perf_counter() - began
    times.sort()
    return Timed(total, statistics.median(times), len(rounds) * at_once / elapsed, times[int(len(times) * 0.99)])


def many_by_hand(size: int, at_once: int) -> Timed:
    responder = Responder()
    try:
        return timed_rounds(responder.ask_all, size, at_once)
    finally:
        responder.stop()


def many(size: int, at_once: int) -> Timed:
    def measure(size: int, ctx: RuntimeContext) -> Timed:
        return timed_rounds(partial(ask_by_futures, ctx.service("echo").echo.remote), size, at_once)

    env = LocalEnvironment("many")
    env.register_service("echo", Echo)
    return run_inside(env, measure, size)


def ask_by_futures(remote: Callable[[int], Any], numbers: range) -> int:
    futures = [remote(number) for number in numbers]
    wait(futures)
    return sum(future.result() for future in futures)


# -- over a link ----------------------------------------------------------------------------------------------

_SERVER = """
import sys
from benchmarks.calls import Echo
from sage_flow import LocalEnvironment

def until_the_end():
    sys.stdin.read()
    yield from ()

env = LocalEnvironment("serving")
env.register_service("echo", Echo)
env.from_iterable(until_the_end).for_each(str)
with env.submit() as job, job.serve("echo") as served:
    print(served.port, flush=True)
    job.wait()
"""

_RAW_SERVER = """
import pickle, socket, sys
from benchmarks.calls import read_message, write_message

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while (message := read_message(connection)) is not None:
    write_message(connection, message)
"""

_LENGTH = struct.Struct("<I")


def write_message(connection: socket.socket, message: object) -> None:
    data = pickle.dumps(message, 5)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def read_message(connection: socket.socket) -> Any:
    """Return the next message, None at the end."""
    head = _read(connection, _LENGTH.size)
    return pickle.loads(_read(connection, _LENGTH.unpack(head)[0])) if head else None


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            return b""
        data += part
    return data


@contextmanager
def server(program: str) -> Iterator[int]:
    """Run a program that prints the port it listens at."""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


def raw_echo(size: int) -> Timed:
    with server(_RAW_SERVER) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call(number: int) -> int:
            write_message(connection, number)
            reply: int = read_message(connection)
            return reply

        return timed_calls(call, size)


def over_a_link(size: int) -> Timed:
    with server(_SERVER) as port, connect_service("127.0.0.1", port, "echo") as echo:
        return timed_calls(echo.echo, size)


def many_over_a_link(size: int, at_once: int) -> Timed:
    with server(_SERVER) as port, connect_service("127.0.0.1", port, "echo") as echo:
        return timed_rounds(partial(ask_by_futures, echo.echo.remote), size, at_once)


def many_raw(size: int, at_once: int) -> Timed:
    with server(_RAW_SERVER) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask_all(numbers: range) -> int:
            for number in numbers:
                write_message(connection, number)
            return sum(read_message(connection) for _ in numbers)

        return timed_rounds(ask_all, size, at_once)


# -- the cases ------------------------------------------------------------------------------------------------


def _size(size: int, folder: Path) -> Any:
    return size


def _case(
    name: str,
    what: str,
    hand: Callable[[int], Timed],
    flow: Callable[[int], Timed],
    size: int,
    bar: float | None = None,
) -> Case:
    return Case(name, what, size, 64, _size, hand, flow, Figure.TIMES, bar, clock="wall", rounds=7, same_process=True)


def _nested(depth: int) -> Case:
    what = f"a call through {depth} services, against {depth} Conditions between {depth + 1} threads"
    return _case(f"nested-{depth}", what, partial(nested_by_hand, depth=depth), partial(nested, depth=depth), 3000)


def _many(at_once: int) -> Case:
    what = f"{at_once} calls under way at once from one caller (time of one), against a list and a Condition"
    by_hand, flow = partial(many_by_hand, at_once=at_once), partial(many, at_once=at_once)
    return _case(f"call-{at_once}", what, by_hand, flow, 20 * 1024)


def _many_over_a_link(at_once: int) -> Case:
    what = f"{at_once} calls under way at once from another process (time of one), against a raw socket"
    by_hand, flow = partial(many_raw, at_once=at_once), partial(many_over_a_link, at_once=at_once)
    return _case(f"rpc-call-{at_once}", what, by_hand, flow, 10 * 1024)


CASES = (
    _case(
        "call",
        "call of a service in the same process, against a Condition between two threads",
        partial(nested_by_hand, depth=1),
        partial(nested, depth=1),
        5000,
        4.0,
    ),
    _case("call-busy", "the same, both beside a thread that computes", busy_by_hand, busy, 300),
    _case("call-pipeline", "call of a PipelineService", partial(nested_by_hand, depth=1), through_a_pipeline, 5000),
    *(_nested(depth) for depth in (2, 3, 4)),
    *(_many(at_once) for at_once in (16, 256)),
    _case(
        "rpc-call",
        "call of a service from another process, against an echo over a raw socket with pickle",
        raw_echo,
        over_a_link,
        5000,
        3.0,
    ),
    *(_many_over_a_link(at_once) for at_once in (16, 256)),
)
