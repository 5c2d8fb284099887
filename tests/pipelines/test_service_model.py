"""Any sequence of calls, ends, errors, time-outs and cancels of a service, against the reference service."""

import itertools
import queue
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from reference_service import ReferenceService

from sage_flow import LocalEnvironment, PipelineService, Service
from sage_flow.errors import ServiceOverloaded, ServiceTimeout, ServiceUnavailable, UnknownService

MAX_PENDING = 4
PATIENCE_S = 30


class Bodies:
    """The calls that have begun, and how the test ends each."""

    def __init__(self):
        self.started = []
        self.ends = {}

    def clear(self):
        self.started.clear()
        self.ends.clear()

    def run(self, number):
        self.ends[number] = end = queue.SimpleQueue()
        self.started.append(number)
        if end.get(timeout=PATIENCE_S):
            raise ValueError(number)
        return "of", number


bodies = Bodies()


class Held(Service):
    def process(self, number):
        return bodies.run(number)


def held(number):
    return bodies.run(number)


KINDS = {
    "one at a time": (1, lambda env: env.register_service("held", Held, max_pending=MAX_PENDING)),
    "three at a time": (3, lambda env: env.register_service("held", Held, concurrency=3, max_pending=MAX_PENDING)),
    "pipeline": (
        1,
        lambda env: env.register_service(
            "held", PipelineService(lambda requests: requests.map(held)), max_pending=MAX_PENDING
        ),
    ),
}


def until(condition):
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.0005)


class ServiceModel(RuleBasedStateMachine):
    """Each number is called once; whoever called gets its own outcome, and everybody else's bodies go on."""

    def __init__(self, kind, threads):
        super().__init__()
        concurrency, register = KINDS[kind]
        bodies.clear()
        self.reference = ReferenceService(concurrency, MAX_PENDING)
        self.threads = threads
        self.numbers = itertools.count()
        self.lets_go = threading.Event()
        env = LocalEnvironment("model", cancel_grace_s=0.02)  # bodies do not come back by themselves
        register(env)
        env.from_iterable(self.until_it_may_end).for_each(str)
        self.job = env.submit()
        self.service = self.job.service("held")
        self.futures = {}  # of calls that can be cancelled
        self.calls = {}  # of threads that wait

    def until_it_may_end(self):
        self.lets_go.wait(PATIENCE_S)
        return ()

    def told(self):
        return self.job.metrics()["services"].get("held", {}).get("process", {"calls": 0, "errors": 0, "in_flight": 0})

    def outcome(self, number):
        if number in self.futures:
            return self.futures[number].result
        return self.calls[number].result

    @precondition(lambda self: not self.reference.ended and self.reference.has_place)
    @rule(blocking=st.booleans())
    def call(self, blocking):
        number = next(self.numbers)
        if blocking:
            self.calls[number] = self.threads.submit(self.service.process, number)
            until(lambda: self.told()["in_flight"] == len(self.reference.open) + 1)
        else:
            self.futures[number] = self.service.process.remote(number)
        self.reference.call(number)

    @precondition(lambda self: not self.reference.ended and not self.reference.has_place)
    @rule()
    def call_without_a_place(self):
        with pytest.raises(ServiceOverloaded):
            self.service.options(timeout=0.002).process(next(self.numbers))
        self.reference.refuse()

    @precondition(lambda self: self.reference.ended)
    @rule()
    def call_after_the_end(self):
        with pytest.raises(ServiceUnavailable):
            self.service.process(next(self.numbers))
        self.reference.refuse()

    @rule(name=st.sampled_from(["absent", "_private", "open"]))
    def call_what_is_no_method(self, name):
        with pytest.raises((UnknownService, AttributeError)):
            getattr(self.service, name)(1)

    @precondition(
        lambda self: (
            not self.reference.ended
            and self.reference.has_place
            and len(self.reference.running) == self.reference.concurrency
        )
    )
    @rule()
    def wait_in_line_for_too_long(self):
        number = next(self.numbers)
        self.reference.call(number)
        with pytest.raises(ServiceTimeout):
            self.service.options(timeout=0.002).process(number)
        self.reference.give_up(number)

    @precondition(lambda self: self.reference.running)
    @rule(which=st.integers(0, 2), error=st.booleans())
    def end_a_body(self, which, error):
        number = self.reference.running[which % len(self.reference.running)]
        until(lambda: number in bodies.ends)
        bodies.ends[number].put(error)
        if not self.reference.end_body(number, error):
            return
        if error:
            with pytest.raises(ValueError) as caught:
                self.outcome(number)(PATIENCE_S)
            assert caught.value.args == (number,)
        else:
            assert self.outcome(number)(PATIENCE_S) == ("of", number)

    @precondition(lambda self: self.reference.open & set(self.futures))
    @rule(which=st.integers(0, 9))
    def cancel(self, which):
        waiting = sorted(self.reference.open & set(self.futures))
        number = waiting[which % len(waiting)]
        assert self.futures[number].cancel()
        self.reference.give_up(number)
        with pytest.raises(CancelledError):
            self.futures[number].result()
        assert not self.futures[number].cancel()

    @precondition(lambda self: not self.reference.ended and len(self.reference.started) > 3)
    @rule()
    def cancel_the_job(self):
        ending = self.threads.submit(self.job.cancel)
        for number in self.reference.end():
            with pytest.raises(ServiceUnavailable):
                self.outcome(number)(PATIENCE_S)
            self.reference.refuse()
        self.end_all_bodies()
        ending.result(PATIENCE_S)

    @invariant()
    def it_is_the_reference(self):
        reference = self.reference
        until(lambda: len(bodies.started) >= len(reference.started))
        assert bodies.started == reference.started
        told = self.told()
        counts = told["calls"], told["errors"], told["in_flight"]
        assert counts == (reference.calls, reference.errors, len(reference.open))
        for number in reference.open & set(self.futures):
            assert not self.futures[number].done()

    def end_all_bodies(self):
        while self.reference.running:
            self.end_a_body(0, False)

    def teardown(self):
        self.end_all_bodies()
        self.lets_go.set()
        self.job.cancel()


@pytest.fixture
def threads():
    with ThreadPoolExecutor(MAX_PENDING + 1) as pool:
        yield pool


@pytest.mark.parametrize("kind", KINDS)
def test_services_are_the_reference(kind, threads):
    chosen = settings(max_examples=30, stateful_step_count=30)
    run_state_machine_as_test(lambda: ServiceModel(kind, threads), settings=chosen)
