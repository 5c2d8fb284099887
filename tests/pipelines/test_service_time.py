"""Calls wait for a reply and for a place no longer than they may, and are answered one at a time or side by side."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from failing_pipelines import one_process
from services_under_test import Calculator, asked

from sage_flow import Function, LocalEnvironment, Service
from sage_flow.errors import ServiceOverloaded, ServiceTimeout


class Gate(Service):
    """Blocks calls of `wait` until `event` is set; notes who began."""

    def __init__(self, event, began=None):
        self.event = event
        self.began = began if began is not None else []

    def wait(self, value):
        self.began.append(value)
        self.event.wait(30)
        return value

    def pass_by(self, value):
        self.began.append(value)
        return value


def test_no_reply_in_time_is_a_timeout_that_names_the_method_and_the_seconds():
    event = threading.Event()
    env = LocalEnvironment("test")
    env.register_service("gate", lambda: Gate(event))

    def function(n, ctx):
        try:
            ctx.service("gate").options(timeout=0.05).wait(n)
        except ServiceTimeout as error:
            event.set()
            return error

    env.from_collection([1]).map(function).collect("x")
    (error,) = env.execute().collected["x"]
    assert isinstance(error, TimeoutError)
    assert "gate.wait" in str(error)
    assert "0.05 s" in str(error)


@pytest.mark.parametrize("timeout", [float("inf"), 1e12])
def test_a_timeout_may_be_without_end(mode, timeout):
    def ask(n, ctx):
        one, two = (ctx.service(name).options(timeout=timeout) for name in ("plain", "awaiting"))
        return one.echo(n), two.echo.remote(n).result(timeout)

    env = mode.environment()
    env.register_service("plain", Echo, timeout=timeout)
    env.register_service("awaiting", AwaitingEcho, timeout=timeout)
    env.from_collection([1, 2]).map(ask).collect("rows")
    assert sorted(env.execute(progress=False).collected["rows"]) == [(1, 1), (2, 2)]


class Echo(Service):
    def echo(self, value):
        return value


class AwaitingEcho(Service):
    async def echo(self, value):
        await asyncio.sleep(0.01)
        return value


def test_the_timeout_of_the_registration_is_the_default():
    event = threading.Event()
    env = LocalEnvironment("test")
    env.register_service("gate", lambda: Gate(event), timeout=0.05)

    def function(n, ctx):
        try:
            ctx.service("gate").wait(n)
        except ServiceTimeout as error:
            event.set()
            return str(error)

    env.from_collection([1]).map(function).collect("x")
    assert "0.05 s" in env.execute().collected["x"][0]


def test_a_late_reply_is_nobody_elses():
    event = threading.Event()
    env = LocalEnvironment("test")
    env.register_service("gate", lambda: Gate(event))

    def function(n, ctx):
        gate = ctx.service("gate")
        try:
            gate.options(timeout=0.05).wait("late")
        except ServiceTimeout:
            event.set()
        return [gate.pass_by(number) for number in range(20)]

    env.from_collection([1]).map(function).collect("x")
    assert env.execute().collected["x"] == [list(range(20))]


def test_work_whose_time_has_passed_is_not_started():
    event, began = threading.Event(), []
    env = LocalEnvironment("test")
    env.register_service("gate", lambda: Gate(event, began))
    first_began = threading.Event()

    def first(n, ctx):
        first_began.set()
        return ctx.service("gate").options(timeout=30).wait("first")

    def second(n, ctx):
        first_began.wait(30)
        while not began:  # until the service is busy with the first call
            threading.Event().wait(0.001)
        try:
            ctx.service("gate").options(timeout=0.05).pass_by("second")
        except ServiceTimeout:
            event.set()
        return ctx.service("gate").pass_by("third")

    env.from_collection([1]).map(first).collect("first")
    env.from_collection([1]).map(second).collect("second")
    env.execute()
    assert began == ["first", "third"]


def test_nested_calls_wait_no_longer_than_the_call_they_help_to_answer():
    event = threading.Event()

    class Patient(Service):
        def open(self, ctx):
            self.gate = ctx.service("gate")

        def ask(self):
            try:
                self.gate.options(timeout=1000).wait(1)
            except ServiceTimeout as error:
                event.set()
                told.append(str(error))
                raise

    told = []
    env = LocalEnvironment("test")
    env.register_service("gate", lambda: Gate(event))
    env.register_service("patient", Patient)

    def function(n, ctx):
        try:
            ctx.service("patient").options(timeout=0.1).ask()
        except ServiceTimeout as error:
            return str(error)

    env.from_collection([1]).map(function).collect("x")
    env.execute()
    assert len(told) == 1
    assert "gate.wait gave no reply within 0." in told[0]


def test_four_calls_are_answered_in_parallel_by_concurrency_four():
    barrier = threading.Barrier(4)  # lets nobody pass before four are in

    class Meeting(Service):
        def meet(self, n):
            barrier.wait(30)
            return n

    env = LocalEnvironment("test", parallelism=4)
    env.register_service("meeting", Meeting, concurrency=4)
    stream = env.from_collection(range(8)).rebalance()
    stream.map(lambda n, ctx: ctx.service("meeting").meet(n)).collect("x")
    assert sorted(env.execute().collected["x"]) == list(range(8))


@one_process
def test_concurrency_one_answers_one_at_a_time(mode):
    class Alone(Service):
        def open(self, ctx):
            self.inside = 0
            self.most = 0

        def enter(self, n):
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.inside -= 1
            return self.most

    replies = asked(
        lambda n, ctx: ctx.service("alone").enter(n),
        mode=mode,
        items=range(50),
        register=[("alone", Alone)],
        parallelism=3,
    )
    assert replies == [1] * 50


def test_a_place_that_a_timed_out_call_frees_goes_to_the_next_caller():
    """One call is open and times out; the one that waits for its place must get it at once."""
    event = threading.Event()
    env = LocalEnvironment("test")

    class Calls(Function):
        def open(self, ctx):
            self.gate = ctx.service("gate")

        def __call__(self, n):
            with ThreadPoolExecutor(2) as pool:
                slow = pool.submit(self.gate.options(timeout=0.2).wait, "slow")
                while not began:
                    threading.Event().wait(0.001)
                quick = pool.submit(self.gate.options(timeout=2).pass_by, "quick")
                try:
                    slow.result()
                except ServiceTimeout:
                    return quick.result()
                finally:
                    event.set()

    began = []
    env.register_service("gate", lambda: Gate(event, began), concurrency=2, max_pending=1)
    env.from_collection([1]).map(Calls).collect("x")
    assert env.execute().collected["x"] == ["quick"]


def test_a_caller_that_gets_no_place_in_time_is_told_that_the_service_is_overloaded():
    event = threading.Event()
    began = []
    env = LocalEnvironment("test")
    env.register_service("gate", lambda: Gate(event, began), max_pending=1)

    class Calls(Function):
        def open(self, ctx):
            self.gate = ctx.service("gate")

        def __call__(self, n):
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(self.gate.wait, "first")
                while not began:
                    threading.Event().wait(0.001)
                try:
                    self.gate.options(timeout=0.05).pass_by("second")
                except ServiceOverloaded as error:
                    return (str(error), event.set() or first.result())

    env.from_collection([1]).map(Calls).collect("x")
    text, first = env.execute().collected["x"][0]
    assert "gate.pass_by" in text
    assert "1 earlier calls (max_pending)" in text
    assert first == "first"
    assert began == ["first"]


@one_process
def test_callers_beyond_max_pending_wait_and_are_all_answered(mode):
    env = mode.environment()
    env.register_service("calculator", Calculator, max_pending=1)
    stream = env.from_collection(range(100)).rebalance()
    stream.map(lambda n, ctx: (n, ctx.call_service("calculator", n)), parallelism=3).collect("x")
    assert Counter(env.execute().collected["x"]) == Counter((n, n * 10) for n in range(100))


def test_the_first_calls_of_a_concurrent_service_are_not_mixed_up():
    """Every activation asks at once whether it may call: each must get the answer to its own call."""
    barrier = threading.Barrier(8)

    class Relay(Service):
        def open(self, ctx):
            self.calculator = ctx.service("calculator")

        def ask(self, n):
            barrier.wait(30)
            return self.calculator.process(n)

    for _ in range(10):
        env = LocalEnvironment("test", parallelism=8)
        env.register_service("calculator", Calculator)
        env.register_service("relay", Relay, concurrency=8)
        env.from_collection(range(8)).rebalance().map(lambda n, ctx: (n, ctx.service("relay").ask(n))).collect("x")
        assert sorted(env.execute().collected["x"]) == [(n, n * 10) for n in range(8)]
