"""What an operator waits for may depend on the records that it has emitted, so these reach others meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from sage_flow import Service, wait

NEVER_S = 30.0


class Board(Service):
    """Knows which records have arrived."""

    def open(self, ctx):
        self._arrived = {}

    def _event(self, number):
        return self._arrived.setdefault(number, asyncio.Event())

    async def note(self, number):
        self._event(number).set()

    async def has(self, number):
        return self._event(number).is_set()

    async def wait_for(self, number):
        await self._event(number).wait()
        return number


def call(number, ctx):
    return ctx.service("board").wait_for(number)


def future(number, ctx):
    return ctx.service("board").wait_for.remote(number).result()


def future_with_a_limit(number, ctx):
    return ctx.service("board").wait_for.remote(number).result(timeout_s=NEVER_S)


def first_of_many(number, ctx):
    done, _ = wait([ctx.service("board").wait_for.remote(number)], count=1)
    return done[0].result()


def asking_again_and_again(number, ctx):
    while not ctx.service("board").has(number):
        pass
    return number


WAYS = (call, future, future_with_a_limit, first_of_many, asking_again_and_again)


def arrivals(env):
    env.register_service("board", Board, concurrency=16, timeout=NEVER_S)
    return env.from_collection(range(6))


def note_arrivals(stream):
    """Two readers, so that the operator before them sends its records to other subtasks."""
    stream.for_each(lambda number, ctx: ctx.service("board").note(number))
    stream.collect("rows")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_wait_for_the_record_before_ends(mode, way):
    env = mode.environment()
    note_arrivals(arrivals(env).map(lambda n, ctx: n if n == 0 else way(n - 1, ctx) + 1))
    assert sorted(env.execute(progress=False).collected["rows"]) == list(range(6))


def test_a_full_map_async_that_waits_for_a_record_of_the_operator_before_it_ends(mode):
    """The record of the side output is emitted in the same slice as those that the coroutines wait for."""

    def send_aside(number, ctx):
        ctx.output("aside", number)
        return number

    env = mode.environment()
    before = arrivals(env).map(send_aside)
    before.side_output("aside").for_each(lambda number, ctx: ctx.service("board").note(number))
    after = before.map_async(lambda n, ctx: ctx.service("board").wait_for.remote(n), capacity=1)
    after.collect("rows")
    assert sorted(env.execute(progress=False).collected["rows"]) == list(range(6))
