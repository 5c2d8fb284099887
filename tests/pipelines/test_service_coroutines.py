"""Services whose methods are coroutines."""

from __future__ import annotations

import pytest
from async_services import Adder, Awaiting, Gate, Mixed

from sage_flow import wait


def run(mode, work, items=range(5), **services):
    """The rows of `work(value, ctx)` over the items, with these services."""
    env = mode.environment()
    for name, service in services.items():
        env.register_service(name, service)
    env.from_collection(items).rebalance().map(work).collect("rows")
    return sorted(env.execute(progress=False).collected["rows"], key=repr)


def test_methods_may_be_coroutines_and_run_at_the_same_time(mode):
    def work(n, ctx):
        if n == 29:
            return 58
        return ctx.service("awaiting").work(n)

    env = mode.environment(parallelism=3)
    env.register_service("awaiting", Awaiting, concurrency=4)
    env.from_collection(range(30)).map_async(lambda n, ctx: ctx.service("awaiting").work.remote(n)).collect("rows")
    assert sorted(env.execute(progress=False).collected["rows"]) == [2 * n for n in range(30)]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_at_most_concurrency_coroutines_run(mode, concurrency):
    def work(n, ctx):
        futures = [ctx.service("awaiting").work.remote(i) for i in range(1, 30)]
        wait(futures)
        return ctx.service("awaiting").how_many()

    env = mode.environment(parallelism=1)
    env.register_service("awaiting", Awaiting, concurrency=concurrency)
    env.from_collection([1]).map(work).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [concurrency]


@pytest.mark.on_ray
def test_a_coroutine_calls_another_service_and_may_fail(mode):
    def work(n, ctx):
        error = ctx.service("awaiting").fail.remote(n).exception()
        return ctx.service("awaiting").ask(n), f"{type(error).__name__}: {error}"

    assert run(mode, work, [1], awaiting=Awaiting, adder=Adder) == [(101, "ValueError: no 1")]


def test_plain_methods_and_coroutines_in_one_service(mode):
    def work(n, ctx):
        mixed = ctx.service("mixed")
        futures = [mixed.later.remote(n), mixed.now.remote(n), mixed.later.remote(n)]
        return [future.result() for future in futures]

    rows = run(mode, work, [3], mixed=Mixed)
    assert rows == [[(3, "later"), (3, "now"), (3, "later")]]


def test_one_coroutine_can_wait_for_another_call(mode):
    def work(n, ctx):
        gate = ctx.service("gate")
        waiting = gate.wait.remote()
        return gate.open_it(), waiting.result()

    env = mode.environment(parallelism=1)
    env.register_service("gate", Gate, concurrency=2)
    env.from_collection([1]).map(work).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [("opened", "through")]
