"""What a call of a service in another process costs, against an echo over a raw socket with pickle."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from benchmarks.calls import (
    Busy,
    Calls,
    Echo,
    Measure,
    busy_thread,
    call_case,
    calls_in_flight,
    calls_one_by_one,
)
from benchmarks.case import Case, Timed
from benchmarks.other_process import Body, OtherProcess, Work
from benchmarks.sockets import Address, PickleSocket, connect, echo, listen
from benchmarks.timing import CpuClock, in_flight, one_by_one
from sage_flow import LocalEnvironment, connect_service

__all__ = ["CASES"]

_KEY = b"of the benchmarks only"
_HERE = "127.0.0.1"


# -- by hand --------------------------------------------------------------------------------------------------


class SocketCalls:
    """Calls over a socket."""

    def __init__(self, peer: PickleSocket) -> None:
        self._peer = peer

    def call(self, number: int) -> int:
        self._peer.send(number)
        return self.finished()[0]

    def start(self, number: int) -> None:
        self._peer.send(number)

    def finished(self) -> list[int]:
        return self._peer.receive()


SocketMeasure = Callable[[SocketCalls, int, CpuClock], Timed]


@contextmanager
def echo_server(is_busy: bool) -> Iterator[tuple[Address, Work]]:
    with ExitStack() as leaving:
        listening = leaving.enter_context(listen(socket.AF_INET, (_HERE, 0)))
        server = threading.Thread(target=echo, args=(listening,))
        server.start()
        leaving.callback(server.join)
        if is_busy:
            leaving.enter_context(busy_thread())
        yield (listening.family, listening.getsockname()), no_work


def no_work(order: object) -> None:
    """All is done when it is asked for over the network."""


def over_socket(measure: SocketMeasure, *, is_busy: bool = False) -> Calls:
    def call(address: Address, size: int, cpu_clock: CpuClock) -> Timed:
        with connect(address) as peer:
            return measure(SocketCalls(peer), size, cpu_clock)

    return with_server(echo_server, is_busy, call)


def with_server(server: Body, is_busy: bool, call: Callable[[Any, int, CpuClock], Timed]) -> Calls:
    """The CPU is that of both processes."""

    def run(size: int) -> Timed:
        with OtherProcess(server, is_busy) as other:
            timed = call(other.hello, size, lambda: time.process_time() + other.cpu_s())
        return replace(timed, cpu_s=None) if is_busy else timed

    return run


# -- by the engine --------------------------------------------------------------------------------------------


@contextmanager
def echo_job(is_busy: bool) -> Iterator[tuple[int, Work]]:
    """A job that serves `echo`; gives the port."""
    left, busy = threading.Event(), Busy()

    def until_left() -> Iterator[None]:
        left.wait()
        yield from ()

    env = LocalEnvironment("served")
    env.register_service("echo", Echo)
    env.from_iterable(until_left).for_each(no_work)
    if is_busy:
        env.from_collection([None]).for_each(busy.compute)
    with env.submit() as job:
        try:
            with job.serve("echo", key=_KEY) as served:
                yield served.port, no_work
        finally:
            busy.leave()
            left.set()


def over_rpc(measure: Measure, *, is_busy: bool = False) -> Calls:
    def call(port: int, size: int, cpu_clock: CpuClock) -> Timed:
        with connect_service(_HERE, port, "echo", key=_KEY) as service:
            return measure(service, size, cpu_clock)

    return with_server(echo_job, is_busy, call)


# -- the cases ------------------------------------------------------------------------------------------------


def sent_one_by_one(calls: SocketCalls, size: int, cpu_clock: CpuClock) -> Timed:
    return one_by_one(calls.call, size, cpu_clock)


def sent_in_flight(most: int) -> SocketMeasure:
    return lambda calls, size, cpu_clock: in_flight(calls, most, size, cpu_clock)


def _cases() -> Iterator[Case]:
    what = "call of a service in another process, over TCP"
    hand, flow = over_socket(sent_one_by_one), over_rpc(calls_one_by_one)
    yield call_case("rpc-call", f"{what}, one by one", 5000, hand, flow, bar=3.0)
    for most in (16, 256):
        hand, flow = over_socket(sent_in_flight(most)), over_rpc(calls_in_flight(most))
        yield call_case(f"rpc-call-{most}", f"{what}, {most} in flight", 10_000, hand, flow)
    hand, flow = over_socket(sent_one_by_one, is_busy=True), over_rpc(calls_one_by_one, is_busy=True)
    yield call_case("rpc-call-busy", f"{what} beside a busy thread, one by one", 300, hand, flow)
    for most in (16, 256):
        hand, flow = over_socket(sent_in_flight(most), is_busy=True), over_rpc(calls_in_flight(most), is_busy=True)
        yield call_case(f"rpc-call-{most}-busy", f"{what} beside a busy thread, {most} in flight", 2000, hand, flow)


CASES = tuple(_cases())
