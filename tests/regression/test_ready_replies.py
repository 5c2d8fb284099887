"""Requests that come together are answered one by one, each when it is ready."""

import asyncio

import pytest
from memory_services import Gates
from watched import finished

from sage_flow import LocalEnvironment, PipelineService, Service
from sage_flow.executors.simulation import SimulationExecutor

COUNT = 256
BODY_S = 0.010
LATEST_S = 0.05  # what the simulation delays a message by at the most


# --- in order: a body ends only after the caller has used the reply before ---------------------------------


def wait_for_turn(number, ctx):
    ctx.service("gates").wait(f"{number} may go")
    return number


class InTurn(Service):
    def open(self, ctx):
        self.ctx = ctx

    def process(self, number):
        return wait_for_turn(number, self.ctx)


KINDS = {
    "a service": InTurn,
    "a pipeline": PipelineService(lambda requests: requests.map(wait_for_turn)),
    "a pipeline of two chains": PipelineService(
        lambda r: r.map(wait_for_turn).rebalance().map(lambda n: n, parallelism=2)
    ),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_reply_can_be_used_before_the_next_request_is_answered(mode, make):
    """A reply that waited for the next one would wait for ever."""

    def ask(count, ctx):
        gates = ctx.service("gates")
        futures = [ctx.service("in turn").process.remote(number) for number in range(count)]
        replies = []
        for number, future in enumerate(futures):
            gates.unlock(f"{number} may go")
            replies.append(future.result())
        return replies

    env = mode.environment(parallelism=1)
    env.register_service("gates", Gates, concurrency=1000, timeout=60.0)
    env.register_service("in turn", make, timeout=60.0)
    env.from_collection([COUNT]).map(ask).collect("replies")
    assert finished(env).collected["replies"] == [list(range(COUNT))]


# --- in time, which is exact in the simulation -------------------------------------------------------------


class Notes:
    """When bodies began and ended, and when their replies were there, in seconds of the virtual clock."""

    def __init__(self, clock):
        self.clock = clock
        self.began = []
        self.ended = []
        self.arrived = {}

    async def body(self, number):
        self.began.append(self.clock.now())
        await asyncio.sleep(BODY_S)
        self.ended.append(self.clock.now())
        return number

    def ask(self, count, ctx):
        futures = [ctx.service("timed").process.remote(number) for number in range(count)]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: self.arrived.update({number: self.clock.now()}))
        return [future.result() for future in futures]


class Timed(Service):
    def __init__(self, notes):
        self.notes = notes

    async def process(self, number):
        return await self.notes.body(number)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["a service", "a pipeline"])
def test_a_reply_is_there_when_its_body_has_ended(kind, seed):
    executor = SimulationExecutor(seed)
    notes = Notes(executor.clock)
    env = LocalEnvironment("timed", executor=executor)
    if kind == "a service":
        env.register_service("timed", lambda: Timed(notes), timeout=60.0)
    else:
        body = PipelineService(lambda requests: requests.map_async(lambda n: notes.body(n), capacity=1))
        env.register_service("timed", body, timeout=60.0)
    env.from_collection([COUNT]).map(lambda count, ctx: notes.ask(count, ctx)).collect("replies")
    assert finished(env).collected["replies"] == [list(range(COUNT))]

    exactly = pytest.approx([notes.began[0] + number * BODY_S for number in range(COUNT)], abs=1e-9)
    assert notes.began == exactly
    assert notes.ended == pytest.approx([began + BODY_S for began in notes.began], abs=1e-9)
    for number, ended in enumerate(notes.ended):
        assert ended <= notes.arrived[number] <= ended + LATEST_S
    assert notes.arrived[0] < notes.began[-1]
