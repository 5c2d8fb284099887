"""A request that fails, is filtered, waits, or is not taken back by its caller delays nobody else.

No clock shows that: what the first caller waits for is released by the success of the next one alone, so that
a delay would be a deadlock, which ends in ServiceTimeout.
"""

import pytest
from memory_services import Gates
from watched import finished

from sage_flow import PipelineService, Service
from sage_flow.errors import NoReply

LOST_S = 60.0


class Refusal(Exception):
    pass


def refuse(request):
    if request == "raise":
        raise Refusal(request)
    return request


def refusing(requests):
    """A pipeline that raises, skips and filters."""
    skipping = requests.map(lambda r: r if r != "skip" else refuse("raise"), on_error="skip")
    return skipping.map(refuse).filter(lambda request: request != "filter").rebalance().map(str.upper, parallelism=2)


def wait_if_slow(request, ctx):
    if request == "slow":
        ctx.service("gates").wait("the next caller was answered")
    return request.upper()


def with_a_slow_branch(requests):
    slow = requests.filter(lambda request: request == "slow").rebalance().map(wait_if_slow, parallelism=2)
    return slow.union(requests.filter(lambda request: request != "slow").map(str.upper))


async def wait_if_slow_async(request, ctx):
    if request == "slow":
        await ctx.service("gates").wait.remote("the next caller was answered")
    return request.upper()


class Threaded(Service):
    def open(self, ctx):
        self.ctx = ctx

    def process(self, request):
        return wait_if_slow(request, self.ctx)


class Awaiting(Service):
    def open(self, ctx):
        self.ctx = ctx

    async def process(self, request):
        return await wait_if_slow_async(request, self.ctx)


def first_and_next(mode, first, make, **options):
    """The outcomes of a call of "service" for `first`, and of the next caller's, asked when the first one was."""

    def ask_first(request, ctx):
        gates = ctx.service("gates")
        future = ctx.service("service").process.remote(request)
        gates.unlock("the first caller has asked")
        gates.wait("the next caller was answered")
        try:
            return future.result()
        except (Refusal, NoReply) as error:
            return type(error).__name__

    def ask_next(request, ctx):
        gates = ctx.service("gates")
        gates.wait("the first caller has asked")
        reply = ctx.service("service").process(request)
        gates.unlock("the next caller was answered")
        return reply

    env = mode.environment(parallelism=1)
    env.register_service("gates", Gates, concurrency=1000, timeout=LOST_S)
    env.register_service("service", make, timeout=LOST_S, **options)
    env.from_collection([first]).map(ask_first, name="ask first").collect("first")
    env.from_collection(["next"]).map(ask_next, name="ask next").collect("next")
    collected = finished(env).collected
    return collected["first"], collected["next"]


REFUSALS = {"raise": "Refusal", "skip": "NoReply", "filter": "NoReply"}


@pytest.mark.parametrize("first", REFUSALS)
def test_a_request_that_a_pipeline_rejects_does_not_delay_the_next(mode, first):
    outcomes = first_and_next(mode, first, PipelineService(refusing))
    assert outcomes == ([REFUSALS[first]], ["NEXT"])


SLOW = {
    "a service of two threads": (Threaded, {"concurrency": 2}),
    "a service of coroutines": (Awaiting, {"concurrency": 2}),
    "a branch of a pipeline": (PipelineService(with_a_slow_branch), {}),
    "a pipeline of coroutines": (PipelineService(lambda r: r.map_async(wait_if_slow_async, ordered=False)), {}),
}


@pytest.mark.parametrize(("make", "options"), SLOW.values(), ids=SLOW)
def test_a_slow_request_does_not_delay_the_next(mode, make, options):
    assert first_and_next(mode, "slow", make, **options) == (["SLOW"], ["NEXT"])


class Large(Service):
    def process(self, number):
        return number, bytes(100_000)


def test_a_caller_that_does_not_take_its_replies_does_not_delay_the_next(mode):
    """Two hundred replies, twice what any channel may hold on the way."""

    def ask_many(count, ctx):
        gates = ctx.service("gates")
        futures = [ctx.service("large").process.remote(number) for number in range(count)]
        gates.unlock("many are asked for")
        gates.wait("the next caller was answered")
        return [future.result()[0] for future in futures] == list(range(count))

    def ask_next(number, ctx):
        gates = ctx.service("gates")
        gates.wait("many are asked for")
        replied, _ = ctx.service("large").process(number)
        gates.unlock("the next caller was answered")
        return replied

    env = mode.environment(parallelism=1)
    env.register_service("gates", Gates, concurrency=1000, timeout=LOST_S)
    env.register_service("large", Large, timeout=LOST_S)
    env.from_collection([200]).map(ask_many, name="ask many").collect("many")
    env.from_collection([-1]).map(ask_next, name="ask next").collect("next")
    collected = finished(env).collected
    assert (collected["many"], collected["next"]) == ([True], [-1])


def test_an_operator_that_raises_while_its_calls_are_open_does_not_delay_its_next_record(mode):
    """The replies to calls that nobody waits for any more come in between, and are not those of the next calls."""

    def ask(record, ctx):
        futures = [ctx.service("echo").process.remote((record, number)) for number in range(20)]
        if record % 2:
            raise Refusal(record)
        return [future.result() for future in futures]

    env = mode.environment(parallelism=1)
    env.register_service(
        "echo", PipelineService(lambda r: r.rebalance().map(lambda n: n, parallelism=2)), timeout=LOST_S
    )
    env.from_collection(range(8)).map(ask, name="ask", on_error="skip").collect("replies")
    result = finished(env)
    assert result.collected["replies"] == [[(record, n) for n in range(20)] for record in (0, 2, 4, 6)]
    assert result.skipped == {"ask": 4}
